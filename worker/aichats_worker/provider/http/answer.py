"""An HTTP answer: its status, its headers, and its body as it arrives."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import aiohttp

from aichats_worker.errors import BadResponse, DeadlineExceeded, ProviderUnavailable
from aichats_worker.provider.decoding.packing import STEP_MAX_BYTES, Unpacking, is_packed
from aichats_worker.provider.http.failures import CUT, UPSTREAM_ERRORS, as_worker_error

if TYPE_CHECKING:
    from aichats_worker.provider.http.protocol import Body

SETTLE_SECONDS: Final = 0.1


class HttpAnswer:
    """An HTTP answer, its first bytes at hand. Whoever holds it closes it.

    Args:
        response: What the library has.
        first: The first bytes of its body; None where there are none to be had, and the status has to say it all.
        stall: How long a read may take, in seconds.
        on_close: Called once, when the answer is closed.

    Attributes:
        status: The HTTP status.
        headers: By name; their case does not matter.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, first: bytes | None, stall: float, on_close: Callable[[], object]
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        # Of an answer without a body it is another class, and then nothing is read.
        self._body: Body = response.content  # type: ignore[assignment]
        self._first = first or None
        self._over = not first
        self._stall = stall
        self._stalled = False
        self._waiting_since: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._on_close: Callable[[], object] | None = on_close

    @property
    def ok(self) -> bool:
        """Whether it is an answer and no refusal: any 2xx."""
        return 200 <= self.status < 300

    async def read(self) -> bytes:
        """Return what has arrived, waiting for something; empty at the end that HTTP marks.

        Raises:
            WorkerError: The body was cut, or nothing came for the stall timeout.
        """
        if self._first is not None:
            data, self._first = self._first, None
            return data
        if self._over:
            return b""
        self._waiting_since = time.monotonic()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._stall, self._look)
        try:
            while (found := self._body.take()) is None:  # a coroutine less for each delta than readany()
                await self._body.arrival()
        except UPSTREAM_ERRORS as error:
            if self._stalled:
                raise DeadlineExceeded("stall", self._stall) from None
            raise as_worker_error(error) from None
        finally:
            self._waiting_since = None
        return found

    def _look(self) -> None:
        """End a read that waits for too long. One timer for all: one for each read is a tenth of a delta's time."""
        now = time.monotonic()
        left = self._stall - (0 if self._waiting_since is None else now - self._waiting_since)
        if left > 0:
            self._watch = asyncio.get_running_loop().call_later(left, self._look)
        else:
            self._stalled = True
            self._body.set_exception(TimeoutError())

    async def head(self, max_bytes: int) -> bytes:
        """Return the body, or its beginning where it is longer than `max_bytes`. One byte more says that it is."""
        body = bytearray()
        while len(body) <= max_bytes and (data := await self.read()):
            body += data
        return bytes(memoryview(body)[: max_bytes + 1])

    async def settle(self) -> None:
        """Wait a moment for the end that HTTP marks, so that the connection can be used again."""
        if self._body.at_eof():
            return
        with suppress(*UPSTREAM_ERRORS):
            async with asyncio.timeout(SETTLE_SECONDS):
                while await self._body.readany():
                    pass

    def close(self) -> None:
        """Give the connection back where the body was read to its end; else close it at once."""
        if self._watch is not None:
            self._watch.cancel()
        self._response.close()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PackedAnswer(HttpAnswer):
    """An HTTP answer whose body has a content encoding. Its status and headers hold whether it can be unpacked or not.

    Args:
        response: What the library has.
        first: The first bytes of its body, packed.
        stall: How long a read may take, in seconds.
        on_close: Called once, when the answer is closed.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, first: bytes | None, stall: float, on_close: Callable[[], object]
    ) -> None:
        super().__init__(response, first, stall, on_close)
        self._unpacking = Unpacking(response.headers["Content-Encoding"])

    async def read(self) -> bytes:
        """Return what has arrived, unpacked.

        Raises:
            WorkerError: As of any answer, cut too where the packing ends before its time; BadResponse where it cannot
                be unpacked.
        """
        while True:
            try:
                plain = self._unpacking.more()
            except ValueError:
                raise BadResponse(
                    "the provider packed its answer in a way that nobody asked for (Content-Encoding); try again later"
                ) from None
            if plain:
                if len(plain) == STEP_MAX_BYTES:  # one read may hold a thousand of these, and a timeout needs its turn
                    await asyncio.sleep(0)
                return plain
            if not (data := await super().read()):
                if self._unpacking.is_cut:  # whoever packed it has died, and whoever relays it knows of nothing
                    raise ProviderUnavailable(CUT)
                return b""
            self._unpacking.feed(data)


def http_answer(
    response: aiohttp.ClientResponse, first: bytes | None, stall: float, on_close: Callable[[], object]
) -> HttpAnswer:
    """Make an answer of what the library has; its arguments are HttpAnswer's."""
    encoding = response.headers.get("Content-Encoding")
    kind = PackedAnswer if encoding and is_packed(encoding) else HttpAnswer
    return kind(response, first, stall, on_close)
