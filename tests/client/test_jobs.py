"""Jobs through `Client`: submit, read, come back, cancel, and workers that die meanwhile."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aichats_client import (
    CancelledByRequesterError,
    Client,
    InvalidRequestError,
    JobExists,
    NoWorker,
    QueueFull,
    Restarted,
    ServiceError,
)
from aichats_worker.simulator.answers import image as simulated_image
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import CUT, Simulator
from tests.conftest import SpawnWorker
from tests.jobs.test_jobs import Broker, StartJobs, broker, start_jobs
from tests.processes import NatsServer, WorkerProcess

__all__ = ["broker", "start_jobs"]
WAIT_SECONDS = 60.0  # a worker that starts on a busy machine takes its time
pytestmark = pytest.mark.timeout(150)
ACK_WAIT_SECONDS = 2
SLOW = "[sim: words=30 pause=0.1]"
WHOLE = "".join(words(30))


@pytest.fixture
async def ai(broker: Broker) -> AsyncIterator[Client]:
    async with Client(broker.server.url, tenant="t") as client:
        yield client


@pytest.fixture
def spawn_jobs(spawn_worker: SpawnWorker, broker: Broker) -> Callable[[], Awaitable[WorkerProcess]]:
    async def spawn() -> WorkerProcess:
        process = await spawn_worker(
            ready=False,
            NATS_URL=broker.server.url,
            WORKER_ACK_WAIT_SECONDS=str(ACK_WAIT_SECONDS),
            WORKER_RETRY_MAX_SECONDS="1",
            WORKER_DRAIN_TIMEOUT_SECONDS="0",
        )
        async with asyncio.timeout(WAIT_SECONDS):
            while 'jobs are served"' not in process.log:
                await asyncio.sleep(0.05)
        return process

    return spawn


async def test_a_job_is_read_as_it_is_made_and_again_when_it_has_ended(ai: Client, start_jobs: StartJobs) -> None:
    await start_jobs()
    job = await ai.submit("text", "[sim: words=5 pause=0.05]", id="order-7")
    assert "".join([piece async for piece in job.text()]) == "".join(words(5))
    again = ai.job("order-7")
    assert str(await again.result()) == "".join(words(5))
    assert (await again.result()).done.finish_reason == "stop"
    assert not await again.cancel(), "it has ended"


async def test_an_image_job_gives_its_image(ai: Client, start_jobs: StartJobs) -> None:
    await start_jobs()
    job = await ai.submit("image", "[sim: bytes=1500000 type=png]")
    assert (await job.image()).data == simulated_image("png", 1500000)


async def test_a_job_waits_for_a_worker(ai: Client, start_jobs: StartJobs) -> None:
    await (await start_jobs()).drain()
    job = await ai.submit("text", "[sim: words=3 pause=0]")
    result = asyncio.create_task(job.result())
    await start_jobs()
    async with asyncio.timeout(WAIT_SECONDS):
        assert str(await result) == "".join(words(3))


async def test_an_id_that_is_queued_is_refused_and_said_so(ai: Client, start_jobs: StartJobs) -> None:
    await start_jobs()
    job = await ai.submit("text", SLOW, id="order-7")
    with pytest.raises(JobExists, match="order-7"):
        await ai.submit("text", SLOW, id="order-7")
    assert await job.cancel()


async def test_a_full_queue_is_said_so(ai: Client, start_jobs: StartJobs, broker: Broker) -> None:
    await (await start_jobs()).drain()
    config = (await broker.js.stream_info("AIJOBS")).config
    await broker.js.update_stream(config.evolve(max_msgs=1))
    await ai.submit("text", "hi")
    with pytest.raises(QueueFull):
        await ai.submit("text", "hi")


async def test_where_no_stream_takes_jobs_it_is_said_so(ai: Client) -> None:
    with pytest.raises(NoWorker, match="provision"):
        await ai.submit("text", "hi")


async def test_a_job_that_fails_is_the_exception_of_its_code(ai: Client, start_jobs: StartJobs) -> None:
    await start_jobs()
    job = await ai.submit("text", " ")
    with pytest.raises(InvalidRequestError):
        await job.result()
    with pytest.raises(InvalidRequestError):
        [piece async for piece in job.text()]


async def test_a_job_that_is_not_there_is_an_error_at_once(ai: Client, start_jobs: StartJobs) -> None:
    await start_jobs()
    with pytest.raises(ServiceError, match="nothing is"):
        await ai.job("nothing").result()


async def test_a_cancelled_job_says_so_to_its_readers(ai: Client, start_jobs: StartJobs, simulator: Simulator) -> None:
    await start_jobs()
    job = await ai.submit("text", SLOW)
    stream = job.text()
    assert await anext(stream) == "Hello"
    assert await job.cancel()
    with pytest.raises(CancelledByRequesterError):
        [piece async for piece in stream]
    async with asyncio.timeout(WAIT_SECONDS):
        await simulator.requests[0].ended.wait()
    assert simulator.closed_early == 1


async def test_leaving_a_jobs_stream_does_not_stop_the_job(ai: Client, start_jobs: StartJobs) -> None:
    await start_jobs()
    job = await ai.submit("text", "[sim: words=10 pause=0.05]")
    async for _ in job.text():
        break
    assert str(await job.result()) == "".join(words(10))


async def test_a_retry_that_says_the_same_is_not_noticed(
    ai: Client, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    simulator.script(b"data: Hello\n\n", 0.3, CUT)
    job = await ai.submit("text", "[sim: words=4 pause=0]")
    assert "".join([piece async for piece in job.text()]) == "".join(words(4))
    assert len(simulator.requests) == 2


async def test_a_retry_that_says_something_else_is_told_and_never_spliced(
    ai: Client, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs()
    simulator.script(b"data: Once upon\n\n", 0.3, CUT)
    job = await ai.submit("text", "[sim: words=4 pause=0]")
    with pytest.raises(Restarted):
        [piece async for piece in job.text()]
    assert "".join([piece async for piece in job.text()]) == "".join(words(4)), "the newest attempt, from its beginning"
    said: list[str] = []
    async for piece in ai.job(job.id).text(on_restart=said.clear):
        said.append(piece)  # noqa: PERF401 - it is cleared meanwhile
    assert "".join(said) == "".join(words(4))
    assert str(await job.result()) == "".join(words(4))


async def test_events_tell_of_every_attempt_each_once(ai: Client, start_jobs: StartJobs, simulator: Simulator) -> None:
    await start_jobs()
    simulator.script(b"data: Once\n\n", 0.3, CUT)
    job = await ai.submit("text", "[sim: words=2 pause=0]")
    places = [(event.attempt, event.seq) async for event in job.events() if event.attempt]
    assert places == sorted(set(places))
    assert {attempt for attempt, _ in places} == {1, 2}
    later = [(event.attempt, event.seq) async for event in job.events(after=places[1]) if event.attempt]
    assert later == places[2:]


@pytest.mark.slow("two workers start, and the ack_wait passes")
async def test_a_worker_that_is_killed_in_mid_stream_is_not_noticed(
    ai: Client, spawn_jobs: Callable[[], Awaitable[WorkerProcess]], simulator: Simulator
) -> None:
    """1. One worker runs the job. 2. kill -9. 3. Nobody is there for a while. 4. Another one: each piece came once."""
    first = await spawn_jobs()
    job = await ai.submit("text", SLOW)
    pieces: list[str] = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for piece in job.text():
            pieces.append(piece)
            if len(pieces) == 3:
                first.send(signal.SIGKILL)
                await first.wait()
                restarting = asyncio.ensure_future(spawn_jobs())
    await restarting
    assert "".join(pieces) == WHOLE
    assert len(simulator.requests) == 2
    assert simulator.closed_early == 1


@pytest.mark.slow("two workers start, and one of them stops")
async def test_the_worker_that_serves_the_record_may_go(
    ai: Client, spawn_jobs: Callable[[], Awaitable[WorkerProcess]]
) -> None:
    workers = [await spawn_jobs() for _ in range(2)]
    job = await ai.submit("text", SLOW)
    pieces = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for piece in job.text():
            pieces.append(piece)
            if len(pieces) == 3:
                workers[0].send(signal.SIGTERM)
    assert "".join(pieces) == WHOLE


async def test_the_broker_may_be_started_anew(
    ai: Client, spawn_jobs: Callable[[], Awaitable[WorkerProcess]], broker: Broker
) -> None:
    await spawn_jobs()
    job = await ai.submit("text", SLOW)
    pieces = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for piece in job.text():
            pieces.append(piece)
            if len(pieces) == 3:
                server: NatsServer = broker.server
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
    assert "".join(pieces) == WHOLE


async def test_without_a_word_the_wait_ends_within_its_bound(broker: Broker, start_jobs: StartJobs) -> None:
    async with Client(broker.server.url, tenant="t", patience_seconds=1) as ai:
        await (await start_jobs()).drain()
        job = await ai.submit("text", "hi")
        started = time.monotonic()
        with pytest.raises(NoWorker):
            await job.result()
        assert 1 <= time.monotonic() - started < 5
