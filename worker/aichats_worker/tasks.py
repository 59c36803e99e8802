"""The tasks that live as long as the worker: one that ends is logged, counted and begun again."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import structlog
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)

AGAIN_SECONDS: Final = 1.0
# One that fails so often in a row, in lives of less than a minute, is not mended by another try in this process.
FAILURES_MAX: Final = 30
LONG_LIFE_SECONDS: Final = 60.0


class Tasks(Collector):
    """Keeps tasks alive until it is stopped.

    Attributes:
        ended: How often each ended by itself, by name.
    """

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self._row: dict[str, int] = {}
        self._why: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def keep(self, name: str, run: Callable[[], Awaitable[None]], *, ends: bool = False) -> asyncio.Task[None]:
        """Run `run` in a task; where it ends, run it again after AGAIN_SECONDS.

        Args:
            name: For the log, the metric and the probe.
            run: What is run.
            ends: It may come to an end: only an exception is none.
        """
        self.ended[name] += 0  # shown before it ends for the first time
        task = asyncio.create_task(self._kept(name, run, ends), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def failing(self) -> str:
        """Say which tasks ended a moment ago and were begun again; nothing where none was."""
        return "; ".join(f"{name} ended {self._row[name]} times: {why}" for name, why in self._why.items())

    def lost(self) -> str:
        """Say which tasks end again and again, which a restart may mend; nothing where none does."""
        lost = [name for name, row in self._row.items() if row >= FAILURES_MAX]
        return f"ends again and again: {', '.join(lost)}" if lost else ""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For /metrics: how often each ended by itself."""
        family = CounterMetricFamily("aichats_tasks_ended", "Tasks that ended and were begun again.", labels=["task"])
        for name, count in self.ended.items():
            family.add_metric([name], count)
        yield family

    async def stop(self, timeout_seconds: float) -> None:
        """Cancel them all, and wait for them so long at most."""
        self._stopped = True  # under back-pressure nats-py swallows the cancellation
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)

    async def _kept(self, name: str, run: Callable[[], Awaitable[None]], ends: bool) -> None:
        while not self._stopped:
            began = time.monotonic()
            timer = asyncio.get_running_loop().call_later(LONG_LIFE_SECONDS, self._well, name)
            try:
                await run()
                if ends:
                    self._well(name)
                    return
                why = "it returned"
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                why = "cancelled from inside"
            except Exception as error:  # whatever it was: the task has to go on
                why = type(error).__name__
                log.exception("task ended", task=name)
            finally:
                timer.cancel()
            self._note(name, why, time.monotonic() - began)
            await asyncio.sleep(AGAIN_SECONDS)

    def _note(self, name: str, why: str, seconds: float) -> None:
        self.ended[name] += 1
        self._row[name] = 1 if seconds >= LONG_LIFE_SECONDS else self._row.get(name, 0) + 1
        self._why[name] = why
        log.error("task begun again", task=name, why=why)

    def _well(self, name: str) -> None:
        self._row.pop(name, None)
        self._why.pop(name, None)
