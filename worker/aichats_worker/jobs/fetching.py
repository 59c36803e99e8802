"""Fetches jobs of one kind: no more than there are free slots, and never in a hot loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aichats_schemas.subjects import Kind
from aichats_worker.broker.stopping import Stopping
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.pull import Pull
from aichats_worker.jobs.streams import consumer_name
from aichats_worker.jobs.work import Jobs
from aichats_worker.request.slots import Slots

log = structlog.get_logger(__name__)

Keep = Callable[[str, Callable[[], Awaitable[None]]], "asyncio.Task[None]"]

REQUEST_SECONDS: Final = 5.0
# What was asked for and meets a worker that core requests have filled meanwhile is to be little.
BATCH_MAX: Final = 64
# Where ends cannot be completed, their slots are free all the same: what more there is stays in the queue.
HERE_PER_SLOT: Final = 2
PAUSE_SECONDS: Final = 1.0
STOP_TIMEOUT_SECONDS: Final = 1.0


class Fetching:
    """Asks the consumer of a kind for jobs, one request at a time.

    Args:
        mail: Where they come.
        kind: `text` or `image`.
        slots: Of the kind.
        jobs: Takes each as it comes, and knows how many are here.
    """

    def __init__(self, mail: Mailbox, kind: Kind, slots: Slots, jobs: Jobs) -> None:
        self._kind = kind
        self._slots = slots
        self._jobs = jobs
        self._changed = asyncio.Event()
        self._told = ""
        self._pull = Pull(mail, mail.bus.subjects.jobs_stream, consumer_name(kind), self._got, seconds=REQUEST_SECONDS)
        self._task: asyncio.Task[None] | None = None
        slots.follow(self._changed.set)
        jobs.follow(self._changed.set)

    @property
    def trouble(self) -> str | None:
        """Why no jobs can be fetched; None where they can."""
        return self._pull.trouble

    def start(self, keep: Keep) -> None:
        """Begin to fetch.

        Args:
            keep: Runs what it is given as long as the worker lives.
        """
        self._changed.set()  # what waits in the queue by now waits for nothing else
        self._task = keep(f"fetch-{self._kind}", self._fetch)

    def again(self) -> None:
        """After a reconnect: the broker has forgotten what was asked."""
        self._pull.again()
        self._changed.set()

    async def stop(self, stopping: Stopping) -> None:
        """Ask for no more. What still comes is handed over all the same."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=stopping.left(STOP_TIMEOUT_SECONDS))

    def _got(self, message: Msg | None) -> None:
        self._changed.set()
        if self._told and self._pull.trouble is None:
            self._told = ""
            log.info("jobs are fetched again", kind=self._kind)
        if message is not None:
            self._jobs.received(message, self._kind)

    async def _fetch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            self._pull.look()
            if self._pull.trouble is not None:
                self._tell(self._pull.trouble)
                await asyncio.sleep(PAUSE_SECONDS)
            here = HERE_PER_SLOT * self._slots.count - self._jobs.here(self._kind)
            batch = min(self._slots.free, BATCH_MAX, here)
            if batch <= 0:
                self._pull.rest()
            elif not self._pull.outstanding:
                await self._ask(batch)

    def _tell(self, reason: str) -> None:
        """One line for each reason, not for each try."""
        if reason != self._told:
            log.warning("jobs cannot be fetched", kind=self._kind, reason=reason)
        self._told = reason

    async def _ask(self, batch: int) -> None:
        try:
            await self._pull.ask(batch)
        except NatsError as error:
            self._pull.again()
            self._tell(str(error) or type(error).__name__)
            await asyncio.sleep(PAUSE_SECONDS)
            self._changed.set()
