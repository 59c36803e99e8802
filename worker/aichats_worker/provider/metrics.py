"""What can be seen of the providers: their circuits, and how their calls ended."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aichats_worker.provider import Provider

if TYPE_CHECKING:
    from aichats_worker.provider.door import Door


class ProviderMetrics(Collector):
    """Reads the doors of a provider when somebody looks.

    Args:
        provider: As `open_provider` made it; any other shows nothing.
    """

    def __init__(self, provider: Provider) -> None:
        self._doors: tuple[Door, ...] = getattr(provider, "doors", ())

    def collect(self) -> Iterator[Metric]:
        """Give one gauge for each circuit and one counter for each end of calls."""
        closed = GaugeMetricFamily(
            "aichats_provider_circuit_closed", "0 while a provider is not asked.", labels=("provider", "kind")
        )
        calls = CounterMetricFamily(
            "aichats_provider_calls", "Calls to providers by their end.", labels=("provider", "kind", "outcome")
        )
        for door in self._doors:
            for kind, circuit in door.circuits.items():
                closed.add_metric((door.name, kind), float(circuit.working))
            for (kind, outcome), count in door.calls.items():
                calls.add_metric((door.name, kind, outcome), count)
        yield from (closed, calls)
