"""Where aiohttp 3.14 is spared work: a third of what a delta of a burst costs.

For each chunk that is taken out of its buffer, aiohttp resumes reading though nothing had paused it, and parses no
bytes for that. docs/upstream.md has the words for it.
"""

from functools import partial
from typing import Any

from aiohttp import TCPConnector
from aiohttp.client_proto import ResponseHandler


class Protocol(ResponseHandler):
    """Resumes only what was paused."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, where the buffer had been full."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


class Connector(TCPConnector):
    """Has connections that speak so; its arguments are aiohttp's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = partial(Protocol, loop=self._loop)
