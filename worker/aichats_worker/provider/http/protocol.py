"""Where aiohttp 3.14 is spared work: most of what a delta of a burst costs, and a tenth of a short call.

For each chunk that is taken out of its buffer, aiohttp resumes reading though nothing had paused it, and parses no
bytes for that; and it keeps account of where each chunk ends. docs/upstream.md has the words for both. A read that
waits is two coroutines inside each other, around a timer that nobody has set. A call's clock has to know when its
connection is there, which aiohttp tells through ten calls of its tracing where one does.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from aiohttp import BaseConnector, ClientRequest, ClientTimeout, StreamReader, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.tracing import Trace

# Is called once the connection of this task's call is there, with whether it had been used before.
CONNECTED: Final[ContextVar[Callable[[bool], object]]] = ContextVar("connected")


class Body(StreamReader):
    """A body whose chunks nobody asks for one by one: what HTTP cut is joined when it is read, in one go."""

    __slots__ = ()
    _protocol: "Protocol"

    def begin_http_chunk_receiving(self) -> None:
        """Nothing: where a chunk begins is of use to readchunk() alone."""

    def end_http_chunk_receiving(self) -> None:
        """Read no more where there are too many: each costs more than its bytes."""
        if len(self._buffer) > self._high_water_chunks:
            self._protocol.pause_reading()

    def feed_data(self, data: bytes, size: int = 0) -> bool:  # noqa: ARG002 - aiohttp's own does not look at it either
        """Take a piece of the body."""
        if not data:
            return False
        length = len(data)
        self._size += length
        self.total_bytes += length
        self._buffer.append(data)
        if (waiter := self._waiter) is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if self._size > self._high_water:
            self._protocol.pause_reading()
        return False

    def take(self) -> bytes | None:
        """Return what has arrived, empty at the end; None where something has to be waited for.

        Where the body was cut, what came before is given out first: aiohttp's own keeps it for itself.
        """
        if not self._buffer:
            if self._exception is not None:
                raise self._exception
            return b"" if self._eof else None
        if self._buffer_offset:  # something was read by its length
            return self._read_nowait(-1)
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._size = 0
        self._cursor += len(data)
        if self._protocol.was_paused:
            self._protocol.resume_reading()
        return data

    def arrival(self) -> asyncio.Future[None]:
        """Return what is done once there is something to take. One at a time waits for it."""
        if (self._waiter is not None and not self._waiter.done()) or not self._protocol.connected:
            raise RuntimeError("somebody else reads this body, or its connection was closed here")
        self._waiter = arrival = self._loop.create_future()
        return arrival

    async def readany(self) -> bytes:
        """Return what has arrived, waiting for something; empty at the end."""
        while (data := self.take()) is None:
            await self.arrival()
        return data


class Protocol(ResponseHandler):
    """Resumes only what was paused, and keeps no account of a body's chunks.

    Attributes:
        used: A call has gone out on it.
        was_paused: In this call; from then on aiohttp does as it always does, since its parser may still hold back what
            it was given after reading had been resumed.
    """

    used = False
    was_paused = False

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take an answer whose head has come."""
        if type(data[1]) is StreamReader:
            data[1].__class__ = Body  # aiohttp's parser makes them, and asks nobody of which class
            data[1]._http_chunk_splits = None  # noqa: SLF001 - of chunks that came with the head
        super().feed_data(data, size)

    def pause_reading(self) -> None:
        """Read no more, until there is room."""
        self.was_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, where there may be something to read on with."""
        if self.was_paused:
            super().resume_reading(resume_parser)


class Telling(BaseConnector):
    """Tells a call that its connection is there."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        """As aiohttp's."""
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        assert isinstance(protocol, Protocol)  # noqa: S101
        CONNECTED.get()(protocol.used)
        protocol.used, protocol.was_paused = True, False
        return connection


class Connector(Telling, TCPConnector):
    """Connects directly, or through an HTTP proxy; its arguments are aiohttp's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = partial(Protocol, loop=self._loop)
