"""A local stand-in for ai-chats.org: the same wire protocol, and its faults on demand. It is not ai-chats.org.

It also answers as an OpenAI-compatible server, below /v1.

Directives in the prompt itself say what happens, several in one pair of brackets, seconds and bytes as numbers:

    [sim: words=50 pause=0.05]     so many words, so long between them
    [sim: delay=3]                 nothing at all for so long, then the answer
    [sim: status=429 retry-after=2]  a status; retry-after also as `date` (an HTTP date) or `body` (JSON alone)
    [sim: answer=challenge]        instead of an answer: challenge, html, json-error, prose or empty; with status too
    [sim: tries=0]                 the number after `trylimit`; `none` leaves the end out
    [sim: answer=none tries=0]     no word, and no tries left
    [sim: cut-after=3]             the connection is cut after so many words; `sized` announces a length before
    [sim: stall-after=3]           silence after so many words, until the client goes
    [sim: bytes=3000000 type=png]  an image of that size; type png, jpeg, webp, gif, avif, or text for no image
    [sim: source=data]             the image as `url`, `data` (a data: URL), `b64`, or `none`
    [sim: image-url=http://…]      another address for the image
    [sim: image-status=404] [sim: image-redirects=3] [sim: image-cut-after=9] [sim: image-stall-after=9]

In-process, `Simulator.script` gives the next answers byte for byte.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from aiohttp import web

from aichats_worker.simulator.answers import (
    CUT,
    HOLD,
    Cut,
    Dialect,
    Directives,
    Hold,
    Part,
    directives,
    image,
    located,
    refused,
    told,
)

__all__ = ["CUT", "HOLD", "Received", "Simulator", "serve", "start_simulator"]

SAYS: Final = "x-simulator"
NAME: Final = "aichats-worker"
_OPENAI_IMAGES: Final = "/v1/images/generations"
_ENDPOINTS: Final[dict[str, Dialect]] = {
    "/chat/send2/": "aichats",
    "/v1/chat/completions": "openai",
    _OPENAI_IMAGES: "openai",
}
_HELLO: Final = (
    "This is the local simulator of aichats-worker. It is not ai-chats.org, and no model answers here.\n"
    f"POST to one of {', '.join(_ENDPOINTS)}.\n"
)


@dataclass
class Received:
    """One request as it came.

    Attributes:
        method: GET or POST.
        path: With the query.
        headers: By name in lower case.
        body: As bytes.
        peer: The client's address and port: two requests with the same one came over one connection.
        ended: Set when the simulator has done with it.
        closed_early: The client closed the connection before the answer's end.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: Any
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    closed_early: bool = False

    @property
    def content(self) -> str:
        """The prompt; empty where the body holds none."""
        try:
            asked = json.loads(self.body)
            if "prompt" in asked:
                return str(asked["prompt"])
            return str((asked.get("messagesHistory") or asked["messages"])[-1]["content"])
        except (ValueError, LookupError, TypeError, AttributeError):
            return ""


@dataclass(frozen=True, eq=False)
class _Script:
    parts: tuple[Part, ...]
    status: int
    headers: dict[str, str]
    prompt: str | None


class Simulator:
    """A running simulator; made by `start_simulator`.

    Attributes:
        requests: Every request in the order of arrival.
        closed_early: How many answers were not read to their end.
        url: The origin to set AICHATS_URL to.
        port: Where it listens.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.closed_early = 0
        self.url = ""
        self.port = 0
        self._arrived = asyncio.Condition()
        self._scripts: list[_Script] = []
        self._runner: web.AppRunner | None = None

    async def start(self, port: int, host: str, tls: ssl.SSLContext | None) -> None:
        """Listen; `start_simulator` does it."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self.answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=tls).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"

    @property
    def connections_open(self) -> int:
        """How many clients are connected now."""
        server = self._runner.server if self._runner else None
        return len(server.connections) if server else 0

    def script(
        self, *parts: Part, status: int = 200, headers: dict[str, str] | None = None, prompt: str | None = None
    ) -> None:
        """Answer the next request that no earlier script answers with exactly these parts.

        Args:
            parts: Bytes to send, each in a write of its own; a number of seconds to wait; CUT; or HOLD.
            status: The status line's.
            headers: Besides the usual ones. With Content-Length the body is sent as it is, else in chunks.
            prompt: Only a request with this prompt; None for any.
        """
        self._scripts.append(_Script(parts, status, headers or {}, prompt))

    async def received(self, count: int) -> Received:
        """Wait until `count` requests have come since the start, and return the last of those."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def close(self) -> None:
        """Stop, and close all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, and write down how it ended."""
        received = Received(
            request.method,
            request.path_qs,
            {name.lower(): value for name, value in request.headers.items()},
            await request.read(),
            request.transport.get_extra_info("peername") if request.transport else None,
        )
        self.requests.append(received)
        async with self._arrived:
            self._arrived.notify_all()
        try:
            return await self._answer(request, received)
        except asyncio.CancelledError:
            self._went_early(received)
            raise
        except ConnectionError:
            self._went_early(received)
            return web.Response()  # nobody reads it; raising would log a client's leave as an error
        finally:
            received.ended.set()

    def _went_early(self, received: Received) -> None:
        received.closed_early = True
        self.closed_early += 1

    async def _answer(self, request: web.Request, received: Received) -> web.StreamResponse:
        script = next((one for one in self._scripts if one.prompt in (None, received.content)), None)
        if script is not None:
            self._scripts.remove(script)
            return await _send(request, script.parts, status=script.status, headers=script.headers)
        if request.path.startswith("/images/"):
            return await _send_image(request)
        if request.method != "POST" or request.path not in _ENDPOINTS:
            return web.Response(status=200 if request.path == "/" else 404, text=_HELLO, headers={SAYS: NAME})
        return await self._answer_post(request, received)

    async def _answer_post(self, request: web.Request, received: Received) -> web.StreamResponse:
        wanted = directives(received.content)
        await asyncio.sleep(wanted.delay)
        if wanted.status != 200 or wanted.answer not in ("", "none"):
            headers, body = refused(wanted)
            return await _send(request, [body], status=wanted.status, headers=headers)
        if b'"type":"image"' in received.body or request.path == _OPENAI_IMAGES:
            return web.json_response(located(wanted, str(request.url.origin())), headers={SAYS: NAME})
        return await _send_text(request, wanted, _ENDPOINTS[request.path])


async def start_simulator(port: int = 0, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> Simulator:
    """Start a simulator in this event loop.

    Args:
        port: 0 for a free one.
        host: Where to listen.
        tls: An ssl.SSLContext to serve https with.

    Returns:
        The running simulator, which is closed with `close()` or as a context manager.
    """
    simulator = Simulator()
    await simulator.start(port, host, tls)
    return simulator


async def serve(port: int, host: str = "127.0.0.1", started: Callable[[Simulator], None] = lambda _: None) -> None:
    """Run a simulator until this is cancelled; `started` is called when it listens."""
    async with await start_simulator(port, host) as simulator:
        started(simulator)
        await asyncio.Event().wait()


async def _send_text(request: web.Request, wanted: Directives, dialect: Dialect) -> web.StreamResponse:
    parts = told(wanted, dialect)
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    if wanted.sized:
        headers["Content-Length"] = str(sum(len(part) for part in parts if isinstance(part, bytes)))
    return await _send(request, parts, headers=headers)


async def _send_image(request: web.Request) -> web.StreamResponse:
    asked = {name: int(request.query.get(name, -1)) for name in ("status", "redirects", "stall_after", "cut_after")}
    if asked["redirects"] > 0:
        again = request.rel_url.update_query(redirects=asked["redirects"] - 1)
        return web.Response(status=302, headers={"Location": str(again), SAYS: NAME})
    if asked["status"] > 200:
        return web.Response(status=asked["status"], text="no image\n", headers={SAYS: NAME})
    size, _, kind = request.path.removeprefix("/images/").partition(".")
    data = image(kind, int(size) if size.isdigit() else 0)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
    at = max(asked["cut_after"], asked["stall_after"])
    if at < 0:
        return await _send(request, (data,), headers=headers)
    return await _send(request, (data[:at], CUT if asked["cut_after"] >= 0 else HOLD, data[at:]), headers=headers)


async def _send(
    request: web.Request, parts: Sequence[Part], *, status: int = 200, headers: dict[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={SAYS: NAME, **headers})
    await response.prepare(request)
    for part in parts:
        if isinstance(part, Cut):
            if request.transport is not None:
                request.transport.abort()
            break
        if isinstance(part, Hold):
            await asyncio.Event().wait()
        elif isinstance(part, bytes):
            await response.write(part)
        else:
            await asyncio.sleep(part)
    return response
