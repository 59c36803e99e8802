"""Tells when the slots of a kind are full for long, once, and again when they are not."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Final

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from aichats_schemas.subjects import Kind
from aichats_worker.request.slots import Slots

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
# So many looks in a row: a worker that is full takes a new request in the moment in which one ends.
LOOKS_UNTIL_TOLD: Final = 10


class Saturation(Collector):
    """Looks at the slots each second, and shows them when somebody asks.

    Args:
        slots: Of each kind.
    """

    def __init__(self, slots: Mapping[Kind, Slots]) -> None:
        self._slots = slots
        self._row: dict[Kind, int] = dict.fromkeys(slots, 0)  # looks in a row that found it full; below 0, not full
        self._full_seconds: dict[Kind, float] = {}

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Look once."""
        for kind, slots in self._slots.items():
            full, row = slots.free <= 0, self._row[kind]
            self._row[kind] = (max(row, 0) + 1) if full else (min(row, 0) - 1)
            if kind in self._full_seconds:
                self._full_seconds[kind] += LOOK_SECONDS
                if self._row[kind] <= -LOOKS_UNTIL_TOLD:
                    log.info("slots are free again", kind=kind, seconds=round(self._full_seconds.pop(kind)))
            elif self._row[kind] >= LOOKS_UNTIL_TOLD:
                self._full_seconds[kind] = LOOKS_UNTIL_TOLD * LOOK_SECONDS
                log.warning("slots are full", kind=kind, slots=slots.count, seconds=self._full_seconds[kind])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For /metrics: how many there are, how many are taken, and how many jobs wait here for one."""
        count = GaugeMetricFamily("aichats_slots", "Requests that may run at once.", labels=("kind",))
        says = "Slots that are taken: with aichats_slots, how full the worker is."
        used = GaugeMetricFamily("aichats_slots_used", says, labels=("kind",))
        says = "Jobs that were fetched and wait for a slot here; core requests never wait."
        waiting = GaugeMetricFamily("aichats_slots_waiting", says, labels=("kind",))
        for kind, slots in self._slots.items():
            count.add_metric((kind,), slots.count)
            used.add_metric((kind,), slots.used)
            waiting.add_metric((kind,), slots.waiting)
        yield from (count, used, waiting)
