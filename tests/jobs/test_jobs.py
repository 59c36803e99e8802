"""Jobs, from the submit to the acknowledgement: one test per outcome."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from aichats_client import Answer, resume, submit
from aichats_schemas import parse_event
from aichats_worker.app import App
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import CUT, Simulator
from tests.conftest import SpawnWorker, StartWorker
from tests.processes import NatsServer, WorkerProcess

WAIT_SECONDS = 20.0
StartJobs = Callable[..., Awaitable[App]]


class Broker:
    """A requester's connection to a server of its own, and everything that is published for jobs."""

    def __init__(self, server: NatsServer, nc: Client) -> None:
        self.server = server
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream()
        self.heard: asyncio.Queue[Msg] = asyncio.Queue()

    async def submit(self, body: str | dict[str, Any], request_id: str = "r1", **options: Any) -> Any:
        return await submit(self.js, "text", body, request_id=request_id, tenant="t", **options)

    async def end(self) -> list[Any]:
        """Everything up to the next sentinel, as events."""
        events: list[Any] = []
        async with asyncio.timeout(WAIT_SECONDS):
            while (message := await self.heard.get()).data:
                events.append(parse_event(message.data))
        return events

    async def events(self, count: int) -> list[Any]:
        async with asyncio.timeout(WAIT_SECONDS):
            return [parse_event((await self.heard.get()).data) for _ in range(count)]

    async def jobs_left(self) -> int:
        return int((await self.js.stream_info("AIJOBS")).state.messages)

    async def removed(self) -> None:
        """Wait until no job is in the queue."""
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.jobs_left():
                await asyncio.sleep(0.02)

    async def dead(self) -> list[dict[str, str]]:
        """The headers of all dead letters."""
        found = []
        for seq in range(1, (await self.js.stream_info("AIDEAD")).state.last_seq + 1):
            with contextlib.suppress(NotFoundError):
                found.append(dict((await self.js.get_msg("AIDEAD", seq=seq)).headers or {}))
        return found


@pytest.fixture
async def broker(own_nats_server: Callable[..., NatsServer]) -> AsyncIterator[Broker]:
    server = own_nats_server()
    nc = await nats.connect(server.url)
    found = Broker(server, nc)
    await nc.subscribe("ai.v1.out.>", cb=found.heard.put)
    yield found
    await nc.close()


@pytest.fixture
def start_jobs(start_worker: StartWorker, broker: Broker) -> StartJobs:
    """Start a worker that serves jobs, with settings that suit a test."""

    async def start(**settings: Any) -> App:
        defaults = {
            "nats_url": broker.server.url,
            "worker_jobs": True,
            "worker_retry_base_seconds": 0.05,
            "worker_retry_max_seconds": 0.1,
            "worker_ack_wait_seconds": 10,
            "provider_calls_max": 1,
            "provider_circuit_failures": 1000,
        }
        app = await start_worker(**(defaults | settings))
        await serving_jobs(app)
        return app

    return start


async def serving_jobs(worker: Any) -> None:
    """Wait until a worker, in this process or not, serves jobs."""
    if isinstance(worker, WorkerProcess):
        await worker.serving_jobs()
        return
    async with asyncio.timeout(WAIT_SECONDS):
        while worker.jobs is None:
            await asyncio.sleep(0.01)


def settings_for(broker: Broker, **more: str) -> dict[str, str]:
    return {
        "NATS_URL": broker.server.url,
        "WORKER_ACK_WAIT_SECONDS": "1",
        "WORKER_RETRY_BASE_SECONDS": "0.05",
        "WORKER_RETRY_MAX_SECONDS": "0.1",
    } | more


async def provisioned(broker: Broker) -> None:
    """Wait until a worker process serves jobs."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(NotFoundError):
                await broker.js.consumer_info("AIJOBS", "ai-workers-text")
                return
            await asyncio.sleep(0.05)


@pytest.mark.e2e
async def test_a_job_ends_with_done_and_leaves_the_queue(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.submit({"prompt": "[sim: words=3]", "metadata": {"order": "7"}})
    events = await broker.end()
    assert "".join(event.data for event in events if event.type == "response") == "".join(words(3))
    assert [event.seq for event in events] == list(range(len(events)))
    assert {(event.id, event.attempt) for event in events} == {("r1", 1)}
    assert events[-1].type == "done"
    assert events[-1].data.metadata == {"order": "7"}
    await broker.removed()
    assert await broker.dead() == []


@pytest.mark.e2e
async def test_a_job_with_a_reply_subject_is_answered_there_and_stores_nothing(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await start_jobs()
    inbox = broker.nc.new_inbox()
    await broker.nc.subscribe(inbox, cb=broker.heard.put)
    await broker.submit("[sim: words=2]", reply_to=inbox)
    assert (await broker.end())[-1].type == "done"
    await broker.removed()
    assert (await broker.js.stream_info("AIOUT")).state.messages == 0


@pytest.mark.e2e
async def test_a_retryable_error_comes_again_as_a_higher_attempt(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    simulator.script(b"no", status=503)
    await broker.submit("[sim: words=2]")
    events = await broker.end()
    assert [event.type for event in events] == ["response"] * (len(events) - 1) + ["done"]
    assert {event.attempt for event in events} == {2}
    assert await broker.dead() == []


async def test_after_content_too_a_job_is_run_again_and_the_higher_attempt_replaces_it(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    simulator.script(b"data: half of it\n", 0.2, CUT)
    await broker.submit("[sim: words=2]")
    events = await broker.end()
    assert (events[0].data, events[0].attempt) == ("half of it", 1)
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
    (error,) = await broker.end()
    assert (error.data.code, error.attempt) == ("invalid_request", 1)
    await broker.removed()
    (letter,) = await broker.dead()
    assert letter["Ai-Dead-Code"] == "invalid_request"
    assert "prompt" in letter["Ai-Dead-Reason"]
    assert letter["Ai-Dead-Attempts"] == "1"
    assert letter["Ai-Dead-Time"].endswith("Z")
    assert simulator.requests == []


@pytest.mark.e2e
async def test_the_last_delivery_that_fails_ends_the_job_with_a_dead_letter(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs(worker_attempts_max=3)
    await broker.submit("[sim: status=503]")
    (error,) = await broker.end()
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
    (error,) = await broker.end()
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


async def test_a_long_job_keeps_its_lease(broker: Broker, start_jobs: StartJobs, simulator: Simulator) -> None:
    await start_jobs(worker_ack_wait_seconds=1)
    await start_jobs(worker_ack_wait_seconds=1)
    await broker.submit("[sim: words=11 pause=1]")
    events = await broker.end()
    assert events[-1].type == "done"
    assert {event.attempt for event in events} == {1}
    assert len(simulator.requests) == 1


@pytest.mark.e2e
async def test_a_job_whose_worker_is_killed_is_answered_whole_by_another(
    broker: Broker, spawn_worker: SpawnWorker
) -> None:
    first = await spawn_worker(**settings_for(broker))
    await provisioned(broker)
    await broker.submit("[sim: words=40 pause=0.1]")
    await broker.events(3)
    first.kill()
    await spawn_worker(**settings_for(broker))
    events = await broker.end()
    answer = Answer()
    for event in events:
        answer.add(event)
    assert answer.text == "".join(words(40))
    assert events[-1].attempt == 2
    await broker.removed()


@pytest.mark.e2e
async def test_a_frozen_worker_publishes_nothing_after_its_lease(
    broker: Broker, spawn_worker: SpawnWorker, simulator: Simulator
) -> None:
    first = await spawn_worker(**settings_for(broker))
    await provisioned(broker)
    await broker.submit("[sim: words=150 pause=0.1]")
    await broker.events(3)
    first.send(signal.SIGSTOP)
    await spawn_worker(**settings_for(broker))
    while (await broker.events(1))[0].attempt == 1:
        pass
    first.send(signal.SIGCONT)
    async with asyncio.timeout(WAIT_SECONDS):
        await simulator.requests[0].ended.wait()
    assert simulator.requests[0].closed_early, "the provider's connection was not closed"
    events = await broker.end()
    assert {event.attempt for event in events} == {events[-1].attempt}, "a late attempt was published as well"
    assert events[-1].type == "done"
    await broker.removed()


@pytest.mark.parametrize("another_is_up", [True, False], ids=["another is up", "nobody is up"])
@pytest.mark.e2e
async def test_a_job_whose_worker_dies_on_the_last_delivery_gets_its_end_from_another(
    broker: Broker, spawn_worker: SpawnWorker, *, another_is_up: bool
) -> None:
    settings = settings_for(broker, WORKER_ATTEMPTS_MAX="1")
    first = await spawn_worker(**settings)
    await provisioned(broker)
    await broker.submit("[sim: words=300 pause=0.1]")
    await broker.events(3)
    if another_is_up:
        await spawn_worker(**settings)
    first.kill()
    if not another_is_up:
        await asyncio.sleep(2)  # the server says that the job was given up, and nobody hears it
        await spawn_worker(**settings)
    events = await broker.end()
    error = events[-1]
    assert (error.data.code, error.attempt) == ("internal", 1)
    assert [event.seq for event in events] == list(range(3, 3 + len(events))), "its seq goes on after the last one"
    await broker.removed()
    assert [letter["Ai-Dead-Code"] for letter in await broker.dead()] == ["internal"]


async def test_a_second_submit_of_one_message_id_runs_nothing(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    assert not (await broker.submit("[sim: words=1]")).duplicate
    await broker.end()
    await broker.removed()
    assert (await broker.submit("[sim: words=1]")).duplicate
    assert await broker.jobs_left() == 0
    assert len(simulator.requests) == 1


async def test_without_a_message_id_a_second_submit_is_refused_while_the_first_is_there(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await start_jobs()
    await broker.js.publish("ai.v1.job.text.t.r1", b"[sim: words=20 pause=0.2]")
    await broker.events(1)
    with pytest.raises(APIError, match="maximum messages per subject"):
        await broker.js.publish("ai.v1.job.text.t.r1", b"again")
    assert (await broker.end())[-1].type == "done"


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


async def test_a_worker_that_stops_gives_its_job_back_at_once(broker: Broker, start_jobs: StartJobs) -> None:
    first = await start_jobs(worker_ack_wait_seconds=30)
    await broker.submit("[sim: words=60 pause=0.1]")
    await broker.events(1)
    await start_jobs(worker_ack_wait_seconds=30)
    assert await first.drain() == 1
    events = await broker.end()
    assert events[-1].type == "done"
    assert events[-1].attempt == 2
    assert not [event for event in events if event.type == "error"]


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


async def test_a_job_that_had_its_end_is_not_run_again(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    """As after a worker that died between the sentinel and the acknowledgement, or a broker that forgot it."""
    first = await start_jobs()
    await first.drain()
    await broker.submit("hi", "answered")
    await broker.submit("hi", "failed")
    for request_id, payload in (("answered", DONE), ("failed", ERROR)):
        await broker.js.publish(f"ai.v1.out.t.{request_id}", payload.replace(b"ID", request_id.encode()))
        await broker.js.publish(f"ai.v1.out.t.{request_id}", b"")
    await start_jobs()
    await broker.removed()
    assert simulator.requests == []
    (letter,) = await broker.dead()
    assert (letter["Ai-Dead-Code"], letter["Ai-Dead-Reason"]) == ("bad_response", "no answer")


async def test_an_attempt_is_numbered_above_what_is_stored(broker: Broker, start_jobs: StartJobs) -> None:
    """As after a broker that was killed and counts deliveries from one again."""
    first = await start_jobs()
    await first.drain()
    await broker.submit("[sim: words=1]")
    await broker.js.publish("ai.v1.out.t.r1", b'{"type":"response","data":"half","id":"r1","attempt":4,"seq":0}')
    await start_jobs()
    assert [event.attempt for event in await broker.end()] == [4, 5, 5]


async def test_a_later_job_of_the_same_id_replaces_what_the_first_had_stored(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await start_jobs()
    for count in (3, 2):
        await broker.js.publish("ai.v1.job.text.t.r1", f"[sim: words={count}]".encode())
        await broker.end()
        await broker.removed()
    again = Answer()
    async for event in resume(broker.nc, "r1", tenant="t"):
        again.add(event)
    assert again.text == "".join(words(2))


DONE = (
    b'{"type":"done","data":{"finish_reason":"stop","last_seq":0,"model":"gpt-4",'
    b'"timing":{"queued_ms":0,"first_ms":0,"total_ms":0}},"id":"ID","attempt":1,"seq":0}'
)
ERROR = (
    b'{"type":"error","data":{"code":"bad_response","message":"no answer","retryable":true},'
    b'"id":"ID","attempt":1,"seq":0}'
)
