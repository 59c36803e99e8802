"""The workers: processes that each reach the brokers over links of their own, by whatever clock the plan gives them."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Final

from benchmarks.chaos.cluster import Broker
from benchmarks.chaos.plan import SLOTS, Clock
from tests.link import Link, linked
from tests.processes import WorkerProcess

WORKERS: Final = 4
STOP_SECONDS: Final = 20.0
READY_SECONDS: Final = 120.0  # as long as the streams have no leader, none is: faults follow each other
UNREACHABLE: Final = 3  # the exit status of a worker that reaches no broker when it starts
SETTINGS: Final = {
    "WORKER_JOBS_PROVISION": "off",
    "WORKER_RETRY_BASE_SECONDS": "0.1",
    "WORKER_RETRY_MAX_SECONDS": "1",
    "WORKER_CONCURRENCY_MAX": str(SLOTS),
    "WORKER_DRAIN_TIMEOUT_SECONDS": "1",
    "WORKER_LOG_LEVEL": "warning",
    "WORKER_LOG_FORMAT": "json",
    "PROVIDER_CALLS_MAX": "1",
    "PROVIDER_STALL_TIMEOUT_SECONDS": "2",
    "PROVIDER_CIRCUIT_FAILURES": "1000000",
}
DEFECTS: Final = ('"event": "defect"', "was destroyed", "never retrieved", "never awaited")


class Worker:
    """One worker process, and its links to the brokers."""

    def __init__(self, directory: Path, settings: dict[str, str], clock: Clock) -> None:
        self.links: list[Link] = []
        self.clock = clock
        self._directory = directory
        self._settings = settings
        self._stack = AsyncExitStack()
        self._process: WorkerProcess | None = None

    @property
    def process(self) -> WorkerProcess:
        """Its process, started."""
        assert self._process is not None  # noqa: S101
        return self._process

    async def start(self, brokers: Sequence[Broker]) -> None:
        """Start it; it is ready later."""
        for broker in brokers:
            self.links.append(await self._stack.enter_async_context(linked(broker.port)))
        settings = (
            SETTINGS
            | self._settings
            | {
                "NATS_URL": ",".join(link.url for link in self.links),
                "CHAOS_CLOCK": f"{self.clock.first},{self.clock.then},{self.clock.step_at}",
            }
        )
        self._process = WorkerProcess(self._directory, settings)
        if self.clock.off:
            self._process.command = [sys.executable, "-m", "benchmarks.chaos.clock", "run"]
        self._process.start()

    async def ready(self) -> bool:
        """Wait until it takes requests. False where it ended, or is not ready within READY_SECONDS."""
        for _ in range(int(READY_SECONDS / 0.2)):
            if self.ended is not None:
                return False
            if await self.process.status("/readyz") == 200:
                return True
            await asyncio.sleep(0.2)
        return False

    @property
    def ended(self) -> int | None:
        """Its exit status; None while it runs."""
        return self.process.process.poll() if self.process.process is not None else None

    async def stop(self) -> bool:
        """Ask it to end. False where it had to be killed."""
        self.process.send(signal.SIGTERM)
        for _ in range(int(STOP_SECONDS / 0.1)):
            if self.ended is not None:
                break
            await asyncio.sleep(0.1)
        went = self.ended is not None
        await self.kill()
        return went

    async def kill(self) -> None:
        """End it without a word, and its links."""
        if self._process is not None:
            self._process.kill()
        await self._stack.aclose()


class Fleet:
    """All workers that are there now.

    Attributes:
        done: What happened to workers, by kind.
        wrong: What no fault excuses: a worker that ended by itself or did not stop, a defect in a log.
    """

    def __init__(
        self, directory: Path, settings: dict[str, str], brokers: Sequence[Broker], clocks: Sequence[Clock]
    ) -> None:
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._directory = directory
        self._settings = settings
        self._brokers = brokers
        self._clocks = cycle(clocks)
        self._workers: list[Worker] = []
        self._busy: set[Worker] = set()

    async def start(self) -> None:
        """Start as many as there are to be, and wait until they are ready."""
        await asyncio.gather(*(self.more() for _ in range(WORKERS)))

    async def close(self) -> None:
        """End all."""
        for worker in list(self._workers):
            await self.end(worker)

    async def more(self) -> None:
        """Start one more, and wait until it is ready. Where no broker lets it in meanwhile, start it again."""
        while not await self._started(worker := Worker(self._directory, self._settings, next(self._clocks))):
            self._workers.remove(worker)
            await worker.kill()
            if worker.ended != UNREACHABLE:
                self.wrong.append(f"a worker did not get ready, status {worker.ended}: {worker.process.log[-2000:]}")
                return
            self.done["workers that no broker let in"] += 1
        self._busy.discard(worker)

    async def _started(self, worker: Worker) -> bool:
        self._workers.append(worker)
        self._busy.add(worker)  # nothing befalls it before it is ready
        await worker.start(self._brokers)
        self.done["workers with a wrong clock"] += worker.clock.off
        return await worker.ready()

    async def roll(self, worker: Worker) -> bool:
        """Replace one: the new one is ready before the old one is asked to stop. False where that one did not."""
        with self.held(worker):
            await self.more()
            return await self.end(worker, gently=True)

    async def chosen(self, pick: float) -> Worker:
        """Wait for a worker that nothing befalls at the moment, and that is not the last such one; take it.

        It is taken here, before anything else can run: whoever asks holds it, and lets it go.
        """
        while len(free := self.free()) < 2:
            await asyncio.sleep(0.1)
        worker = free[int(pick * len(free))]
        self._busy.add(worker)
        return worker

    def free(self) -> list[Worker]:
        """Return those that nothing befalls at the moment."""
        return [worker for worker in self._workers if worker not in self._busy]

    @contextmanager
    def held(self, worker: Worker) -> Iterator[None]:
        """Keep other faults away from it."""
        self._busy.add(worker)
        try:
            yield
        finally:
            self._busy.discard(worker)

    async def end(self, worker: Worker, *, gently: bool = False) -> bool:
        """End one: killed, or asked to stop. False where it did not stop in time."""
        self._workers.remove(worker)
        if worker.ended is not None:
            self.wrong.append(f"a worker ended by itself, status {worker.ended}: {worker.process.log[-2000:]}")
        went = await worker.stop() if gently else True
        self.done["workers that did not stop in time"] += not went
        await worker.kill()
        log = worker.process.log
        self.done["tracebacks logged"] += log.count("Traceback (")
        defects = [line for line in log.splitlines() if any(mark in line for mark in DEFECTS)]
        self.wrong += [f"a defect in a log: {line[:1000]}" for line in defects]
        return went
