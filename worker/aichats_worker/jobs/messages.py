"""The messages of one stream: what is stored, read from the leader, whose word counts."""

import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import APIError, NotFoundError

from aichats_worker.jobs.mailbox import Mailbox, judged
from aichats_worker.telemetry.logs import Said

WRONG_SEQUENCE: Final = 10071  # somebody else has written to the subject
NO_MESSAGE: Final = 10037
MESSAGE_TOO_LARGE: Final = 10054  # more than the stream's max_msg_size
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
SEQUENCE: Final = "Nats-Sequence"
PREVIOUS: Final = "Nats-Last-Sequence"  # of the message before, in the same batch
BATCH_MAX: Final = 500
BATCH_MAX_BYTES: Final = 256 * 1024  # beside one of the largest
BATCH_TIMEOUT_SECONDS: Final = 5.0
NO_BATCH_SECONDS: Final = 60.0


class Fenced(Exception):
    """The broker did not store a message: another one is the last of its subject."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of a stream.

    Attributes:
        seq: Its place in the stream.
        subject: As it was published.
        data: Its body.
        headers: By exact name; values that are not UTF-8 with replacement characters.
        time: When it was stored, in seconds since 1970 by the broker's clock.
    """

    seq: int
    subject: str
    data: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    time: float


class Messages:
    """Reads and writes one stream.

    Args:
        mail: How the broker is asked.
        stream: Its name.

    Attributes:
        said: What the log was told of it lately: all that write to it fail for one reason.
    """

    def __init__(self, mail: Mailbox, stream: str) -> None:
        self._mail = mail
        self.stream = stream
        self.said = Said()
        self._no_batch_until = float("-inf")

    @property
    def max_payload(self) -> int:
        """What a message may hold now, headers included, in bytes."""
        return self._mail.nc.max_payload

    @property
    def closed(self) -> bool:
        """Whether the connection is closed for good."""
        return self._mail.nc.is_closed

    async def at(self, seq: int) -> StoredMessage | None:
        """Return the message of a place; None where there is none.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        return await self._get({"seq": seq})

    async def last(self, subject: str) -> StoredMessage | None:
        """Return the last message of a subject; None where there is none.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        return await self._get({"last_by_subj": subject})

    async def next(self, subject: str, seq: int) -> StoredMessage | None:
        """Return the first message of a subject from a place on; None where there is none.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        return await self._get({"seq": seq, "next_by_subj": subject})

    async def between(self, subject: str, first: int, last: int) -> AsyncGenerator[StoredMessage, None]:
        """Yield the messages of a subject from one place to another, and what has come behind it meanwhile, in order.

        Many for one question. Any replica answers that, and one that lags has not heard of the newest; where there is
        none the leader is asked, for one.

        Raises:
            nats.errors.Error: They cannot be read, or not to the end.
        """
        seq = first
        while seq <= last:
            batch = await self._batch(subject, seq)
            if not batch:
                message = await self.next(subject, seq)
                if message is None:
                    return
                batch = [message]
            for message in batch:
                yield message
            seq = batch[-1].seq + 1

    async def delete(self, seq: int) -> None:
        """Remove a message. One that is not there any more is no error.

        Raises:
            nats.errors.Error: It may still be there.
        """
        try:
            await self._mail.api(f"STREAM.MSG.DELETE.{self.stream}", {"seq": seq, "no_erase": True})
        except APIError as error:
            if error.err_code not in (NO_MESSAGE, 10043) and not isinstance(error, NotFoundError):
                raise

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str], *, expected: int, timeout_seconds: float
    ) -> int:
        """Store a message behind the one that is expected to be the last of its subject. Returns its place.

        Raises:
            Fenced: Another one is the last.
            nats.errors.Error: Whether it is stored is not known.
        """
        fenced = {**headers, EXPECTED: str(expected)}
        answer = await self._mail.ask(subject, data, headers=fenced, timeout_seconds=timeout_seconds)
        try:
            return int(judged(answer.data)["seq"])
        except APIError as error:
            if error.err_code == WRONG_SEQUENCE:
                raise Fenced from None
            raise

    async def _batch(self, subject: str, seq: int) -> list[StoredMessage]:
        """Return some messages of a subject from a place on; none where the stream does not let them be read so.

        By a batched direct get (ADR-31), for which nats-py has no call.
        """
        if time.monotonic() < self._no_batch_until:
            return []
        request = {"seq": seq, "next_by_subj": subject, "batch": BATCH_MAX}
        request["max_bytes"] = self.max_payload + BATCH_MAX_BYTES
        call = self._mail.bus.api(f"DIRECT.GET.{self.stream}")
        try:
            answers = await self._mail.ask_for_many(call, orjson.dumps(request), timeout_seconds=BATCH_TIMEOUT_SECONDS)
        except NoRespondersError:
            return []
        except NatsTimeoutError:  # denied, most likely: it is not asked again for a while
            self._no_batch_until = time.monotonic() + NO_BATCH_SECONDS
            return []
        return list(_unbroken(answers, self.stream))

    async def _get(self, request: dict[str, Any]) -> StoredMessage | None:
        try:
            answer = await self._mail.api(f"STREAM.MSG.GET.{self.stream}", request)
        except NotFoundError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise  # the stream itself is gone
        found = answer["message"]
        return StoredMessage(
            seq=int(found["seq"]),
            subject=found["subject"],
            data=b64decode(found.get("data", "")),
            headers=_headers(b64decode(found.get("hdrs", ""))),
            time=epoch(found["time"]),
        )


def _unbroken(answers: Iterable[Msg], stream: str) -> Iterator[StoredMessage]:
    """Read the beginning of a batch up to where one is missing.

    A mirror answers in its stream's place, and need not have the same messages: nothing of it is taken.
    """
    previous = 0
    for answer in answers:
        headers = answer.headers or {}
        if headers.get("Nats-Stream") != stream or int(headers.get(PREVIOUS, "0")) != previous:
            return
        message = _read_direct(answer)
        previous = message.seq
        yield message


def _read_direct(message: Msg) -> StoredMessage:
    headers = {name: str(value) for name, value in (message.headers or {}).items()}
    return StoredMessage(
        seq=int(headers[SEQUENCE]),
        subject=headers["Nats-Subject"],
        data=message.data,
        headers=headers,
        time=epoch(headers["Nats-Time-Stamp"]),
    )


def epoch(text: str) -> float:
    """Turn the broker's RFC 3339 into seconds since 1970. Python 3.11 reads no more than six digits of a second."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def _headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name: value.strip() for name, _, value in pairs}
