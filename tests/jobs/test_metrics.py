"""What /metrics shows of jobs."""

from collections.abc import Callable

from aichats_worker.app import App
from tests.conftest import StartWorker
from tests.direct.test_corridor import until
from tests.jobs.broker import Broker, StartJobs, broker, start_jobs
from tests.processes import NatsServer
from tests.requester import WAIT_SECONDS

__all__ = ["broker", "start_jobs"]


def value(app: App, name: str, **labels: str) -> float | None:
    return app.telemetry.registry.get_sample_value(name, labels)


async def test_what_waits_runs_and_has_waited_longest_is_shown(broker: Broker, start_jobs: StartJobs) -> None:
    app = await start_jobs(worker_concurrency_max=1)
    for number in range(4):
        await broker.submit("[sim: words=2 pause=1]", f"r{number}")
    await until(lambda: value(app, "aichats_slots_used", kind="text") == 1)
    assert app.jobs is not None
    await app.jobs._look()
    waiting, taken = value(app, "aichats_jobs_waiting", kind="text"), value(app, "aichats_jobs_taken", kind="text")
    assert (waiting or 0) + (taken or 0) == 4
    assert waiting
    assert 0 < (value(app, "aichats_jobs_oldest_seconds", kind="text") or 0) < WAIT_SECONDS
    assert value(app, "aichats_jobs_waiting", kind="image") == 0
    for _ in range(4):
        await broker.end()
    await broker.removed()
    await app.jobs._look()
    assert value(app, "aichats_jobs_waiting", kind="text") == 0
    assert value(app, "aichats_jobs_oldest_seconds", kind="text") == 0
    assert (value(app, "aichats_job_queued_seconds_sum", kind="text") or 0) > 1
    assert value(app, "aichats_jobs_served") == 1


async def test_jobs_are_not_served_while_the_broker_is_away(
    own_nats_server: Callable[..., NatsServer], start_worker: StartWorker
) -> None:
    server = own_nats_server()
    app = await start_worker(nats_url=server.url, worker_jobs=True)
    await app.jobs_served()
    jobs = app.jobs
    assert jobs is not None
    server.stop()
    # A request for jobs that is made after the loss is told of no trouble: it waits in the client.
    await until(lambda: bool(app.connection.disconnected()) and jobs.trouble() is None)
    assert value(app, "aichats_jobs_served") == 0
    assert app.health.ready()[1]["checks"]["jobs"] == "jobs are not served: there is no connection to the broker"


async def test_attempts_redeliveries_and_dead_letters_are_counted(broker: Broker, start_jobs: StartJobs) -> None:
    app = await start_jobs(worker_attempts_max=2, worker_retry_base_seconds=0.01, provider_calls_max=1)
    await broker.submit("[sim: status=503]", "r1")
    await broker.end()
    await broker.removed()
    await broker.submit("[sim: words=1]", "r2")
    await broker.end()
    await broker.removed()

    def attempts(result: str) -> float | None:
        return value(app, "aichats_job_attempts_total", kind="text", result=result)

    await until(lambda: attempts("done") == 1)
    assert (attempts("retrying"), attempts("failed"), attempts("lost")) == (1, 1, 0)
    assert value(app, "aichats_job_redeliveries_total", kind="text") == 1
    assert value(app, "aichats_job_dead_letters_total", kind="text") == 1
    assert value(app, "aichats_events_total", mode="job", kind="text") == 2 + 2 + 3


async def test_the_first_job_of_an_idle_worker_does_not_wait(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    await broker.submit("[sim: words=1]", "r1", kind="image")
    events = await broker.end()
    assert events[-1].data.timing.queued_ms < 3000
