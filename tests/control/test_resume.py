"""Resume (contract, section 7): what is stored from a point on, then what comes, and an end in every case."""

import asyncio
import time
from contextlib import nullcontext
from typing import Any

import nats
import orjson
import pytest

from aichats_client import Answer, resume
from aichats_schemas import StreamEvent, parse_event
from aichats_worker.control.replay import INACTIVE_SECONDS
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.control.test_cancel import replies_to
from tests.jobs.broker import WAIT_SECONDS, Broker, StartJobs, broker, flooded, serving_jobs, start_jobs
from tests.link import linked
from tests.requester import Exchange

__all__ = ["broker", "start_jobs"]

RESUME = "ai.v1.ctl.resume.t"


async def followed(broker: Broker, request_id: str = "r1", after: tuple[int, int] | None = None) -> list[StreamEvent]:
    """All events of a resume that stand in the order."""
    events = resume(broker.nc, request_id, tenant="t", after=after)
    return [event async for event in events if event.attempt]


async def answer_of(broker: Broker, body: dict[str, Any]) -> list[Any]:
    """All events of a resume, statuses included, up to the sentinel."""
    exchange = await Exchange(broker.nc).send(RESUME, body)
    while not exchange.messages or exchange.messages[-1].data:
        await exchange.next()
    await exchange.leave()
    return [parse_event(message.data) for message in exchange.messages[:-1]]


async def stored(broker: Broker, count: int, *, ended: bool = True, first: int = 0, job: int = 1) -> None:
    """A record as a worker would have stored it."""
    last = 0
    for number in range(first, count):
        kind = "status" if number == 0 else "done" if ended and number == count - 1 else "response"
        data: Any = {"status": "started", "response": f"{number} "}.get(kind) or {
            "finish_reason": "stop", "last_seq": number, "model": "gpt-4",
            "timing": {"queued_ms": 0, "first_ms": 0, "total_ms": 0},
        }  # fmt: skip
        event = {"type": kind, "data": data, "id": "r1", "attempt": 1, "seq": number}
        headers = {"Ai-Job": f"text.{job}.0.1.test", "Nats-Expected-Last-Subject-Sequence": str(last)}
        last = (await broker.js.publish("ai.v1.out.t.r1", orjson.dumps(event), headers=headers)).seq


@pytest.mark.e2e
async def test_resume_replays_a_finished_job_and_from_a_point_on(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.submit("[sim: words=8 pause=0.1]")
    events = await broker.end()
    assert await followed(broker) == events
    for event in events[:-1]:
        rest = await followed(broker, after=(event.attempt, event.seq))
        assert rest == events[event.seq + 1 :]


async def test_a_point_at_the_end_gets_the_end_again(broker: Broker, start_jobs: StartJobs) -> None:
    """A reply never ends without an error or the job's final event; a client knows by the number that it has it."""
    await start_jobs()
    await broker.submit("[sim: words=1]")
    end = (await broker.end())[-1]
    (again,) = await answer_of(broker, {"id": "r1", "after": {"attempt": end.attempt, "seq": end.seq}})
    assert again == end


@pytest.mark.e2e
async def test_resume_goes_on_live_without_gap_or_double(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await start_jobs()
    await broker.submit("[sim: words=40 pause=0.05]")

    async def follow(delay: float) -> list[StreamEvent]:
        await asyncio.sleep(delay)
        return await followed(broker)

    async with asyncio.timeout(WAIT_SECONDS):
        await broker.content()
        followers = await asyncio.gather(*(follow(n * 0.1) for n in range(8)))
    for events in followers:
        assert [event.seq for event in events] == list(range(len(events)))
        assert events[-1].type == "done"
        answer = Answer()
        for event in events:
            answer.add(event)
        assert answer.text == "".join(words(40))


async def test_a_job_that_is_tried_again_goes_on_with_the_higher_attempt(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    simulator.script(b"no", status=503)
    await broker.submit("[sim: words=2]")
    assert [(e.attempt, e.seq) for e in await followed(broker)][:3] == [(1, 0), (1, 1), (2, 0)]


@pytest.mark.e2e
async def test_resume_of_a_queued_job_says_that_it_waits(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs(worker_concurrency_max=1)
    await broker.submit("[sim: words=30 pause=0.1]", "first")
    await broker.content()
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
    (error,) = await (await Exchange(broker.nc).send(RESUME, body)).all()
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
    await broker.nc.publish(RESUME, b'{"id":"r1"}', reply="ai.v1.job.text.t.r2")
    assert await replies_to(broker.nc, "ai.v1.ctl.cancel.t.r2") == [b'{"cancelled":false}']
    assert await broker.jobs_left() == 0


async def test_a_record_without_its_beginning_is_expired(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await stored(broker, 30)
    await broker.js.purge_stream("AIOUT", subject="ai.v1.out.t.r1", keep=10)
    (error,) = await answer_of(broker, {"id": "r1"})
    assert error.data.code == "expired"
    (error,) = await answer_of(broker, {"id": "r1", "after": {"attempt": 1, "seq": 5}})
    assert error.data.code == "expired", "what follows is gone"
    rest = await answer_of(broker, {"id": "r1", "after": {"attempt": 1, "seq": 19}})
    assert [event.seq for event in rest] == list(range(20, 30))


async def test_a_record_that_is_gone_is_expired_for_whoever_had_some_of_it(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await start_jobs()
    (error,) = await answer_of(broker, {"id": "r1", "after": {"attempt": 1, "seq": 5}})
    assert error.data.code == "expired"


@pytest.mark.parametrize("how", ["purged", "deleted"])
async def test_a_record_that_goes_in_the_middle_ends_the_resume(
    broker: Broker, start_jobs: StartJobs, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("aichats_worker.control.resume.LOOK_AGAIN_SECONDS", 0.5)
    await start_jobs(worker_jobs_provision=True)
    await stored(broker, 5, ended=False)
    exchange = await Exchange(broker.nc).send(RESUME, {"id": "r1"})
    while (await exchange.event()).seq != 4:
        pass
    if how == "purged":
        await broker.js.purge_stream("AIOUT")
    else:
        await broker.js.delete_stream("AIOUT")
    while exchange.messages[-1].data:
        await exchange.next()
    assert parse_event(exchange.messages[-2].data).data.code in ("expired", "internal")  # type: ignore[union-attr]


async def test_a_record_that_is_begun_anew_is_not_joined_to_what_was_read(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs(worker_ack_wait_seconds=1)
    simulator.script(*(piece for n in range(6) for piece in (f"data: {n}\n".encode(), 0.4)), 120)
    await broker.submit("[sim: words=20 pause=0.2]")
    exchange = await Exchange(broker.nc).send(RESUME, {"id": "r1"})
    while (last := await exchange.event()).seq != 4:
        pass
    await broker.js.purge_stream("AIOUT", subject="ai.v1.out.t.r1")  # its job is delivered again, and begins at 1
    while exchange.messages[-1].data:
        await exchange.next()
    *events, error = [parse_event(message.data) for message in exchange.messages[:-1]]
    assert (error.type, error.attempt) == ("error", 0)
    assert error.data.code == "expired"  # type: ignore[union-attr]
    assert max((event.attempt, event.seq) for event in events) == (last.attempt, last.seq)


async def test_a_records_stream_that_is_made_anew_ends_the_resume(broker: Broker, start_jobs: StartJobs) -> None:
    """Its numbers begin at 1 again: what is stored there now lies before the place where the reader is."""
    await start_jobs()
    config = (await broker.js.stream_info("AIOUT")).config
    await stored(broker, 5, ended=False)
    exchange = await Exchange(broker.nc).send(RESUME, {"id": "r1"})
    while (await exchange.event()).seq != 4:
        pass
    await broker.js.delete_stream("AIOUT")
    await broker.js.add_stream(config)
    await stored(broker, 3)
    async with asyncio.timeout(WAIT_SECONDS):
        while exchange.messages[-1].data:
            await exchange.next()
    assert parse_event(exchange.messages[-2].data).data.code == "expired"  # type: ignore[union-attr]


@pytest.mark.parametrize("ended", [True, False])
async def test_a_point_that_the_record_does_not_reach_is_expired(
    broker: Broker, start_jobs: StartJobs, *, ended: bool
) -> None:
    await start_jobs()
    await stored(broker, 5, ended=ended)
    for point in ({"attempt": 1, "seq": 5}, {"attempt": 2, "seq": 0}):
        (error,) = await answer_of(broker, {"id": "r1", "after": point})
        assert error.data.code == "expired"


async def test_an_event_that_is_larger_than_the_brokers_limit_now_ends_the_resume(
    broker: Broker, start_jobs: StartJobs
) -> None:
    first = await start_jobs()
    await first.drain()
    headers = {"Ai-Job": "text.1.0.1.test"}
    event = {"type": "response", "data": "x" * 900_000, "id": "r1", "attempt": 1, "seq": 0}
    await broker.js.publish("ai.v1.out.t.r1", orjson.dumps(event), headers=headers)
    broker.server.kill()
    broker.server.configure("max_payload: 8192\n")
    broker.server.start()
    worker = await start_jobs()
    nc = await nats.connect(broker.server.url)
    exchange = await Exchange(nc).send(RESUME, {"id": "r1"})
    while not exchange.messages or exchange.messages[-1].data:
        await exchange.next()
    assert parse_event(exchange.messages[-2].data).type == "error"
    assert worker.broker.connection.is_connected
    await nc.close()


@pytest.mark.parametrize("pause", [None, 0.001], ids=["in silence", "in a flood of what no worker has stored"])
async def test_a_job_that_is_removed_in_the_middle_ends_the_resume(
    broker: Broker, start_jobs: StartJobs, monkeypatch: pytest.MonkeyPatch, pause: float | None
) -> None:
    monkeypatch.setattr("aichats_worker.control.resume.LOOK_AGAIN_SECONDS", 0.5)
    await start_jobs()
    await stored(broker, 5, ended=False)
    async with nullcontext() if pause is None else flooded(broker, pause):
        events = await answer_of(broker, {"id": "r1"})
    assert events[-1].data.code == "internal"


async def test_what_no_worker_has_stored_breaks_no_resume(broker: Broker, start_jobs: StartJobs) -> None:
    """JetStream acknowledges a publish to whatever subject it names as the reply: here another's record."""
    await start_jobs()
    await broker.submit("[sim: words=20 pause=0.1]")
    await broker.content()
    for number in range(3):
        await broker.nc.publish(f"ai.v1.job.text.x.j{number}", b"[sim: words=1]", reply="ai.v1.out.t.r1")
        await asyncio.sleep(0.2)
    events = await followed(broker)
    assert events[-1].type == "done"
    assert {event.attempt for event in events} == {1}
    assert "".join(event.data for event in events if event.type == "response") == "".join(words(20))


async def test_a_job_runs_to_its_end_in_a_flood_of_what_no_worker_has_stored(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await start_jobs()
    async with flooded(broker, 0.001), asyncio.timeout(WAIT_SECONDS):
        await broker.submit("[sim: words=20 pause=0.05]")
        events = await followed(broker)
        await broker.removed()
    assert "".join(event.data for event in events if event.type == "response") == "".join(words(20))


async def test_a_flood_of_what_no_worker_has_stored_keeps_no_resume_from_its_end(
    broker: Broker, start_worker: Any
) -> None:
    """A round trip is longer than what lies between two such messages: nobody who asks for each comes to the last."""
    async with linked(broker.server.port) as link:
        app = await start_worker(nats_url=link.url, worker_jobs=True)
        await serving_jobs(app)
        await broker.submit("[sim: words=3]")
        events = await followed(broker)
        link.delay_seconds = 0.005
        async with flooded(broker, 0.001), asyncio.timeout(WAIT_SECONDS):
            assert await followed(broker) == events
            assert await followed(broker, after=(1, 1)) == events[2:]
            assert await replies_to(broker.nc, "ai.v1.ctl.cancel.t.r1") == [b'{"cancelled":false}']
        link.delay_seconds = 0
        await app.drain()


async def test_a_worker_that_drains_ends_its_resumes_and_takes_no_more(broker: Broker, start_jobs: StartJobs) -> None:
    first = await start_jobs(worker_drain_timeout_seconds=5)
    await broker.submit("[sim: words=40 pause=0.1]")
    await broker.content()
    exchange = await Exchange(broker.nc).send(RESUME, {"id": "r1"})
    last = await exchange.event()
    await start_jobs()
    draining = asyncio.create_task(first.drain())
    while exchange.messages[-1].data:
        await exchange.next()
    error = parse_event(exchange.messages[-2].data)
    assert error.type == "error"
    assert (error.data.code, error.attempt, error.seq) == ("shutting_down", 0, 0)
    events = await asyncio.gather(*(followed(broker, after=(last.attempt, last.seq)) for _ in range(6)))
    assert {found[-1].type for found in events} == {"done"}
    await draining


async def test_a_resume_whose_worker_reconnects_says_so_and_can_be_taken_up(
    broker: Broker, start_worker: Any, simulator: Simulator
) -> None:
    """What was on its way is lost: with a gap in the middle it would be no answer that a reader may trust."""
    async with linked(broker.server.port) as link:
        app = await start_worker(nats_url=link.url, worker_jobs=True, worker_ack_wait_seconds=30)
        await serving_jobs(app)
        await broker.listen()
        await broker.submit("[sim: words=80 pause=0.1]")
        await broker.content()
        exchange = await Exchange(broker.nc).send(RESUME, {"id": "r1"})
        await exchange.event()
        link.cut()
        while exchange.messages[-1].data:
            await exchange.next()
        *events, error = [parse_event(message.data) for message in exchange.messages[:-1]]
        assert error.type == "error"
        assert (error.data.code, error.attempt) == ("interrupted", 0)
        last = max((event.attempt, event.seq) for event in events)
        rest = await followed(broker, after=last)
        assert [event.seq for event in rest] == list(range(last[1] + 1, last[1] + 1 + len(rest)))
        assert rest[-1].type == "done"
        await app.drain()


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
        answer = Answer()
        async for event in resume(nc, f"r{number}", tenant="t"):
            answer.add(event)
        assert answer.text == "".join(words(10))
    await nc.close()


async def test_a_long_record_is_read_in_a_few_seconds(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    count, headers = 20_000, {"Ai-Job": "text.1.0.1.test"}
    for number in range(count - 1):
        kind, data = ("status", b'"started"') if number == 0 else ("response", b'"x"')
        event = b'{"type":"%b","data":%b,"id":"r1","attempt":1,"seq":%d}' % (kind.encode(), data, number)
        await broker.nc.publish("ai.v1.out.t.r1", event, headers=headers)
        if number % 500 == 0:
            await broker.nc.flush()
    error = {"code": "internal", "message": "no", "retryable": True}
    last = orjson.dumps({"type": "error", "data": error, "id": "r1", "attempt": 1, "seq": count - 1})
    await broker.js.publish("ai.v1.out.t.r1", last, headers=headers)
    started = time.monotonic()
    events = await answer_of(broker, {"id": "r1"})
    took = time.monotonic() - started
    assert len([event for event in events if event.attempt]) == count
    assert took < 20, f"{count} events took {took:.1f} s"  # 1 s on a quiet machine
    tail = await answer_of(broker, {"id": "r1", "after": {"attempt": 1, "seq": count - 3}})
    assert [event.seq for event in tail if event.attempt] == [count - 2, count - 1]
    async with asyncio.timeout(INACTIVE_SECONDS - 5):  # each is given back, before the broker would forget it
        while any(info.name.startswith("resume-") for info in await broker.js.consumers_info("AIOUT")):
            await asyncio.sleep(0.02)
