"""How to reach the broker: who the worker is there, and how it comes back."""

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import nats
import structlog
from faststream.nats import NatsBroker
from faststream.nats.security import NatsCredentials, NatsNKey, NatsSecurity, NatsToken, NatsUserPassword
from nats.aio.client import Client

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_SECONDS: Final = 5
RECONNECT_WAIT_SECONDS: Final = 1
FLUSH_TIMEOUT_SECONDS: Final = 5.0  # nats-py has none by default: a frozen server would block every publish
PING_INTERVAL_SECONDS: Final = 10  # with two unanswered pings, a frozen server is left after 30 s
PENDING_MAX_BYTES: Final = 16 * 1024 * 1024  # nats-py's 2 MiB hold two parts of an image while it reconnects


@dataclass(frozen=True, slots=True)
class Access:
    """Which servers, and who we are there. The files are paths.

    Attributes:
        servers: URLs, at least one.
        creds: A credentials file.
        nkey: An nkey seed file.
        user: Goes with password.
        password: Goes with user.
        token: In place of a user.
        ca: The bundle that signs the servers' certificates.
        cert: The client's certificate; goes with key.
        key: The certificate's key.
        inbox_prefix: Of our own inboxes.
        js_domain: The JetStream domain of the streams; None for that of the server.
    """

    servers: Sequence[str] = field(repr=False)
    creds: str | None = None
    nkey: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    inbox_prefix: str = "_INBOX"
    js_domain: str | None = None


def security(access: Access) -> NatsSecurity | None:
    """Return what the worker authenticates with; None for nothing."""
    context = tls(access)
    if access.creds:
        return NatsCredentials(access.creds, ssl_context=context)
    if access.nkey:
        return NatsNKey.from_file(access.nkey, ssl_context=context)
    if access.user and access.password:
        return NatsUserPassword(access.user, access.password, ssl_context=context)
    if access.token:
        return NatsToken(access.token, ssl_context=context)
    return NatsSecurity(ssl_context=context) if context else None


def tls(access: Access) -> ssl.SSLContext | None:
    """Return the TLS context that is asked for; None for a plain connection."""
    secure = any(url.startswith(("tls://", "wss://")) for url in access.servers)
    if not (access.ca or access.cert or secure):
        return None
    context = ssl.create_default_context(cafile=access.ca)
    if access.cert:
        context.load_cert_chain(access.cert, access.key)
    return context


def make_broker(
    access: Access, *, middlewares: Sequence[Any], on_reconnect: Callable[[], object], on_closed: Callable[[], object]
) -> NatsBroker:
    """Make FastStream's broker for a worker: it comes back whatever happens. Nothing is connected yet.

    Args:
        access: The servers, and who we are.
        middlewares: FastStream's.
        on_reconnect: Called after each reconnect.
        on_closed: Called when the connection is closed, by us or for good.
    """

    async def on_error(error: Exception) -> None:
        log.warning("nats", error=str(error) or type(error).__name__)

    async def on_disconnect() -> None:
        log.info("nats disconnected")

    async def on_reconnected() -> None:
        log.info("nats reconnected")
        on_reconnect()

    async def on_close() -> None:
        on_closed()

    return NatsBroker(
        list(access.servers),
        name="ai-worker",
        security=security(access),
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnected,
        closed_cb=on_close,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        reconnect_time_wait=RECONNECT_WAIT_SECONDS,
        max_reconnect_attempts=-1,  # with nats-py's 60 attempts it would close for good, which nothing mends
        ping_interval=PING_INTERVAL_SECONDS,
        pending_size=PENDING_MAX_BYTES,
        flush_timeout=FLUSH_TIMEOUT_SECONDS,
        inbox_prefix=access.inbox_prefix,
        js_options={"domain": access.js_domain},
        graceful_timeout=1.0,  # handlers return at once; the executor has its own drain
        apply_types=False,  # the decoder has made the value already, and each injected parameter is a thread hop
        middlewares=middlewares,
        logger=logging.getLogger("faststream"),
        log_level=logging.DEBUG,
    )


async def connect(access: Access) -> Client:
    """Connect once, for a command; it does not come back after a failure.

    Raises:
        OSError, nats.errors.Error: The broker cannot be reached, or refuses.
    """
    options: dict[str, Any] = {
        "user_credentials": access.creds,
        "nkeys_seed": access.nkey,
        "user": access.user,
        "password": access.password,
        "token": access.token,
        "tls": tls(access),
    }

    async def quiet(_: Exception) -> None:
        """What fails is raised; nats-py would print it as well."""

    return await nats.connect(
        list(access.servers),
        name="aichats-worker command",
        allow_reconnect=False,
        max_reconnect_attempts=1,  # nats-py counts the first attempt as well, and would make sixty
        reconnect_time_wait=0,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        inbox_prefix=access.inbox_prefix,
        error_cb=quiet,
        **{name: value for name, value in options.items() if value is not None},
    )
