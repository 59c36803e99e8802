"""What can be seen of the jobs: whether they are served, and what waits."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aichats_schemas.subjects import KINDS
from aichats_worker.jobs.queue import Backlog
from aichats_worker.jobs.serving import Serving


class JobsMetrics(Collector):
    """Reads the jobs' rooms when somebody looks.

    Args:
        serving: The jobs' place; None as long as there is none.
        problems: Says what they lack at the broker.
        disconnected: Says why there is no connection to it; nothing where there is one.
    """

    def __init__(
        self,
        serving: Callable[[], Serving | None],
        problems: Callable[[], list[str]],
        disconnected: Callable[[], str],
    ) -> None:
        self._serving = serving
        self._problems = problems
        self._disconnected = disconnected

    def collect(self) -> Iterator[Metric]:
        """Give how they stand."""
        serving = self._serving()
        # What is asked for without a connection ends in no trouble: it waits until there is one.
        served = serving is not None and serving.trouble() is None and not self._disconnected()
        yield GaugeMetricFamily("aichats_jobs_served", "0 while no jobs can be fetched.", float(served))
        says = "Streams and consumers of jobs that are missing or wrong."
        yield GaugeMetricFamily("aichats_jobs_problems", says, len(self._problems()))
        says = "This machine's clock less the broker's."
        yield GaugeMetricFamily(
            "aichats_clock_offset_seconds", says, serving.clock_offset() if serving is not None else 0
        )
        says = "Jobs in the queue that no worker has fetched yet. Each worker shows the same: take the largest."
        waiting = GaugeMetricFamily("aichats_jobs_waiting", says, labels=("kind",))
        says = "Jobs that run, or wait for their next attempt, at all workers. Each worker shows the same."
        taken = GaugeMetricFamily("aichats_jobs_taken", says, labels=("kind",))
        says = "How long the first of the jobs that wait has waited; 0 for none. Each worker shows the same."
        oldest = GaugeMetricFamily("aichats_jobs_oldest_seconds", says, labels=("kind",))
        for kind in KINDS:
            backlog = serving.backlog(kind) if serving is not None else Backlog()
            waiting.add_metric((kind,), backlog.waiting)
            taken.add_metric((kind,), backlog.taken)
            oldest.add_metric((kind,), backlog.oldest_seconds)
        yield from (waiting, taken, oldest)
