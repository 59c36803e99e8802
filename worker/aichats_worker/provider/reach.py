"""Whether a provider answers at all, and which models it lists; for `aichats-worker doctor`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from aichats_worker.provider.http.route import Route, Timeouts
from aichats_worker.provider.http.upstream import Request, Upstream, as_url

REACH_TIMEOUT_SECONDS: Final = 10.0
MODELS_MAX_BYTES: Final = 4 * 1024 * 1024


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


async def listed_models(url: str, credentials: Mapping[str, str], route: Route) -> tuple[int, set[str]]:
    """GET the models of an OpenAI-compatible server.

    Returns:
        The HTTP status, and the models' names: none where the server lists none in a form that can be read.

    Raises:
        WorkerError: Nobody answers within REACH_TIMEOUT_SECONDS.
    """
    timeouts = Timeouts(REACH_TIMEOUT_SECONDS, REACH_TIMEOUT_SECONDS, REACH_TIMEOUT_SECONDS)
    upstream = Upstream(replace(route, timeouts=timeouts))
    try:
        with await upstream.call(Request("GET", as_url(url), {"Accept": "application/json", **credentials})) as answer:
            body = await answer.head(MODELS_MAX_BYTES)
            return answer.status, _names(body)
    finally:
        await upstream.close()


def _names(body: bytes) -> set[str]:
    try:
        listed: Any = orjson.loads(body)
        return {str(model["id"]) for model in listed["data"]}
    except (ValueError, TypeError, LookupError):
        return set()
