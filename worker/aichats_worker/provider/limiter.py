"""How often, and how many at once, a worker asks its provider; fair between tenants."""

import asyncio
from collections import OrderedDict, deque
from typing import Final

from aichats_worker.errors import RateLimited

_WINDOW_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 1.0
_PAUSE_MAX_SECONDS: Final = 60.0


class Limiter:
    """Lets calls through: one tenant after the other, each tenant's in their order.

    Never more than `per_minute` calls begin within any 60 seconds. A 429 halves that number and stops all calls for as
    long as the provider asked; each answered call then gives one back.

    Args:
        per_minute: Calls that begin in a minute; 0 for any number.
        concurrent: Calls at once; 0 for any number.

    Attributes:
        limits: False where both are 0: nobody has to wait for a turn, and a 429 changes nothing.
    """

    def __init__(self, per_minute: int = 0, concurrent: int = 0) -> None:
        self.limits = bool(per_minute or concurrent)
        self._per_minute = per_minute
        self._concurrent = concurrent
        self._allowed = float(per_minute)  # what is left of per_minute after 429s
        self._running = 0
        self._began: deque[float] = deque()
        self._paused_until = 0.0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, tenant: str, deadline: float) -> None:
        """Wait for this tenant's turn; where nothing is limited, it is there. Whoever got it leaves.

        Args:
            tenant: Whose call it is.
            deadline: In the event loop's time.

        Raises:
            RateLimited: The provider asked for a pause beyond the deadline.
        """
        if not self.limits:
            return
        pause = self._paused_until - _now()
        if pause > 0 and self._paused_until > deadline:
            raise RateLimited(
                "the provider limits how often it is asked; try again later", retry_after_ms=int(pause * 1000)
            )
        if self._waiting or self._is_full() or self._seconds_to_wait() > 0:
            await self._wait(tenant)
        else:
            self._begin()

    def leave(self) -> None:
        """Let the next one have the turn."""
        if self.limits:
            self._running -= 1
            self._admit()

    def slow_down(self, retry_after_ms: int | None) -> None:
        """Take note of a 429."""
        self._allowed = max(1.0, self._allowed / 2)
        pause = _PAUSE_SECONDS if retry_after_ms is None else min(retry_after_ms / 1000, _PAUSE_MAX_SECONDS)
        self._paused_until = max(self._paused_until, _now() + pause)

    def speed_up(self) -> None:
        """Take note of an answer."""
        self._allowed = min(float(self._per_minute), self._allowed + 1)

    async def _wait(self, tenant: str) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(mine)
        self._admit()
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                # The turn came in the same moment: pass it on.
                self.leave()
            raise

    def _admit(self) -> None:
        """Let in who may begin now, and come back when the next one may."""
        while self._waiting and not self._is_full():
            wait = self._seconds_to_wait()
            if wait > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._wake)
                return
            mine = self._next()
            if mine is not None:
                self._begin()
                mine.set_result(None)

    def _is_full(self) -> bool:
        return bool(self._concurrent) and self._running >= self._concurrent

    def _begin(self) -> None:
        self._running += 1
        if self._per_minute:
            self._began.append(_now())

    def _wake(self) -> None:
        self._timer = None
        self._admit()

    def _next(self) -> asyncio.Future[None] | None:
        """Take the oldest of the tenant whose turn it is, and put that tenant last; None where it went away."""
        tenant, queue = self._waiting.popitem(last=False)
        mine = queue.popleft()
        if queue:
            self._waiting[tenant] = queue
        return None if mine.done() else mine

    def _seconds_to_wait(self) -> float:
        now = _now()
        while self._began and self._began[0] <= now - _WINDOW_SECONDS:
            self._began.popleft()
        wait = self._paused_until - now
        if self._per_minute and len(self._began) >= int(self._allowed):
            wait = max(wait, self._began[-int(self._allowed)] + _WINDOW_SECONDS - now)
        return wait


def _now() -> float:
    return asyncio.get_running_loop().time()
