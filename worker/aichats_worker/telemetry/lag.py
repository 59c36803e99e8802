"""Looks at how late the event loop comes to what is due: by that much everything in this process is late."""

import asyncio
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram

EVERY_SECONDS: Final = 0.5
BUCKETS_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class LoopLag:
    """Measures the lag of the event loop that it runs in.

    Args:
        registry: Gets the measurements, in seconds, and the number of tasks.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        says = "How late the event loop comes to what is due, looked at twice a second."
        self._late = Histogram("aichats_event_loop_lag_seconds", says, buckets=BUCKETS_SECONDS, registry=registry)
        says = "Tasks of the event loop that are not done: what a leak of them would be seen by."
        Gauge("aichats_event_loop_tasks", says, registry=registry).set_function(_tasks)

    async def run(self) -> None:
        """Measure twice a second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            self._late.observe(max(0.0, loop.time() - due))


def _tasks() -> float:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # no event loop runs where this is asked
        return 0
