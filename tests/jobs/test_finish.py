"""The one way a job ends: end stored, letter kept, job removed; each until it is done, by whoever comes."""

import asyncio
from typing import Any

import nats
import orjson
import pytest
from nats.aio.msg import Msg

from aichats_worker.broker.bus import Bus
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.direct.test_corridor import until
from tests.jobs.broker import WAIT_SECONDS, Broker, StartJobs, broker, checked, serving_jobs, start_jobs
from tests.jobs.provisioned import provisioner
from tests.link import linked

__all__ = ["broker", "start_jobs"]

DONE = {
    "finish_reason": "stop", "last_seq": 1, "model": "gpt-4", "timing": {"queued_ms": 0, "first_ms": 0, "total_ms": 0}
}  # fmt: skip


def an_error(code: str) -> dict[str, Any]:
    return {"code": code, "message": "no answer", "retryable": False}


async def ended_by_another(broker: Broker, kind: str, data: dict[str, Any], **headers: str) -> None:
    """A job whose worker died right after its end was stored: before the letter, and in the queue still."""
    job = await broker.js.publish("ai.v1.job.text.t.r1", b"hi", headers=headers or None)
    last = 0
    for number, (name, value) in enumerate((("status", "started"), (kind, data))):
        event = {"type": name, "data": value, "id": "r1", "attempt": 1, "seq": number}
        mark = {"Ai-Job": f"text.{job.seq}.{number}.1.another", "Nats-Expected-Last-Subject-Sequence": str(last)}
        last = (await broker.js.publish("ai.v1.out.t.r1", orjson.dumps(event), headers=mark)).seq


@pytest.mark.parametrize(
    ("kind", "data", "letters"),
    [
        ("done", DONE, []),
        ("error", an_error("bad_response"), ["bad_response"]),
        ("error", an_error("cancelled"), []),
    ],
    ids=["done", "an error", "cancelled"],
)
async def test_what_another_began_is_finished_without_asking_the_provider(
    broker: Broker,
    start_jobs: StartJobs,
    simulator: Simulator,
    *,
    kind: str,
    data: dict[str, Any],
    letters: list[str],
) -> None:
    first = await start_jobs()
    await first.drain()
    inbox, heard = broker.nc.new_inbox(), asyncio.Queue[Msg]()
    await broker.nc.subscribe(inbox, cb=heard.put)
    await ended_by_another(broker, kind, data, reply_to=inbox)
    await start_jobs()
    await broker.removed()
    found = await broker.dead()
    assert [letter["Ai-Dead-Code"] for letter in found] == letters
    assert [letter["Ai-Dead-Attempts"] for letter in found] == ["1" for _ in letters]
    assert simulator.requests == []
    async with asyncio.timeout(WAIT_SECONDS):
        end, sentinel = await heard.get(), await heard.get()
    assert (orjson.loads(end.data)["type"], sentinel.data) == (kind, b"")
    assert len(await broker.record()) == 2, "no second end"


async def test_where_no_letter_can_be_kept_the_job_stays_until_one_is(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await provisioner(Bus(broker.nc, broker.js), ack_wait_seconds=60).apply()
    await start_jobs(worker_jobs_provision=False)  # it would make the stream again
    letters = (await broker.js.stream_info("AIDEAD")).config
    await broker.js.delete_stream("AIDEAD")
    await broker.submit({"prompt": 5})
    assert (await broker.end())[-1].data.code == "invalid_request"
    await asyncio.sleep(0.5)
    assert await broker.jobs_left() == 1
    await broker.js.add_stream(letters)  # long before the broker would deliver the job again
    await broker.removed()
    assert [letter["Ai-Dead-Code"] for letter in await broker.dead()] == ["invalid_request"]
    checked(await broker.record())


async def test_where_the_record_cannot_be_written_the_provider_is_not_asked_and_nothing_counts(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    await start_jobs(worker_ack_wait_seconds=2, worker_attempts_max=1)
    records = (await broker.js.stream_info("AIOUT")).config
    await broker.js.delete_stream("AIOUT")
    await broker.submit("[sim: words=2]")
    await asyncio.sleep(3)
    assert (await broker.jobs_left(), simulator.requests) == (1, [])
    await broker.js.add_stream(records)
    await broker.removed()
    events = checked(await broker.record())
    assert (events[-1].type, events[-1].attempt) == ("done", 1)
    assert await broker.dead() == []


async def test_a_letter_that_is_too_large_for_its_stream_is_kept_without_the_body(
    broker: Broker, start_jobs: StartJobs
) -> None:
    """An operator's bound on messages stays as it is; the job does not stay in the queue for it."""
    await start_jobs()
    await broker.js.update_stream((await broker.js.stream_info("AIDEAD")).config.evolve(max_msg_size=2000))
    await broker.submit({"prompt": 5, "filler": "x" * 3000})
    await broker.removed()
    (letter,) = await broker.dead()
    assert (letter["Ai-Dead-Code"], letter["Ai-Dead-Left-Out"]) == ("invalid_request", "body")


async def test_where_it_is_not_known_whether_a_beginning_is_stored_nothing_counts(
    broker: Broker, start_worker: StartWorker
) -> None:
    """Stored, and the broker's word of it lost, three times: the provider was not asked."""
    async with linked(broker.server.port) as link:
        worker = await start_worker(nats_url=link.url, worker_jobs=True, worker_attempts_max=1)
        await serving_jobs(worker)
        await broker.listen()
        link.delay_seconds = 0.5  # so that the worker has the job, and no answer yet
        await broker.submit("[sim: words=3]")
        await until(lambda: worker.runs.find("t", "r1") is not None)
        link.down.clear()
        await until(lambda: worker.slots["text"].free == worker.slots["text"].count)
        link.delay_seconds = 0.0
        link.down.set()
        events = await broker.end()
        assert (events[-1].type, [e.data for e in events if e.type == "status"]) == (
            "done",
            ["started", "given_back", "started"],
        )
        await broker.removed()
        checked(await broker.record())
        await worker.drain()


async def test_ends_that_cannot_be_completed_do_not_empty_the_queue_into_a_worker(
    broker: Broker, start_jobs: StartJobs
) -> None:
    await provisioner(Bus(broker.nc, broker.js), ack_wait_seconds=60).apply()
    await start_jobs(worker_jobs_provision=False, worker_concurrency_max=2)
    letters = (await broker.js.stream_info("AIDEAD")).config
    await broker.js.delete_stream("AIDEAD")
    for number in range(12):
        await broker.submit({"prompt": 5}, f"r{number}")
    for _ in range(4):
        await broker.end()
    await asyncio.sleep(0.5)  # nothing tells that no more are fetched
    assert (await broker.js.consumer_info("AIJOBS", "ai-workers-text")).num_ack_pending == 4
    await broker.js.add_stream(letters)
    await broker.removed()
    assert len(await broker.dead()) == 12


async def test_an_end_that_cannot_be_stored_for_a_while_is_stored_then(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    """A stream that is full and refuses: the answer is there, and the provider is not asked for it again."""
    await start_jobs(worker_ack_wait_seconds=2)
    config = (await broker.js.stream_info("AIOUT")).config
    await broker.submit("[sim: words=4 pause=0.5]")
    await broker.content()
    await broker.js.update_stream(config.evolve(max_msgs=1, discard="new"))
    async with asyncio.timeout(WAIT_SECONDS):
        await simulator.requests[0].ended.wait()
    await asyncio.sleep(3)
    assert await broker.jobs_left() == 1
    await broker.js.update_stream(config)
    await broker.removed()
    assert checked(await broker.record())[-1].type == "done"
    assert len(simulator.requests) == 1


async def test_an_end_that_its_reply_subject_cannot_take_any_more_keeps_no_job_in_the_queue(
    broker: Broker, start_jobs: StartJobs
) -> None:
    """The broker's limit is smaller than when the end was stored."""
    first = await start_jobs()
    await first.drain()
    await ended_by_another(broker, "done", DONE | {"metadata": {"a": "x" * 20_000}}, reply_to=broker.nc.new_inbox())
    broker.server.kill()
    broker.server.configure("max_payload: 8192\n")
    broker.server.start()
    nc = await nats.connect(broker.server.url)
    after = Broker(broker.server, nc)
    worker = await start_jobs(worker_ack_wait_seconds=1)
    await after.removed()
    assert worker.broker.connection.is_connected
    await nc.close()


async def made_anew(broker: Broker) -> None:
    """Delete the queue under running jobs, and make another."""
    await broker.js.delete_stream("AIJOBS")
    await provisioner(Bus(broker.nc, broker.js), ack_wait_seconds=10).apply()


async def test_a_job_that_ends_after_its_queue_was_made_anew_takes_no_other_with_it(
    broker: Broker, start_jobs: StartJobs
) -> None:
    """The new queue's numbers begin at 1 again, and the first job there has the number of the one that ends."""
    first = await start_jobs(worker_concurrency_max=1, worker_drain_timeout_seconds=20)
    await broker.submit("[sim: words=30 pause=0.1]", "old")
    await broker.content()
    draining = asyncio.create_task(first.drain())
    await made_anew(broker)
    await broker.submit("[sim: words=2]", "new")
    assert (await broker.end())[-1].id == "old"
    assert await draining == 0
    assert await broker.jobs_left() == 1
    await start_jobs()
    assert (await broker.end())[-1].id == "new"


@pytest.mark.slow("a retry is waited for")
async def test_a_job_that_ends_after_its_queue_was_made_anew_takes_none_with_it_that_waits_for_its_retry(
    broker: Broker, start_jobs: StartJobs
) -> None:
    """A new queue's consumer takes the acknowledgement of an old queue's job for one of its own, by the number."""
    first = await start_jobs(worker_concurrency_max=1, worker_drain_timeout_seconds=30)
    await broker.submit("[sim: words=40 pause=0.1]", "old")
    await broker.content()
    draining = asyncio.create_task(first.drain())
    await made_anew(broker)
    await start_jobs()
    await broker.submit("[sim: times=1 status=429 retry-after=8] [sim: words=2]", "new")
    assert (await broker.end())[-1].id == "old"
    assert await draining == 0
    assert (await broker.end())[-1].id == "new"


async def test_a_job_of_an_id_that_was_there_before_its_queue_was_made_anew_has_a_letter_too(
    broker: Broker, start_jobs: StartJobs
) -> None:
    """Letters of one id and number are one for the broker, for 15 minutes."""
    await start_jobs()
    await broker.submit("[sim: status=400]")
    await broker.end()
    await broker.removed()
    await broker.js.purge_stream("AIOUT")
    await made_anew(broker)
    await broker.submit("[sim: status=400]")
    await broker.end()
    await broker.removed()
    assert len(await broker.dead()) == 2
