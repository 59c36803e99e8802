"""Where a job's answer goes while it is made: into its record, deltas that come close together joined."""

import asyncio
import time
from typing import Final

import orjson

from aichats_worker.errors import Abandoned, Internal, Interrupted, TooLarge, WorkerError
from aichats_worker.jobs.record import Record
from aichats_worker.provider import Picture
from aichats_worker.request.events import image_parts, text_pieces
from aichats_worker.request.outcome import Completed
from aichats_worker.request.runs import Run
from aichats_worker.request.watch import SMALLER
from aichats_worker.telemetry.account import Sent

# Deltas that wait to be stored: beyond this the provider waits, too.
JOINED_MAX_CHARS: Final = 64 * 1024


class JobWriter:
    """Stores a job's events. The first delta is stored at once, those after it are joined for a while.

    Args:
        record: Where they are stored.
        run: Stopped where a joined delta, stored beside it, finds that the job is lost.
        joined_seconds: For how long deltas are joined.
    """

    def __init__(self, record: Record, run: Run, joined_seconds: float) -> None:
        self.record = record
        self._run = run
        self._joined_seconds = joined_seconds
        self._kind = b"response"
        self._deltas: list[str] = []
        self._chars = 0
        self._first: float | None = None
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._storing: asyncio.Task[None] | None = None

    async def text(self, delta: str) -> None:
        """Take a piece of the answer."""
        await self._take(b"response", delta)

    async def reasoning(self, delta: str) -> None:
        """Take a piece of the model's reasoning."""
        await self._take(b"reasoning", delta)

    async def _take(self, kind: bytes, delta: str) -> None:
        if kind != self._kind and self._deltas:
            await self._store()
        self._kind = kind
        self._deltas.append(delta)
        self._chars += len(delta)
        if self._first is None:
            self._first = time.monotonic()
            await self._store()
        elif self._chars > JOINED_MAX_CHARS:
            await self._store()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._joined_seconds, self._due)

    async def image(self, index: int, picture: Picture) -> None:
        """Store an image in as many parts as the broker's limit asks for."""
        if self._first is None:
            self._first = time.monotonic()
        async with self._turn:
            for data in image_parts(index, picture, self.record.max_bytes):
                await self._append(b"image", b"".join(data))
                self._run.check()

    async def written(self) -> None:
        """Each event is confirmed; what is joined is stored with the end."""

    async def flush(self) -> None:
        """Store what is joined, behind what is being stored."""
        await self._store()

    async def quiet(self) -> None:
        """Drop what is joined, and wait for what is being stored."""
        self._deltas.clear()
        await self._store()

    async def done(self, completed: Completed) -> bytes:
        """Store what is joined, and return the data of `done`, which comes next."""
        await self._store()
        return orjson.dumps(completed.data(last_seq=self.record.next_number, first=self._first))

    @property
    def sent(self) -> Sent:
        """What has been stored."""
        return Sent(self.record.events, self.record.bytes, self._first)

    def close(self) -> None:
        """Join no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_beside(), name="store")

    async def _store_beside(self) -> None:
        try:
            await self._store()
            while self._deltas and self._timer is None:
                await self._store()  # they were due meanwhile, and nothing else would see to them
        except (WorkerError, Abandoned) as cause:
            self._run.stop(cause)
        except Exception:  # noqa: BLE001 - nobody awaits this task before the end
            self._run.stop(Internal("a defect of the worker's; its operator finds the cause in the log under this id"))

    async def _store(self) -> None:
        async with self._turn:
            self.close()
            kind, text = self._kind, "".join(self._deltas)
            self._deltas.clear()
            self._chars = 0
            if text:
                for data in text_pieces(text, self.record.room):
                    await self._append(kind, data)

    async def _append(self, kind: bytes, data: bytes) -> None:
        """Store an event that was made to fit; one that does not any more fits in smaller pieces the next time."""
        try:
            await self.record.append(kind, data)
        except TooLarge:
            raise Interrupted(SMALLER) from None
