"""The lease by itself; what it means for a job is in test_jobs.py."""

import asyncio

import pytest

from aichats_worker.simulator.server import Simulator
from tests.jobs.broker import Broker, StartJobs, broker, start_jobs

__all__ = ["broker", "start_jobs"]


@pytest.mark.parametrize("own", [30, 1], ids=["a longer setting", "a shorter one"])
async def test_a_lease_goes_by_the_consumers_own_ack_wait(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator, own: int
) -> None:
    """Whatever the worker's own setting says, which is for those who make the consumers."""
    first = await start_jobs(worker_ack_wait_seconds=1)
    await first.drain()
    for _ in range(2):
        await start_jobs(worker_ack_wait_seconds=own, worker_jobs_provision=False)
    await broker.submit("[sim: words=5 pause=1]")
    assert {event.attempt for event in await broker.end()} == {1}
    assert len(simulator.requests) == 1


@pytest.mark.slow("the worker looks each five seconds, and the wait is longer than that")
async def test_a_lease_follows_an_ack_wait_that_changes(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    for _ in range(2):
        await start_jobs(worker_ack_wait_seconds=60)
    info = await broker.js.consumer_info("AIJOBS", "ai-workers-text")
    await broker.js.add_consumer("AIJOBS", info.config.evolve(ack_wait=8))
    await broker.submit("[sim: words=3 pause=6]")
    await asyncio.sleep(0)
    assert {event.attempt for event in await broker.end()} == {1}
    assert len(simulator.requests) == 1
