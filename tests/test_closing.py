"""How a worker in this process closes: what it leaves, and what it does where the broker is away."""

import asyncio
import gc

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError

from aichats_worker.app import App
from aichats_worker.broker.patches.subscribing import settle
from aichats_worker.settings import load_settings
from tests.conftest import StartWorker
from tests.direct.test_corridor import until
from tests.link import linked
from tests.processes import NatsServer
from tests.requester import Exchange

REQ = "ai.v1.req.text.default"


async def test_a_worker_that_drains_is_in_no_queue_group_any_more(nc: Client, start_worker: StartWorker) -> None:
    app = await start_worker(worker_drain_timeout_seconds=5, worker_jobs=True)
    await until(lambda: app.jobs is not None)
    exchange = await Exchange(nc).send(REQ, b"[sim: words=4 pause=0.3]")
    await exchange.event()
    draining = asyncio.create_task(app.drain())
    await until(lambda: not app.health.ready()[0])
    await app.broker.connection.flush()
    for subject in (REQ, "ai.v1.ctl.cancel.t.x", "ai.v1.ctl.resume.t", "ai.v1.int.room.text"):
        with pytest.raises(NoRespondersError):
            await nc.request(subject, b"", timeout=5)
    assert (await exchange.all())[-1].type == "done"
    assert await draining == 0


async def test_a_slot_that_comes_free_in_a_worker_that_drains_is_offered_to_nobody(
    nc: Client, start_worker: StartWorker
) -> None:
    app = await start_worker(worker_drain_timeout_seconds=10, worker_concurrency_max=2)
    short, long = [
        await Exchange(nc).send(REQ, body) for body in (b"[sim: words=2 pause=1.5]", b"[sim: words=3 pause=2.5]")
    ]
    await short.event()
    await long.event()
    draining = asyncio.create_task(app.drain())
    assert (await short.all())[-1].type == "done"
    with pytest.raises(NoRespondersError):
        await nc.request("ai.v1.int.room.text", b"", timeout=1)
    assert (await long.all())[-1].type == "done"
    assert await draining == 0


async def test_a_worker_that_drains_takes_nothing_that_it_had_offered_a_slot(
    nc: Client, start_worker: StartWorker
) -> None:
    app = await start_worker(worker_drain_timeout_seconds=10)
    running = await Exchange(nc).send(REQ, b"[sim: words=2 pause=1.5]")
    await running.event()
    offer = b'{"mode":"req","tenant":"t","id":"r1","reply_to":"_INBOX.t.x","headers":{}}'
    place = (await nc.request("ai.v1.int.room.text", offer, timeout=5)).data.decode()
    draining = asyncio.create_task(app.drain())
    await until(lambda: not app.health.ready()[0])
    assert (await nc.request(f"ai.v1.int.take.{place}", b"hi", timeout=5)).data == b"", (
        "it is asked for again elsewhere"
    )
    assert (await running.all())[-1].type == "done"
    assert await draining == 0


async def test_a_worker_that_is_stopped_while_the_broker_is_away_ends(
    own_nats_server: object, start_worker: StartWorker
) -> None:
    server: NatsServer = own_nats_server()  # type: ignore[operator]
    app = await start_worker(nats_url=server.url)
    server.kill()
    await until(lambda: not app.health.ready()[0])
    async with asyncio.timeout(20):
        assert await app.drain() == 0
    assert app._nc is not None
    assert app._nc.is_closed, "else it would go on trying to come back"


async def test_a_broker_that_falls_silent_at_the_very_end_is_no_defect_in_the_log(
    nats_server: NatsServer,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with linked(nats_server.port) as link:
        app = await start_worker(nats_url=link.url, worker_drain_timeout_seconds=0)

        async def settled_once_more(nc: Client) -> None:
            await settle(nc)
            link.down.clear()

        monkeypatch.setattr("aichats_worker.app.settle", settled_once_more)
        await app.drain()
        await asyncio.sleep(0)
        gc.collect()
    assert not [record.getMessage() for record in caplog.records if record.name == "asyncio"]


async def test_a_start_that_a_stop_overtakes_serves_no_jobs(nats_server: NatsServer) -> None:
    """Nobody can count on its cancellation: nats-py swallows some."""
    async with linked(nats_server.port) as link:
        link.delay_seconds = 0.1
        app = App(load_settings(nats_url=link.url, worker_http_port=0, worker_drain_timeout_seconds=0))
        starting = asyncio.create_task(app.start())
        await until(lambda: app._nc is not None)
        link.down.clear()
        draining = asyncio.create_task(app.drain())
        await until(lambda: app._draining)
        link.down.set()
        await asyncio.wait_for(starting, 30)
        assert await draining == 0
        assert app._serving is None
