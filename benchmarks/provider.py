"""A provider that costs next to nothing, in both dialects: what is measured is whoever asks it.

The prompt's last line says what comes: `burst 200`, two hundred deltas at once; `paced 150 20`, one each 20 ms;
`step 100`, each once the one before was seen to arrive; `image 2000000`, an image of so many bytes.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_PNG = b"\x89PNG\r\n\x1a\n"
_DELTA = {
    "aichats": b"data:  word\n\n",
    "openai": b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n',
}
_END = {
    "aichats": b"event: trylimit\ndata: 29\n\n",
    "openai": b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Provider:
    """What all its connections share.

    Attributes:
        url: Its origin.
        seen: Released by whoever saw a delta of `step` arrive.
    """

    def __init__(self) -> None:
        self.url = ""
        self.seen = asyncio.Semaphore(0)
        self.tasks: set[asyncio.Task[None]] = set()
        self._images: dict[int, bytes] = {}

    def image(self, size: int) -> bytes:
        """Return a PNG's first bytes and zeros, made once."""
        return self._images.setdefault(size, _PNG + bytes(size - len(_PNG)))


class _Connection(asyncio.Protocol):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            found = _LENGTH.search(head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            self._received = rest[length:]
            self._answer(head, rest[:length])

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self._send(self._provider.image(int(head.split(b" ")[1].removeprefix(b"/image/"))), b"image/png")
            return
        openai, asked = b"/v1/" in head, json.loads(body)
        prompt = asked.get("prompt") or (asked["messages"] if openai else asked["messagesHistory"])[-1]["content"]
        how, *numbers = prompt.rsplit("\n", 1)[-1].split()
        if how == "image":
            entry = {"data": [{"url": f"{self._provider.url}/image/{numbers[0]}"}]}
            self._send(json.dumps(entry).encode(), b"application/json")
            return
        dialect = "openai" if openai else "aichats"
        delta, end = _chunk(_DELTA[dialect]), _chunk(_END[dialect]) + b"0\r\n\r\n"
        if how == "burst":
            self._transport.write(_HEAD + delta * int(numbers[0]) + end)
        elif how == "paced":
            self._pace(_HEAD + delta, delta, end, int(numbers[0]), float(numbers[1]) / 1000)
        else:
            task = asyncio.create_task(self._step(delta, end, int(numbers[0])))
            self._provider.tasks.add(task)
            task.add_done_callback(self._provider.tasks.discard)

    def _send(self, body: bytes, kind: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
        self._transport.write(head + body)

    def _pace(self, first: bytes, delta: bytes, end: bytes, count: int, pause: float) -> None:
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()

        def step(number: int) -> None:
            if self._transport.is_closing():
                return
            self._transport.write(delta if number < count else end)
            if number < count:
                loop.call_at(began + (number + 1) * pause, step, number + 1)

        self._transport.write(first)
        loop.call_at(began + pause, step, 1)

    async def _step(self, delta: bytes, end: bytes, count: int) -> None:
        self._transport.write(_HEAD)
        for _ in range(count):
            self._transport.write(delta)
            await self._provider.seen.acquire()
        self._transport.write(end)


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Serve until the block ends."""
    one = Provider()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(one), "127.0.0.1", 0, backlog=4096)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()
