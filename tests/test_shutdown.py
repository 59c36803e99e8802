"""How a worker stops, and how it waits for a broker that is not there."""

import asyncio
import signal
import time
from collections.abc import Callable

import nats
import pytest
from nats.aio.client import Client

from aichats_worker.broker.stopping import STOP_SECONDS
from tests.conftest import SpawnWorker
from tests.direct.test_corridor import until
from tests.processes import NatsServer
from tests.requester import Exchange, ask

pytestmark = pytest.mark.e2e

REQ = "ai.v1.req.text.default"


async def until_status(worker: object, path: str, status: int) -> None:
    async with asyncio.timeout(60):
        while await worker.status(path) != status:  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_running_request_ends_well_and_the_probes_answer_meanwhile(
    nc: Client, spawn_worker: SpawnWorker, number: signal.Signals
) -> None:
    worker = await spawn_worker(WORKER_JOBS="off")
    exchange = await Exchange(nc).send(REQ, b"[sim: words=40 pause=0.1]")
    await exchange.event()
    worker.send(number)
    await until_status(worker, "/readyz", 503)
    assert await worker.status("/livez") == 200
    assert await worker.status("/metrics") == 200
    assert (await exchange.all())[-1].type == "done"
    assert await worker.wait() == 0


async def test_a_request_that_outlasts_the_drain_is_told_and_counted(nc: Client, spawn_worker: SpawnWorker) -> None:
    worker = await spawn_worker(WORKER_JOBS="off", WORKER_DRAIN_TIMEOUT_SECONDS="0.2")
    exchange = await Exchange(nc).send(REQ, b"[sim: words=200 pause=0.1]")
    await exchange.event()
    worker.send(signal.SIGTERM)
    error = (await exchange.all())[-1]
    assert (error.data.code, error.data.retryable) == ("shutting_down", True)
    assert await worker.wait() == 1
    assert '"cut_off": 1' in worker.log


async def test_a_worker_whose_broker_has_died_under_an_answer_stops_as_any_other(
    own_nats_server: Callable[..., NatsServer], spawn_worker: SpawnWorker
) -> None:
    server = own_nats_server()
    worker = await spawn_worker(NATS_URL=server.url, WORKER_JOBS="off", WORKER_DRAIN_TIMEOUT_SECONDS="0.5")
    nc = await nats.connect(server.url, allow_reconnect=False)
    exchange = await Exchange(nc).send(REQ, b"[sim: words=300 pause=0.05]")
    await exchange.event()
    server.kill()
    await until(lambda: '"broker disconnected"' in worker.log)
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 1
    assert '"cut_off": 1, "event": "stopped"' in worker.log
    assert "Traceback" not in worker.log
    await nc.close()


async def test_a_second_signal_ends_at_once(nc: Client, spawn_worker: SpawnWorker) -> None:
    worker = await spawn_worker(WORKER_JOBS="off")
    exchange = await Exchange(nc).send(REQ, b"[sim: words=200 pause=0.1]")
    await exchange.event()
    worker.send(signal.SIGTERM)
    await until_status(worker, "/readyz", 503)
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 128 + signal.SIGTERM


@pytest.mark.slow("four workers start, one after the other")
async def test_a_rolling_restart_loses_and_doubles_nothing(nc: Client, spawn_worker: SpawnWorker) -> None:
    workers = [await spawn_worker(WORKER_JOBS="off") for _ in range(2)]
    asked: list[asyncio.Task[list[object]]] = []

    async def steadily() -> None:
        while True:
            asked.append(asyncio.create_task(ask(nc, REQ, b"[sim: words=3 pause=0.05]")))
            await asyncio.sleep(0.02)

    asking = asyncio.create_task(steadily())
    for worker in workers:
        await asyncio.sleep(0.5)  # some load on it before it goes
        worker.send(signal.SIGTERM)
        assert await worker.wait() == 0
        await spawn_worker(WORKER_JOBS="off")
    await asyncio.sleep(0.5)
    asking.cancel()
    answers = await asyncio.gather(*asked)
    assert len(answers) > 50
    assert {getattr(events[-1], "type", None) for events in answers} == {"done"}


async def test_a_worker_waits_for_a_broker_that_is_down_and_comes_back_with_it(
    own_nats_server: object, spawn_worker: SpawnWorker
) -> None:
    server: NatsServer = own_nats_server()  # type: ignore[operator]
    server.stop()
    worker = await spawn_worker(ready=False, NATS_URL=server.url)
    await until_status(worker, "/livez", 200)
    assert await worker.status("/readyz") == 503
    server.start()
    await worker.ready()
    server.stop()
    await until_status(worker, "/readyz", 503)
    assert await worker.status("/livez") == 200, "a broker that is down is no reason to restart"
    server.start()
    await worker.ready()
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0


async def test_a_worker_that_never_found_its_broker_stops_on_a_signal(
    own_nats_server: object, spawn_worker: SpawnWorker
) -> None:
    server: NatsServer = own_nats_server()  # type: ignore[operator]
    server.stop()
    worker = await spawn_worker(ready=False, NATS_URL=server.url)
    await until_status(worker, "/livez", 200)
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0


@pytest.mark.slow("a broker is frozen, and is waited for")
async def test_a_worker_whose_broker_is_frozen_is_gone_within_the_bound(
    own_nats_server: object, spawn_worker: SpawnWorker
) -> None:
    server: NatsServer = own_nats_server()  # type: ignore[operator]
    worker = await (
        await spawn_worker(NATS_URL=server.url, WORKER_DRAIN_TIMEOUT_SECONDS="0", WORKER_CONCURRENCY_MAX="2")
    ).serving_jobs()
    requester = await nats.connect(server.url)
    stored = await requester.subscribe("ai.v1.out.t.j")
    await requester.publish("ai.v1.job.text.t.j", b"[sim: words=2000 pause=0.01]")
    exchange = await Exchange(requester).send(REQ, b"[sim: words=2000 pause=0.01]")
    await exchange.event()
    await stored.next_msg(timeout=30)
    server.send(signal.SIGSTOP)
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 1
    assert time.monotonic() - began < STOP_SECONDS + 3, "three are for a busy machine"
    server.send(signal.SIGCONT)
    await requester.close()
