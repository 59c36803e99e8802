"""Jobs that were given up: kept with the reason, until a person looks at them."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from aichats_schemas.subjects import (
    DEAD_ATTEMPTS,
    DEAD_CODE,
    DEAD_REASON,
    DEAD_TIME,
    MSG_ID,
    Kind,
    is_token,
)
from aichats_worker.broker.bus import Bus
from aichats_worker.request.call import Call
from aichats_worker.text import ascii_line

PUBLISH_TIMEOUT_SECONDS: Final = 5.0
REASON_MAX_CHARS: Final = 200
# What the letter's own headers may add to a job that came as large as the broker lets one be.
HEADERS_MAX_BYTES: Final = 4096
JOB_HEADERS_MAX_BYTES: Final = 60_000  # JetStream refuses 64 KiB of headers, the letter's own included
NO_TENANT: Final = "_"  # stands in a letter's subject for a tenant that is none: a wildcard is no place to publish to
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


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
        attempts: How often it was delivered.
        time: When it was given up, RFC 3339.
        headers: All headers, the job's own included.
        body: The job's body.
    """

    seq: int
    kind: str
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
        """The job's headers as they were submitted, without the message id: the letter has one of its own."""
        ours = (DEAD_REASON, DEAD_CODE, DEAD_ATTEMPTS, DEAD_TIME, MSG_ID)
        return {name: value for name, value in self.headers.items() if name not in ours}


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
            nats.errors.Error: It is not stored.
        """
        kept = _kept(call.headers)
        if _size(kept) > JOB_HEADERS_MAX_BYTES:
            reason = f"(its headers of {_size(kept)} bytes do not fit and are left out) {reason}"
            kept = {}
        headers = kept | {
            DEAD_REASON: ascii_line(reason, REASON_MAX_CHARS),
            DEAD_CODE: code,
            DEAD_ATTEMPTS: str(attempts),
            DEAD_TIME: datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            MSG_ID: f"{call.tenant}.{call.id}.{stream_seq}",
        }
        body = call.body
        size = len(body) + _size(headers)
        # nats-py does not count headers against max_payload, and then closes the connection for good.
        if size + HEADERS_MAX_BYTES > self._bus.nc.max_payload:
            left_out = f"(its body of {len(body)} bytes does not fit and is left out) {reason}"
            headers[DEAD_REASON] = ascii_line(left_out, REASON_MAX_CHARS)
            body = b""
        tenant = call.tenant if is_token(call.tenant) else NO_TENANT
        subject = self._bus.subjects.dead(call.kind, tenant, call.id)
        await self._bus.js.publish(subject, body, headers=headers, timeout=PUBLISH_TIMEOUT_SECONDS)

    async def all(self) -> AsyncIterator[DeadLetter]:
        """Yield all, oldest first."""
        seq = 1
        while True:
            try:
                message = await self._bus.js.get_msg(
                    self._stream, seq=seq, subject=f"{self._bus.subjects.prefix}.>", next=True
                )
            except NotFoundError:
                return
            letter = _read(message)
            yield letter
            seq = letter.seq + 1

    async def get(self, seq: int) -> DeadLetter:
        """Return one.

        Raises:
            nats.js.errors.NotFoundError: There is none of that number.
        """
        return _read(await self._bus.js.get_msg(self._stream, seq=seq))

    async def retry(self, letter: DeadLetter) -> None:
        """Submit the job again as it was, then drop the letter.

        Raises:
            nats.js.errors.APIError: The queue refuses it.
        """
        kind: Kind = "image" if letter.kind == "image" else "text"
        subject = self._bus.subjects.job(kind, letter.tenant, letter.id)
        # Without its message id: within 15 minutes the stream would take it for a duplicate, and run nothing.
        await self._bus.js.publish(
            subject, letter.body, headers=letter.original_headers or None, timeout=PUBLISH_TIMEOUT_SECONDS
        )
        await self.drop(letter)

    async def drop(self, letter: DeadLetter) -> None:
        """Forget a letter."""
        await self._bus.js.delete_msg(self._stream, letter.seq)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that a letter holds: `Nats-…` told the broker what to do with the job, and are not for it."""
    return {name: value for name, value in headers.items() if _HEADER_NAME.match(name) and not name.startswith("Nats-")}


def _size(headers: Mapping[str, str]) -> int:
    return sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def _read(message: RawStreamMsg) -> DeadLetter:
    # nats-py gives an object of the e-mail parser's for a value that is not ASCII.
    headers = {name: str(value) for name, value in (message.headers or {}).items()}
    kind, tenant, request_id = str(message.subject).split(".")[-3:]
    attempts = headers.get(DEAD_ATTEMPTS, "")
    return DeadLetter(
        seq=int(message.seq or 0),
        kind=kind,
        tenant=tenant,
        id=request_id,
        code=headers.get(DEAD_CODE, ""),
        reason=headers.get(DEAD_REASON, ""),
        attempts=int(attempts) if attempts.isdigit() else 0,
        time=headers.get(DEAD_TIME, ""),
        headers=headers,
        body=message.data or b"",
    )
