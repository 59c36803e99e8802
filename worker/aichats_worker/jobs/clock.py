"""What time it is for the broker, whose clock stamps the jobs: this machine's may be wrong, or be set in the middle."""

import time
from typing import Final

import structlog

from aichats_worker.jobs.messages import epoch

log = structlog.get_logger(__name__)

OFF_MAX_SECONDS: Final = 1.0
ROUND_TRIP_MAX_SECONDS: Final = 0.5  # an answer's time is right to half of its way


class BrokerClock:
    """Keeps the broker's time by this machine's monotonic clock, which nobody sets; the API's answers correct it."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # of the monotonic clock
        self._told = False

    def learn(self, ts: str, asked: float, answered: float) -> None:
        """Take in the time of an answer.

        Args:
            ts: As the broker's API has it.
            asked: When the question went out, by time.monotonic().
            answered: When the answer came.
        """
        if self._ahead is not None and answered - asked > ROUND_TRIP_MAX_SECONDS:
            return  # somewhere in it this process was frozen, or the network silent: what we know is better
        self._ahead = epoch(ts) - (asked + answered) / 2
        off = abs(self.offset()) > OFF_MAX_SECONDS
        if off and not self._told:
            log.warning(
                "this machine's clock differs from the broker's; jobs go by the broker's",
                seconds=round(self.offset(), 1),
            )
        self._told = off

    def now(self) -> float:
        """The broker's time, in seconds since 1970."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead

    def trouble(self) -> str:
        """Say that this machine's clock is off; nothing where it is right, or nobody has said yet what time it is."""
        seconds = self.offset()
        if abs(seconds) <= OFF_MAX_SECONDS:
            return ""
        return f"this machine's clock is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} the broker's"

    def offset(self) -> float:
        """By how many seconds this machine's clock is ahead of the broker's."""
        return time.time() - self.now()
