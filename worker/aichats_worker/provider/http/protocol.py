"""Where aiohttp 3.14 is spared work: half of what a delta of a burst costs, and a tenth of a short call.

For each chunk that is taken out of its buffer, aiohttp resumes reading though nothing had paused it, and parses no
bytes for that; docs/upstream.md has the words for it. And a call's clock has to know when its connection is there,
which aiohttp tells through ten calls of its tracing where one does.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from aiohttp import BaseConnector, ClientRequest, ClientTimeout, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

# Is called once the connection of this task's call is there, with whether it had been used before.
CONNECTED: Final[ContextVar[Callable[[bool], object]]] = ContextVar("connected")


class Protocol(ResponseHandler):
    """Resumes only what was paused.

    Attributes:
        used: A call has gone out on it.
        was_paused: In this call; from then on aiohttp does as it always does, since its parser may still hold back what
            it was given after reading had been resumed.
    """

    used = False
    was_paused = False

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
