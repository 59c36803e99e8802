"""How many requests of a kind run at once, and when there will be room for one more."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# Until one has ended, nothing is known of how long they take.
HELD_SECONDS_UNKNOWN = 1.0
HELD_WEIGHT = 0.2  # of the newest in the moving average
RETRY_AFTER_MIN_SECONDS = 0.1
RETRY_AFTER_MAX_SECONDS = 60.0


class Slots:
    """The slots of one kind.

    Core requests never wait here. A job may: the slot that was free when it was fetched can be taken when it arrives.
    It then gets the next one, before any core request.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._held = 0
        self._held_seconds = HELD_SECONDS_UNKNOWN
        self._ended = 0
        self._refused = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._watchers: list[Callable[[], object]] = []

    @property
    def free(self) -> int:
        """How many may start at once; not above 0 while somebody waits."""
        return self.count - self._held - len(self._waiting)

    def watch(self, changed: Callable[[], object]) -> None:
        """Have `changed` called whenever the last free slot was taken, or one is free again."""
        self._watchers.append(changed)

    async def room(self, timeout_seconds: float) -> bool:
        """Wait until one is free. False where none was within `timeout_seconds`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._room.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> bool:
        """Take one at once. False where none is free. Whoever got one holds it and gives it back."""
        if self.free <= 0:
            return False
        self._held += 1
        self._changed()
        return True

    async def wait(self) -> None:
        """Take the next one that comes free."""
        if self.take():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._changed()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it came in the same moment: pass it on
            else:
                self._waiting.remove(turn)
                self._changed()
            raise

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold one that was taken, and give it back."""
        since = time.monotonic()
        try:
            yield
        finally:
            self._learn(time.monotonic() - since)
            self.give_back()

    def give_back(self) -> None:
        """Let the next one have it."""
        self._refused = max(0, self._refused - 1)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # handed on as it is: nobody else can take it in between
                return
        self._held -= 1
        self._changed()

    def retry_after_ms(self) -> int:
        """Refuse one, and return when a slot should be free for it, by the rate at which they came free lately.

        Everyone who was refused since the last slot came free gets a later time: they would all come back at once.
        """
        self._refused += 1
        seconds = self._held_seconds / self.count * self._refused
        return round(1000 * min(max(seconds, RETRY_AFTER_MIN_SECONDS), RETRY_AFTER_MAX_SECONDS))

    def _learn(self, seconds: float) -> None:
        weight = HELD_WEIGHT if self._ended else 1.0
        self._ended += 1
        self._held_seconds += weight * (seconds - self._held_seconds)

    def _changed(self) -> None:
        was = self._room.is_set()
        if self.free > 0:
            self._room.set()
        else:
            self._room.clear()
        if was != self._room.is_set():
            for changed in self._watchers:
                changed()
