"""What serves jobs as long as the worker lives."""

from typing import Any

import pytest

from tests.direct.test_corridor import until
from tests.jobs.broker import Broker, StartJobs, broker, start_jobs

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
