"""The connection, and how a command makes it, which does not come back. A worker's is in framework.py."""

from nats.aio.client import Client

from aichats_worker.broker.access import Access
from aichats_worker.broker.patches.reading import ReadsAnything
from aichats_worker.broker.patches.returning import CONNECT_TIMEOUT_SECONDS, ComesBack


class Connection(ReadsAnything, ComesBack):
    """nats-py's client, corrected: what a worker publishes and hears through."""


async def connect(access: Access) -> Client:
    """Connect once, for a command; it does not come back after a failure.

    Raises:
        OSError, nats.errors.Error: The broker cannot be reached, or refuses.
        AccessError: A file cannot be used.
    """

    async def quiet(_: Exception) -> None:
        """What fails is raised; nats-py would print it as well."""

    nc = Connection(access.identity)
    await nc.reach(
        access.servers,
        name="aichats-worker command",
        user=access.user,
        password=access.password,
        token=access.token,
        tls_handshake_first=access.tls_first,
        allow_reconnect=False,
        max_reconnect_attempts=1,  # nats-py counts the first attempt as well, and would make sixty
        reconnect_time_wait=0,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        inbox_prefix=access.inbox_prefix,
        error_cb=quiet,
    )
    return nc
