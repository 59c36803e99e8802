"""What can be seen of the providers: their circuits, and how their calls ended."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aichats_schemas.events import ErrorCode
from aichats_schemas.subjects import Kind
from aichats_worker.provider import Provider

if TYPE_CHECKING:
    from aichats_worker.provider.door import Door

# How a call can end: the other codes are of requests that never reach a provider.
OUTCOMES: Final = (
    "answered",
    "left",
    ErrorCode.BAD_RESPONSE,
    ErrorCode.CHALLENGE,
    ErrorCode.CONTENT_FILTERED,
    ErrorCode.DEADLINE_EXCEEDED,
    ErrorCode.INTERNAL,
    ErrorCode.INTERRUPTED,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.MISCONFIGURED,
    ErrorCode.PROVIDER_UNAVAILABLE,
    ErrorCode.QUOTA_EXHAUSTED,
    ErrorCode.RATE_LIMITED,
    ErrorCode.TOO_LARGE,
)


class ProviderMetrics(Collector):
    """Reads the doors of a provider when somebody looks.

    Args:
        provider: As `open_provider` made it; any other shows nothing but whether it works.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._doors: tuple[Door, ...] = getattr(provider, "doors", ())
        self._failovers: Mapping[tuple[str, Kind], int] = getattr(provider, "failovers", {})

    def collect(self) -> Iterator[Metric]:
        """Give what each circuit and each kind of call has come to."""
        working = GaugeMetricFamily("aichats_provider_working", "0 while no provider is asked for text.")
        working.add_metric((), float(self._provider.working))
        yield working
        both = ("provider", "kind")
        closed = GaugeMetricFamily("aichats_provider_circuit_closed", "0 while a provider is not asked.", labels=both)
        calls = CounterMetricFamily(
            "aichats_provider_calls", "Calls to providers by their end.", labels=(*both, "outcome")
        )
        changes = CounterMetricFamily(
            "aichats_provider_circuit_changes", "How often a circuit opened and closed.", labels=(*both, "state")
        )
        says = "Calls made once more before the first piece of an answer."
        retries = CounterMetricFamily("aichats_provider_retries", says, labels=both)
        says = "Requests that went on to the next provider, by the one that failed."
        failovers = CounterMetricFamily("aichats_provider_failovers", says, labels=both)
        for door, kind in self._asked():
            names = (door.name, kind)
            closed.add_metric(names, float(door.circuits[kind].working))
            changes.add_metric((*names, "open"), door.circuit_logs[kind].opened)
            changes.add_metric((*names, "closed"), door.circuit_logs[kind].closed)
            retries.add_metric(names, door.retries[kind])
            failovers.add_metric(names, self._failovers.get(names, 0))
            for outcome in {**dict.fromkeys(OUTCOMES), **dict.fromkeys(o for k, o in door.calls if k == kind)}:
                calls.add_metric((*names, outcome), door.calls[kind, outcome])
        yield from (closed, calls, changes, retries, failovers)

    def _asked(self) -> Iterator[tuple["Door", Kind]]:
        """Each provider with each kind that it has models for."""
        for door in self._doors:
            for kind, models in door.offers.items():
                if models:
                    yield door, kind
