"""Jobs, from the submit to the acknowledgement: one test per outcome."""

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import Callable

import nats
import orjson
import pytest
from nats.aio.msg import Msg
from nats.js.errors import APIError

from aichats_client import Answer, cancel, resume
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import CUT, Simulator
from tests.conftest import SpawnWorker, StartWorker
from tests.jobs.broker import (
    WAIT_SECONDS,
    Broker,
    StartJobs,
    Stored,
    broker,
    checked,
    provisioned,
    serving_jobs,
    settings_for,
    start_jobs,
    text_of,
)
from tests.link import linked
from tests.processes import NatsServer
from tests.requester import Exchange

# Other folders take the fixtures from here.
__all__ = ["WAIT_SECONDS", "Broker", "StartJobs", "broker", "provisioned", "serving_jobs", "settings_for", "start_jobs"]


@pytest.mark.e2e
async def test_a_job_ends_with_done_and_leaves_the_queue(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.submit({"prompt": "[sim: words=3]", "metadata": {"order": "7"}})
    events = await broker.end()
    assert text_of(events) == "".join(words(3))
    assert (events[0].type, events[0].data) == ("status", "started")
    assert {(event.id, event.attempt) for event in events} == {("r1", 1)}
    assert events[-1].data.metadata == {"order": "7"}
    assert events[-1].data.last_seq == events[-1].seq
    await broker.removed()
    assert checked(await broker.record()) == events
    assert await broker.dead() == []


async def test_a_worker_asks_for_jobs_as_soon_as_it_serves_them(
    broker: Broker, start_jobs: StartJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aichats_worker.jobs.fetching.REQUEST_SECONDS", 3600.0)  # nothing else makes it ask
    await start_jobs()
    await broker.submit("[sim: words=1]")
    assert (await broker.end())[-1].type == "done"


@pytest.mark.e2e
async def test_a_job_with_a_reply_subject_is_copied_there_and_can_be_resumed_as_well(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await start_jobs()
    inbox, copies = broker.nc.new_inbox(), asyncio.Queue[Msg]()
    await broker.nc.subscribe(inbox, cb=copies.put)
    await broker.submit("[sim: words=4 pause=0.5]", reply_to=inbox)
    events = await broker.end()
    got = [await copies.get()]
    while got[-1].data:
        got.append(await copies.get())
    heard = [orjson.loads(message.data) for message in got[:-1]]
    assert [event for event in heard if event["attempt"]] == [
        orjson.loads(e.model_dump_json(exclude_none=True)) for e in events
    ]
    assert {event["data"] for event in heard if not event["attempt"]} <= {"working"}
    assert not any(message.headers for message in got)
    assert [event async for event in resume(broker.nc, "r1", tenant="t")] == events


async def test_the_first_delta_is_stored_at_once_and_those_after_it_are_joined(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await start_jobs(worker_job_event_seconds=0.4)
    await broker.submit("[sim: words=40 pause=0.02]")
    deltas = [event for event in await broker.end() if event.type == "response"]
    assert "".join(event.data for event in deltas) == "".join(words(40))
    assert deltas[0].data == words(40)[0]
    assert 2 < len(deltas) < 10


async def test_joined_deltas_do_not_wait_for_the_next_one(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    simulator.script(b"data: one\n", 0.05, b"data: two\n", 60)
    await broker.submit("hi")
    await broker.content(2)


async def test_a_delta_that_comes_while_another_is_stored_does_not_wait_for_the_next_one_either(
    broker: Broker, start_worker: StartWorker, simulator: Simulator
) -> None:
    async with linked(broker.server.port) as link:
        worker = await start_worker(nats_url=link.url, worker_jobs=True)
        await serving_jobs(worker)
        await broker.listen()
        simulator.script(b"data: one\n", 1.5, b"data: two\n", 0.3, b"data: three\n", 60)
        link.delay_seconds = 0.4  # a broker that confirms later than deltas are joined
        await broker.submit("hi")
        await broker.content(3)
        link.delay_seconds = 0.0
        await worker.drain()


@pytest.mark.e2e
async def test_a_retryable_error_comes_again_as_a_higher_attempt(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    simulator.script(b"no", status=503)
    await broker.submit("[sim: words=2]")
    events = await broker.end()
    assert [(e.attempt, e.data) for e in events if e.type == "status"] == [
        (1, "started"),
        (1, "retrying"),
        (2, "started"),
    ]
    await broker.removed()
    checked(await broker.record())
    assert await broker.dead() == []


async def test_after_content_too_a_job_is_run_again_and_the_higher_attempt_replaces_it(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    simulator.script(b"data: half of it\n", 0.2, CUT)
    await broker.submit("[sim: words=2]")
    events = await broker.end()
    assert next((e.data, e.attempt) for e in events if e.type == "response") == ("half of it", 1)
    answer = Answer()
    for event in events:
        answer.add(event)
    assert answer.text == "".join(words(2))
    assert not [event for event in events if event.type == "error"]


async def test_an_error_that_no_retry_mends_ends_the_job_with_a_dead_letter(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    await broker.submit({"prompt": 5})
    _, error = await broker.end()
    assert (error.data.code, error.attempt, error.seq) == ("invalid_request", 1, 1)
    await broker.removed()
    (letter,) = await broker.dead()
    assert letter["Ai-Dead-Code"] == "invalid_request"
    assert "prompt" in letter["Ai-Dead-Reason"]
    assert letter["Ai-Dead-Attempts"] == "1"
    assert letter["Ai-Dead-Time"].endswith("Z")
    assert simulator.requests == []


@pytest.mark.e2e
async def test_the_last_attempt_that_fails_ends_the_job_with_a_dead_letter(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs(worker_attempts_max=3)
    await broker.submit("[sim: status=503]")
    error = (await broker.end())[-1]
    assert (error.data.code, error.attempt) == ("provider_unavailable", 3)
    await broker.removed()
    (letter,) = await broker.dead()
    assert (letter["Ai-Dead-Code"], letter["Ai-Dead-Attempts"]) == ("provider_unavailable", "3")
    assert len(simulator.requests) == 3


async def test_a_job_whose_time_ran_out_in_the_queue_never_reaches_the_provider(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    first = await start_jobs()
    await first.drain()
    await broker.submit({"prompt": "late", "timeout_seconds": 0.1})
    await asyncio.sleep(0.2)  # the job's own time passes, not ours
    await start_jobs()
    error = (await broker.end())[-1]
    assert error.data.code == "deadline_exceeded"
    assert "queue" in error.data.message
    await broker.removed()
    assert [letter["Ai-Dead-Code"] for letter in await broker.dead()] == ["deadline_exceeded"]
    assert simulator.requests == []


async def test_the_total_deadline_ends_a_job_for_good(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.submit({"prompt": "[sim: words=100 pause=0.1]", "timeout_seconds": 0.5})
    error = (await broker.end())[-1]
    assert (error.data.code, error.attempt) == ("deadline_exceeded", 1)
    await broker.removed()


async def test_a_wait_beyond_the_budget_ends_the_job_now_with_the_providers_own_error(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    started = time.monotonic()
    await broker.submit({"prompt": "[sim: status=429 retry-after=300]", "timeout_seconds": 60})
    error = (await broker.end())[-1]
    assert time.monotonic() - started < 10
    assert (error.data.code, error.data.retry_after_ms, error.attempt) == ("rate_limited", 300_000, 1)
    await broker.removed()
    assert [letter["Ai-Dead-Code"] for letter in await broker.dead()] == ["rate_limited"]


@pytest.mark.parametrize("reply_to", ["$JS.API.STREAM.PURGE.AIJOBS", "ai.v1.req.text.t", "_INBOX", "_INBOX.a.*"])
async def test_a_reply_subject_that_is_no_inbox_makes_a_dead_letter(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator, reply_to: str
) -> None:
    await start_jobs()
    await broker.submit("hi", reply_to=reply_to)
    await broker.removed()
    (letter,) = await broker.dead()
    assert (letter["Ai-Dead-Code"], letter["reply_to"]) == ("invalid_request", reply_to)
    assert simulator.requests == []
    assert await broker.record() == [], "nothing is published for it"


async def test_a_long_job_keeps_its_lease(broker: Broker, start_jobs: StartJobs, simulator: Simulator) -> None:
    await start_jobs(worker_ack_wait_seconds=2)
    await start_jobs(worker_ack_wait_seconds=2)
    await broker.submit("[sim: words=6 pause=1]")
    events = await broker.end()
    assert events[-1].type == "done"
    assert {event.attempt for event in events} == {1}
    assert len(simulator.requests) == 1


@pytest.mark.slow("two workers start, and the ack_wait passes")
@pytest.mark.e2e
async def test_a_job_whose_worker_is_killed_is_answered_whole_by_another(
    broker: Broker, spawn_worker: SpawnWorker
) -> None:
    first = await spawn_worker(**settings_for(broker))
    await provisioned(broker)
    await broker.submit("[sim: words=40 pause=0.1]")
    await broker.content(3)
    first.kill()
    await spawn_worker(**settings_for(broker))
    events = await broker.end()
    answer = Answer()
    for event in events:
        answer.add(event)
    assert answer.text == "".join(words(40))
    assert events[-1].attempt == 2
    await broker.removed()
    checked(await broker.record())


@pytest.mark.slow("two workers start, and the ack_wait passes")
@pytest.mark.e2e
async def test_a_frozen_worker_that_comes_back_has_lost_its_job(
    broker: Broker, spawn_worker: SpawnWorker, simulator: Simulator
) -> None:
    first = await spawn_worker(**settings_for(broker))
    await provisioned(broker)
    simulator.script(b"data: one\n", 120)
    await broker.submit("[sim: words=40 pause=0.1]")
    await broker.content()
    first.send(signal.SIGSTOP)
    await spawn_worker(**settings_for(broker))
    while (await broker.events(1))[0].attempt == 1:
        pass
    first.send(signal.SIGCONT)
    async with asyncio.timeout(WAIT_SECONDS):
        await simulator.requests[0].ended.wait()
    assert simulator.requests[0].closed_early, "the provider's connection was not closed"
    assert (await broker.end())[-1].type == "done"
    await broker.removed()
    events = checked(await broker.record())
    assert (events[-1].attempt, text_of(events)) == (2, "".join(words(40)))
    assert len(simulator.requests) == 2, "the one that came back took it again"


@pytest.mark.parametrize("another_is_up", [True, False], ids=["another is up", "nobody is up"])
@pytest.mark.e2e
async def test_a_job_whose_worker_dies_in_the_last_attempt_gets_its_end_from_another(
    broker: Broker, spawn_worker: SpawnWorker, *, another_is_up: bool
) -> None:
    settings = settings_for(broker, WORKER_ATTEMPTS_MAX="1")
    first = await spawn_worker(**settings)
    await provisioned(broker)
    await broker.submit("[sim: words=300 pause=0.1]")
    await broker.content(3)
    if another_is_up:
        await spawn_worker(**settings)
    first.kill()
    if not another_is_up:
        await spawn_worker(**settings)
    error = (await broker.end())[-1]
    assert (error.data.code, error.attempt) == ("internal", 1)
    await broker.removed()
    checked(await broker.record())
    assert [(letter["Ai-Dead-Code"], letter["Ai-Dead-Attempts"]) for letter in await broker.dead()] == [
        ("internal", "1")
    ]


async def test_a_second_submit_after_the_end_runs_nothing(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    await broker.js.publish("ai.v1.job.text.t.r1", b"[sim: words=2]")
    events = await broker.end()
    await broker.removed()
    await broker.js.publish("ai.v1.job.text.t.r1", b"[sim: words=9]")
    await broker.removed()
    assert [stored.event for stored in await broker.record()] == events, "the record is its answer"
    assert len(simulator.requests) == 1
    assert await broker.dead() == []


async def test_a_second_submit_with_a_reply_subject_gets_the_record_there(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await start_jobs()
    await broker.js.publish("ai.v1.job.text.t.r1", b"[sim: words=2]")
    events = await broker.end()
    await broker.removed()
    inbox, copies = broker.nc.new_inbox(), asyncio.Queue[Msg]()
    await broker.nc.subscribe(inbox, cb=copies.put)
    await broker.js.publish("ai.v1.job.text.t.r1", b"again", headers={"reply_to": inbox})
    async with asyncio.timeout(WAIT_SECONDS):
        got = [(await copies.get()).data for _ in range(len(events) + 1)]
    assert [orjson.loads(data)["seq"] for data in got[:-1]] == [event.seq for event in events]
    assert got[-1] == b""


async def test_a_second_submit_is_refused_while_the_first_is_there(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.js.publish("ai.v1.job.text.t.r1", b"[sim: words=20 pause=0.2]")
    await broker.content()
    with pytest.raises(APIError, match="maximum messages per subject"):
        await broker.js.publish("ai.v1.job.text.t.r1", b"again")
    assert (await broker.end())[-1].type == "done"


@pytest.mark.parametrize("first_ended", [True, False], ids=["after its end", "while it runs"])
async def test_a_job_of_the_other_kind_under_a_taken_id_is_a_dead_letter_and_nothing_else(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator, *, first_ended: bool
) -> None:
    await start_jobs()
    await start_jobs()
    await broker.submit("[sim: words=10 pause=0.1]")
    await broker.content()
    if first_ended:
        await broker.end()
        await broker.removed()
    await broker.js.publish("ai.v1.job.image.t.r1", b"a picture")
    if not first_ended:
        assert (await broker.end())[-1].type == "done"
    await broker.removed()
    assert [letter["Ai-Dead-Code"] for letter in await broker.dead()] == ["duplicate"]
    assert {event.type for event in checked(await broker.record())} == {"status", "response", "done"}
    assert len(simulator.requests) == 1


async def test_an_image_job_is_stored_in_parts_that_fit(
    own_nats_server: Callable[..., NatsServer], start_worker: StartWorker
) -> None:
    server = own_nats_server("max_payload: 16384")
    app = await start_worker(nats_url=server.url, worker_jobs=True)
    await serving_jobs(app)
    nc = await nats.connect(server.url)
    found = Broker(server, nc)
    await found.listen()
    await found.submit("[sim: bytes=100000]", kind="image")
    answer = Answer()
    for event in await found.end():
        answer.add(event)
    assert len(answer.images) == 1
    assert app.broker.connection.is_connected
    again = Answer()
    async for event in resume(nc, "r1", tenant="t"):
        again.add(event)
    assert again.images == answer.images
    await nc.close()


async def test_a_busy_worker_leaves_jobs_to_the_others(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    apps = [await start_jobs(worker_concurrency_max=1) for _ in range(4)]
    for number in range(12):
        await broker.submit("[sim: words=3 pause=0.2]", f"r{number}")
    for _ in range(12):
        await broker.end()
    await broker.removed()
    name, labels = "aichats_requests_total", {"mode": "job", "kind": "text", "outcome": "done"}
    counts: list[float] = []
    async with asyncio.timeout(WAIT_SECONDS):  # a job is counted a moment after it has left the queue
        while sum(counts) != 12:
            await asyncio.sleep(0.02)
            counts = [app.telemetry.registry.get_sample_value(name, labels) or 0 for app in apps]
    assert min(counts) >= 1, f"one worker took what others could have had: {counts}"
    assert len(simulator.requests) == 12, "a job was run twice"


async def test_a_worker_that_stops_gives_its_job_back_at_once_and_that_does_not_count(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    settings = {"worker_ack_wait_seconds": 30, "worker_attempts_max": 1}
    worker = await start_jobs(**settings)
    for _ in range(3):
        simulator.script(b"data: not all of it\n", 120)
    await broker.submit("[sim: words=3]")
    for _ in range(3):
        await broker.content()
        successor = await start_jobs(**settings)
        assert await worker.drain() == 1
        worker = successor
    events = await broker.end()
    assert (events[-1].type, events[-1].attempt) == ("done", 4)
    await broker.removed()
    words_ = [s.event.data for s in await broker.record() if s.event.type == "status"]
    assert words_ == ["started", "given_back"] * 3 + ["started"]
    assert await broker.dead() == []


async def test_a_delivery_that_meets_its_own_job_is_left_alone(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    """As after in-progress acknowledgements that were lost: the broker delivers it again to the same worker."""
    await start_jobs(worker_ack_wait_seconds=30)
    await broker.submit("[sim: words=20 pause=0.1]")
    await broker.content()
    seq = (await broker.js.stream_info("AIJOBS")).state.last_seq
    await broker.nc.publish(f"$JS.ACK.AIJOBS.ai-workers-text.1.{seq}.1.0.0", b"-NAK")
    async with asyncio.timeout(WAIT_SECONDS):
        while not (await broker.js.consumer_info("AIJOBS", "ai-workers-text")).num_redelivered:
            await asyncio.sleep(0.02)
    assert (await broker.end())[-1].type == "done"
    await broker.removed()
    assert {event.attempt for event in checked(await broker.record())} == {1}
    assert len(simulator.requests) == 1


async def test_a_job_whose_id_runs_here_as_something_else_waits(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    inbox, heard = broker.nc.new_inbox(), asyncio.Queue[Msg]()
    await broker.nc.subscribe(inbox, cb=heard.put)
    headers = {"Nats-Msg-Id": "r1"}
    await broker.nc.publish("ai.v1.req.text.t", b"[sim: words=4 pause=0.3]", reply=inbox, headers=headers)
    await asyncio.wait_for(heard.get(), WAIT_SECONDS)
    await broker.submit("[sim: words=2]")
    events = await broker.end()
    assert (events[-1].type, events[-1].attempt) == ("done", 1)
    assert await broker.dead() == []


async def test_a_job_whose_time_runs_out_while_it_waits_for_a_slot_ends_then(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    """Its slot was free when it was asked for, and a core request has it when it comes."""
    await start_jobs(worker_concurrency_max=1)
    async with asyncio.timeout(WAIT_SECONDS):
        for number in itertools.count():
            headers = {"Nats-Msg-Id": f"holding{number}"}
            holding = await Exchange(broker.nc).send("ai.v1.req.text.t", b"[sim: words=600 pause=0.1]", headers)
            await holding.event()
            if (await broker.js.consumer_info("AIJOBS", "ai-workers-text")).num_waiting:
                break  # what was asked for stands
            assert await cancel(broker.nc, f"holding{number}", tenant="t")
        await broker.submit({"prompt": "late", "timeout_seconds": 0.3})
        error = (await broker.end())[-1]
    assert (error.data.code, error.attempt) == ("deadline_exceeded", 1)
    assert "queue" in error.data.message
    await broker.removed()
    assert [letter["Ai-Dead-Code"] for letter in await broker.dead()] == ["deadline_exceeded"]
    assert "late" not in [request.content for request in simulator.requests]


async def test_a_stale_delivery_that_is_given_back_takes_the_job_from_nobody(
    broker: Broker, start_jobs: StartJobs, start_worker: StartWorker
) -> None:
    """It comes out of the socket of a worker that was cut off for longer than ack_wait, and has no slot for it now."""
    settings = {"worker_ack_wait_seconds": 3, "worker_attempts_max": 1, "worker_concurrency_max": 1}
    async with linked(broker.server.port) as link:
        late = await start_worker(nats_url=link.url, worker_jobs=True, **settings)
        await serving_jobs(late)
        await broker.listen()
        await broker.asked_for()
        link.down.clear()
        await Exchange(broker.nc).send("ai.v1.req.text.t", b"[sim: words=200 pause=0.1]")
        await broker.submit("[sim: words=60 pause=0.1]")
        await start_jobs(**settings)
        await broker.content()
        await start_jobs(**settings)  # would take what is given back
        link.down.set()
        events = await broker.end()
        assert (events[-1].type, events[-1].attempt) == ("done", 1)
        await broker.removed()
        checked(await broker.record())
        await late.drain()


async def test_a_stale_delivery_that_begins_before_a_retry_is_due_is_not_taken_for_dead(
    broker: Broker, start_jobs: StartJobs, start_worker: StartWorker, simulator: Simulator
) -> None:
    """It comes out of a socket as well; the delivery that the broker makes after the delay is put off."""
    settings = {"worker_ack_wait_seconds": 6, "worker_attempts_max": 2}
    async with linked(broker.server.port) as link:
        late = await start_worker(nats_url=link.url, worker_jobs=True, **settings)
        await serving_jobs(late)
        await broker.listen()
        await broker.asked_for()
        link.down.clear()
        simulator.script(b"no", status=429, headers={"retry-after": "3"})
        await broker.submit("[sim: words=50 pause=0.1]")
        await start_jobs(**settings)
        while (await broker.events(1))[0].data != "retrying":
            pass
        await asyncio.sleep(2)  # well within the delay, and less of it left than until a lease is renewed
        link.down.set()
        events = await broker.end()
        assert (events[-1].type, events[-1].attempt) == ("done", 2)
        assert len(simulator.requests) == 2
        await late.drain()


async def test_core_requests_are_served_where_the_broker_has_no_jetstream(
    own_nats_server: Callable[..., NatsServer], start_worker: StartWorker
) -> None:
    server = own_nats_server(jetstream=False)
    app = await start_worker(nats_url=server.url, worker_jobs=True)
    nc = await nats.connect(server.url)
    answer = orjson.loads((await nc.request("ai.v1.ask.text.t", b"[sim: words=1]", timeout=10)).data)
    assert answer["type"] == "result"
    assert app.jobs is None
    await nc.close()


async def test_a_broker_that_is_killed_in_the_middle_costs_no_event(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs(worker_ack_wait_seconds=30)
    await broker.submit("[sim: words=40 pause=0.1]")
    await broker.content(2)
    broker.server.kill()
    await asyncio.sleep(1)
    broker.server.start()
    nc = await nats.connect(broker.server.url)
    after = Broker(broker.server, nc)
    async with asyncio.timeout(WAIT_SECONDS * 2):
        record = list[Stored]()
        while not record or record[-1].event.type not in ("done", "error"):
            with contextlib.suppress(Exception):
                record = await after.record()
            await asyncio.sleep(0.2)
    events = checked(record)
    assert events[-1].type == "done"
    assert text_of(events) == "".join(words(40))
    await nc.close()
