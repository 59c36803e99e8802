"""How many requests of a kind run at once, and when there will be room for one more."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

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

    Attributes:
        free: How many may start at once; not above 0 while somebody waits.
        changed: Set whenever the last free one was taken, or one is free again; whoever waits for it clears it.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self.changed = asyncio.Event()
        self._held = 0
        self._held_seconds = HELD_SECONDS_UNKNOWN
        self._ended = 0
        self._refused = 0
        self._had_room = True
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._freed: Callable[[], Awaitable[object]] | None = None
        self._followed: Callable[[], object] | None = None

    @property
    def used(self) -> int:
        """How many are taken."""
        return self._held

    @property
    def waiting(self) -> int:
        """How many jobs wait for one."""
        return len(self._waiting)

    def tell(self, freed: Callable[[], Awaitable[object]]) -> None:
        """Have `freed` awaited after each slot that was given back, before its request says that it has ended."""
        self._freed = freed

    def follow(self, changed: Callable[[], object]) -> None:
        """Have `changed` called after each change of how many are free."""
        self._followed = changed

    def take(self) -> bool:
        """Take one at once. False where none is free. Whoever got one holds it, or gives it back."""
        if self.free <= 0:
            return False
        self._held += 1
        self._look()
        return True

    async def wait(self, seconds: float) -> bool:
        """Take the next one that comes free. False where none did within `seconds`."""
        if self.take():
            return True
        if seconds <= 0:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._look()
        try:
            async with asyncio.timeout(seconds):
                await turn
        except (asyncio.CancelledError, TimeoutError) as error:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it came in the same moment: pass it on
            with suppress(ValueError):  # whoever gave one back may have passed it over already
                self._waiting.remove(turn)
            self._look()
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    async def end(self, seconds: float) -> None:
        """Give back one that was held for so long, and say so."""
        weight = HELD_WEIGHT if self._ended else 1.0
        self._ended += 1
        self._held_seconds += weight * (seconds - self._held_seconds)
        self.give_back()
        if self._freed is not None:
            await self._freed()

    def give_back(self) -> None:
        """Let the next one have it."""
        self._refused = 0
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # handed on as it is: nobody else can take it in between
                break
        else:
            self._held -= 1
        self._look()

    def retry_after_ms(self) -> int:
        """Refuse one, and return when a slot should be free for it, by the rate at which they came free lately.

        Each that is refused until the next slot comes free gets a later time: they would all come back at once.
        """
        self._refused += 1
        seconds = self._held_seconds / self.count * self._refused
        return round(1000 * min(max(seconds, RETRY_AFTER_MIN_SECONDS), RETRY_AFTER_MAX_SECONDS))

    def _look(self) -> None:
        """After each change: is there room?"""
        self.free = self.count - self._held - len(self._waiting)
        if self._followed is not None:
            self._followed()
        if self._had_room is not (has_room := self.free > 0):
            self._had_room = has_room
            self.changed.set()
