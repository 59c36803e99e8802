"""A raw HTTP server for tests: sends exactly the bytes it is told, where the simulator is too well-behaved."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

CLOSE: Final = object()
HOLD: Final = object()


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Wire:
    """`answer(request)` gives what to send: bytes, an event or seconds to wait for, CLOSE or HOLD."""

    answer: Callable[[Asked], Sequence[Any]]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.asked.append(Asked(method, path, headers, body))
        for part in self.answer(self.asked[-1]):
            if part is CLOSE:
                raise ConnectionError
            if part is HOLD:
                await reader.read()
            elif isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            elif isinstance(part, asyncio.Event):
                await part.wait()
            else:
                await asyncio.sleep(part)


@asynccontextmanager
async def wire(answer: Callable[[Asked], Sequence[Any]]) -> AsyncIterator[Wire]:
    one = Wire(answer)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, limit=1 << 20)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield one
    server.close()


def http(body: bytes = b"", *, status: str = "200 OK", headers: Sequence[str] = ()) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def refused(status: str, headers: Sequence[str] = (), **error: Any) -> bytes:
    """An error as OpenAI has it."""
    return http(json.dumps({"error": error}).encode(), status=status, headers=headers)


def sse(*chunks: Any) -> bytes:
    """A stream of chunks in one answer, and its end mark."""
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    return http(body)


def delta(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    said = more if content is None else {"content": content, **more}
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


HELLO: Final = sse(delta("Hello"), delta(None, "stop"))
