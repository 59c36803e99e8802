"""What nats-py 2.16 and FastStream 0.7.8 do on their own: where one of these fails, its correction can go."""

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import FlushTimeoutError

from aichats_worker.broker.access import Identity
from aichats_worker.broker.connecting import Connection
from aichats_worker.broker.patches.returning import transport_of
from aichats_worker.broker.patches.writing import SHORT_WAY_MAX_BYTES
from tests.broker.identities import Key
from tests.broker.pair import MakeServer, pair
from tests.broker.test_returning import users
from tests.direct.test_corridor import until
from tests.link import Link, linked
from tests.processes import NatsServer, free_port

OPTIONS: dict[str, Any] = {"reconnect_time_wait": 0.1, "max_reconnect_attempts": -1}


async def quiet(_: Exception) -> None:
    """What it says is seen by what it does."""


@pytest.fixture
async def server(own_nats_server: MakeServer) -> NatsServer:
    return own_nats_server()


@pytest.fixture
async def link(server: NatsServer) -> AsyncIterator[Link]:
    async with linked(server.port) as running:
        yield running


@pytest.fixture
async def bare() -> AsyncIterator[Callable[..., Any]]:
    clients: list[Client] = []

    async def connect(url: str, **options: Any) -> Any:
        clients.append(await nats.connect(url, **(OPTIONS | {"error_cb": quiet} | options)))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


@pytest.fixture
async def ours() -> AsyncIterator[Callable[..., Any]]:
    clients: list[Connection] = []

    async def connect(url: str) -> Connection:
        clients.append(Connection(Identity))
        await clients[-1].reach([url], error_cb=quiet, **OPTIONS)
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


async def test_a_callback_that_raises_ends_nats_pys_reconnect_for_good(server: NatsServer, bare: Any) -> None:
    """Why ours raises nothing, and why somebody looks whether the task has ended."""

    async def raising(error: Exception) -> None:
        if isinstance(error, OSError):
            raise error

    nc = await bare(server.url, error_cb=raising)
    server.stop()
    await until(lambda: nc._reconnection_task is not None and nc._reconnection_task.done())
    server.start()
    await asyncio.sleep(0.5)
    assert not nc.is_connected
    assert not nc.is_closed


async def test_faststreams_callback_raises_where_a_broker_refuses(nats_server: NatsServer) -> None:
    """Why FastStream is given a connection that we made: once this raises nothing, its own will do."""
    broker = NatsBroker(nats_server.url, logger=logging.getLogger("quiet"), log_level=logging.DEBUG)
    with pytest.raises(NatsError):
        await broker._log_connection_broken(None)(NatsError("nats: 'Authorization Violation'"))


async def test_any_word_of_the_server_closes_nats_py_for_good(link: Link, bare: Any) -> None:
    nc = await bare(link.url)
    link.inject(b"-ERR 'Maximum Subscriptions Exceeded'\r\n")
    await until(lambda: bool(nc.is_closed))


async def test_nats_py_reads_the_limit_of_a_message_in_the_first_info_alone(
    own_nats_server: MakeServer, bare: Any
) -> None:
    server = own_nats_server(users(limits="limits { max_payload: 65536 }"))
    nc = await bare(server.url, user="u", password="p")
    await nc.flush()
    await nc.flush()
    assert nc.max_payload == 1024 * 1024


async def back_at_a_server_that_takes_less(server: NatsServer, nc: Any) -> list[bytes]:
    """Publish much and little while there is no server, and have one come that takes only little."""
    listener = await nc.subscribe("said")  # is there again before what waits goes out
    await nc.flush()
    server.kill()
    await until(lambda: not nc.is_connected)
    await nc.publish("said", bytes(100_000))
    await nc.publish("said", b"little")
    server.configure("max_payload: 65536")
    server.start()
    try:
        return [(await listener.next_msg(timeout=3)).data]
    except NatsError:  # nothing came, or the connection is closed for good
        return []


async def test_what_waits_for_nats_py_and_is_too_large_costs_what_waits_behind_it(
    server: NatsServer, bare: Any
) -> None:
    assert await back_at_a_server_that_takes_less(server, await bare(server.url)) == []


async def test_what_waits_and_is_too_large_costs_nothing_else(server: NatsServer, ours: Any) -> None:
    nc = await ours(server.url)
    breaks = nc.breaks
    assert await back_at_a_server_that_takes_less(server, nc) == [b"little"]
    assert nc.stats["reconnects"] == 1, "it was not thrown out once more"
    assert not await nc.delivered(breaks + 1), "one that waits for what was large, published behind the break, is told"


async def test_nats_py_keeps_the_public_key_of_a_seed_that_was_rotated(
    own_nats_server: MakeServer, bare: Any, tmp_path: Path
) -> None:
    old, new = Key("U"), Key("U")
    config = "server_name: s\nauthorization {{ users: [ {{nkey: {}}} ] }}\n"
    server = own_nats_server(config.format(old.public), jetstream=False)
    seed = tmp_path / "seed"
    seed.write_text(old.seed)
    nc = await bare(server.url, nkeys_seed=str(seed))
    seed.write_text(new.seed)
    server.stop()
    server.configure(config.format(new.public))
    server.start()
    await until(lambda: nc.last_error is not None and "uthorization" in str(nc.last_error))
    assert not nc.is_connected


def test_nats_py_reads_a_credentials_file_without_a_jwt_for_ever(tmp_path: Path) -> None:
    (tmp_path / "creds").write_text("")
    program = f"from nats.aio.client import Client; Client()._read_creds_user_jwt({str(tmp_path / 'creds')!r})"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", program], timeout=3, check=False)


async def test_nats_py_leaves_a_refused_connection_open(own_nats_server: MakeServer, bare: Any) -> None:
    server = own_nats_server(users())
    nc = await bare(server.url, user="u", password="p")
    server.stop()
    server.configure(users(password="other"))
    server.start()
    writers: set[Any] = set()

    def left_open() -> bool:
        current = nc._transport._io_writer
        writers.add(current)
        return any(not writer.transport.is_closing() for writer in writers - {current})

    await until(left_open)
    for writer in writers:
        writer.close()


async def test_the_answer_to_a_flush_that_was_given_up_ends_nats_pys_reading(link: Link, bare: Any) -> None:
    nc = await bare(link.url)
    link.flowing.clear()
    with pytest.raises(FlushTimeoutError):
        await nc.flush(timeout=1)
    link.flowing.set()
    await until(lambda: bool(nc._reading_task.done()))
    assert nc.is_connected, "as far as it can tell"


async def test_nats_py_forgets_the_websocket_of_a_server_that_it_heard_of(
    own_nats_server: MakeServer, bare: Any
) -> None:
    port = free_port()
    websockets = (f'websocket {{ listen: "127.0.0.1:{each}", no_tls: true }}' for each in (port, free_port()))
    pair(own_nats_server, *websockets)
    async with asyncio.timeout(60):
        while not (nc := await bare(f"ws://127.0.0.1:{port}")).discovered_servers:
            await asyncio.sleep(0.1)  # the two have not met yet
    assert {server.scheme for server in nc.discovered_servers} == {"nats"}


async def test_nats_py_stays_on_a_server_that_retires_until_it_is_thrown_out(
    own_nats_server: MakeServer, bare: Any
) -> None:
    server = own_nats_server('server_name: s\nlame_duck_duration: "30s"\nlame_duck_grace_period: "20s"\n')
    told = asyncio.Event()

    async def lame_duck() -> None:
        told.set()

    nc = await bare(server.url, lame_duck_mode_cb=lame_duck)
    server.send(signal.SIGUSR2)
    async with asyncio.timeout(5):
        await told.wait()
    assert nc.is_connected
    server.kill()


async def test_a_flush_that_nats_py_was_asked_for_before_a_break_waits_for_its_whole_timeout(
    link: Link, bare: Any
) -> None:
    """Why whoever has to know whether a message arrived asks another way."""
    nc = await bare(link.url)
    link.down.clear()
    flushing = asyncio.create_task(nc.flush(timeout=3))
    await until(lambda: bool(nc._pongs))
    link.cut()
    link.down.set()
    await until(lambda: nc.stats["reconnects"] == 1)
    assert not flushing.done()
    with pytest.raises(FlushTimeoutError):
        await flushing


async def test_what_is_published_is_delivered_once_the_server_has_read_it_and_not_where_the_connection_breaks(
    link: Link, ours: Any
) -> None:
    nc = await ours(link.url)
    await nc.publish("x", b"y" * 100_000)
    assert await nc.delivered(nc.breaks)
    link.up.clear()
    await nc.publish("x", b"y" * 100_000)
    waiting = asyncio.create_task(nc.delivered(nc.breaks))
    await until(lambda: bool(nc._listening))
    link.cut()
    assert not await waiting
    link.up.set()


async def test_what_is_published_while_there_is_no_connection_is_delivered_with_the_next_one(
    server: NatsServer, ours: Any
) -> None:
    nc = await ours(server.url)
    server.stop()
    await until(lambda: not nc.is_connected)
    await nc.publish("x", b"y")
    waiting = asyncio.create_task(nc.delivered(nc.breaks))
    await until(lambda: bool(nc._listening))
    server.start()
    assert await waiting


async def test_whoever_waits_for_a_delivery_may_be_cancelled(link: Link, ours: Any) -> None:
    """nats-py breaks on the PONG of a flush that was cancelled: its reading task ends."""
    nc = await ours(link.url)
    link.down.clear()
    waiting = asyncio.create_task(nc.delivered(nc.breaks))
    await until(lambda: bool(nc._listening))
    waiting.cancel()
    await asyncio.wait({waiting})
    link.down.set()
    assert await nc.delivered(nc.breaks)
    assert nc.breaks == 0


def test_nats_py_writes_on_uvloop_to_a_socket_that_has_ended(nats_server: NatsServer) -> None:
    """asyncio does not raise there; nats-py sees the end a moment later."""
    uvloop = pytest.importorskip("uvloop", reason="there is no uvloop here")

    async def cut() -> None:
        nc = await nats.connect(nats_server.url, **OPTIONS)
        transport_of(nc._transport).abort()  # type: ignore[union-attr]
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await nc.flush()
        await nc.close()

    uvloop.run(asyncio.wait_for(cut(), 60))


def test_a_socket_that_has_ended_is_no_defect_on_uvloop(nats_server: NatsServer) -> None:
    uvloop = pytest.importorskip("uvloop", reason="there is no uvloop here")

    async def cut(*, flusher: bool = True) -> Connection:
        nc = Connection(Identity)
        await nc.reach([nats_server.url], **OPTIONS)
        if not flusher and nc._flusher_task is not None:  # it has ended, as it does by itself once it has written there
            nc._flusher_task.cancel()
            await asyncio.wait({nc._flusher_task})
        transport_of(nc._transport).abort()  # type: ignore[union-attr]
        await asyncio.sleep(0)
        return nc

    async def use() -> None:
        nc = await cut()
        with pytest.raises(NatsError):
            await nc.flush()
        await nc.close()
        nc = await cut()
        await nc._send_ping()
        await nc.close()
        nc = await cut()
        assert not await nc.delivered(nc.breaks)
        await nc.close()
        nc = await cut()
        await nc.publish("said.late", b"1")
        await nc.close()
        nc = await cut(flusher=False)
        await nc.publish("said.late", bytes(SHORT_WAY_MAX_BYTES + 1))
        assert nc.pending_data_size > SHORT_WAY_MAX_BYTES
        await nc.close()

    uvloop.run(asyncio.wait_for(use(), 60))
