"""The broker goes away, freezes, is cut off, or takes less than the provider gives."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from aichats_worker.broker.framework import PENDING_MAX_BYTES
from aichats_worker.errors import Cancelled
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.conftest import SpawnWorker, StartWorker
from tests.direct.test_corridor import outcomes, until
from tests.link import Link, linked
from tests.processes import RUN, NatsServer, resident_bytes
from tests.requester import Exchange, ask, text_of, until_heard

REQ = "ai.v1.req.text.default"
ASK = "ai.v1.ask.text.default"
MIB = 1024 * 1024


@pytest.fixture
async def server(own_nats_server: Any) -> NatsServer:
    started: NatsServer = own_nats_server()
    return started


@pytest.fixture
async def link(server: NatsServer) -> AsyncIterator[Link]:
    async with linked(server.port) as running:
        yield running


@pytest.fixture
async def own(server: NatsServer) -> AsyncIterator[Client]:
    """A requester's connection to the server, past the link."""
    client = await nats.connect(server.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1)
    yield client
    await client.close()


async def test_a_broker_that_freezes_for_a_while_costs_no_event(
    server: NatsServer, own: Client, start_worker: StartWorker
) -> None:
    await start_worker(nats_url=server.url)
    exchange = await Exchange(own).send(REQ, b"[sim: words=40 pause=0.1]")
    await exchange.event()
    server.send(signal.SIGSTOP)
    await asyncio.sleep(2)
    server.send(signal.SIGCONT)
    assert text_of(await exchange.all()) == "".join(words(40))


async def test_a_request_ends_in_time_under_a_frozen_broker_that_is_then_left_and_found_again(
    server: NatsServer, own: Client, start_worker: StartWorker, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aichats_worker.broker.framework.PING_INTERVAL_SECONDS", 1)
    app = await start_worker(nats_url=server.url)
    body = b'{"prompt":"[sim: words=1000 pause=0.05]","timeout_seconds":2}'
    exchange = await Exchange(own).send(REQ, body)
    await exchange.event()
    server.send(signal.SIGSTOP)
    await until(lambda: outcomes(app) == {"deadline_exceeded": 1.0})
    await until(lambda: simulator.closed_early == 1)
    await until(lambda: not app.broker.connection.is_connected)
    assert not app.health.ready()[0]
    assert app.health.live()[0], "waiting mends it, a restart does not"
    server.send(signal.SIGCONT)
    await until(lambda: app.health.ready()[0], seconds=20)
    await until_heard(own)
    assert (await ask(own, REQ, b"[sim: words=1]"))[-1].type == "done"


async def test_a_worker_that_was_cut_off_serves_again_without_a_restart(
    link: Link, own: Client, start_worker: StartWorker
) -> None:
    app = await start_worker(nats_url=link.url)
    exchange = await Exchange(own).send(REQ, b"[sim: words=30 pause=0.1]")
    await exchange.event()
    link.cut()
    await until(lambda: app.broker.connection.stats["reconnects"] == 1)
    while (await exchange.next()).data:  # its events go on: what the cut cost shows as a gap
        pass
    await until(lambda: outcomes(app) == {"done": 1.0})
    assert (await ask(own, REQ, b"[sim: words=1]"))[-1].type == "done"


async def test_a_request_in_a_partition_ends_in_time_and_the_worker_serves_after_it(
    link: Link, own: Client, start_worker: StartWorker, simulator: Simulator
) -> None:
    app = await start_worker(nats_url=link.url)
    body = b'{"prompt":"[sim: words=1000 pause=0.05]","timeout_seconds":1.5}'
    exchange = await Exchange(own).send(REQ, body)
    await exchange.event()
    link.flowing.clear()
    await until(lambda: outcomes(app) == {"deadline_exceeded": 1.0})
    await until(lambda: simulator.closed_early == 1)
    link.flowing.set()
    events = await exchange.all()
    assert events[-1].data.code == "deadline_exceeded", "what was held up arrives, in order and whole"
    assert (await ask(own, REQ, b"[sim: words=1]"))[-1].type == "done"


async def test_a_provider_faster_than_the_broker_is_slowed_down_and_nothing_is_lost(
    link: Link, own: Client, start_worker: StartWorker, simulator: Simulator
) -> None:
    """48 MiB at 12 MiB/s: the worker may not hold more than its buffer, and the requester gets every byte in order."""
    app = await start_worker(nats_url=link.url)
    link.bytes_per_second = 12 * MIB
    piece = b"x" * (64 * 1024 - 16)
    simulator.script(*[b"data: %08d%b\n\n" % (n, piece) for n in range(768)], b"event: trylimit\ndata: 9\n\n")
    held: list[int] = []

    async def look() -> None:
        while True:
            nc: Any = app.broker.connection
            held.append(nc._pending_data_size + nc._transport._io_writer.transport.get_write_buffer_size())
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    events = await ask(own, REQ, b"all of it")
    looking.cancel()
    assert text_of(events) == "".join(f"{n:08d}{piece.decode()}" for n in range(768))
    assert events[-1].type == "done"
    assert max(held) > 4 * MIB, "the broker was never the slower one: this shows nothing"
    assert max(held) < 2 * PENDING_MAX_BYTES + MIB


@pytest.mark.slow("a partition of four seconds, and 256 MiB after it")
async def test_memory_is_bounded_while_a_partition_lasts(
    link: Link, own: Client, spawn_worker: SpawnWorker, simulator: Simulator
) -> None:
    """Four providers would give 64 MiB each, as fast as they can, while the broker takes nothing."""
    worker = await spawn_worker(command=RUN, NATS_URL=link.url, WORKER_JOBS="off")
    assert worker.process is not None
    await ask(own, REQ, b"[sim: words=1]")
    before = resident_bytes(worker.process.pid)
    parts = [b"data: " + b"x" * 65536 + b"\n\n"] * 1024
    for n in range(4):
        simulator.script(*parts, prompt=f"much {n}")
    exchanges = [await Exchange(own).send(REQ, b"much %d" % n) for n in range(4)]
    for exchange in exchanges:
        await exchange.event()
    link.flowing.clear()
    peak, until_then = 0, time.monotonic() + 4
    while time.monotonic() < until_then:
        peak = max(peak, resident_bytes(worker.process.pid))
        await asyncio.sleep(0.05)
    assert peak - before < 4 * PENDING_MAX_BYTES, "256 MiB were on offer"
    link.flowing.set()
    for exchange in exchanges:
        assert len(text_of(await exchange.all())) == 1024 * 65536


async def test_a_cancel_gets_through_where_publishing_is_held_up(
    link: Link, own: Client, start_worker: StartWorker, simulator: Simulator
) -> None:
    """nats-py's publish() swallows a cancellation under back-pressure; the executor looks again after it."""
    app = await start_worker(nats_url=link.url)
    parts = [b"data: " + b"x" * 65536 + b"\n\n"] * 2048
    simulator.script(*parts)
    exchange = await Exchange(own).send(REQ, b"much", {"Nats-Msg-Id": "r9"})
    await exchange.event()
    link.flowing.clear()
    nc: Any = app.broker.connection
    await until(lambda: nc._pending_data_size > PENDING_MAX_BYTES)
    await asyncio.sleep(0.2)
    run = app.runs.find("default", "r9")
    assert run is not None
    assert run.stop(Cancelled("by the requester"))
    await until(lambda: simulator.closed_early == 1)
    link.flowing.set()
    assert (await exchange.all())[-1].data.code == "cancelled"
