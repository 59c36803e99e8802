"""Counts that cost an addition, and become metrics when somebody looks.

The library's own counters take a lock, look whether they may be counted on and find their child, a dozen times for
each request. Here one thread counts and looks, so a dict and a list do.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import inf

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Values = tuple[str, ...]


class Counts(Collector):
    """A counter, by the values of its labels.

    Args:
        name: Without `_total`.
        says: What is counted.
        labels: The names of the labels.
        begun: The values that are shown from the beginning.
    """

    def __init__(self, name: str, says: str, labels: Sequence[str], begun: Iterable[Values]) -> None:
        self._about = name, says, tuple(labels)
        self._counts = dict.fromkeys(begun, 0.0)

    def add(self, values: Values, count: float = 1.0) -> None:
        """Count one, or `count` of them."""
        self._counts[values] = self._counts.get(values, 0.0) + count

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Name it: the registry finds it by that, and refuses another one of the same name."""
        yield CounterMetricFamily(*self._about[:2])

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Show it."""
        name, says, labels = self._about
        family = CounterMetricFamily(name, says, labels=labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class Times(Collector):
    """A histogram of seconds by the values of its labels.

    Args:
        name: With its unit.
        says: What is timed.
        labels: The names of the labels.
        bounds: The upper bounds of its buckets, in seconds and in order, without the infinite one.
        begun: The values that are shown from the beginning.
    """

    def __init__(
        self, name: str, says: str, labels: Sequence[str], bounds: Sequence[float], begun: Iterable[Values]
    ) -> None:
        self._about = name, says, tuple(labels)
        self._bounds = (*bounds, inf)
        self._found = {values: [0] * len(self._bounds) for values in begun}
        self._sums = dict.fromkeys(self._found, 0.0)

    def observe(self, values: Values, seconds: float) -> None:
        """Take note of one, whose labels have values that were named at the beginning."""
        self._found[values][bisect_left(self._bounds, seconds)] += 1
        self._sums[values] += seconds

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Name it."""
        yield HistogramMetricFamily(*self._about[:2])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Show it."""
        name, says, labels = self._about
        family = HistogramMetricFamily(name, says, labels=labels)
        for values, found in self._found.items():
            bounds = ("+Inf" if bound == inf else str(float(bound)) for bound in self._bounds)
            buckets = list(zip(bounds, accumulate(found), strict=True))
            family.add_metric(values, buckets, self._sums[values])
        yield family
