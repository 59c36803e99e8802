"""One writer's hold on a job's record: each event is confirmed, and fenced by the one before (contract, section 8).

Whoever the broker refuses has lost the job. No clock is asked.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog
from nats.errors import ConnectionReconnectingError, MaxPayloadError, NoRespondersError
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from aichats_worker.errors import JobLost, TooLarge, WorkerError
from aichats_worker.jobs.copies import Copies
from aichats_worker.jobs.entries import MARK, Entry, Mark, Place, own_headers
from aichats_worker.jobs.messages import MESSAGE_TOO_LARGE, Fenced, Messages
from aichats_worker.jobs.reading import newest
from aichats_worker.request.events import Envelope

log = structlog.get_logger(__name__)

STORE_TIMEOUT_SECONDS: Final = 2.0
PAUSE_MIN_SECONDS: Final = 0.1
PAUSE_MAX_SECONDS: Final = 2.0
QUIET_SECONDS: Final = 10.0  # longer than a try and the pause behind it
# A word that took so long to come may have waited in the socket of a process that was frozen meanwhile.
STALE_SECONDS: Final = 1.0
# The mark, the fence and an error's own headers: what an event's body must leave free in a message.
HEADERS_MAX_BYTES: Final = 512


class Crowded(NatsError):
    """Nothing is stored: messages that are no worker's have come in between again and again."""

    def __str__(self) -> str:
        return "others' messages come between, as by jobs whose reply subject is this record's"


# After these it is known that nothing was stored; after all others, such as no answer, it is not.
NOT_STORED: Final = (NoRespondersError, ConnectionReconnectingError, APIError, Crowded)


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
        events: How many it has stored.
        bytes: Of those events.
        unsure: Whether an event that is not confirmed may be stored.
    """

    def __init__(self, messages: Messages, subject: str, mark: Mark, envelope: Envelope, last_seq: int) -> None:
        self.mark = mark
        self.attempt = envelope.attempt
        self.copies: Copies | None = None
        self.events = self.bytes = 0
        self.unsure = False
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
        with suppress(TooLarge):  # of an attempt that was broken off: it is closed without it
            await self._until_stored(tries_max)
        mark = self.mark if failed is None else replace(self.mark, failed=failed)
        self._pending = self._envelope.event(kind, data), {**(headers or {}), MARK: str(mark)}
        await self._until_stored(tries_max)

    async def is_ours(self) -> bool:
        """Say whether nobody else has written behind our last event.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        place = await newest(self._messages, self._subject, behind=self._last_seq)
        if place.entry is not None:
            return place.entry.mark.writer == self.mark.writer
        return await self._passes_over(place)

    async def _passes_over(self, place: Place) -> bool:
        """Take hold behind what is nobody's, so that it is read once. False where the record was purged before."""
        if place.seq > self._last_seq:
            if self._last_seq and await self._messages.at(self._last_seq) is None:
                return False
            self._last_seq = max(self._last_seq, place.seq)  # an event may have been stored meanwhile
        return True

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
                self._tell(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_MAX_SECONDS)
        # Who met the trouble may have lost its job meanwhile: then whoever comes later says that it is over.
        if self._messages.said.forget(0 if tries else QUIET_SECONDS):
            log.info("jobs' events are stored again")

    def _tell(self, error: NatsError) -> None:
        """One line for each reason, not for each job and try."""
        reason = str(error) or type(error).__name__
        if self._messages.said.is_new(reason):
            log.warning("jobs' events are not stored yet", stream=self._messages.stream, reason=reason)

    async def _store(self, payload: bytes, headers: dict[str, str]) -> None:
        """Send it once. Sent again it is stored once all the same: the fence lets one of them pass.

        Behind messages of nobody's it is sent again at once, and for so long as an answer may take.
        """
        due = time.monotonic() + STORE_TIMEOUT_SECONDS
        while self._pending is not None:
            sent = time.monotonic()
            try:
                seq = await self._messages.publish(
                    self._subject, payload, headers, expected=self._last_seq, timeout_seconds=STORE_TIMEOUT_SECONDS
                )
            except NatsError as error:
                self.unsure = self.unsure or not isinstance(error, NOT_STORED)
                raise
            except Fenced:
                if not await self._caught_up() and time.monotonic() > due:
                    raise Crowded from None
            else:
                self._stored(seq)
                if time.monotonic() - sent > STALE_SECONDS and not await self._is_still_ours():
                    self._lost = True
                    raise JobLost
        if self.copies is not None:
            await self._copy(self.copies, payload, headers)

    async def _is_still_ours(self) -> bool:
        """Look again before a copy goes out; where the broker does not say, the copy is of what is stored anyway."""
        try:
            return await self.is_ours()
        except NatsError:
            return True

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
        self.events += 1
        self.bytes += len(self._pending[0]) if self._pending is not None else 0
        self._pending = None
        self.unsure = False

    async def _caught_up(self) -> bool:
        """Take hold behind what was stored after our last event. Say whether our own one is there, its word lost.

        Raises:
            JobLost: The record is somebody else's, or was purged.
        """
        place = await newest(self._messages, self._subject, behind=self._last_seq)
        entry = place.entry
        if entry is not None and self._is_pending(entry):
            self._stored(entry.seq)
            self._last_seq = place.seq  # what is behind it is nobody's
            return True
        if entry is not None or place.seq <= self._last_seq or not await self._passes_over(place):
            self._lost = True  # somebody else's; or we were refused, and nothing is there any more
            raise JobLost
        return False

    def _is_pending(self, entry: Entry) -> bool:
        if self._pending is None:
            return False
        payload, headers = self._pending
        return (entry.payload, str(entry.mark)) == (payload, headers[MARK])
