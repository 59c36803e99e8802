"""The events of a request on its reply subject: order, sizes, keep-alive, and one ending."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pybase64
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from aichats_schemas.subjects import SERVICE_ERROR, SERVICE_ERROR_CODE
from aichats_worker.errors import Internal, TooLarge, WorkerError
from aichats_worker.provider import Picture
from aichats_worker.request.call import Call
from aichats_worker.request.outcome import Completed
from aichats_worker.text import ascii_line

log = structlog.get_logger(__name__)

HEADER_MAX_CHARS = 200
# nats-py does not count headers against max_payload and then closes for good: an error stays far below any limit.
ERROR_MESSAGE_MAX_CHARS = 1000
# What the envelope of an image part may grow to beyond its base64: numbers, id, mime type, hash.
IMAGE_ENVELOPE_BYTES = 1024
TICKS_PER_KEEPALIVE = 8
STORED_TIMEOUT_SECONDS = 5.0
STOP_TIMEOUT_SECONDS = 1.0
NO_RESPONDERS = "503"


class Reply:
    """The events of one request, in order, to one end. After the end, or once abandoned, nothing is published.

    Args:
        nc: The connection; events go out through it without FastStream, which costs 4 to 9 times as much for each.
        call: What is answered. An `ask` collects its answer and gets one event.
        keepalive_seconds: Silence after which a status is due.
        probe: The worker's own inbox for the server's word that nobody listens; empty for none.
        js: Where a stream keeps the events: the end then waits until it is stored.
        guard: Called before each message; raises where nothing may be published any more.
        first_seq: The number of the first event, above 0 where another worker published the ones before it.
    """

    __slots__ = (
        "_ask", "_call", "_ended", "_first", "_guard", "_hushed", "_images", "_js", "_keepalive", "_last",
        "_last_probe", "_nc", "_probe", "_seq", "_tail", "_texts", "_thoughts",
    )  # fmt: skip

    def __init__(
        self,
        nc: Client,
        call: Call,
        *,
        keepalive_seconds: float,
        probe: str = "",
        js: JetStreamContext | None = None,
        guard: Callable[[], None] | None = None,
        first_seq: int = 0,
    ) -> None:
        self._nc = nc
        self._js = js
        self._guard = guard
        self._call = call
        self._ask = call.mode == "ask"
        self._keepalive = keepalive_seconds
        self._probe = probe
        self._tail = f',"id":"{call.id}","attempt":{call.attempt},"seq":'.encode()
        self._seq = first_seq
        self._ended = False
        self._hushed = False
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._images: list[Picture] = []
        self._first: float | None = None
        self._last = time.monotonic()
        self._last_probe = float("-inf")

    @property
    def seq(self) -> int:
        """The number of the next event: 0 while nothing was published."""
        return self._seq

    @property
    def has_content(self) -> bool:
        """Whether any piece of the answer has come, published or collected."""
        return self._first is not None

    async def text(self, delta: str) -> None:
        """Publish a piece of text, split where it is too large for one message."""
        self._content()
        if self._ask:
            self._texts.append(delta)
        else:
            await self._text(b"response", delta)

    async def reasoning(self, delta: str) -> None:
        """Publish a piece of the model's reasoning, split as text is."""
        self._content()
        if self._ask:
            self._thoughts.append(delta)
        else:
            await self._text(b"reasoning", str(delta))

    async def _text(self, kind: bytes, delta: str) -> None:
        payload = self._payload(kind, orjson.dumps(delta))
        if len(payload) <= self._nc.max_payload:
            await self._publish(payload)
        elif len(delta) > 1:
            middle = len(delta) // 2
            await self._text(kind, delta[:middle])
            await self._text(kind, delta[middle:])
        else:
            raise TooLarge(f"max_payload: the broker's limit of {self._nc.max_payload} bytes fits no event")

    async def image(self, index: int, picture: Picture) -> None:
        """Publish an image in as many parts as the negotiated `max_payload` asks for."""
        self._content()
        if self._ask:
            self._images.append(picture)
            return
        size = (self._nc.max_payload - IMAGE_ENVELOPE_BYTES) // 4 * 3
        if size <= 0:
            raise TooLarge(f"max_payload: the broker's limit of {self._nc.max_payload} bytes fits no image")
        parts = -(-len(picture.data) // size)
        for part in range(parts):
            data = {
                "index": index,
                "part": part,
                "parts": parts,
                **_described(picture, picture.data[part * size : (part + 1) * size]),
            }
            await self._publish(self._payload(b"image", orjson.dumps(data)))
            await asyncio.sleep(0)  # publish() never yields by itself: let the connection flush and other requests run

    async def status(self) -> None:
        """Say that the request is still worked on."""
        await self._publish(self._payload(b"status", b'"working"'))

    async def done(self, completed: Completed) -> None:
        """Publish the final event of an answer, and the sentinel.

        Raises:
            TooLarge: An `ask`'s answer does not fit one message; nothing was published.
        """
        data = completed.data(last_seq=self._seq, first=self._first)
        if not self._ask:
            await self._end(self._payload(b"done", orjson.dumps(data)))
            return
        size = sum(len(picture.data) for picture in self._images) * 4 // 3  # before encoding what cannot fit
        payload = self._payload(b"result", orjson.dumps(self._answer() | data)) if size < self._nc.max_payload else b""
        size = max(size, len(payload))
        if size > self._nc.max_payload:
            raise TooLarge(
                f"max_payload: one message holds at most {self._nc.max_payload} bytes and the answer has {size}; "
                "send the same request to req instead of ask, which streams it in parts"
            )
        await self._end(payload)

    def _answer(self) -> dict[str, Any]:
        if self._call.kind == "image":
            return {"images": [_described(picture, picture.data) for picture in self._images]}
        answer = {"text": "".join(self._texts)}
        return answer | {"reasoning": "".join(self._thoughts)} if self._thoughts else answer

    async def fail(self, error: WorkerError) -> None:
        """Publish the `error` event with its headers, and the sentinel."""
        message = error.message[:ERROR_MESSAGE_MAX_CHARS]
        data: dict[str, Any] = {"code": error.code, "message": message, "retryable": error.retryable}
        if error.retry_after_ms is not None:
            data["retry_after_ms"] = error.retry_after_ms
        if error.usage is not None:
            data["usage"] = error.usage.model_dump()
        headers = {SERVICE_ERROR: ascii_line(error.message, HEADER_MAX_CHARS), SERVICE_ERROR_CODE: str(error.number)}
        await self._end(self._payload(b"error", orjson.dumps(data)), headers)

    def hush(self) -> None:
        """Publish no status any more: if anything comes, it is the end."""
        self._hushed = True

    def speak(self) -> None:
        """Publish status again."""
        self._hushed = False

    def abandon(self) -> None:
        """Publish nothing more, no end either."""
        self._ended = True

    def _content(self) -> None:
        if self._first is None:
            self._first = time.monotonic()

    def _payload(self, kind: bytes, data: bytes) -> bytes:
        return b'{"type":"%b","data":%b%b%d}' % (kind, data, self._tail, self._seq)

    async def _end(self, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish the final event and, at once behind it, the sentinel."""
        if self._ended:
            return
        self._ended = True  # before the first wait: a status must not slip in between the two
        await self._send(payload, headers, last=True)
        await self._send(b"", None, last=True)

    async def _publish(self, payload: bytes) -> None:
        if not self._ended:
            await self._send(payload, None)

    async def _send(self, payload: bytes, headers: dict[str, str] | None, *, last: bool = False) -> None:
        if self._guard is not None:
            self._guard()
        now = time.monotonic()
        probe = ""
        if self._probe and now - self._last_probe >= self._keepalive / 2:
            self._last_probe = now
            probe = self._probe
        self._last = now
        # nats-py refuses or buffers a message before it first waits. So the count is taken here, without a wait since
        # the payload was made, and given back where the message was refused: the order of events is the order of seq.
        counted = 1 if self._call.attempt else 0  # attempt 0 is outside the order: events about a job, not of it
        self._seq += counted
        try:
            if last and self._js is not None:
                await self._js.publish(self._call.reply_to, payload, timeout=STORED_TIMEOUT_SECONDS, headers=headers)
            else:
                await self._nc.publish(self._call.reply_to, payload, reply=probe, headers=headers)
        except NatsError as error:
            self._seq -= counted
            raise Internal("the broker does not take the answer; try again later") from error

    async def forward(self, payload: bytes, headers: dict[str, str] | None) -> None:
        """Publish an event that another reply made, as it is."""
        if not self._ended:
            await self._send(payload, headers)

    async def forward_end(self) -> None:
        """Publish the sentinel behind events that were forwarded."""
        if not self._ended:
            self._ended = True
            await self._send(b"", None)

    async def keep_alive(self, now: float) -> None:
        """Publish a status if one is due. Never for an `ask`, which gets one event."""
        if not (self._ask or self._ended or self._hushed) and now - self._last >= self._keepalive:
            await self.status()


def _described(picture: Picture, data: bytes) -> dict[str, Any]:
    return {
        "mime": picture.mime,
        "bytes": len(picture.data),
        "sha256": picture.sha256,
        "b64": pybase64.b64encode_as_string(data),
    }


class Replies:
    """All open replies: keeps each from falling silent, and notices where nobody listens any more.

    Args:
        keepalive_seconds: Silence after which a reply publishes a status.
    """

    def __init__(self, keepalive_seconds: float) -> None:
        self._keepalive = keepalive_seconds
        self._open: dict[str, tuple[Reply, Callable[[], object]]] = {}
        self._count = 0
        self._inbox = ""
        self._nc: Client | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self, nc: Client) -> None:
        """Subscribe to the probes' answers and start the keep-alive."""
        self._nc = nc
        self._inbox = nc.new_inbox()
        await nc.subscribe(f"{self._inbox}.*", cb=self._answered)
        self._ticker = asyncio.create_task(self._tick(), name="keep-alive")

    async def stop(self) -> None:
        """Stop the keep-alive."""
        self._stopped = True  # under back-pressure nats-py swallows the cancellation
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait({self._ticker}, timeout=STOP_TIMEOUT_SECONDS)

    @contextlib.contextmanager
    def opened(
        self,
        call: Call,
        *,
        on_gone: Callable[[], object],
        js: JetStreamContext | None = None,
        guard: Callable[[], None] | None = None,
    ) -> Iterator[Reply]:
        """Yield the reply to a call; it is kept alive until the block ends.

        Args:
            call: What is answered.
            js: As Reply's.
            guard: As Reply's.
            on_gone: Called once the server says that nobody listens on the reply subject (`req` alone).
        """
        assert self._nc is not None, "start() comes first"  # noqa: S101
        self._count += 1
        token = str(self._count)
        probe = f"{self._inbox}.{token}" if call.mode == "req" else ""
        reply = Reply(self._nc, call, keepalive_seconds=self._keepalive, probe=probe, js=js, guard=guard)
        self._open[token] = (reply, on_gone)
        try:
            yield reply
        finally:
            del self._open[token]

    async def _answered(self, message: Msg) -> None:
        # A stream that captures the subject answers with its own acknowledgement, which has no status: ignored.
        if (message.headers or {}).get("Status") != NO_RESPONDERS:
            return
        if found := self._open.get(message.subject.rpartition(".")[2]):
            found[1]()

    async def _tick(self) -> None:
        while not self._stopped:
            await asyncio.sleep(self._keepalive / TICKS_PER_KEEPALIVE)
            now = time.monotonic()
            for reply, _ in list(self._open.values()):
                try:
                    await reply.keep_alive(now)
                except Exception as error:  # noqa: BLE001 - one reply's failure must not silence all the others
                    log.warning("keep-alive not published", error=type(error).__name__)
