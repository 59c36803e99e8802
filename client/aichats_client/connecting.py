"""Connections: our own, or one that is there."""

import asyncio
import re
import ssl
from collections.abc import Sequence
from typing import Any, Final, Protocol

import nats
from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from aichats_client.context import Context
from aichats_client.errors import NoBroker

LOCAL: Final = "nats://127.0.0.1:4222"
CONNECT_TIMEOUT_SECONDS: Final = 5.0
CLOSE_TIMEOUT_SECONDS: Final = 2.0
FLUSH_TIMEOUT_SECONDS: Final = 5.0  # nats-py has none by default: a frozen server would block every publish
_CREDENTIALS: Final = re.compile(r"(?<=//)[^/@]*@|^[^/@]*@")


class Connects(Protocol):
    """What has a connection, or makes one: FastStream's NatsBroker is one."""

    async def connect(self) -> Any:
        """Return the connection."""


async def connection_of(given: NatsClient | Connects) -> NatsClient:
    """Return a connection that is there, or a broker's, which is connected where it is not yet."""
    if isinstance(given, NatsClient):
        return given
    nc = await given.connect()
    if not isinstance(nc, NatsClient):
        raise TypeError(f"{type(given).__name__}.connect() gave no connection of nats-py")
    return nc


async def connected(servers: Sequence[str], context: Context, inbox_prefix: str) -> NatsClient:
    """Connect. The connection comes back by itself after that, for good.

    Raises:
        NoBroker: None of the servers answers, or they refuse us.
    """
    tried: asyncio.Queue[Exception] = asyncio.Queue()

    async def on_error(error: Exception) -> None:
        await tried.put(error)  # nats-py would print it; before the first connect it tells which server failed

    connecting = asyncio.create_task(_connect(servers, context, inbox_prefix, on_error))
    giving_up = asyncio.create_task(_nth(tried, len(servers)))
    try:
        await asyncio.wait(
            {connecting, giving_up}, timeout=CONNECT_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if connecting.done():
            return connecting.result()
        reason = giving_up.result() if giving_up.done() else TimeoutError(f"no answer in {CONNECT_TIMEOUT_SECONDS:g} s")
    except (OSError, NatsError) as error:
        reason = error
    finally:
        giving_up.cancel()
        connecting.cancel()
    says = str(reason).removeprefix("nats: ") or type(reason).__name__
    raise NoBroker(f"{_masked(servers)}: {says}; is a server there? `aichats-worker dev` starts one") from None


async def _connect(servers: Sequence[str], context: Context, inbox_prefix: str, on_error: Any) -> NatsClient:
    options = {
        "user_credentials": context.creds,
        "nkeys_seed": context.nkey,
        "user": context.user,
        "password": context.password,
        "token": context.token,
        "tls": _tls(servers, context),
        "tls_handshake_first": context.tls_first,
    }
    return await nats.connect(
        list(servers),
        name="aichats-client",
        error_cb=on_error,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        flush_timeout=FLUSH_TIMEOUT_SECONDS,
        inbox_prefix=inbox_prefix,
        **{name: value for name, value in options.items() if value},
    )


async def _nth(tried: asyncio.Queue[Exception], count: int) -> Exception:
    for _ in range(count - 1):
        await tried.get()
    return await tried.get()


def _tls(servers: Sequence[str], context: Context) -> ssl.SSLContext | None:
    if not (context.ca or context.cert or context.tls_first or any(s.startswith(("tls:", "wss:")) for s in servers)):
        return None
    made = ssl.create_default_context(cafile=context.ca or None)
    if context.cert:
        made.load_cert_chain(context.cert, context.key or None)
    return made


def _masked(servers: Sequence[str]) -> str:
    return ", ".join(_CREDENTIALS.sub("", server) for server in servers)


async def closed(nc: NatsClient) -> None:
    """Close a connection of our own: what was published goes out first, within a bound."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            if nc.is_connected:
                await nc.flush()
            await nc.close()
    except (NatsError, TimeoutError, OSError):
        pass  # it is gone already
