"""All records: where each stands, and what a delivery means for it."""

from dataclasses import dataclass
from typing import Final

from nats.errors import Error as NatsError

from aichats_schemas.subjects import new_id
from aichats_worker.errors import JobLost
from aichats_worker.jobs.copies import Copies
from aichats_worker.jobs.entries import Entry, Mark, Place, read_entry
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.messages import Messages
from aichats_worker.jobs.queue import Job
from aichats_worker.jobs.reading import entries, newest
from aichats_worker.jobs.record import Record
from aichats_worker.request.call import Call
from aichats_worker.request.events import Envelope

BEGIN_TRIES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has had its end: what is left to do is done without asking the provider again."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Too many attempts failed, or died: the record is held for the end."""

    record: Record


@dataclass(frozen=True, slots=True)
class Unsure:
    """The broker did not say whether the attempt's first event is stored: none was made, and it must not count."""

    record: Record


class Taken:
    """The id is a job's of the other kind."""


class Elsewhere:
    """The attempt of a later delivery runs, or this delivery's own runs elsewhere: it is not for us."""


Start = Record | Ended | Exhausted | Unsure | Taken | Elsewhere


class Records:
    """The records' stream.

    Args:
        mail: How the broker is asked.
        attempts_max: Attempts of a job that may fail.
    """

    def __init__(self, mail: Mailbox, attempts_max: int) -> None:
        self.attempts_max = attempts_max
        self._subjects = mail.bus.subjects
        self._messages = Messages(mail, self._subjects.out_stream)

    async def place(self, call: Call) -> Place:
        """Return where a record stands.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        return await newest(self._messages, self._subjects.out(call.tenant, call.id))

    async def seq_after(self, call: Call, point: tuple[int, int], end: Entry) -> int:
        """Return a place in the stream behind which the events after `(attempt, seq)` are, and no other.

        By halving: they lie in order up to the last one, `end`, and a record may have many.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        subject = self._subjects.out(call.tenant, call.id)
        oldest, high = await self._entry_from(subject, 1, end), end.seq + 1
        low = oldest.seq if oldest is not None else high
        while low < high:
            middle = (low + high) // 2
            entry = await self._entry_from(subject, middle, end)
            if entry is None or (entry.attempt, entry.number) > point:
                high = middle
            else:
                low = entry.seq + 1
        return low

    async def _entry_from(self, subject: str, seq: int, end: Entry) -> Entry | None:
        message = await self._messages.next(subject, seq)
        entry = read_entry(message) if message is not None else None
        if entry is not None or message is None:
            return entry
        return await anext(entries(self._messages, subject, message.seq + 1, end.seq), None)

    async def replay(self, call: Call, end: Entry, copies: Copies) -> None:
        """Copy a whole record, which has its end.

        Raises:
            nats.errors.Error: It cannot be read.
        """
        subject = self._subjects.out(call.tenant, call.id)
        async for entry in entries(self._messages, subject, 1, end.seq):
            if entry.seq != end.seq:
                await (copies.end if entry.is_end else copies.copy)(entry.payload, entry.headers)
        await copies.end(end.payload, end.headers)  # it is at hand, whatever became of the record meanwhile

    async def begin(self, job: Job, copies: Copies | None = None) -> Start:
        """Begin an attempt of a job that was delivered: its first event is stored, or it is said why there is none.

        Args:
            job: As it was delivered.
            copies: Get each event once it is stored.

        Raises:
            nats.errors.Error: The record cannot be read or written: no attempt was made, and none counts.
        """
        # Of the first delivery nothing can be stored yet, or hardly: the fence says if it is otherwise.
        place = Place() if job.delivery == 1 else await self.place(job.call)
        for _ in range(BEGIN_TRIES_MAX):
            start = self._judged(job, place)
            if isinstance(start, Exhausted):
                start.record.copies = copies
            if not isinstance(start, Record):
                return start
            start.copies = copies
            try:
                await start.append(b"status", b'"started"', tries_max=BEGIN_TRIES_MAX)
            except JobLost:
                place = await self.place(job.call)
            except NatsError:
                if not start.unsure:
                    raise
                return Unsure(start)
            else:
                return start
        return Elsewhere()

    def _judged(self, job: Job, place: Place) -> Start:
        """What a delivery means for a record that stands there. Pure."""
        entry = place.entry
        if entry is None:
            return self._record(job, place, attempt=1, failed=0)
        if entry.mark.kind != job.call.kind:
            return Taken()
        if entry.is_end:
            return Ended(entry)
        failed = entry.mark.failed if entry.mark.job == job.seq else 0
        if entry.mark.job == job.seq and not entry.comes_again:
            if job.delivery <= entry.mark.delivery:
                return Elsewhere()  # it was delivered again since, and may be at work: this one is from an old socket
            failed += 1  # whoever wrote it has died
        if failed >= self.attempts_max:
            return Exhausted(self.behind(job, place, failed=failed))
        return self._record(job, place, attempt=entry.attempt + 1, failed=failed)

    def behind(self, job: Job, place: Place, *, failed: int | None = None) -> Record:
        """Take hold of a record to end it without an attempt of one's own: behind its last event."""
        entry = place.entry
        if entry is None or entry.mark.job != job.seq:
            return self._record(job, place, attempt=entry.attempt + 1 if entry else 1, failed=0)
        failed = entry.mark.failed if failed is None else failed
        return self._record(job, place, attempt=entry.attempt, failed=failed, number=entry.number + 1)

    def _record(self, job: Job, place: Place, *, attempt: int, failed: int, number: int = 0) -> Record:
        call = job.call
        # A name for each hold, and not for each worker: two cancels in one worker write the same to the letter, and the
        # one that is refused must not take the other's end for its own.
        mark = Mark(call.kind, job.seq, failed, job.delivery, new_id()[:8])
        envelope = Envelope(call.id, attempt, number)
        return Record(self._messages, self._subjects.out(call.tenant, call.id), mark, envelope, place.seq)
