"""Whether a provider's origin answers at all; for `aichats-worker doctor`."""

from dataclasses import replace
from typing import Final

from aichats_worker.provider.http.route import Route, Timeouts
from aichats_worker.provider.http.upstream import Request, Upstream, as_url

REACH_TIMEOUT_SECONDS: Final = 10.0


async def reach(url: str, route: Route) -> int:
    """GET the front page of a provider's origin.

    Args:
        url: Of the provider; its path and query are left out.
        route: How to get there.

    Returns:
        The HTTP status: any says that somebody answers.

    Raises:
        WorkerError: Nobody does, within REACH_TIMEOUT_SECONDS.
    """
    timeouts = Timeouts(REACH_TIMEOUT_SECONDS, REACH_TIMEOUT_SECONDS, REACH_TIMEOUT_SECONDS)
    upstream = Upstream(replace(route, timeouts=timeouts))
    try:
        with await upstream.call(Request("GET", as_url(url).origin() / "", {"Accept": "*/*"})) as answer:
            return answer.status
    finally:
        await upstream.close()
