"""HTTP to a provider: sessions that live as long as the process, the phases of a deadline, failures as WorkerErrors."""

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp

from aichats_worker.errors import DeadlineExceeded, Phase
from aichats_worker.provider.http.addresses import guarded_socket
from aichats_worker.provider.http.failures import UPSTREAM_ERRORS, as_worker_error
from aichats_worker.provider.http.socks import SocksConnector

SESSIONS_MAX: Final = 32
SETTLE_SECONDS: Final = 0.1
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The phases of a call's deadline, in seconds.

    Attributes:
        connect: DNS, TCP, the proxy and TLS, until the request's headers are out.
        first_byte: From there to the first byte of the answer's body.
        stall: Between two reads of it.
    """

    connect: float = 10
    first_byte: float = 60
    stall: float = 30


class _Clock:
    """Bounds a call until its first byte, and knows in which phase it is."""

    def __init__(self, timer: asyncio.Timeout, timeouts: Timeouts) -> None:
        self.phase: Phase = "connect"
        self.seconds = timeouts.connect
        self._timer = timer
        self._first_byte = timeouts.first_byte

    def headers_sent(self) -> None:
        self.phase, self.seconds = "first_byte", self._first_byte
        if not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time() + self._first_byte)


async def _on_headers_sent(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.headers_sent()


class _Line:
    """One session, and how many calls are on it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.calls = 0


class Answer:
    """An HTTP answer, its first bytes at hand. Whoever holds it closes it."""

    def __init__(self, response: aiohttp.ClientResponse, first: bytes, stall: float, line: _Line) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._first: bytes | None = first
        self._stall = stall
        self._stalled = False
        self._waiting_since: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._line: _Line | None = line

    async def read(self) -> bytes:
        """Return what has arrived, waiting for something; empty at the end that HTTP marks.

        Raises:
            WorkerError: The body was cut, or nothing came for the stall timeout.
        """
        if self._first is not None:
            data, self._first = self._first, None
            return data
        loop = asyncio.get_running_loop()
        self._waiting_since = loop.time()
        if self._watch is None:
            self._watch = loop.call_later(self._stall, self._look)
        try:
            return await self._response.content.readany()
        except UPSTREAM_ERRORS as error:
            if self._stalled:
                raise DeadlineExceeded("stall", self._stall) from None
            raise as_worker_error(error) from None
        finally:
            self._waiting_since = None

    def _look(self) -> None:
        """End a read that waits for too long. One timer for all: one for each read is a tenth of a delta's time."""
        loop = asyncio.get_running_loop()
        due = self._stall + (loop.time() if self._waiting_since is None else self._waiting_since)
        if due > loop.time():
            self._watch = loop.call_at(due, self._look)
        else:
            self._stalled = True
            self._response.content.set_exception(TimeoutError())

    async def head(self, max_bytes: int) -> bytes:
        """Return the body, or its beginning where it is longer than `max_bytes`. One byte more says that it is."""
        body = bytearray()
        while len(body) <= max_bytes and (data := await self.read()):
            body += data
        return bytes(memoryview(body)[: max_bytes + 1])

    async def settle(self) -> None:
        """Wait a moment for the end that HTTP marks, so that the connection can be used again."""
        with suppress(*UPSTREAM_ERRORS):
            async with asyncio.timeout(SETTLE_SECONDS):
                while await self._response.content.readany():
                    pass

    def close(self) -> None:
        """Give the connection back where the body was read to its end; else close it at once."""
        if self._watch is not None:
            self._watch.cancel()
        self._response.close()
        if self._line is not None:
            self._line.calls -= 1
            self._line = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Upstream:
    """Calls a provider, directly or through a proxy.

    Sessions are made when first needed and kept: one for direct calls and HTTP proxies, one for each SOCKS proxy, and
    their guarded twins, which refuse to connect to an address that is not public.

    Args:
        proxy: The operator's proxy, http(s):// or socks5(h)://, for calls that name none.
        timeouts: The phases of each call.
        tls: A context for a private certificate authority; None for the system's.
    """

    def __init__(
        self, *, proxy: str | None = None, timeouts: Timeouts | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.proxy = proxy
        self._timeouts = timeouts or Timeouts()
        self._tls = tls
        self._lines: OrderedDict[tuple[str | None, bool], _Line] = OrderedDict()

    async def call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        proxy: str | None = None,
        guarded: bool = False,
    ) -> Answer:
        """Send a request and wait for the first byte of its answer. Redirects are answers like any other.

        Args:
            method: GET or POST.
            url: Absolute, http or https.
            headers: All of them: nothing is remembered between calls, cookies neither.
            body: What to send.
            proxy: For this call; None for the operator's.
            guarded: Connect to public addresses only.

        Raises:
            WorkerError: ProviderUnavailable, BadResponse, or DeadlineExceeded in `connect` or `first_byte`.
        """
        proxy = proxy or self.proxy
        line = await self._line(proxy, guarded=guarded)
        line.calls += 1
        try:
            request = partial(
                line.session.request,
                method,
                url,
                headers=headers,
                data=body,
                proxy=None if _is_socks(proxy) else proxy,
                allow_redirects=False,
            )
            response, first = await self._until_first_byte(request)
        except BaseException:
            line.calls -= 1
            raise
        return Answer(response, first, self._timeouts.stall, line)

    async def _until_first_byte(
        self, request: Callable[..., Awaitable[aiohttp.ClientResponse]]
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        response: aiohttp.ClientResponse | None = None
        timer = asyncio.timeout(self._timeouts.connect)
        clock = _Clock(timer, self._timeouts)
        try:
            async with timer:
                response = await request(trace_request_ctx=clock)
                return response, await response.content.readany()
        except BaseException as error:
            if response is not None:
                response.close()
            if isinstance(error, TimeoutError) and timer.expired():
                raise DeadlineExceeded(clock.phase, clock.seconds) from None
            if isinstance(error, UPSTREAM_ERRORS):
                raise as_worker_error(error) from None
            raise

    async def close(self) -> None:
        """Close all connections."""
        while self._lines:
            _, line = self._lines.popitem()
            await line.session.close()

    async def _line(self, proxy: str | None, *, guarded: bool) -> _Line:
        socks = proxy if _is_socks(proxy) else None
        # Through an HTTP proxy the only address that we connect to is the proxy's, which the operator chose.
        guarded = guarded and proxy == socks
        key = (socks, guarded)
        if key not in self._lines:
            await self._forget_idle()
            # Another call may have made it during that wait.
            if key not in self._lines:
                self._lines[key] = _Line(self._open(socks, guarded=guarded))
        self._lines.move_to_end(key)
        return self._lines[key]

    def _open(self, socks: str | None, *, guarded: bool) -> aiohttp.ClientSession:
        tls = self._tls or True
        connector = (
            SocksConnector(socks, guarded=guarded, ssl=tls, timeout=self._timeouts.connect)
            if socks is not None
            # limit=0: the worker's slots bound the calls; aiohttp would queue silently.
            else aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=guarded_socket if guarded else None)
        )
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_on_headers_sent)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=_NO_TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[tracing],
            headers={"Accept-Encoding": "identity"},
        )

    async def _forget_idle(self) -> None:
        """Keep the sessions of requests' own proxies bounded; one that is in use stays."""
        idle = [key for key, line in self._lines.items() if not line.calls]
        # All are taken out before the first wait: another call may forget the same ones meanwhile, or begin on one.
        forgotten = [self._lines.pop(key) for key in idle[: max(0, len(self._lines) - SESSIONS_MAX + 1)]]
        for line in forgotten:
            await line.session.close()


def _is_socks(proxy: str | None) -> bool:
    return proxy is not None and urlsplit(proxy).scheme in ("socks5", "socks5h")
