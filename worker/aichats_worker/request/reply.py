"""A request's answer on its reply subject: streamed as it comes (`req`), or whole in one event (`ask`)."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import orjson
from nats.errors import Error as NatsError

from aichats_worker.errors import Interrupted, TooLarge, WorkerError
from aichats_worker.provider import Picture
from aichats_worker.request.call import Call
from aichats_worker.request.events import (
    Envelope,
    error_data,
    error_headers,
    image_parts,
    text_pieces,
    whole_image,
)
from aichats_worker.request.outcome import Completed
from aichats_worker.request.watch import Line, Outlet
from aichats_worker.telemetry.account import Sent

# No broker takes less in one message. What is longer may be refused without a word to us: the limit of a server can be
# lowered under a connection, and what passes it costs the connection and the message.
SAFE_BYTES: Final = 8 * 1024
RESULT_SECONDS: Final = 5.0  # for the broker's word that it has taken a result

# What is left to be waited for, which does nothing before; None where a piece is out: that is the usual way of a delta.
Rest = Coroutine[Any, Any, None] | None


class Writer(Protocol):
    """Where an answer goes while it is made."""

    def text(self, delta: str) -> Rest:
        """Take a piece of the answer."""

    def reasoning(self, delta: str) -> Rest:
        """Take a piece of the model's reasoning."""

    async def image(self, index: int, picture: Picture) -> None:
        """Take an image."""

    @property
    def sent(self) -> Sent:
        """What has gone out until now."""

    async def written(self) -> None:
        """Wait until what may not have reached the broker has reached it: there was no error, and nothing follows."""


class Reply(Outlet):
    """A streamed reply: each piece is an event as soon as it comes.

    Args:
        line: Where it goes.
        call: What is answered.
    """

    __slots__ = ("_breaks", "_envelope", "_first", "_last_event")

    def __init__(self, line: Line, call: Call) -> None:
        super().__init__(line)
        self._envelope = Envelope(call.id, call.attempt)
        self._first: float | None = None
        self._last_event: float | None = None
        self._breaks: int | None = None  # of the connection, before the first event that was large

    def text(self, delta: str) -> Rest:
        """Publish a piece of text, split where it is too large for one message."""
        return self._pieces(b"response", delta)

    def reasoning(self, delta: str) -> Rest:
        """Publish a piece of the model's reasoning."""
        return self._pieces(b"reasoning", delta)

    def _pieces(self, kind: bytes, delta: str) -> Rest:
        if is_first := self._first is None:
            self._first = time.monotonic()
        data = orjson.dumps(delta)
        is_small = len(data) + self._envelope.overhead <= SAFE_BYTES
        if is_small and self._soon(self._envelope.event(kind, data)):
            self._envelope.seq += 1
            if is_first:  # somebody waits for it; those behind it are written together
                self._nc.write_now()
            return None
        return self._in_pieces(kind, delta, data)

    async def _in_pieces(self, kind: bytes, delta: str, data: bytes) -> None:
        room = self._nc.max_payload - self._envelope.overhead
        if len(data) <= room:
            await self._publish(self._envelope.event(kind, data))
            return
        for piece in text_pieces(delta, room):
            await self._publish(self._envelope.event(kind, piece))

    async def image(self, index: int, picture: Picture) -> None:
        """Publish an image in as many parts as the negotiated `max_payload` asks for."""
        self._content()
        for data in image_parts(index, picture, self._nc.max_payload):
            await self._publish(self._envelope.image(data))
            await asyncio.sleep(0)  # publish() never yields by itself: let the connection flush and other requests run

    async def written(self) -> None:
        """Wait until the broker has read the large events.

        Raises:
            Interrupted: The connection broke before: there may be none of them.
        """
        if self._breaks is not None and not await self._nc.delivered(self._breaks):
            raise Interrupted("the connection to the broker broke while the answer was on its way; try again")

    async def status(self) -> None:
        """Say that the request is still worked on."""
        await self._publish(self._envelope.event(b"status", b'"working"'))

    async def done(self, completed: Completed) -> None:
        """Publish the final event of an answer, and the sentinel."""
        data = completed.data(last_seq=self._envelope.seq, first=self._first)
        await self._end(b"done", orjson.dumps(data))

    async def fail(self, error: WorkerError) -> None:
        """Publish the `error` event with its headers, and the sentinel."""
        await self._end(b"error", error_data(error), error_headers(error))

    @property
    def sent(self) -> Sent:
        """What has been published."""
        return Sent(self._envelope.seq, self._bytes, self._first, self._last_event)

    def hush(self) -> None:
        """Publish no status from here on."""
        self._silence = float("inf")

    def speak(self) -> None:
        """Publish status again."""
        self._silence = self._keepalive

    def _content(self) -> None:
        if self._first is None:
            self._first = time.monotonic()

    async def _publish(self, payload: bytes) -> None:
        if self._closed:
            return
        # nats-py refuses or buffers a message before it first waits. So the count is taken here, without a wait since
        # the event was made, and given back where it was refused: the order of events is the order of seq.
        if self._breaks is None and len(payload) > SAFE_BYTES:
            self._breaks = self._nc.breaks
        self._envelope.seq += 1
        try:
            await self._send(payload)
        except WorkerError as error:
            if isinstance(error.__cause__, NatsError):
                self._envelope.seq -= 1
            raise

    async def _end(self, kind: bytes, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        if not self._closed:
            await self._close_with(self._envelope.event(kind, data), headers)

    async def _close_with(self, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._last_event = self._last
        self._envelope.seq += 1
        await self._close(payload, headers)


class Ask(Reply):
    """The answer to an `ask`: collected, and published as its one event. It is never kept alive by a status."""

    __slots__ = ("_images", "_kind", "_reasoning", "_texts")

    def __init__(self, line: Line, call: Call) -> None:
        super().__init__(line, call)
        self._kind = call.kind
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._images: list[Picture] = []
        self.hush()

    def text(self, delta: str) -> None:
        """Collect a piece of text."""
        self._content()
        self._texts.append(delta)

    def reasoning(self, delta: str) -> None:
        """Collect a piece of the model's reasoning."""
        self._content()
        self._reasoning.append(delta)

    async def image(self, index: int, picture: Picture) -> None:  # noqa: ARG002 - they come in order
        """Collect an image."""
        self._content()
        self._images.append(picture)

    async def written(self) -> None:
        """Nothing is published before the end."""

    async def done(self, completed: Completed) -> None:
        """Publish the `result`, and the sentinel.

        Raises:
            TooLarge: The answer does not fit one message; nothing was published.
        """
        limit = self._nc.max_payload
        size = sum(len(picture.data) for picture in self._images) * 4 // 3  # before encoding what cannot fit
        if size < limit:
            data = self._answer() | completed.data(last_seq=0, first=self._first)
            payload = self._envelope.event(b"result", orjson.dumps(data))
            size = len(payload)
            if size <= limit and await self._taken(payload):
                return
        raise TooLarge(
            f"max_payload: one message holds at most {self._nc.max_payload} bytes and the answer has {size}; "
            "send the same request to req instead of ask, which streams it in parts"
        )

    async def _taken(self, payload: bytes) -> bool:
        """Publish the result and the sentinel. False where the broker has refused the result, and nothing is out."""
        if len(payload) > SAFE_BYTES:
            breaks = self._nc.breaks
            await self._send(payload)
            with suppress(TimeoutError):
                async with asyncio.timeout(RESULT_SECONDS):
                    if not await self._nc.delivered(breaks):
                        await self._nc.delivered(self._nc.breaks)  # then the limit that holds is known
            if len(payload) > self._nc.max_payload:
                return False
            self._envelope.seq += 1
            self._closed = True
            await self._send(b"")
        else:
            await self._close_with(payload)
        return True

    @property
    def sent(self) -> Sent:
        """What has been published, at once."""
        return Sent(self._envelope.seq, self._bytes, self._first)

    def _answer(self) -> dict[str, Any]:
        if self._kind == "image":
            return {"images": [whole_image(picture) for picture in self._images]}
        answer: dict[str, Any] = {"text": "".join(self._texts)}
        return answer | ({"reasoning": "".join(self._reasoning)} if self._reasoning else {})
