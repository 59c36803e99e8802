"""What the probes say: a list of named checks, to which each room adds its own."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

WELL: Final = "ok"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at.

    Attributes:
        name: In the probe's answer, and in the metric's label.
        trouble: Says in a sentence what is wrong; nothing where all is well. It looks at what is known, and waits for
            nothing.
        gates: Whether the worker is not ready while it is wrong. What only some requests suffer from is told alone.
    """

    name: str
    trouble: Callable[[], str]
    gates: bool = True


class Health(Collector):
    """All checks of a worker, and how it stands.

    Args:
        live: What a restart would mend, and nothing else.
        ready: What else there is.
    """

    def __init__(self, live: Iterable[Check], ready: Iterable[Check]) -> None:
        self._live = list(live)
        self._ready = list(ready)

    def add(self, check: Check) -> None:
        """Look at one more thing."""
        self._ready.append(check)

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the process can go on, and what /livez says."""
        return self._said("live", self._live)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether requests reach this worker and are answered, and what /readyz says."""
        return self._said("ready", [*self._live, *self._ready])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For /metrics: whether this worker is ready, and each check, 1 where it is well."""
        yield GaugeMetricFamily("aichats_ready", "1 where /readyz says so.", float(self.ready()[0]))
        family = GaugeMetricFamily("aichats_check", "1 where what /readyz looks at is well.", labels=["check"])
        for check in [*self._live, *self._ready]:
            family.add_metric([check.name], float(not _trouble(check)))
        yield family

    def _said(self, name: str, checks: list[Check]) -> tuple[bool, dict[str, Any]]:
        troubles = [(check, _trouble(check)) for check in checks]
        good = not any(trouble for check, trouble in troubles if check.gates)
        return good, {name: good, "checks": {check.name: trouble or WELL for check, trouble in troubles}}


def _trouble(check: Check) -> str:
    """A check that fails is in trouble itself: no probe answers 500."""
    try:
        return check.trouble()
    except Exception as error:  # noqa: BLE001
        return f"the check failed: {type(error).__name__}"
