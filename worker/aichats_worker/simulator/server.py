"""A local stand-in for ai-chats.org, and for an OpenAI-compatible server below /v1: faults on demand. It is neither.

What `[sim: …]` in a prompt can say is in `directives.py`, and printed by `aichats-worker simulator --help`. In-process,
`Simulator.script` gives the next answers byte for byte.
"""

import asyncio
import signal
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from aiohttp import web

from aichats_worker.simulator.answers import CUT, HOLD, Part
from aichats_worker.simulator.received import Received
from aichats_worker.simulator.sending import send
from aichats_worker.simulator.site import Site

__all__ = ["CUT", "HOLD", "Received", "Simulator", "serve", "start_simulator"]

REQUESTS_KEPT_MAX: Final = 1000
DRAIN_SECONDS: Final = 20.0
_CUT_SECONDS: Final = 0.001  # 0 would mean for ever to aiohttp; `drain` is what waits
_BODY_MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class _Script:
    parts: tuple[Part, ...]
    status: int
    headers: dict[str, str]
    prompt: str | None


class Simulator:
    """A running simulator; made by `start_simulator`.

    Attributes:
        requests: Every request in the order of arrival; the last REQUESTS_KEPT_MAX of them in `serve`.
        closed_early: How many answers were not read to their end.
        url: The origin to set AICHATS_URL to.
        port: Where it listens.
    """

    def __init__(self, key: str | None = None, *, kept_max: int | None = None) -> None:
        self.requests: list[Received] = []
        self.closed_early = 0
        self.url = ""
        self.port = 0
        self._site = Site(key)
        self._kept_max = kept_max
        self._arrived = asyncio.Condition()
        self._idle = asyncio.Event()
        self._idle.set()
        self._answering = 0
        self._scripts: list[_Script] = []
        self._runner: web.AppRunner | None = None

    async def start(self, port: int, host: str, tls: ssl.SSLContext | None) -> None:
        """Listen; `start_simulator` does it."""
        app = web.Application(client_max_size=_BODY_MAX_BYTES)
        app.router.add_route("*", "/{path:.*}", self.answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_CUT_SECONDS)
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

    async def drain(self, seconds: float) -> None:
        """Take no new connection, and wait for the answers that are on their way, but no longer than `seconds`."""
        for site in list(self._runner.sites) if self._runner is not None else ():
            await site.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

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
        await self._write_down(received)
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
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    async def _write_down(self, received: Received) -> None:
        self._answering += 1
        self._idle.clear()
        self.requests.append(received)
        if self._kept_max is not None:
            del self.requests[: -self._kept_max]
        async with self._arrived:
            self._arrived.notify_all()

    def _went_early(self, received: Received) -> None:
        received.closed_early = True
        self.closed_early += 1

    async def _answer(self, request: web.Request, received: Received) -> web.StreamResponse:
        script = next((one for one in self._scripts if one.prompt in (None, received.content)), None)
        if script is None:
            return await self._site.answer(request, received)
        self._scripts.remove(script)
        return await send(request, script.parts, status=script.status, headers=script.headers)


async def start_simulator(
    port: int = 0, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None, key: str | None = None
) -> Simulator:
    """Start a simulator in this event loop.

    Args:
        port: 0 for a free one.
        host: Where to listen.
        tls: An ssl.SSLContext to serve https with.
        key: What calls below /v1 must bring; None for none.

    Returns:
        The running simulator, which is closed with `close()` or as a context manager.
    """
    simulator = Simulator(key)
    await simulator.start(port, host, tls)
    return simulator


async def serve(
    port: int,
    host: str = "127.0.0.1",
    started: Callable[[Simulator], None] = lambda _: None,
    *,
    key: str | None = None,
    drain_seconds: float = DRAIN_SECONDS,
) -> None:
    """Run a simulator until SIGTERM, and then to the end of the answers on their way, or until this is cancelled.

    Args:
        port: 0 for a free one.
        host: Where to listen.
        started: Is called when it listens.
        key: As in `start_simulator`.
        drain_seconds: How long it waits for those answers.
    """
    stop = asyncio.Event()
    simulator = Simulator(key, kept_max=REQUESTS_KEPT_MAX)
    await simulator.start(port, host, None)
    async with simulator:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        started(simulator)
        await stop.wait()
        await simulator.drain(drain_seconds)
