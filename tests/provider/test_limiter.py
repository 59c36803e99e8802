import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from aichats_worker.errors import RateLimited
from aichats_worker.provider.limiter import Limiter


class Clock:
    """The event loop's time, which tests move by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    async def pass_by(self, seconds: float) -> None:
        self.now += seconds
        await turns()


async def turns() -> None:
    """Let everything that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clock]:
    one = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: one.now)
    yield one
    monkeypatch.undo()


class Crowd:
    """Callers of a limiter: `began` names them in the order in which their turn came."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.began: list[str] = []
        self.go_on = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def come(self, name: str, tenant: str) -> None:
        self.tasks[name] = asyncio.create_task(self._call(name, tenant))

    async def _call(self, name: str, tenant: str) -> None:
        await self.limiter.enter(tenant, math.inf)
        try:
            self.began.append(name)
            await self.go_on.wait()
        finally:
            self.limiter.leave()

    async def leave(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_where_nothing_is_limited_a_turn_is_there_whatever_a_429_said() -> None:
    limiter = Limiter()
    limiter.slow_down(60_000)
    for _ in range(1000):
        await limiter.enter("a", 0)
    limiter.leave()
    assert not limiter.limits
    assert limiter._running == 0


async def test_one_tenants_burst_does_not_starve_anothers_single_request() -> None:
    crowd = Crowd(Limiter(concurrent=1))
    for i in range(5):
        crowd.come(f"burst{i}", "loud")
    await turns()
    crowd.come("single", "quiet")
    await turns()
    assert crowd.began == ["burst0"]
    crowd.go_on.set()
    await turns()
    assert crowd.began[:3] == ["burst0", "burst1", "single"]
    assert len(crowd.began) == 6
    await crowd.leave()


async def test_never_more_at_once_than_allowed() -> None:
    crowd = Crowd(Limiter(concurrent=3))
    for i in range(10):
        crowd.come(str(i), str(i))
    await turns()
    assert len(crowd.began) == 3
    crowd.tasks["0"].cancel()
    await turns()
    assert len(crowd.began) == 4
    await crowd.leave()


async def test_who_is_cancelled_while_waiting_takes_no_turn() -> None:
    crowd = Crowd(Limiter(concurrent=1))
    for name in ("first", "second", "third"):
        crowd.come(name, "a")
    await turns()
    crowd.tasks["second"].cancel()
    crowd.go_on.set()
    await turns()
    assert crowd.began == ["first", "third"]


async def test_a_turn_that_comes_in_the_moment_of_the_cancellation_is_passed_on() -> None:
    limiter = Limiter(concurrent=1)
    crowd = Crowd(limiter)
    for name in ("first", "second", "third"):
        crowd.come(name, "a")
    await turns()
    limiter._running -= 1
    limiter._admit()  # second's turn has come, and it has not run yet
    crowd.tasks["second"].cancel()
    await turns()
    assert crowd.began == ["first", "third"]
    await crowd.leave()


async def test_never_more_begin_within_a_minute_than_allowed(clock: Clock) -> None:
    crowd = Crowd(Limiter(per_minute=2))
    crowd.go_on.set()
    crowd.come("0", "a")
    await turns()
    await clock.pass_by(30)
    for i in range(1, 4):
        crowd.come(str(i), "a")
    await turns()
    assert crowd.began == ["0", "1"]
    await clock.pass_by(29.9)
    assert crowd.began == ["0", "1"]
    await clock.pass_by(0.2)
    assert crowd.began == ["0", "1", "2"]
    await clock.pass_by(30)
    assert crowd.began == ["0", "1", "2", "3"]


async def test_a_429_stops_all_for_as_long_as_the_provider_asks_and_halves_the_rate(clock: Clock) -> None:
    limiter = Limiter(per_minute=4)
    crowd = Crowd(limiter)
    crowd.go_on.set()
    limiter.slow_down(3000)
    for i in range(4):
        crowd.come(str(i), "a")
    await turns()
    assert crowd.began == []
    await clock.pass_by(3)
    assert crowd.began == ["0", "1"]
    limiter.speed_up()
    await clock.pass_by(60)
    assert crowd.began == ["0", "1", "2", "3"]


async def test_a_pause_beyond_the_deadline_is_told_at_once(clock: Clock) -> None:
    limiter = Limiter(concurrent=5)
    limiter.slow_down(20_000)
    with pytest.raises(RateLimited) as told:
        await limiter.enter("a", clock.now + 10)
    assert told.value.retry_after_ms == 20_000
