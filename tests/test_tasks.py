"""Tasks that live as long as the worker, and what the probes say."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from aichats_worker.health import Check, Health
from aichats_worker.tasks import FAILURES_MAX, Tasks
from tests.direct.test_corridor import until


@pytest.fixture
async def tasks(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tasks]:
    monkeypatch.setattr("aichats_worker.tasks.AGAIN_SECONDS", 0)
    kept = Tasks()
    yield kept
    await kept.stop(2)


async def test_a_task_that_ends_is_begun_again_and_counted(tasks: Tasks) -> None:
    lives: list[int] = []

    async def live() -> None:
        lives.append(len(lives))
        if len(lives) == 1:
            raise RuntimeError("a defect")
        if len(lives) == 2:
            return
        if len(lives) == 3:
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    task = tasks.keep("mortal", live)
    await until(lambda: len(lives) == 4)
    assert tasks.ended == {"mortal": 3}
    assert tasks.failing() == "mortal ended 3 times: cancelled from inside"
    assert tasks.lost() == ""
    registry = CollectorRegistry()
    registry.register(tasks)
    assert registry.get_sample_value("aichats_tasks_ended_total", {"task": "mortal"}) == 3
    await tasks.stop(2)
    assert task.cancelled()


async def test_a_task_that_ends_again_and_again_fails_liveness(tasks: Tasks) -> None:
    async def fail() -> None:
        raise RuntimeError

    health = Health([Check("tasks", tasks.lost)], [])
    assert health.live() == (True, {"live": True, "checks": {"tasks": "ok"}})
    tasks.keep("hopeless", fail)
    await until(lambda: tasks.ended["hopeless"] >= FAILURES_MAX)
    assert health.live() == (False, {"live": False, "checks": {"tasks": "ends again and again: hopeless"}})
    assert not health.ready()[0]


async def test_a_task_that_may_end_ends(tasks: Tasks) -> None:
    async def end() -> None:
        """Nothing more to do."""

    await tasks.keep("short", end, ends=True)
    assert tasks.ended.total() == 0
    assert tasks.failing() == ""


def test_what_does_not_gate_is_told_and_a_check_that_fails_is_in_trouble() -> None:
    def fail() -> str:
        raise KeyError("x")

    health = Health([], [Check("told", lambda: "is not well", gates=False)])
    assert health.ready() == (True, {"ready": True, "checks": {"told": "is not well"}})
    health.add(Check("broken", fail))
    assert health.ready() == (
        False,
        {"ready": False, "checks": {"told": "is not well", "broken": "the check failed: KeyError"}},
    )
    registry = CollectorRegistry()
    registry.register(health)
    assert registry.get_sample_value("aichats_check", {"check": "told"}) == 0
