"""How long a stop may take in all, and what each of its steps may still take of that."""

import time
from collections.abc import Collection
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from aichats_worker.broker.patches.subscribing import leave

log = structlog.get_logger(__name__)

# Beside the drain, and whatever the broker does. The chart's grace period follows from it.
STOP_SECONDS: Final = 8.0
CLOSE_SECONDS: Final = 2.0  # of these, kept for the last: tasks and connections are closed in every case
# How long the broker is waited for; and for so long it is not asked again where it said nothing.
ANSWER_SECONDS: Final = 5.0


class Stopping:
    """The one deadline of a stop, from which each step takes what is left.

    Args:
        drain_seconds: How long what runs may take to its end.
    """

    def __init__(self, drain_seconds: float) -> None:
        self.drain_seconds = drain_seconds
        self._until = time.monotonic() + drain_seconds + STOP_SECONDS - CLOSE_SECONDS
        self._silent_until = 0.0

    @property
    def silent(self) -> bool:
        """Whether the broker said nothing a moment ago: nobody waits for it again."""
        return time.monotonic() < self._silent_until

    def left(self, seconds_max: float) -> float:
        """Return what a step may take, in seconds: as much as it asks for, or what is left."""
        return max(0.0, min(seconds_max, self._until - time.monotonic()))

    def last(self) -> None:
        """From here on, nothing is kept for what comes later."""
        self._until += CLOSE_SECONDS

    async def leave(self, nc: Client, subscriptions: Collection[Any], what: str) -> None:
        """End subscriptions, and wait for the broker's word where it still gives any.

        Args:
            nc: The connection.
            subscriptions: Of it.
            what: For the log.
        """
        seconds = 0.0 if self.silent else self.left(ANSWER_SECONDS)
        try:
            await leave(nc, subscriptions, timeout_seconds=seconds)
        except (NatsError, TimeoutError) as error:
            if isinstance(error, TimeoutError) and seconds:
                self._silent_until = time.monotonic() + ANSWER_SECONDS
            log.warning("left without the broker's word", what=what, error=type(error).__name__)
