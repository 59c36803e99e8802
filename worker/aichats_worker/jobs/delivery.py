"""A job at work, and what each outcome means for it."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from nats.errors import Error as NatsError

from aichats_schemas.subjects import Kind
from aichats_worker.errors import (
    Abandoned,
    Cancelled,
    DeadlineExceeded,
    JobLost,
    ShuttingDown,
    WorkerError,
)
from aichats_worker.jobs.finish import REMOVED_SECONDS, Ending
from aichats_worker.jobs.queue import Job, Queue
from aichats_worker.jobs.record import Record
from aichats_worker.jobs.writing import JobWriter
from aichats_worker.request.call import Call
from aichats_worker.request.outcome import Completed, Outcome
from aichats_worker.request.runs import Run
from aichats_worker.telemetry.counting import AttemptResult

log = structlog.get_logger(__name__)

FINAL_PHASES: Final = ("queue", "total")  # of a deadline: another attempt would have no time either


@dataclass(frozen=True, slots=True)
class Rules:
    """How often and when a job is tried again, and how its answer is stored.

    Attributes:
        attempts_max: Attempts that may fail.
        retry_base_seconds: First step of the exponential back-off, which has full jitter.
        retry_max_seconds: Its upper bound.
        joined_seconds: For how long deltas are joined.
    """

    attempts_max: int
    retry_base_seconds: float
    retry_max_seconds: float
    joined_seconds: float

    def delay(self, failed: int, error: WorkerError) -> float:
        """Return the wait after so many attempts that failed: what the provider asked for, else a random one."""
        if error.retry_after_ms is not None:
            return error.retry_after_ms / 1000
        bound = min(self.retry_max_seconds, self.retry_base_seconds * 2.0 ** (failed - 1))
        return random.uniform(0, bound)  # noqa: S311 - it spreads load, it hides nothing


@dataclass(frozen=True, slots=True)
class Desk:
    """What every job at work needs.

    Attributes:
        queue: Where it came from.
        finish: How it ends.
        rules: When it is tried again.
        now: The broker's time, in seconds since 1970.
        budget: How long a job may take, queue wait included, in seconds.
        attempted: Counts an attempt by what came of it.
    """

    queue: Queue
    finish: Ending
    rules: Rules
    now: Callable[[], float]
    budget: Callable[[Call], float]
    attempted: Callable[[Kind, AttemptResult], object]


class JobDelivery:
    """One attempt of a job.

    - done: the end is stored, then the job is removed;
    - a retryable error: the attempt is closed, and the job comes again after a delay;
    - the last attempt, or an error that no retry mends: the end is stored, a dead letter kept, the job removed;
    - cancelled: the same, without a dead letter;
    - shutting down: the attempt is closed, does not count, and the job is given back at once;
    - lost: nothing at all.

    Args:
        job: With the number of this attempt.
        record: Begun.
        desk: What it needs.
    """

    def __init__(self, job: Job, record: Record, desk: Desk) -> None:
        self.call = job.call
        self._job = job
        self._record = record
        self._desk = desk
        self._writer: JobWriter | None = None

    @property
    def queued_seconds(self) -> float:
        """Since it was stored, by the broker's clock."""
        return max(0.0, self._desk.now() - self._job.submitted)

    @property
    def origin(self) -> str:
        """Its place in the queue, and when it came there: a stream that was made anew counts from 1 again."""
        return f"{self._job.seq}.{self._job.submitted}"

    @contextmanager
    def opened(self, run: Run) -> Iterator[JobWriter]:
        """Store what comes."""
        self._writer = JobWriter(self._record, run, self._desk.rules.joined_seconds)
        try:
            yield self._writer
        finally:
            self._writer.close()

    async def elsewhere(self) -> None:
        """A job has its slot before its attempt begins, or its time is over."""
        raise DeadlineExceeded("queue", self._desk.budget(self.call))

    async def settle(self, run: Run, outcome: Outcome) -> Outcome:
        """Bring the job to its one end, or give it back."""
        assert self._writer is not None, "opened() comes first"  # noqa: S101
        try:
            await self._settle(self._writer, outcome, run)
        except WorkerError as error:  # the end, or what was joined before it, cannot be stored as it is
            outcome = run.charged(error)
            await self._settle(self._writer, outcome, run)
        except JobLost as lost:
            outcome = lost
        if isinstance(outcome, JobLost):
            self._attempted("lost")
        if isinstance(outcome, Abandoned) and self._record.copies is not None:
            self._record.copies.abandon()
        return outcome

    async def _settle(self, writer: JobWriter, outcome: Outcome, run: Run) -> None:
        if isinstance(outcome, Completed):
            end = await writer.done(outcome)
            await self._desk.finish.end(self._job, self._record, end, stored=_told(run, outcome))
            self._attempted("done")
        elif isinstance(outcome, ShuttingDown):
            await self._give_back(writer, b'"given_back"', self._record.mark.failed, 0)
            self._attempted("given_back")
        elif isinstance(outcome, WorkerError):
            await self._failed(writer, outcome, run)

    async def _failed(self, writer: JobWriter, error: WorkerError, run: Run) -> None:
        before, stored = self._record.mark.failed, _told(run, error)
        if isinstance(error, Cancelled):
            await writer.quiet()
            await self._desk.finish.end(self._job, self._record, error, failed=before, stored=stored)
            self._attempted("cancelled")
            return
        delay = self._delay(error, before + 1)
        if delay is not None:
            await self._give_back(writer, b'"retrying"', before + 1, delay)
            self._attempted("retrying")
        else:
            await writer.flush()
            await self._desk.finish.end(self._job, self._record, error, failed=before + 1, stored=stored)
            self._attempted("failed")

    def _attempted(self, result: AttemptResult) -> None:
        self._desk.attempted(self.call.kind, result)

    def _delay(self, error: WorkerError, failed: int) -> float | None:
        """Return the wait before the next attempt; None where this was the last one."""
        over = isinstance(error, DeadlineExceeded) and error.phase in FINAL_PHASES
        if not error.retryable or over or failed >= self._desk.rules.attempts_max:
            return None
        delay = self._desk.rules.delay(failed, error)
        return delay if self.queued_seconds + delay < self._desk.budget(self.call) else None

    async def _give_back(self, writer: JobWriter, word: bytes, failed: int, delay_seconds: float) -> None:
        await writer.quiet()
        await self._record.append(b"status", word, failed=failed)
        try:
            await self._desk.queue.give_back(self._job, delay_seconds)
        except NatsError as error:
            log.warning("a job comes again later than it could", id=self.call.id, error=type(error).__name__)


def _told(run: Run, outcome: Outcome) -> Callable[[], object]:
    """Return what tells whoever waits for a run how it has ended, once that is stored: the queue may be away."""
    return lambda: asyncio.get_running_loop().call_later(REMOVED_SECONDS, run.end, outcome)
