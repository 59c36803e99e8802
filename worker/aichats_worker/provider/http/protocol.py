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
    """

    used = False

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, where the buffer had been full."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


class Telling(BaseConnector):
    """Tells a call that its connection is there."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        """As aiohttp's."""
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        assert isinstance(protocol, Protocol)  # noqa: S101
        CONNECTED.get()(protocol.used)
        protocol.used = True
        return connection


class Connector(Telling, TCPConnector):
    """Connects directly, or through an HTTP proxy; its arguments are aiohttp's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = partial(Protocol, loop=self._loop)
