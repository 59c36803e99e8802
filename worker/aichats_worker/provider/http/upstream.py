"""HTTP to a provider: the phases of a deadline, redirects, connections that died idle, failures as WorkerErrors."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import aiohttp
from multidict import CIMultiDict, istr
from yarl import URL

from aichats_worker.errors import DeadlineExceeded, WorkerError
from aichats_worker.provider.http.answer import HttpAnswer, http_answer
from aichats_worker.provider.http.failures import UPSTREAM_ERRORS, as_worker_error
from aichats_worker.provider.http.protocol import CONNECTED
from aichats_worker.provider.http.route import Route, Timeouts
from aichats_worker.provider.http.sessions import Sessions

REDIRECTS_MAX: Final = 5
REFUSAL_SECONDS: Final = 2.0  # for the body of an answer whose status says enough
_KEEP_METHOD: Final = (307, 308)
_PLAIN: Final = re.compile(r"[!-~]*")
_DIED: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)


@dataclass(slots=True)  # not frozen: one for each request
class Request:
    """What is sent.

    Attributes:
        method: GET or POST.
        url: Absolute, http or https, as it goes out.
        headers: All of them: nothing is remembered between calls, cookies neither.
        body: What to send.
        proxy: For this call; None for the operator's.
        guarded: Connect to public addresses only.
        first_byte: Seconds until the first byte of the answer, in place of the usual ones.
    """

    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    guarded: bool = False
    first_byte: float | None = None


class _Clock:
    """Bounds a call from its connection to the first byte; until the connection is there, aiohttp does."""

    def __init__(self, timer: asyncio.Timeout, timeouts: Timeouts) -> None:
        self.reused = False
        self._timer: asyncio.Timeout | None = timer
        self._timeouts = timeouts

    def stop(self) -> None:
        """Let the timer go: it knows the task, and the task's context this clock."""
        self._timer = None

    def told(self, error: BaseException) -> WorkerError | None:
        """Return what a requester is told of what ended the call; None where that says nothing of the provider."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return DeadlineExceeded("connect", self._timeouts.connect)
        if isinstance(error, TimeoutError) and self._timer is not None and self._timer.expired():
            return DeadlineExceeded("first_byte", self._timeouts.first_byte)
        return as_worker_error(error) if isinstance(error, UPSTREAM_ERRORS) else None

    def connected(self, reused: bool) -> None:
        """The request goes out now."""
        self.reused = reused
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time() + self._timeouts.first_byte)


class _DiedIdle(Exception):
    """A connection was closed while nobody used it; nothing was answered on it."""


class Upstream:
    """Calls a provider, directly or through a proxy.

    Args:
        route: How calls go out.
    """

    def __init__(self, route: Route | None = None) -> None:
        self._route = route or Route()
        self._sessions = Sessions(self._route.timeouts.connect)

    async def call(self, request: Request, *, redirects_max: int = 0) -> HttpAnswer:
        """Send a request and wait for the first byte of its answer.

        A connection that died while it was idle costs nothing: the request goes out once more, on a new one.

        Args:
            request: What is sent.
            redirects_max: How many to follow of those that keep the method and stay at the same origin, 307 and 308.
                Any other is the answer: a call's key and prompt go nowhere that the operator has not named.

        Raises:
            WorkerError: ProviderUnavailable, BadResponse, or DeadlineExceeded in `connect` or `first_byte`.
        """
        once_more = True
        while True:
            try:
                answer = await self._once(request)
            except _DiedIdle as died:
                if not once_more:  # another call had brought the new line into use meanwhile
                    raise as_worker_error(died.__cause__ or died) from None
                once_more = False
                continue
            target = _same_origin(answer, request.url) if answer.status in _KEEP_METHOD and redirects_max else None
            if target is None:
                return answer
            answer.close()
            redirects_max -= 1
            request, once_more = replace(request, url=target), True

    async def close(self) -> None:
        """Close all connections."""
        await self._sessions.close()

    async def _once(self, request: Request) -> HttpAnswer:
        proxy = self._route.proxy_for(request.url, request.proxy)
        line = await self._sessions.line(proxy, guarded=request.guarded)
        timeouts = self._route.timeouts
        if request.first_byte is not None:
            timeouts = replace(timeouts, first_byte=request.first_byte)
        timer = asyncio.Timeout(None)  # until the connection is there
        clock = _Clock(timer, timeouts)
        CONNECTED.set(clock.connected)
        response: aiohttp.ClientResponse | None = None
        line.calls += 1
        try:
            async with timer:
                response = await line.session.request(
                    request.method,
                    request.url,
                    headers=request.headers,
                    data=request.body,
                    proxy=None if line.is_socks else proxy,
                    allow_redirects=False,
                    ssl=self._route.tls() or True,
                )
                refused = response.status >= 300
                first = await (_first_of_refusal(response) if refused else response.content.readany())
        except BaseException as error:
            line.hang_up()
            if response is not None:
                response.close()
            elif clock.reused and isinstance(error, _DIED):
                self._sessions.retire(line)  # its other idle connections may be dead as well
                raise _DiedIdle from error
            if (told := clock.told(error)) is not None:
                raise told from None
            raise
        finally:
            clock.stop()
        return http_answer(response, first, timeouts.stall, line.hang_up)


async def _first_of_refusal(response: aiohttp.ClientResponse) -> bytes | None:
    """A body that does not come must not hide the status."""
    with suppress(*UPSTREAM_ERRORS):
        async with asyncio.timeout(REFUSAL_SECONDS):
            return await response.content.readany()
    return None


def _same_origin(answer: HttpAnswer, url: URL) -> URL | None:
    try:
        target = url.join(as_url(answer.headers.get("Location", "")))
        return target if target.origin() == url.origin() and target != url else None
    except ValueError:
        return None


def named(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers for many calls: of a plain name, each call makes a copy in lower case, and keeps it."""
    return CIMultiDict((istr(name), value) for name, value in headers.items())


def as_url(text: str) -> URL:
    """Read a URL, byte for byte where it can go out as it is: a signed one must not be quoted again.

    Raises:
        ValueError: It is none.
    """
    return URL(text, encoded=_PLAIN.fullmatch(text) is not None)
