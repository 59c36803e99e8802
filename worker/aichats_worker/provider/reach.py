"""Whether the provider's origin answers at all; for `aichats-worker doctor`."""

from typing import TYPE_CHECKING

from aichats_worker.provider.http.upstream import Timeouts, Upstream

if TYPE_CHECKING:
    from aichats_worker.settings import Settings

REACH_TIMEOUT_SECONDS = 10.0


async def reach(settings: "Settings") -> int:
    """GET the provider's origin, through the proxy that the settings name.

    Returns:
        The HTTP status: any says that somebody answers.

    Raises:
        WorkerError: Nobody does, within REACH_TIMEOUT_SECONDS.
    """
    proxy = settings.provider_proxy.get_secret_value() if settings.provider_proxy else None
    timeouts = Timeouts(REACH_TIMEOUT_SECONDS, REACH_TIMEOUT_SECONDS, REACH_TIMEOUT_SECONDS)
    upstream = Upstream(proxy=proxy, timeouts=timeouts)
    try:
        with await upstream.call("GET", f"{settings.aichats_url}/", headers={"Accept": "*/*"}) as answer:
            return answer.status
    finally:
        await upstream.close()
