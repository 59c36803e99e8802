"""Tells the broker which jobs are in work, so that nobody else is delivered them: it saves the provider second calls.

No more than that: whether a job is still ours its record says.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from nats.errors import Error as NatsError

from aichats_schemas.subjects import Kind
from aichats_worker.jobs.queue import Job, Queue
from aichats_worker.telemetry.logs import Said

log = structlog.get_logger(__name__)

RENEWALS_PER_ACK_WAIT: Final = 3
TICK_MAX_SECONDS: Final = 0.5

Check = Callable[[], Awaitable[bool]]


class Leases:
    """All jobs that this worker has in work.

    Args:
        queue: Where they are kept.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._ack_wait: dict[Kind, float] = {}
        self._held: dict[int, tuple[Job, float]] = {}
        self._checks: dict[int, Check] = {}
        self._said = Said()

    def follow(self, kind: Kind, ack_wait_seconds: float) -> None:
        """Go by what the kind's consumer has now."""
        self._ack_wait[kind] = ack_wait_seconds

    def holds(self, job: Job) -> bool:
        """Say whether a job is in work here, under whatever delivery."""
        return job.seq in self._held

    @contextmanager
    def held(self, job: Job) -> Iterator[None]:
        """Renew a job's lease until the block ends."""
        self._held[job.seq] = job, time.monotonic()
        try:
            yield
        finally:
            self._held.pop(job.seq, None)
            self._checks.pop(job.seq, None)

    def check(self, job: Job, check: Check) -> None:
        """Have it looked at whether a job that is held is still ours, where its lease was renewed too late."""
        self._checks[job.seq] = check

    async def run(self) -> None:
        """Renew what is held, until cancelled."""
        while True:
            interval = min(self._ack_wait.values(), default=1.0) / RENEWALS_PER_ACK_WAIT
            await asyncio.sleep(min(interval / 2, TICK_MAX_SECONDS))
            now = time.monotonic()
            for job, since in list(self._held.values()):
                ack_wait = self._ack_wait[job.call.kind]
                if now - since >= ack_wait / RENEWALS_PER_ACK_WAIT - TICK_MAX_SECONDS / 2:
                    await self._say(job, late=now - since > ack_wait)

    async def _say(self, job: Job, *, late: bool) -> None:
        """Renew one lease. One that is too late keeps what may be somebody else's: its record is asked first."""
        try:
            if late and job.seq in self._checks and not await self._checks[job.seq]():
                return
            if job.seq in self._held:
                self._held[job.seq] = job, time.monotonic()
                await self._queue.keep(job)
        except NatsError as error:
            if self._said.is_new(type(error).__name__):
                log.warning("a job's lease is not renewed", error=type(error).__name__)
