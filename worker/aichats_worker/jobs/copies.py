"""A job's events where its `reply_to` says: each once it is stored, then the sentinel; in silence a `status`."""

from collections.abc import Mapping

from aichats_worker.request.events import status_outside
from aichats_worker.request.watch import Line, Outlet


class Copies(Outlet):
    """The copies of one job.

    Args:
        line: Where they go.
        request_id: The job's id.
    """

    __slots__ = ("_status",)

    def __init__(self, line: Line, request_id: str) -> None:
        super().__init__(line)
        self._status = status_outside(request_id)

    async def copy(self, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Publish a stored event as it is."""
        if not self._closed:
            await self._send(payload, headers)

    async def end(self, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Publish the stored final event, and the sentinel."""
        if not self._closed:
            await self._close(payload, headers)

    async def status(self) -> None:
        """Say that the job is alive, outside the order: its record has no such event."""
        await self._send(self._status)
