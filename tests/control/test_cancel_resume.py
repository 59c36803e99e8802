"""Cancel and resume (contract, section 7)."""

import asyncio
import time
from typing import Any

import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError

from aichats_client import Answer, cancel, resume
from aichats_schemas import StreamEvent
from aichats_worker.app import App
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.jobs.test_jobs import WAIT_SECONDS, Broker, StartJobs, broker, start_jobs
from tests.requester import Exchange

__all__ = ["broker", "start_jobs"]


async def replies_to(nc: Client, subject: str, body: bytes = b"", *, seconds: float = 1.2) -> list[bytes]:
    """Everything that comes back to one request within a time."""
    inbox, found = nc.new_inbox(), list[bytes]()

    async def heard(message: Any) -> None:
        found.append(message.data)

    subscription = await nc.subscribe(inbox, cb=heard)
    await nc.publish(subject, body, reply=inbox)
    await asyncio.sleep(seconds)
    await subscription.unsubscribe()
    return found


@pytest.mark.e2e
async def test_a_running_request_is_cancelled_wherever_it_runs(
    nc: Client, start_worker: StartWorker, simulator: Simulator
) -> None:
    for _ in range(3):
        await start_worker()
    exchange = await Exchange(nc).send("ai.v1.req.text.t", b"[sim: words=200 pause=0.1]", {"Nats-Msg-Id": "r1"})
    await exchange.event()
    started = time.monotonic()
    assert await cancel(nc, "r1", tenant="t")
    assert time.monotonic() - started < 1
    assert (await exchange.all())[-1].data.code == "cancelled"
    async with asyncio.timeout(WAIT_SECONDS):
        await simulator.requests[0].ended.wait()
    assert simulator.closed_early == 1
    assert not await cancel(nc, "r1", tenant="t"), "it has ended"


async def test_another_tenants_request_is_not_cancelled(nc: Client, worker: App) -> None:
    exchange = await Exchange(nc).send("ai.v1.req.text.t", b"[sim: words=5 pause=0.6]", {"Nats-Msg-Id": "r1"})
    await exchange.event()
    assert not await cancel(nc, "r1", tenant="another")
    assert (await exchange.all())[-1].type == "done"


@pytest.mark.parametrize("subject", ["ai.v1.ctl.cancel.t.nothing", "ai.v1.ctl.cancel.t.*", "ai.v1.ctl.cancel.t$.r1"])
@pytest.mark.e2e
async def test_cancel_is_answered_exactly_once(nc: Client, start_worker: StartWorker, subject: str) -> None:
    for _ in range(3):
        await start_worker()
    assert [orjson.loads(reply) for reply in await replies_to(nc, subject)] == [{"cancelled": False}]


async def test_without_a_worker_there_is_no_responder(nc: Client) -> None:
    with pytest.raises(NoRespondersError):
        await nc.request("ai.v1.ctl.cancel.t.r1", b"")


@pytest.mark.e2e
async def test_a_running_job_is_cancelled_and_leaves_no_dead_letter(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await start_jobs()
    await broker.submit("[sim: words=200 pause=0.1]")
    await broker.events(1)
    assert await cancel(broker.nc, "r1", tenant="t")
    assert (await broker.end())[-1].data.code == "cancelled"
    await broker.removed()
    assert await broker.dead() == []


async def test_a_queued_job_is_cancelled_for_good(broker: Broker, start_jobs: StartJobs, simulator: Simulator) -> None:
    first = await start_jobs(worker_concurrency_max=1)
    await broker.submit("[sim: words=300 pause=0.1]", "running")
    await broker.events(1)
    await broker.submit("never", "queued")
    assert await cancel(broker.nc, "queued", tenant="t")
    found = await broker.events(1)
    while found[-1].id != "queued":
        found += await broker.events(1)
    assert (found[-1].data.code, found[-1].seq) == ("cancelled", 0)
    assert await broker.jobs_left() == 1
    assert await cancel(broker.nc, "running", tenant="t")
    await first.drain()
    await start_jobs()
    await broker.removed()
    assert len(simulator.requests) == 1, "the cancelled job reached the provider"
    assert await broker.dead() == []


async def test_a_job_that_waits_for_its_retry_is_cancelled(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs(worker_retry_base_seconds=60, worker_retry_max_seconds=60)
    await broker.submit("[sim: status=429 retry-after=60]")
    async with asyncio.timeout(WAIT_SECONDS):
        while not (await broker.js.consumer_info("AIJOBS", "ai-workers-text")).num_redelivered:
            if (await broker.js.consumer_info("AIJOBS", "ai-workers-text")).delivered.consumer_seq:
                break
            await asyncio.sleep(0.02)
    async with asyncio.timeout(WAIT_SECONDS):
        while not await cancel(broker.nc, "r1", tenant="t"):
            await asyncio.sleep(0.05)
    assert (await broker.end())[-1].data.code == "cancelled"
    await broker.removed()
    assert await broker.dead() == []


@pytest.mark.e2e
async def test_resume_replays_a_finished_job_and_from_a_point_on(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.submit("[sim: words=5 pause=0.02]")
    events = await broker.end()
    again = [event async for event in resume(broker.nc, "r1", tenant="t")]
    assert again == events
    after = events[1]
    rest = [event async for event in resume(broker.nc, "r1", tenant="t", after=(after.attempt, after.seq))]
    assert rest == events[2:]


@pytest.mark.e2e
async def test_resume_goes_on_live_without_gap_or_double(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await start_jobs()
    await broker.submit("[sim: words=40 pause=0.03]")

    async def follow(delay: float) -> list[StreamEvent]:
        await asyncio.sleep(delay)
        return [event async for event in resume(broker.nc, "r1", tenant="t") if event.attempt]

    async with asyncio.timeout(WAIT_SECONDS):
        await broker.events(1)
        followers = await asyncio.gather(*(follow(n * 0.1) for n in range(8)))
    for events in followers:
        assert [event.seq for event in events] == list(range(len(events)))
        assert events[-1].type == "done"
        answer = Answer()
        for event in events:
            answer.add(event)
        assert answer.text == "".join(words(40))


@pytest.mark.e2e
async def test_resume_of_a_queued_job_says_that_it_waits(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs(worker_concurrency_max=1)
    await broker.submit("[sim: words=30 pause=0.1]", "first")
    await broker.events(1)
    await broker.submit("[sim: words=2]", "second")
    events = [event async for event in resume(broker.nc, "second", tenant="t")]
    assert (events[0].type, events[0].id, events[0].attempt, events[0].seq) == ("status", "second", 0, 0)
    assert events[-1].type == "done"


@pytest.mark.parametrize(
    "body",
    [b'{"id":"unknown"}', b"", b"{}", b'{"id":5}', b'{"id":"a b"}', b'{"id":"r","after":{"attempt":-1,"seq":0}}'],
)
async def test_resume_of_nothing_or_nonsense_is_invalid(broker: Broker, start_jobs: StartJobs, body: bytes) -> None:
    await start_jobs()
    (error,) = await (await Exchange(broker.nc).send("ai.v1.ctl.resume.t", body)).all()
    assert error.data.code == "invalid_request"


async def test_resume_stays_within_its_tenant(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.submit("[sim: words=1]")
    await broker.end()
    (error,) = await (await Exchange(broker.nc).send("ai.v1.ctl.resume.another", b'{"id":"r1"}')).all()
    assert error.data.code == "invalid_request"


async def test_a_resume_is_not_published_to_what_is_no_inbox(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.submit("[sim: words=1]")
    await broker.end()
    await broker.removed()
    await broker.nc.publish("ai.v1.ctl.resume.t", b'{"id":"r1"}', reply="ai.v1.job.text.t.r2")
    assert await replies_to(broker.nc, "ai.v1.ctl.cancel.t.r2") == [b'{"cancelled":false}']
    assert await broker.jobs_left() == 0


@pytest.mark.e2e
async def test_a_broker_restart_loses_no_job(broker: Broker, start_jobs: StartJobs, simulator: Simulator) -> None:
    await start_jobs(worker_ack_wait_seconds=1)
    for number in range(3):
        await broker.submit("[sim: words=10 pause=0.1]", f"r{number}")
    await broker.events(3)
    broker.server.kill()
    broker.server.start()
    nc = await nats.connect(broker.server.url)
    async with asyncio.timeout(WAIT_SECONDS):
        while not [reply for reply in await replies_to(nc, "$SRV.PING.ai-worker", seconds=0.2) if reply]:
            pass  # until the worker is back
    for number in range(3):
        events = [event async for event in resume(nc, f"r{number}", tenant="t")]
        answer = Answer()
        for event in events:
            answer.add(event)
        assert answer.text == "".join(words(10))
    await nc.close()
