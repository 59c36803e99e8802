"""A server that says nothing and has not taken all that was written: nats-py waits for it, ours leaves it.

Whatever carries the connection, and on both event loops: each of them closes in a way of its own.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
import trustme
from nats.errors import Error as NatsError
from nats.errors import OutboundBufferLimitError, StaleConnectionError

from aichats_worker.broker.access import Identity
from aichats_worker.broker.connecting import Connection
from aichats_worker.broker.patches.returning import HANG_UP_SECONDS, transport_of
from aichats_worker.broker.patches.subscribing import within
from aichats_worker.service import fastest_loop
from tests.broker.pair import MakeServer
from tests.direct.test_corridor import until
from tests.link import Link, linked
from tests.processes import free_port

OPTIONS: dict[str, Any] = {"reconnect_time_wait": 0.1, "max_reconnect_attempts": -1}
SECONDS_MAX = 10.0  # for what takes for ever without the correction


@dataclass(frozen=True)
class Place:
    """Where a server is reached, and by what."""

    scheme: str
    port: int
    trust: ssl.SSLContext | None


def place(start: MakeServer, directory: Path, carrier: str) -> Place:
    """Start a server."""
    port, tls, trust = free_port(), "", None
    if "TLS" in carrier:
        authority, file = trustme.CA(), directory / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        tls = f'tls {{ cert_file: "{file}", key_file: "{file}" }}'
    if "websocket" not in carrier:
        return Place("nats", start(f"server_name: s\n{tls}\n", jetstream=False).port, trust)
    start(f'server_name: s\nwebsocket {{ listen: "127.0.0.1:{port}", {tls or "no_tls: true"} }}\n', jetstream=False)
    return Place("wss" if tls else "ws", port, trust)


async def connected(to: Place, link: Link) -> Connection:
    nc = Connection(lambda: Identity(tls=to.trust))
    async with asyncio.timeout(SECONDS_MAX):  # it tries for as long as it is not closed
        await nc.reach([link.url.replace("nats", to.scheme)], **OPTIONS)
    return nc


@asynccontextmanager
async def held_up(nc: Any, link: Link, port: int) -> AsyncIterator[None]:
    """Break a connection that has more to write than its silent server takes. The next one goes past the link."""

    async def publish() -> None:
        with suppress(OutboundBufferLimitError):  # nats-py keeps no more while there is no connection
            for _ in range(16):
                await nc.publish("x", b"y" * 512 * 1024)

    link.flowing.clear()
    publishing = asyncio.create_task(publish())
    try:
        await until(lambda: held_by(nc) > 0)
        nc._server_pool[0].uri = nc._server_pool[0].uri._replace(netloc=f"127.0.0.1:{port}")
        await nc._process_op_err(StaleConnectionError())
        yield
        await asyncio.wait_for(publishing, SECONDS_MAX)
    finally:
        link.cut()  # else a close waits for the silent server too
        last = transport_of(nc._transport)
        with suppress(OSError, NatsError, TimeoutError):
            await within(SECONDS_MAX, nc.close(), "close")
        publishing.cancel()
        if last is not None:
            last.abort()  # over TLS it waits for the server's own end, and the event loop ends first


def held_by(nc: Any) -> int:
    """How many bytes are written, and not taken."""
    return transport_of(nc._transport).get_write_buffer_size()  # type: ignore[union-attr]


async def leaves(to: Place) -> None:
    async with linked(to.port) as link:
        nc = await connected(to, link)
        silent: Any = transport_of(nc._transport)
        async with held_up(nc, link, to.port):
            await until(lambda: nc.stats["reconnects"] == 1, seconds=SECONDS_MAX)
            await until(lambda: silent.get_write_buffer_size() == 0, seconds=SECONDS_MAX)  # closed: it holds nothing
        assert nc.breaks == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("carrier", ["TCP", "TLS", "websocket", "websocket over TLS"])
def test_a_silent_server_that_has_not_taken_all_is_left_for_another(
    own_nats_server: MakeServer, tmp_path: Path, carrier: str, loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="the extra `fast` is not installed")
    with asyncio.Runner(loop_factory=fastest_loop() if loop == "uvloop" else None) as runner:
        runner.run(leaves(place(own_nats_server, tmp_path, carrier)))


async def test_nats_py_waits_for_a_silent_server_before_it_looks_for_another(own_nats_server: MakeServer) -> None:
    server = own_nats_server(jetstream=False)
    async with linked(server.port) as link:
        nc: Any = await nats.connect(link.url, pending_size=0, **OPTIONS)
        async with held_up(nc, link, server.port):
            done, _ = await asyncio.wait({nc._reconnection_task}, timeout=2 * HANG_UP_SECONDS)
            assert not done
            link.flowing.set()
            await until(lambda: nc.stats["reconnects"] == 1)
