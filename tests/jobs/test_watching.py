"""Streams and consumers that disappear under a running worker: made again, or told of."""

import asyncio
from collections.abc import AsyncIterator, Callable

import nats
import pytest
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from aichats_worker.broker.bus import Bus
from aichats_worker.jobs.provision import Provisioner
from aichats_worker.jobs.watching import StreamsWatch
from tests.conftest import StartWorker
from tests.jobs.provisioned import WAIT_SECONDS, api, below, bus, config, provisioner, server, submit
from tests.processes import NatsServer

__all__ = ["bus", "server"]

ALL = ("AIOUT", "AIDEAD", "AIJOBS")


def watch(made: Provisioner, *, mend: bool, connected: Callable[[], bool] = lambda: True) -> StreamsWatch:
    return StreamsWatch(made, mend=mend, connected=connected, every_seconds=0.05)


@pytest.fixture
async def watching(bus: Bus) -> AsyncIterator[StreamsWatch]:
    """One that mends, at work."""
    running = watch(provisioner(bus), mend=True)
    running_task = asyncio.create_task(running.run())
    async with asyncio.timeout(WAIT_SECONDS):
        await running.until_well()
    yield running
    running_task.cancel()


async def there(bus: Bus, name: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                if (await config(bus, name)).get("max_bytes") != 1:
                    return
            except (AssertionError, NatsError):
                await asyncio.sleep(0.02)


async def problem(running: StreamsWatch, sentence: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not any(sentence in problem for problem in running.problems()):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("gone", [*ALL, "all of them"])
async def test_a_stream_that_disappears_is_made_again_with_its_consumers(
    bus: Bus, watching: StreamsWatch, gone: str
) -> None:
    for name in ALL if gone == "all of them" else [gone]:
        await bus.js.delete_stream(name)
    for name in (*ALL, "AIJOBS.ai-workers-text", "AIJOBS.ai-workers-image"):
        await there(bus, name)
    await submit(bus, "r1")
    fetching = await bus.js.pull_subscribe_bind("ai-workers-text", "AIJOBS")
    (message,) = await fetching.fetch(timeout=WAIT_SECONDS)
    assert message.subject == "ai.v1.job.text.t.r1"


async def test_a_consumer_that_disappears_is_made_again(bus: Bus, watching: StreamsWatch) -> None:
    await bus.js.delete_consumer("AIJOBS", "ai-workers-text")
    await there(bus, "AIJOBS.ai-workers-text")


async def test_a_broker_that_comes_back_without_its_disk_is_provisioned_again(
    server: NatsServer, bus: Bus, watching: StreamsWatch
) -> None:
    server.stop()
    server.wipe()
    server.start()
    async with asyncio.timeout(WAIT_SECONDS):
        while not bus.nc.is_connected:
            await asyncio.sleep(0.02)
    await there(bus, "AIJOBS.ai-workers-image")


async def test_what_an_operator_changes_under_a_running_worker_stays(bus: Bus, watching: StreamsWatch) -> None:
    await api(bus, "STREAM.UPDATE.AIJOBS", await config(bus, "AIJOBS") | {"max_age": 3_600 * 10**9})
    await watching.look()
    assert (await config(bus, "AIJOBS"))["max_age"] == 3_600 * 10**9
    await bus.js.delete_stream("AIOUT")
    await there(bus, "AIOUT")


async def test_without_provisioning_what_is_missing_is_told_and_is_well_again(bus: Bus) -> None:
    running = watch(provisioner(bus), mend=False)
    running_task = asyncio.create_task(running.run())
    await problem(running, "AIJOBS/ai-workers-text is missing: `aichats-worker provision` makes it")
    assert len(running.problems()) == 5
    with pytest.raises(NotFoundError):
        await bus.js.stream_info("AIJOBS")
    await provisioner(bus).apply()
    async with asyncio.timeout(WAIT_SECONDS):
        await running.until_well()
    assert running.problems() == []
    await bus.js.delete_consumer("AIJOBS", "ai-workers-image")
    await problem(running, "AIJOBS/ai-workers-image is missing")
    running_task.cancel()


async def test_one_line_in_the_log_tells_of_each_turn(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    running = watch(provisioner(bus), mend=False)
    for _ in range(3):
        await running.look()
    await provisioner(bus).apply()
    for _ in range(3):
        await running.look()
    said = capsys.readouterr().out
    assert said.count("jobs lack something at the broker") == 1
    assert said.count("jobs have all that they need at the broker") == 1


async def test_a_stream_that_is_somebody_elses_is_a_problem_and_nothing_is_made(bus: Bus) -> None:
    await bus.js.add_stream(name="AIDEAD", subjects=["theirs.>"])
    running = watch(provisioner(bus), mend=True)
    await running.look()
    assert "AIDEAD: subjects theirs.>" in running.problems()[0]
    with pytest.raises(NotFoundError):
        await bus.js.stream_info("AIOUT")


async def test_a_broker_without_jetstream_is_a_problem(own_nats_server: Callable[..., NatsServer]) -> None:
    nc = await nats.connect(own_nats_server(jetstream=False).url)
    running = watch(provisioner(Bus(nc, nc.jetstream())), mend=True)
    await running.look()
    (sentence,) = running.problems()
    assert sentence == "the broker says nothing of the jobs' streams: no responders available for request"
    await nc.close()


async def test_nothing_is_asked_and_nothing_changes_without_a_connection(bus: Bus) -> None:
    asked = 0

    def connected() -> bool:
        nonlocal asked
        asked += 1
        return False

    running = watch(provisioner(bus), mend=True, connected=connected)
    running_task = asyncio.create_task(running.run())
    async with asyncio.timeout(WAIT_SECONDS):
        while asked < 3:
            await asyncio.sleep(0.02)
    running_task.cancel()
    assert running.problems() == []
    with pytest.raises(NotFoundError):
        await bus.js.stream_info("AIJOBS")


async def test_a_paused_consumer_is_told_and_is_no_problem(bus: Bus, watching: StreamsWatch) -> None:
    until = {"pause_until": "2099-01-01T00:00:00Z"}
    await api(bus, "CONSUMER.PAUSE.AIJOBS.ai-workers-text", until)
    await watching.look()
    assert watching.paused() == ["AIJOBS/ai-workers-text is paused until 2099-01-01T00:00:00Z"]
    assert watching.problems() == []
    assert (await config(bus, "AIJOBS.ai-workers-text"))["pause_until"] == "2099-01-01T00:00:00Z"


async def test_a_worker_leaves_the_limits_that_an_operator_set(
    server: NatsServer, bus: Bus, start_worker: StartWorker
) -> None:
    await provisioner(bus, jobs_max=7, ack_wait_seconds=20).apply()
    app = await start_worker(nats_url=server.url, worker_jobs=True)
    async with asyncio.timeout(WAIT_SECONDS):
        while app.jobs is None:
            await asyncio.sleep(0.02)
    assert (await config(bus, "AIJOBS"))["max_msgs"] == 7
    assert (await config(bus, "AIJOBS.ai-workers-text"))["ack_wait"] == 20 * 10**9


async def test_without_provisioning_drift_is_one_sentence(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    await provisioner(bus).apply()
    running = watch(provisioner(bus, timeout_seconds_max=1200), mend=False)
    for _ in range(3):
        await running.look()
    said = capsys.readouterr().out
    assert said.count("the streams differ from what this worker expects: AIOUT: max_age 900 s -> 1800 s") == 1
    assert (await config(bus, "AIOUT"))["max_age"] == 900 * 10**9
    assert running.problems() == []


async def test_workers_of_two_prefixes_mend_each_their_own(bus: Bus, watching: StreamsWatch) -> None:
    stage = below(bus, "stage.v1")
    await provisioner(stage).apply()
    await bus.js.delete_stream("AIJOBS")
    await bus.js.delete_stream("AIJOBS_stage_v1")
    await there(bus, "AIJOBS")
    with pytest.raises(NotFoundError):
        await bus.js.stream_info("AIJOBS_stage_v1")
