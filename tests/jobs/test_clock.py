"""Time in the queue is the broker's, whatever this machine's clock says."""

import asyncio
import time
from collections.abc import Callable

import pytest

from aichats_worker.jobs.clock import BrokerClock
from aichats_worker.simulator.server import Simulator
from tests.jobs.broker import Broker, StartJobs, broker, start_jobs

__all__ = ["broker", "start_jobs"]

HOUR = 3600.0


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set this process's clock ahead; the monotonic one goes on as it did."""
    right = time.time

    def ahead(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: right() + seconds)

    return ahead


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_a_clock_that_is_off_neither_ends_jobs_nor_gives_them_time(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator, set_clock: Callable[[float], None], ahead: float
) -> None:
    set_clock(ahead)
    app = await start_jobs()
    await broker.submit({"prompt": "[sim: words=2]", "timeout_seconds": 30}, "fresh")
    assert (await broker.end())[-1].type == "done"
    set_clock(2 * ahead)  # a step in the middle
    await broker.submit({"prompt": "[sim: words=2]", "timeout_seconds": 30}, "later")
    end = (await broker.end())[-1]
    assert end.type == "done"
    assert 0 <= end.data.timing.queued_ms < 20_000
    shown = app.telemetry.registry.get_sample_value("aichats_clock_offset_seconds")
    assert shown == pytest.approx(2 * ahead, abs=1)
    is_ready, said = app.health.ready()
    assert is_ready
    assert ("ahead of" if ahead > 0 else "behind") in said["checks"]["clock"]
    set_clock(0)
    assert app.health.ready()[1]["checks"]["clock"] == "ok"
    await app.drain()
    await broker.submit({"prompt": "late", "timeout_seconds": 0.1}, "late")
    await asyncio.sleep(0.2)  # its time passes while nobody serves jobs
    await start_jobs()
    assert (await broker.end())[-1].data.code == "deadline_exceeded"
    assert len(simulator.requests) == 2


def test_the_brokers_time_is_kept_by_the_monotonic_clock_and_corrected_by_each_answer() -> None:
    clock = BrokerClock()
    assert clock.now() == pytest.approx(time.time(), abs=1)
    now = time.monotonic()
    clock.learn("2026-01-02T03:04:05.123456789Z", now - 0.2, now)
    assert clock.now() == pytest.approx(1767323045.123 + 0.1, abs=0.1)
    assert clock.offset() == pytest.approx(time.time() - clock.now(), abs=0.1)
    clock.learn("2026-01-02T03:04:10Z", now, now)
    assert clock.now() == pytest.approx(1767323050, abs=0.1)


def test_an_answer_that_was_long_on_its_way_corrects_nothing() -> None:
    clock, now = BrokerClock(), time.monotonic()
    clock.learn("2030-01-01T00:00:00Z", now, now)
    clock.learn("2030-01-01T00:00:00Z", now, now + 5)  # frozen between the question and the answer
    assert clock.now() == pytest.approx(1893456000, abs=1)
