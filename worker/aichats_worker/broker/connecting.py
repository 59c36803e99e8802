"""How the connection is made: of a worker, which comes back whatever happens, and of a command, which does not."""

import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from socket import gaierror
from typing import Any, Final

from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.errors import Error as NatsError

from aichats_worker.broker.access import Access, AccessError
from aichats_worker.broker.patches.reading import ReadsAnything
from aichats_worker.broker.patches.returning import CONNECT_TIMEOUT_SECONDS, ComesBack
from aichats_worker.broker.watching import ConnectionWatch

RECONNECT_WAIT_SECONDS: Final = 1
FLUSH_TIMEOUT_SECONDS: Final = 5.0  # nats-py has none by default: a frozen server would block every publish
PING_INTERVAL_SECONDS: Final = 10  # with two unanswered pings, a frozen server is left after 30 s
PENDING_MAX_BYTES: Final = 16 * 1024 * 1024  # nats-py's 2 MiB hold two parts of an image while it reconnects


_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    # The order matters: what is more special comes first.
    (ssl.SSLCertVerificationError, "TLS: its certificate is not trusted; check NATS_CA, and the name in NATS_URL"),
    (gaierror, "its name cannot be resolved"),
    (ConnectionRefusedError, "the connection is refused: nobody listens there"),
    (TimeoutError, f"no answer within {CONNECT_TIMEOUT_SECONDS} s"),
)


class NotReached(NatsError):
    """No server takes us; the message says why each does not."""


class Connection(ReadsAnything, ComesBack):
    """nats-py's client, corrected: what a worker publishes and hears through."""


class Broker(NatsBroker):
    """FastStream's broker on a connection of ours: its own callback raises where a broker refuses us, and ends it.

    Attributes:
        nc: The connection, once connect() has made it; FastStream knows it as nats-py's.
    """

    nc: Connection

    def __init__(self, access: Access, watch: ConnectionWatch, *, middlewares: Sequence[Any]) -> None:
        super().__init__(
            list(access.servers),
            js_options={"domain": access.js_domain},
            graceful_timeout=1.0,  # handlers return at once; the executor has its own drain
            apply_types=False,  # the decoder has made the value already, and each injected parameter is a thread hop
            middlewares=middlewares,
            logger=logging.getLogger("faststream"),
            log_level=logging.DEBUG,
        )
        self._access = access
        self._watch = watch

    async def _connect(self) -> Client:
        nc = self.nc = Connection(self._access.identity)
        self._watch.over(nc)
        await nc.reach(
            self._access.servers,
            name="ai-worker",
            user=self._access.user,
            password=self._access.password,
            token=self._access.token,
            tls_handshake_first=self._access.tls_first,
            error_cb=self._watch.on_error,
            disconnected_cb=self._watch.on_disconnected,
            reconnected_cb=self._watch.on_reconnected,
            closed_cb=self._watch.on_closed,
            lame_duck_mode_cb=self._watch.on_lame_duck,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            reconnect_time_wait=RECONNECT_WAIT_SECONDS,
            max_reconnect_attempts=-1,  # with nats-py's 60 attempts it would close for good, which nothing mends
            ping_interval=PING_INTERVAL_SECONDS,
            pending_size=PENDING_MAX_BYTES,
            flush_timeout=FLUSH_TIMEOUT_SECONDS,
            inbox_prefix=self._access.inbox_prefix,
        )
        self._watch.connected_first()
        self.config.connect(nc)
        return nc


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
