"""The one way a job ends: its end is stored, its letter is kept, it is removed. In this order, each until it is done.

Whoever comes later finishes what somebody began: the record's end is the truth, and all that follows can be repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
from nats.errors import Error as NatsError

from aichats_schemas.events import ErrorCode
from aichats_worker.errors import JobLost, WorkerError
from aichats_worker.jobs.copies import Copies
from aichats_worker.jobs.entries import Entry
from aichats_worker.jobs.letters import DeadLetters
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.queue import Job, Queue
from aichats_worker.jobs.record import Record
from aichats_worker.jobs.records import Records
from aichats_worker.request.events import error_data, error_headers
from aichats_worker.telemetry.counting import Telemetry
from aichats_worker.telemetry.logs import Said

log = structlog.get_logger(__name__)

PAUSE_MIN_SECONDS: Final = 0.1
PAUSE_MAX_SECONDS: Final = 5.0
# How long whoever waits for an end that is stored waits for the job to leave the queue too; it does so later as well.
REMOVED_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Letter:
    """Why a job is kept as a dead letter, and after how many attempts that failed."""

    code: str
    reason: str
    attempts: int


class Ending:
    """Ends jobs.

    Args:
        mail: How the broker is asked.
        queue: Where they leave.
        records: Where their ends are.
        telemetry: Counts the letters.
    """

    def __init__(self, mail: Mailbox, queue: Queue, records: Records, telemetry: Telemetry) -> None:
        self._nc = mail.nc
        self._queue = queue
        self._records = records
        self._letters = DeadLetters(mail.bus)
        self._telemetry = telemetry
        self._said = Said()

    async def end(
        self,
        job: Job,
        record: Record,
        end: bytes | WorkerError,
        *,
        failed: int = 0,
        stored: Callable[[], object] | None = None,
    ) -> None:
        """End a job.

        Args:
            job: In the queue, delivered or not.
            record: Whoever holds it may end the job.
            end: The data of `done`, or the error.
            failed: How many of its attempts have failed, this one included.
            stored: Called once the end is stored: from there on it is the one.

        Raises:
            JobLost: Somebody else has ended it, or has it.
        """
        letter = None
        if isinstance(end, WorkerError):
            await record.append(b"error", error_data(end), error_headers(end), failed=failed)
            letter = _letter(end.code, end.message, failed)
        else:
            await record.append(b"done", end)
        if stored is not None:
            stored()
        await self._leave(job, letter)

    async def begun(self, job: Job, end: Entry, copies: Copies | None) -> None:
        """Finish what somebody began who is gone: the job's record has its end."""
        if end.mark.job != job.seq:
            # Of an earlier job of this id, which left the queue after its letter: its record is this one's answer too.
            if copies is not None:
                await _copied(self._repeated(lambda: self._records.replay(job.call, end, copies)))
            await self._leave(job, None)
            return
        if copies is not None:
            await _copied(copies.end(end.payload, end.headers))
        error = end.data if end.type == "error" else None
        await self._leave(job, error and _letter(error["code"], error["message"], end.mark.failed))

    async def refuse(self, job: Job, error: WorkerError) -> None:
        """Take out a job for which nothing may be published: it has no end but its letter."""
        await self._leave(job, Letter(error.code, error.message, 0))

    async def _leave(self, job: Job, letter: Letter | None) -> None:
        """Keep the letter, then remove the job: whoever dies in between leaves a job that is delivered again."""
        if letter is not None:
            await self._repeated(lambda: self._write(job, letter))
            self._telemetry.dead_letter(job.call.kind)
        await self._repeated(lambda: self._queue.remove(job, None if letter is None else letter.reason))

    async def _write(self, job: Job, letter: Letter) -> None:
        await self._letters.write(
            job.call, stream_seq=job.seq, code=letter.code, reason=letter.reason, attempts=letter.attempts
        )

    async def _repeated(self, step: Callable[[], Awaitable[object]]) -> None:
        """Do a step until it is done. Each try has its own bound, and a broker that is away mends."""
        pause = PAUSE_MIN_SECONDS
        while True:
            try:
                await step()
            except NatsError as error:
                if self._nc.is_closed:
                    raise JobLost from None  # the next worker goes on
                reason = str(error) or type(error).__name__
                if self._said.is_new(reason):
                    log.warning("jobs' ends are not complete yet", reason=reason)
            else:
                if pause > PAUSE_MIN_SECONDS and self._said.forget():
                    log.info("jobs' ends are complete again")
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_SECONDS)


async def _copied(copying: Awaitable[None]) -> None:
    """Copy what can be copied: the record is what counts, and a copy that is refused keeps no job in the queue."""
    try:
        await copying
    except WorkerError as error:
        log.warning("a job's events are not copied to its reply_to", error=error.message)


def _letter(code: str, reason: str, attempts: int) -> Letter | None:
    return None if code == ErrorCode.CANCELLED else Letter(code, reason, attempts)
