"""The connection, and how a command makes it, which does not come back. A worker's is in framework.py."""

import os
import ssl
from collections.abc import Awaitable, Callable
from socket import gaierror
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from aichats_worker.broker.access import Access, AccessError
from aichats_worker.broker.patches.reading import ReadsAnything
from aichats_worker.broker.patches.returning import CONNECT_TIMEOUT_SECONDS
from aichats_worker.broker.patches.subscribing import TakesDirectly
from aichats_worker.broker.patches.writing import PublishesSoon

_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    # The order matters: what is more special comes first.
    (ssl.SSLCertVerificationError, "TLS: its certificate is not trusted; check NATS_CA, and the name in NATS_URL"),
    (gaierror, "its name cannot be resolved"),
    (ConnectionRefusedError, "the connection is refused: nobody listens there"),
    (TimeoutError, f"no answer within {CONNECT_TIMEOUT_SECONDS} s"),
)


class NotReached(NatsError):
    """No server takes us; the message says why each does not."""


class Connection(ReadsAnything, TakesDirectly, PublishesSoon):
    """nats-py's client, corrected: what a worker publishes and hears through."""


async def connect(access: Access) -> Client:
    """Connect once, for a command; it does not come back after a failure.

    Raises:
        NotReached: No server can be reached, or they refuse us; says why.
        AccessError: A file cannot be used.
    """
    told: list[Exception] = []

    async def note(error: Exception) -> None:
        """Keep what nats-py would print; in the end it raises that there was none, and not why."""
        told.append(error)

    nc = Connection(access.identity)
    try:
        await _reach_once(nc, access, note)
    except AccessError:
        raise
    except (OSError, NatsError) as error:
        reasons = dict.fromkeys(map(reason_of, told)) or [reason_of(error)]
        raise NotReached("; ".join(reasons)) from error
    return nc


async def _reach_once(nc: Connection, access: Access, note: Callable[[Exception], Awaitable[None]]) -> None:
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
        error_cb=note,
    )


def reason_of(error: Exception) -> str:
    """Say in words what kept a connection from being made."""
    for kind, sentence in _REASONS:
        if isinstance(error, kind):
            return sentence
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'the handshake failed'}; check NATS_CERT, NATS_KEY and NATS_TLS_FIRST"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    said = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
    return f"it refuses the login ({said})" if "uthorization" in said or "uthentication" in said else said
