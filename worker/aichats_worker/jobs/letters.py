"""Jobs that were given up: kept with the reason, until a person looks at them."""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import orjson
from nats.aio.msg import Msg
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from aichats_schemas.subjects import (
    DEAD_ATTEMPTS,
    DEAD_CODE,
    DEAD_LEFT_OUT,
    DEAD_REASON,
    DEAD_TIME,
    KINDS,
    MSG_ID,
    Kind,
    is_token,
)
from aichats_worker.broker.bus import Bus
from aichats_worker.jobs.messages import MESSAGE_TOO_LARGE
from aichats_worker.request.call import Call
from aichats_worker.text import ascii_line

PUBLISH_TIMEOUT_SECONDS: Final = 5.0
READ_TIMEOUT_SECONDS: Final = 5.0
REASON_MAX_CHARS: Final = 200
# What the letter's own headers may add to a job that came as large as the broker lets one be.
HEADERS_MAX_BYTES: Final = 4096
JOB_HEADERS_MAX_BYTES: Final = 60_000  # JetStream refuses 64 KiB of headers, the letter's own included
NO_TENANT: Final = "_"  # stands in a letter's subject for a tenant that is none: a wildcard is no place to publish to
BATCH_MAX: Final = 500
BATCH_MAX_BYTES: Final = 4 * 1024 * 1024
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_OURS: Final = (DEAD_REASON, DEAD_CODE, DEAD_ATTEMPTS, DEAD_TIME, DEAD_LEFT_OUT)


class RetryRefused(Exception):
    """A letter's job cannot be submitted again; the message says why. The letter stays."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One job that was given up.

    Attributes:
        seq: Its place in the stream, by which it is named.
        kind: `text` or `image`.
        tenant: Whose job it was.
        id: The job's id.
        code: The error's name.
        reason: The error's sentence.
        attempts: How many of its attempts failed.
        time: When it was given up, RFC 3339.
        headers: The letter's headers, the job's own included, without the broker's.
        body: The job's body.
    """

    seq: int
    kind: Kind
    tenant: str
    id: str
    code: str
    reason: str
    attempts: int
    time: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def original_headers(self) -> dict[str, str]:
        """The job's headers as they were submitted."""
        return {name: value for name, value in self.headers.items() if name not in _OURS}

    @property
    def left_out(self) -> str:
        """What of the job the letter could not hold; empty where it is whole."""
        return self.headers.get(DEAD_LEFT_OUT, "")


class DeadLetters:
    """Writes and reads dead letters.

    Args:
        bus: Where they are stored.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._stream = bus.subjects.dead_stream

    async def write(self, call: Call, *, stream_seq: int, code: str, reason: str, attempts: int) -> None:
        """Keep a job, confirmed. Writing the same one again within 15 minutes changes nothing.

        Args:
            call: The job.
            stream_seq: Its place in the jobs' stream, which tells it from a later job of the same id.
            code: The error's name.
            reason: The error's sentence.
            attempts: How many of its attempts failed.

        Raises:
            nats.errors.Error: It is not stored: the caller writes it again.
        """
        said = {
            DEAD_REASON: reason,
            DEAD_CODE: code,
            DEAD_ATTEMPTS: str(attempts),
            DEAD_TIME: datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        # nats-py does not count headers against max_payload, and then closes the connection for good.
        room = self._bus.nc.max_payload - HEADERS_MAX_BYTES
        try:
            await self._store(call, stream_seq, said, room)
        except APIError as error:
            if error.err_code != MESSAGE_TOO_LARGE:
                raise
            await self._store(call, stream_seq, said, 0)  # than the stream takes: what is left is told in a few bytes

    async def _store(self, call: Call, stream_seq: int, said: dict[str, str], room: int) -> None:
        """Store what of a job fits so many bytes, and what is said of it."""
        tenant = call.tenant if is_token(call.tenant) else NO_TENANT
        left_out = {} if tenant == call.tenant else {"tenant": "its tenant is none"}
        kept, body = _kept(call.headers), call.body
        if _size(kept) > min(room, JOB_HEADERS_MAX_BYTES):
            left_out["headers"] = f"its headers of {_size(kept)} bytes do not fit and are left out"
            kept = {}
        if body and len(body) + _size(kept) > room:
            left_out["body"] = f"its body of {len(body)} bytes does not fit and is left out"
            body = b""
        sentence = " ".join([*(f"({why})" for why in left_out.values()), said[DEAD_REASON]])
        headers = (
            kept
            | said
            | {
                DEAD_REASON: ascii_line(sentence, REASON_MAX_CHARS),
                # Nobody else publishes here: no tenant can take this id first.
                MSG_ID: f"{call.kind}.{tenant}.{call.id}.{stream_seq}",
            }
        )
        if left_out:
            headers[DEAD_LEFT_OUT] = ",".join(left_out)
        subject = self._bus.subjects.dead(call.kind, tenant, call.id)
        await self._bus.js.publish(subject, body, headers=headers, stream=self._stream, timeout=PUBLISH_TIMEOUT_SECONDS)

    async def all(self) -> AsyncGenerator[DeadLetter, None]:
        """Yield all, oldest first, without holding more than a batch.

        Raises:
            nats.errors.Error: They cannot be read, or not to the end.
        """
        inbox = self._bus.nc.new_inbox()
        heard: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._bus.nc.subscribe(inbox, cb=heard.put)  # next_msg() makes a task for each message
        try:
            seq: int | None = 1
            while seq is not None:
                batch, seq = await self._batch(heard, inbox, seq)
                for letter in batch:
                    yield letter
        finally:
            await subscription.unsubscribe()

    async def _batch(self, heard: asyncio.Queue[Msg], inbox: str, seq: int) -> tuple[list[DeadLetter], int | None]:
        """Read from a place on, and return with it the next place; None after the last one.

        By a batched direct get (ADR-31), for which nats-py has no call: one question for 500 letters. Any replica
        answers, and one that lags has not heard of the newest letters.
        """
        request = {
            "seq": seq,
            "next_by_subj": f"{self._bus.subjects.prefix}.>",
            "batch": BATCH_MAX,
            "max_bytes": max(BATCH_MAX_BYTES, 2 * self._bus.nc.max_payload),  # one letter has to fit
        }
        await self._bus.nc.publish(self._bus.api(f"DIRECT.GET.{self._stream}"), orjson.dumps(request), reply=inbox)
        letters: list[DeadLetter] = []
        async with asyncio.timeout(READ_TIMEOUT_SECONDS):
            while "Nats-Sequence" in (headers := (message := await heard.get()).headers or {}):
                letters.append(_read_direct(message))
        if headers.get("Status") not in ("204", "404"):  # the end of a batch; nothing there
            raise APIError.from_msg(message)
        more = letters and headers.get("Nats-Num-Pending", "0") != "0"
        return letters, letters[-1].seq + 1 if more else None

    async def get(self, seq: int) -> DeadLetter:
        """Return one.

        Raises:
            nats.js.errors.NotFoundError: There is none of that number.
        """
        return _read_stored(await self._bus.js.get_msg(self._stream, seq=seq))

    async def retry(self, letter: DeadLetter) -> None:
        """Submit the job again as it was, after its old record is cleared; then drop the letter.

        Raises:
            RetryRefused: The letter does not hold the whole job, or one of its id is in the queue.
            nats.errors.Error: The broker refuses or does not answer. The letter stays.
        """
        if letter.left_out:
            raise RetryRefused(
                f"dead letter {letter.seq} does not hold the whole job ({letter.left_out} left out): "
                "submit it again from where it came from, then drop the letter"
            )
        if await self._queued(letter):
            raise RetryRefused(f"a job {letter.id} of {letter.tenant} is queued or runs: try again after its end")
        await self._clear_record(letter)
        await self._bus.js.publish(
            self._bus.subjects.job(letter.kind, letter.tenant, letter.id),
            letter.body,
            headers=letter.original_headers,
            stream=self._bus.subjects.jobs_stream,
            timeout=PUBLISH_TIMEOUT_SECONDS,
        )
        await self.drop(letter)

    async def drop(self, letter: DeadLetter) -> None:
        """Forget a letter."""
        await self._bus.js.delete_msg(self._stream, letter.seq)

    async def _queued(self, letter: DeadLetter) -> bool:
        """Say whether a job of this id, of whatever kind, is in the queue: its record must not be touched."""
        for kind in KINDS:
            subject = self._bus.subjects.job(kind, letter.tenant, letter.id)
            try:
                await self._bus.js.get_msg(self._bus.subjects.jobs_stream, subject=subject)
            except NotFoundError:
                continue
            return True
        return False

    async def _clear_record(self, letter: DeadLetter) -> None:
        """Remove what is stored now and no more: a record would be taken for the answer, and nothing be run."""
        stream, subject = self._bus.subjects.out_stream, self._bus.subjects.out(letter.tenant, letter.id)
        try:
            last = await self._bus.js.get_msg(stream, subject=subject)
        except NotFoundError:
            return
        await self._bus.js.purge_stream(stream, subject=subject, seq=int(last.seq or 0) + 1)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that a letter holds: `Nats-…` told the broker what to do with the job, and are not for it."""
    return {
        name: value
        for name, value in headers.items()
        if _HEADER_NAME.match(name) and not name.startswith("Nats-") and name not in _OURS
    }


def _size(headers: Mapping[str, str]) -> int:
    return sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def _read_direct(message: Msg) -> DeadLetter:
    headers = message.headers or {}
    return _letter(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, message.data)


def _read_stored(message: RawStreamMsg) -> DeadLetter:
    return _letter(int(message.seq or 0), str(message.subject), message.headers or {}, message.data or b"")


def _letter(seq: int, subject: str, headers: Mapping[str, object], body: bytes) -> DeadLetter:
    # nats-py gives an object of the e-mail parser's for a value that is not ASCII.
    kept = {str(name): str(value) for name, value in headers.items() if not name.startswith("Nats-")}
    kind, tenant, request_id = subject.split(".")[-3:]
    attempts = kept.get(DEAD_ATTEMPTS, "")
    return DeadLetter(
        seq=seq,
        kind="image" if kind == "image" else "text",
        tenant=tenant,
        id=request_id,
        code=kept.get(DEAD_CODE, ""),
        reason=kept.get(DEAD_REASON, ""),
        attempts=int(attempts) if attempts.isdigit() else 0,
        time=kept.get(DEAD_TIME, ""),
        headers=kept,
        body=body,
    )
