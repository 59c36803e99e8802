"""A job's record: its events in AIOUT, each confirmed, and fenced by the one before (contract, section 8).

Whoever the broker refuses has lost the job. No clock is asked.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
import structlog
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from aichats_schemas.subjects import SERVICE_ERROR, SERVICE_ERROR_CODE, new_id
from aichats_worker.errors import JobLost, TooLarge, WorkerError
from aichats_worker.jobs.copies import Copies
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.messages import Fenced, Messages, StoredMessage
from aichats_worker.jobs.queue import Job
from aichats_worker.request.call import Call
from aichats_worker.request.events import Envelope

log = structlog.get_logger(__name__)

MARK: Final = "Ai-Job"  # the header by which an event says whose it is
STARTED: Final = "started"
RETRYING: Final = "retrying"
GIVEN_BACK: Final = "given_back"
STORE_TIMEOUT_SECONDS: Final = 2.0
PAUSE_MIN_SECONDS: Final = 0.1
PAUSE_MAX_SECONDS: Final = 5.0
BEGIN_TRIES_MAX: Final = 3
MESSAGE_TOO_LARGE: Final = 10054  # more than the stream's max_msg_size
# A word that took so long to come may have waited in the socket of a process that was frozen meanwhile.
STALE_SECONDS: Final = 1.0
# The mark, the fence and an error's own headers: what an event's body must leave free in a message.
HEADERS_MAX_BYTES: Final = 512
OWN_HEADERS: Final = (SERVICE_ERROR, SERVICE_ERROR_CODE)


@dataclass(frozen=True, slots=True)
class Mark:
    """What each event says of its job.

    Attributes:
        kind: `text` or `image`.
        job: The job's place in the queue's stream.
        failed: How many attempts have failed; one that comes again after an error is counted in its last event.
        delivery: Under which delivery the attempt runs; 0 where nobody was delivered it.
        writer: Whoever wrote it: two workers may send the same event.
    """

    kind: str
    job: int
    failed: int
    delivery: int
    writer: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.job}.{self.failed}.{self.delivery}.{self.writer}"


def read_mark(headers: Mapping[str, str]) -> Mark | None:
    """Return whose event it is; None for what is no event of a worker's."""
    parts = headers.get(MARK, "").split(".")
    if len(parts) != 5 or not all(part.isdigit() for part in parts[1:4]):
        return None
    return Mark(parts[0], int(parts[1]), int(parts[2]), int(parts[3]), parts[4])


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored event, and what its mark says.

    Attributes:
        seq: Its place in the stream.
        mark: Whose it is.
        type: The event's.
        data: The event's.
        attempt: The event's.
        number: The event's own `seq`.
        payload: The event as it is stored.
        headers: Its own headers, without the broker's and the mark.
    """

    seq: int
    mark: Mark
    type: str
    data: Any = field(repr=False)
    attempt: int
    number: int
    payload: bytes = field(repr=False)
    headers: Mapping[str, str] | None = field(repr=False)

    @property
    def is_end(self) -> bool:
        """Whether the job has had its end."""
        return self.type in ("done", "error")

    @property
    def comes_again(self) -> bool:
        """Whether its attempt was closed, and the job waits for the next one."""
        return self.type == "status" and self.data in (RETRYING, GIVEN_BACK)


def read_entry(message: StoredMessage) -> Entry | None:
    """Read a stored event; None for a message that no worker has stored.

    JetStream acknowledges a job to whatever subject its submitter names as the reply, past all permissions: a record's
    subject as well.
    """
    mark = read_mark(message.headers)
    if mark is None:
        return None
    event = orjson.loads(message.data)
    return Entry(
        seq=message.seq,
        mark=mark,
        type=event["type"],
        data=event["data"],
        attempt=event["attempt"],
        number=event["seq"],
        payload=message.data,
        headers=own_headers(message.headers),
    )


def own_headers(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return what of a stored event's headers belongs to the event."""
    return {name: value for name, value in (headers or {}).items() if name in OWN_HEADERS} or None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands.

    Attributes:
        entry: Its last event; None where there is none.
        seq: Its last message's place in the stream, which the next one has to name; 0 where there is none.
    """

    entry: Entry | None = None
    seq: int = 0


class Record:
    """One writer's hold on a record: it goes on behind `last_seq`, and nobody else does.

    Args:
        messages: Of the stream.
        subject: The record's.
        mark: What each event says of the job.
        envelope: The attempt, and the number of the next event.
        last_seq: The place of the last message of the subject; 0 for none.

    Attributes:
        attempt: The number of the attempt that it writes, or ends.
        copies: Get each event once it is stored; None where the job names no `reply_to`.
    """

    def __init__(self, messages: Messages, subject: str, mark: Mark, envelope: Envelope, last_seq: int) -> None:
        self.mark = mark
        self.attempt = envelope.attempt
        self.copies: Copies | None = None
        self._messages = messages
        self._subject = subject
        self._envelope = envelope
        self._last_seq = last_seq
        self._pending: tuple[bytes, dict[str, str]] | None = None
        self._lost = False

    @property
    def room(self) -> int:
        """How many bytes of data an event may have now."""
        return self._messages.max_payload - self._envelope.overhead - HEADERS_MAX_BYTES

    @property
    def max_bytes(self) -> int:
        """How many bytes a whole event may have now."""
        return self._messages.max_payload - HEADERS_MAX_BYTES

    @property
    def next_number(self) -> int:
        """The `seq` of the next event, after whatever is on its way."""
        return self._envelope.seq + (self._pending is not None)

    async def append(
        self,
        kind: bytes,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        failed: int | None = None,
        tries_max: int | None = None,
    ) -> None:
        """Store an event, and come back when it is stored. One whose storing was broken off before is stored first.

        Args:
            kind: The event's type.
            data: The event's data.
            headers: The event's own.
            failed: How many attempts have failed with it; None for as many as before.
            tries_max: After how many tries without an answer to give up; None for never.

        Raises:
            JobLost: Somebody else has written, or the connection is closed for good. Nothing more may be published.
            TooLarge: The broker takes no event of this size; none is stored.
            nats.errors.Error: It could not be stored in `tries_max` tries.
        """
        await self._until_stored(tries_max)
        mark = self.mark if failed is None else replace(self.mark, failed=failed)
        self._pending = self._envelope.event(kind, data), {**(headers or {}), MARK: str(mark)}
        await self._until_stored(tries_max)

    async def is_ours(self) -> bool:
        """Say whether nobody else has written behind our last event.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        message = await self._messages.next(self._subject, self._last_seq + 1)
        mark = read_mark(message.headers) if message is not None else None
        return mark is None or (mark.writer, mark.delivery) == (self.mark.writer, self.mark.delivery)

    async def _until_stored(self, tries_max: int | None) -> None:
        tries, pause = 0, PAUSE_MIN_SECONDS
        while self._pending is not None:
            if self._lost or self._messages.closed:
                raise JobLost
            try:
                await self._store(*self._pending)
            except NatsError as error:
                if isinstance(error, MaxPayloadError) or getattr(error, "err_code", None) == MESSAGE_TOO_LARGE:
                    self._pending = None
                    raise TooLarge("max_payload: the broker takes no event of this size any more") from None
                tries += 1
                if tries == tries_max:
                    raise
                log.warning("a job's event is not stored yet", error=str(error) or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_MAX_SECONDS)

    async def _store(self, payload: bytes, headers: dict[str, str]) -> None:
        """Send it once. Sent again it is stored once all the same: the fence lets one of them pass."""
        sent = time.monotonic()
        try:
            seq = await self._messages.publish(
                self._subject, payload, headers, expected=self._last_seq, timeout_seconds=STORE_TIMEOUT_SECONDS
            )
        except Fenced:
            if not await self._caught_up():
                self._lost = True
                raise JobLost from None
        else:
            self._stored(seq)
            if time.monotonic() - sent > STALE_SECONDS and not await self._caught_up():
                self._lost = True
                raise JobLost
        if self._pending is None and self.copies is not None:
            await self._copy(self.copies, payload, headers)

    async def _copy(self, copies: Copies, payload: bytes, headers: dict[str, str]) -> None:
        is_end = payload.startswith((b'{"type":"done"', b'{"type":"error"'))
        try:
            await (copies.end if is_end else copies.copy)(payload, own_headers(headers))
        except WorkerError as error:
            # It is stored, and the record is what counts: resume has it.
            log.warning("a job's event is not copied to its reply_to", error=error.message)

    def _stored(self, seq: int) -> None:
        self._last_seq = seq
        self._envelope.seq += 1
        self._pending = None

    async def _caught_up(self) -> bool:
        """Walk over what is stored behind our last event. False where the record is somebody else's.

        What is there may be our own event, whose word was lost, and messages that no worker has stored.
        """
        walked, skipped = self._last_seq, False
        while (message := await self._messages.next(self._subject, walked + 1)) is not None:
            walked = message.seq
            mark = read_mark(message.headers)
            if mark is None:
                self._last_seq, skipped = walked, True
            elif self._pending is not None and (message.data, str(mark)) == (self._pending[0], self._pending[1][MARK]):
                self._stored(walked)
            else:
                return False
        return skipped or self._pending is None  # refused, and nothing is there: the record was purged


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has had its end: what is left to do is done without asking the provider again."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Too many attempts failed, or died: the record is held for the end."""

    record: Record


class Taken:
    """The id is a job's of the other kind."""


class Elsewhere:
    """The attempt of a later delivery runs, or this delivery's own runs elsewhere: it is not for us."""


Start = Record | Ended | Exhausted | Taken | Elsewhere


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
        self._writer = new_id()[:8]

    async def place(self, call: Call) -> Place:
        """Return where a record stands.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        subject = self._subjects.out(call.tenant, call.id)
        last = await self._messages.last(subject)
        if last is None:
            return Place()
        entry = read_entry(last)
        return Place(entry or await self._last_entry(subject), last.seq)

    async def _last_entry(self, subject: str) -> Entry | None:
        """Find the last event where other messages are behind it."""
        found, seq = None, 1
        while (message := await self._messages.next(subject, seq)) is not None:
            found = read_entry(message) or found
            seq = message.seq + 1
        return found

    async def seq_after(self, call: Call, point: tuple[int, int], place: Place) -> int:
        """Return a place in the stream behind which the events after `(attempt, seq)` are, and no other.

        By halving: they lie in order, and a record may have many.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        subject = self._subjects.out(call.tenant, call.id)
        low, high = 1, place.seq + 1
        while low < high:
            middle = (low + high) // 2
            entry = await self._entry_from(subject, middle)
            if entry is None or (entry.attempt, entry.number) > point:
                high = middle
            else:
                low = entry.seq + 1
        return low

    async def _entry_from(self, subject: str, seq: int) -> Entry | None:
        while (message := await self._messages.next(subject, seq)) is not None:
            entry = read_entry(message)
            if entry is not None:
                return entry
            seq = message.seq + 1
        return None

    async def replay(self, call: Call, copies: Copies) -> None:
        """Copy a whole record that has its end.

        Raises:
            nats.errors.Error: It cannot be read.
        """
        subject, seq = self._subjects.out(call.tenant, call.id), 1
        while (message := await self._messages.next(subject, seq)) is not None:
            seq = message.seq + 1
            entry = read_entry(message)
            if entry is not None:
                await (copies.end if entry.is_end else copies.copy)(entry.payload, entry.headers)

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
        mark = Mark(call.kind, job.seq, failed, job.delivery, self._writer)
        envelope = Envelope(call.id, attempt, number)
        return Record(self._messages, self._subjects.out(call.tenant, call.id), mark, envelope, place.seq)
