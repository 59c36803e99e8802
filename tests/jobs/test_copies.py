"""What a `reply_to` gets beside the record; how a job is copied there whole is in test_jobs.py."""

import asyncio

from nats.aio.msg import Msg

from aichats_worker.jobs.copies import OURS_MAX_SECONDS
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.jobs.broker import WAIT_SECONDS, Broker, StartJobs, broker, serving_jobs, start_jobs
from tests.link import linked

__all__ = ["broker", "start_jobs"]


async def copies_of_a_job_that_hangs(broker: Broker, simulator: Simulator) -> asyncio.Queue[Msg]:
    """Submit a job whose provider says one word and then nothing; return what comes to its reply subject."""
    inbox, copies = broker.nc.new_inbox(), asyncio.Queue[Msg]()
    await broker.nc.subscribe(inbox, cb=copies.put)
    simulator.script(b"data: one\n", 120)
    await broker.submit("[sim: words=2]", reply_to=inbox)
    return copies


async def test_a_worker_that_was_cut_off_says_nothing_behind_anothers_end(
    broker: Broker, start_jobs: StartJobs, start_worker: StartWorker, simulator: Simulator
) -> None:
    async with linked(broker.server.port) as link:
        first = await start_worker(nats_url=link.url, worker_jobs=True, worker_ack_wait_seconds=1)
        await serving_jobs(first)
        copies = await copies_of_a_job_that_hangs(broker, simulator)
        async with asyncio.timeout(WAIT_SECONDS):
            while b'"one"' not in (await copies.get()).data:
                pass
            link.flowing.clear()
            await start_jobs(worker_ack_wait_seconds=1)
            while (await copies.get()).data:
                pass
            link.flowing.set()
            await simulator.requests[0].ended.wait()  # it looks before it speaks, and finds that the job is lost
        await broker.nc.flush()
        assert copies.empty(), (await copies.get()).data
        await first.drain()


async def test_a_status_is_not_said_on_an_old_word_that_the_job_is_still_ours(
    broker: Broker, start_worker: StartWorker, simulator: Simulator
) -> None:
    async with linked(broker.server.port) as link:
        worker = await start_worker(nats_url=link.url, worker_jobs=True, worker_keepalive_seconds=1)
        await serving_jobs(worker)
        copies = await copies_of_a_job_that_hangs(broker, simulator)
        async with asyncio.timeout(WAIT_SECONDS):
            while b'"working"' not in (await copies.get()).data:
                pass
            link.delay_seconds = OURS_MAX_SECONDS * 0.7  # there and back it is more
            await asyncio.sleep(1)  # what was asked and said before
            while not copies.empty():
                copies.get_nowait()
            await asyncio.sleep(4)  # for a few
            assert copies.empty(), (await copies.get()).data
            link.delay_seconds = 0
            assert b'"working"' in (await copies.get()).data
        await worker.drain()
