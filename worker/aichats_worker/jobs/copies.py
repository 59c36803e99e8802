"""A job's events where its `reply_to` says: each once it is stored, then the sentinel; in silence a `status`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from nats.errors import Error as NatsError

from aichats_worker.errors import WorkerError
from aichats_worker.request.events import status_outside
from aichats_worker.request.watch import Line, Outlet

# How old the word may be that a job is still ours: a line that was cut brings it when another one has ended the job.
OURS_MAX_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Copies(Outlet):
    """The copies of one job.

    Args:
        line: Where they go.
        request_id: The job's id.

    Attributes:
        ours: Says whether the job is still ours, before each status; None where nobody else can have it.
    """

    __slots__ = ("_saying", "_status", "ours")

    def __init__(self, line: Line, request_id: str) -> None:
        super().__init__(line)
        self.ours: Callable[[], Awaitable[bool]] | None = None
        self._status = status_outside(request_id)
        self._saying: asyncio.Task[None] | None = None

    async def copy(self, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Publish a stored event as it is."""
        if not self._closed:
            await self._send(payload, headers)

    async def end(self, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Publish the stored final event, and the sentinel."""
        if not self._closed:
            await self._close(payload, headers)

    async def status(self) -> None:
        """Say that the job is alive, outside the order: its record has no such event.

        Where somebody else could have the job, its record is asked first. A worker that was frozen or cut off would say
        it behind another's end; so would its socket, which keeps what it says meanwhile.
        """
        if self.ours is None:
            await self._send(self._status)
        elif self._saying is None or self._saying.done():
            self._saying = asyncio.create_task(self._say(self.ours), name="status")

    async def _say(self, ours: Callable[[], Awaitable[bool]]) -> None:
        asked = time.monotonic()
        try:
            if await ours() and not self._closed and time.monotonic() - asked <= OURS_MAX_SECONDS:
                await self._send(self._status)
        except (NatsError, WorkerError) as error:
            log.debug("a job's status is not published", error=type(error).__name__)
