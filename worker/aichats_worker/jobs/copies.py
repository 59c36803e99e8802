"""A job's events where its `reply_to` says: each once it is stored, then the sentinel; in silence a `status`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aichats_worker.request.events import status_outside
from aichats_worker.request.watch import Line, Outlet


class Copies(Outlet):
    """The copies of one job.

    Args:
        line: Where they go.
        request_id: The job's id.
        alive: Whether the broker still hears us; None where that does not matter.
    """

    __slots__ = ("_alive", "_saying", "_status")

    def __init__(self, line: Line, request_id: str, alive: Callable[[], Awaitable[bool]] | None = None) -> None:
        super().__init__(line)
        self._status = status_outside(request_id)
        self._alive = alive
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

        Where somebody else could have the job, the broker is asked first: what a worker that is cut off leaves in its
        socket comes much later, behind another's end.
        """
        if self._alive is None:
            await self._send(self._status)
        elif self._saying is None or self._saying.done():
            self._saying = asyncio.create_task(self._say(self._alive), name="status")

    async def _say(self, alive: Callable[[], Awaitable[bool]]) -> None:
        if await alive() and not self._closed:
            await self._send(self._status)
