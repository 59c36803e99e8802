"""The right to work on a job: held as long as the broker confirms it, lost for good once it was too long ago."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aichats_worker.errors import Abandoned, LeaseLost

RENEWALS_PER_ACK_WAIT = 3
LOST_AFTER = 0.8  # of ack_wait: the rest is for what is on its way when it is lost
RETRY_SECONDS = 0.1
BEAT_SECONDS = 0.1
BEATS = 5


class Pulse:
    """Remembers when this process was surely running: a message that is handled now was delivered after that.

    A process that was frozen finds messages in its socket that the broker has long given to somebody else, and nothing
    in them says so.
    """

    def __init__(self) -> None:
        self._beats: deque[float] = deque([time.monotonic()], maxlen=BEATS)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._task = asyncio.create_task(self._beat(), name="pulse")

    async def stop(self) -> None:
        """Stop beating."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def since(self) -> float:
        """A time, in seconds of time.monotonic(), before which nothing that is handled now can have been delivered.

        Some beats back: one or two may come between a thaw and the handling of what had been waiting.
        """
        return self._beats[0]

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._beats.append(time.monotonic())


class Lease:
    """One job's lease: from its delivery, then from the last in-progress acknowledgement that the broker confirmed.

    Args:
        message: The job's message.
        ack_wait_seconds: When the broker delivers the job again.
        delivered_after: A time before its delivery, as Pulse says.
    """

    def __init__(self, message: Msg, ack_wait_seconds: float, delivered_after: float) -> None:
        self._message = message
        self._ack_wait = ack_wait_seconds
        self._confirmed = delivered_after
        self._lost = False
        self._over = False

    def check(self) -> None:
        """Raise LeaseLost if the lease is too old. The broker accepts a stale acknowledgement, so lost stays lost.

        Nothing is published without it: a process that was frozen comes back into the middle of anything.
        """
        if self._lost or time.monotonic() - self._confirmed > LOST_AFTER * self._ack_wait:
            self._lost = True
            raise LeaseLost

    @asynccontextmanager
    async def kept(self, nc: Client, stop: Callable[[Abandoned], object]) -> AsyncIterator[None]:
        """Renew the lease until the block ends; call `stop` once it is lost."""
        renewing = asyncio.create_task(self._renew(nc, stop), name="lease")
        try:
            yield
        finally:
            # Both: before Python 3.12 a request whose answer comes in this moment swallows the cancellation, and the
            # broker confirms what it has long forgotten.
            self._over = True
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing

    async def _renew(self, nc: Client, stop: Callable[[Abandoned], object]) -> None:
        interval = self._ack_wait / RENEWALS_PER_ACK_WAIT
        try:
            while not self._over:
                self.check()
                due = self._confirmed + interval - time.monotonic()
                if due > 0:
                    await asyncio.sleep(min(due, interval))
                elif not await self._confirm(nc, interval):
                    await asyncio.sleep(min(RETRY_SECONDS, interval))
        except LeaseLost as lost:
            stop(lost)

    async def _confirm(self, nc: Client, timeout_seconds: float) -> bool:
        """Send an in-progress acknowledgement as a request: only what the broker answers counts."""
        sent = time.monotonic()
        try:
            await nc.request(self._message.reply, b"+WPI", timeout=timeout_seconds)
        except (NatsError, TimeoutError):
            return False
        self.check()  # the answer may have come too late, or to a process that was frozen
        self._confirmed = sent
        return True
