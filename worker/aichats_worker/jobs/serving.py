"""Serves jobs as soon as JetStream lets it, and stops: what the composition root calls."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
from nats.errors import Error as NatsError

from aichats_schemas.subjects import KINDS, Kind
from aichats_worker.broker.stopping import Stopping
from aichats_worker.jobs.fetching import Fetching, Keep
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.queue import Backlog
from aichats_worker.jobs.streams import consumer_name
from aichats_worker.jobs.work import Jobs
from aichats_worker.request.slots import Slots

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 5.0  # at the consumers: what their ack_wait is now, and what time it is for the broker
STOP_TIMEOUT_SECONDS: Final = 1.0


class Serving:
    """The jobs' place in this worker.

    Args:
        jobs: Takes them.
        slots: Of each kind.
        prepare: Makes the streams and consumers, or looks at them; called before each try to serve.
        opened: Called once before the first job is fetched.
    """

    def __init__(
        self,
        jobs: Jobs,
        slots: Mapping[Kind, Slots],
        *,
        prepare: Callable[[], Awaitable[None]],
        opened: Callable[[], Awaitable[None]],
    ) -> None:
        self._jobs = jobs
        self._intake = Mailbox(jobs.mail.bus)  # of its own: it goes first
        self._slots = slots
        self._prepare = prepare
        self._opened = opened
        self._fetching: list[Fetching] = []
        self._task: asyncio.Task[None] | None = None
        self._keep: Keep
        self._told = ""
        self._backlog: dict[Kind, Backlog] = {}
        self.served = asyncio.Event()

    def start(self, keep: Keep) -> None:
        """Begin to try; core requests are served meanwhile.

        Args:
            keep: Runs what it is given as long as the worker lives.
        """
        keep("leases", self._jobs.leases.run)
        self._keep = keep
        self._task = keep("serve-jobs", self._serve)

    def again(self) -> None:
        """After a reconnect: ask for jobs anew."""
        for fetching in self._fetching:
            fetching.again()

    def trouble(self) -> str | None:
        """Return why no jobs are served; None where they are."""
        if not self.served.is_set():
            return "jobs are not served yet"
        return next((fetching.trouble for fetching in self._fetching if fetching.trouble), None)

    def clock_offset(self) -> float:
        """Return by how many seconds this machine's clock is ahead of the broker's."""
        return self._jobs.clock.offset()

    def backlog(self, kind: Kind) -> Backlog:
        """Return what the queue holds of a kind, as it was a few seconds ago."""
        return self._backlog.get(kind, Backlog())

    async def leave(self, stopping: Stopping) -> None:
        """Fetch no more jobs; one that comes while this waits is given back, one that was just taken is run."""
        if self.served.is_set():
            log.info("jobs are not taken any more")
        self._jobs.leave()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=stopping.left(STOP_TIMEOUT_SECONDS))
        await asyncio.gather(*(fetching.stop(stopping) for fetching in self._fetching))
        await self._intake.stop(stopping)

    async def _serve(self) -> None:
        if not self.served.is_set():
            await self._begin()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(NatsError):
                await self._look()

    async def _begin(self) -> None:
        while not await self._open():  # noqa: ASYNC110 - nothing tells when JetStream is there
            await asyncio.sleep(RETRY_SECONDS)
        for fetching in self._fetching:
            fetching.start(self._keep)
        self.served.set()
        log.info("jobs are served")

    async def _open(self) -> bool:
        try:
            await self._prepare()
            await self._look()
            if not self._fetching:
                await self._intake.start()
                await self._opened()
                self._fetching = [self._fetch(kind) for kind in KINDS]
        except (NatsError, TimeoutError) as error:
            self._tell(f"turn JetStream on, or set WORKER_JOBS=off ({str(error) or type(error).__name__})")
        else:
            return True
        return False

    def _tell(self, reason: str) -> None:
        """One line for each reason, not for each try."""
        if reason != self._told:
            log.warning("jobs are not served yet", reason=reason)
        self._told = reason

    def _fetch(self, kind: Kind) -> Fetching:
        return Fetching(self._intake, kind, self._slots[kind], self._jobs)

    async def _look(self) -> None:
        """Learn the consumers' ack_wait, the broker's time, and what waits.

        Raises:
            nats.errors.Error: The broker does not say.
        """
        for kind in KINDS:
            asked = time.monotonic()
            call = f"CONSUMER.INFO.{self._jobs.mail.bus.subjects.jobs_stream}.{consumer_name(kind)}"
            info = await self._jobs.mail.api(call)
            self._jobs.clock.learn(info["ts"], asked, time.monotonic())
            self._jobs.leases.follow(kind, info["config"]["ack_wait"] / 1e9)
            self._backlog[kind] = await self._backlog_of(kind, info)

    async def _backlog_of(self, kind: Kind, info: Mapping[str, Any]) -> Backlog:
        waiting, stored = info["num_pending"], None
        if waiting:
            stored = await self._jobs.queue.oldest(kind, info["delivered"]["stream_seq"] + 1)
        age = 0.0 if stored is None else max(0.0, self._jobs.clock.now() - stored)
        return Backlog(waiting, info["num_ack_pending"], age)
