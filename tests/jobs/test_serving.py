"""What serves jobs as long as the worker lives."""

import asyncio
from typing import Any

import pytest

from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.direct.test_corridor import until
from tests.jobs.broker import Broker, StartJobs, broker, start_jobs
from tests.link import linked

__all__ = ["broker", "start_jobs"]


@pytest.mark.parametrize("what", ["leases", "fetch-text"])
async def test_a_task_of_jobs_that_ends_is_begun_again(broker: Broker, start_jobs: StartJobs, what: str) -> None:
    app: Any = await start_jobs(worker_ack_wait_seconds=1)
    (fetching, _) = app.jobs._fetching
    leases, pull = app.jobs._jobs.leases, fetching._pull
    # A defect of ours, whatever it may be.
    if what == "leases":
        leases._held[-1] = None
    else:
        fetching._pull = None
        fetching._changed.set()
    await until(lambda: app.tasks.ended[what] >= 1)
    leases._held.clear()
    fetching._pull = pull
    await broker.submit("[sim: words=3 pause=1]")
    assert {event.attempt for event in await broker.end()} == {1}
    assert what in app.health.ready()[1]["checks"]["tasks_begun_again"]


async def test_a_far_worker_that_stops_takes_no_job_from_that_moment_on(
    broker: Broker, start_worker: StartWorker, simulator: Simulator
) -> None:
    """What was asked for before may still come, and is given back: it is no attempt."""
    async with linked(broker.server.port) as link:
        app = await start_worker(nats_url=link.url, worker_jobs=True, worker_drain_timeout_seconds=5)
        await app.jobs_served()
        await broker.listen()
        link.delay_seconds = 0.3
        stopping = asyncio.create_task(app.drain())
        await asyncio.sleep(0)  # it has begun
        await broker.submit("[sim: words=3]")
        await stopping
    assert simulator.requests == []
    await start_worker(nats_url=broker.server.url, worker_jobs=True)
    assert {event.attempt for event in await broker.end()} == {1}
