"""The metrics of requests and jobs, and the counters of the services API. No label ever holds a subject, tenant or id.

All that can be counted begins at zero, so that the first of its kind is seen as a rise.
"""

import logging
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Final, Literal, get_args

import structlog
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)

from aichats_schemas import __version__
from aichats_schemas.events import ErrorCode, Usage
from aichats_schemas.subjects import KINDS, Kind, Mode
from aichats_worker.errors import Cancelled, Fault, HandedOver, JobLost, RequesterGone
from aichats_worker.telemetry.account import Account
from aichats_worker.telemetry.collecting import Counts, Times

log = structlog.get_logger("aichats_worker.request")

DropReason = Literal["no_reply", "forbidden_reply"]
AttemptResult = Literal["done", "failed", "cancelled", "retrying", "given_back", "lost"]

DURATION_BUCKETS_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FIRST_BUCKETS_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
GAP_BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_CORE_OUTCOMES: Final = ("done", HandedOver.label, *(code for code in ErrorCode if code != ErrorCode.EXPIRED))
OUTCOMES: Final[dict[Mode, tuple[str, ...]]] = {
    "req": (*_CORE_OUTCOMES, RequesterGone.label),
    "ask": _CORE_OUTCOMES,
    "job": ("done", JobLost.label, *(code for code in ErrorCode if code != ErrorCode.EXPIRED)),
}


@dataclass(slots=True)
class EndpointStats:
    """What the services API says of one endpoint. Nanoseconds, as ADR-32 has them."""

    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    num_first_events: int = 0
    first_event_time: int = 0


class Counted:
    """A request at work, until the block ends.

    Args:
        account: What is known of it.
        running: How many there are of each kind.
        ended: Is told the account, and when it began.
    """

    __slots__ = ("_account", "_ended", "_running", "_started")

    def __init__(self, account: Account, running: dict[Kind, int], ended: Callable[[Account, float], object]) -> None:
        self._account = account
        self._running = running
        self._ended = ended
        self._started = time.monotonic()

    def __enter__(self) -> None:
        self._running[self._account.kind] += 1

    def __exit__(self, *_: object) -> None:
        self._running[self._account.kind] -= 1
        self._ended(self._account, self._started)


class Telemetry:
    """What is counted of requests and jobs, and the registry that every room adds its own to."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each, which nobody asks for
        self.registry = CollectorRegistry()
        self.endpoints: dict[tuple[str, str], EndpointStats] = {}
        ProcessCollector(registry=self.registry)
        build = Gauge("aichats_build_info", "What runs here; always 1.", ("version", "python"), registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)
        self._request_counters()
        self._request_times()
        self._job_counters()

    def _request_counters(self) -> None:
        begun = [(mode, kind, code) for mode, outcomes in OUTCOMES.items() for kind in KINDS for code in outcomes]
        self._requests = Counts("aichats_requests", "Requests by their end.", ("mode", "kind", "outcome"), begun)
        self.registry.register(self._requests)
        both: dict[str, Iterable[str]] = {"mode": OUTCOMES, "kind": KINDS}
        says = "Requests that ended in an error, by whose fault it was."
        self._failed = self._counter("requests_failed", says, **both, fault=get_args(Fault))
        self._events = self._counter("events", "Events published or stored, of requests that have ended.", **both)
        self._bytes = self._counter("event_bytes", "Bytes of the events that aichats_events_total counts.", **both)
        says = "Tokens of answers and parts of answers, as providers counted or estimated."
        token_labels = {"direction": ("input", "output"), "estimated": ("true", "false")}
        self._tokens = self._counter("tokens", says, kind=KINDS, **token_labels)
        says = "Requests that cannot be answered: without a reply subject, or one where nothing may be published."
        self._dropped = self._counter("requests_dropped", says, reason=get_args(DropReason))
        running = Gauge("aichats_requests_running", "Requests at work now.", ("kind",), registry=self.registry)
        self._running: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        for kind in KINDS:
            running.labels(kind).set_function(partial(self._running.__getitem__, kind))

    def _request_times(self) -> None:
        self._duration = self._histogram("request_duration", "From receipt to end.", DURATION_BUCKETS_SECONDS)
        says = "From receipt to the first piece of the answer."
        self._first = self._histogram("request_first_event", says, FIRST_BUCKETS_SECONDS)
        says = "Mean time between the events of a streamed answer, once for each answer."
        self._gap = self._histogram("request_event_gap", says, GAP_BUCKETS_SECONDS, modes=())
        says = "How long a job had waited when an attempt of it began."
        self._queued = self._histogram("job_queued", says, DURATION_BUCKETS_SECONDS, modes=())

    def _job_counters(self) -> None:
        says = "Attempts of jobs by what came of them; `lost` is a fence: somebody else has written to the record."
        self._attempts = self._counter("job_attempts", says, kind=KINDS, result=get_args(AttemptResult))
        says = "Jobs that came to this worker for a second time, or a later one."
        self._redeliveries = self._counter("job_redeliveries", says, kind=KINDS)
        self._letters = self._counter("job_dead_letters", "Dead letters that this worker has kept.", kind=KINDS)

    def _counter(self, name: str, says: str, **labels: Iterable[str]) -> Counts:
        """Make a counter that is 0 for each of its labels' values."""
        counts = Counts(f"aichats_{name}", says, tuple(labels), product(*labels.values()))
        self.registry.register(counts)
        return counts

    def _histogram(
        self, name: str, says: str, buckets: Sequence[float], *, modes: Iterable[str] = tuple(OUTCOMES)
    ) -> Times:
        labels = {"mode": modes, "kind": KINDS} if modes else {"kind": KINDS}
        times = Times(f"aichats_{name}_seconds", says, tuple(labels), buckets, product(*labels.values()))
        self.registry.register(times)
        return times

    def reads(self, name: str, says: str, read: Callable[[], float]) -> None:
        """Show what `read` returns when somebody looks.

        Args:
            name: Without the prefix that all have.
            says: What it means.
            read: Looks at what is known, and waits for nothing.
        """
        Gauge(f"aichats_{name}", says, registry=self.registry).set_function(read)

    def request(self, account: Account) -> "Counted":
        """Count and time a request until the block ends. The caller tells the account how it ended."""
        return Counted(account, self._running, self._ended)

    def _ended(self, account: Account, started: float) -> None:
        seconds = time.monotonic() - started
        first = account.sent.first
        first_seconds = None if first is None else max(0.0, first - started)
        self._requests.add((account.mode, account.kind, account.outcome))
        if account.error is not None:
            self._failed.add((account.mode, account.kind, account.error.fault))
        self._time(account, seconds, first_seconds)
        self._count_events(account)
        if account.usage is not None:
            self._count_tokens(account.kind, account.usage)
        if account.outcome != HandedOver.label:
            self._count(account, seconds, first_seconds)
        level = logging.WARNING if account.is_failure else logging.INFO
        if log.is_enabled_for(level):  # the line is a good part of what a short request costs
            log.log(level, "request ended", **account.line(seconds, first_seconds))

    def _time(self, account: Account, seconds: float, first_seconds: float | None) -> None:
        both = account.mode, account.kind
        self._duration.observe(both, seconds)
        if first_seconds is not None:
            self._first.observe(both, first_seconds)
        gap = account.sent.gap_seconds
        if gap is not None:
            self._gap.observe((account.kind,), gap)
        if account.mode == "job":
            self._queued.observe((account.kind,), account.queued_seconds)

    def _count_events(self, account: Account) -> None:
        if account.sent.events:
            self._events.add((account.mode, account.kind), account.sent.events)
            self._bytes.add((account.mode, account.kind), account.sent.bytes)

    def _count(self, account: Account, seconds: float, first_seconds: float | None) -> None:
        stats = self.endpoints.setdefault((account.mode, account.kind), EndpointStats())
        stats.num_requests += 1
        stats.processing_time += int(seconds * 1e9)
        if first_seconds is not None:
            stats.num_first_events += 1
            stats.first_event_time += int(first_seconds * 1e9)
        error = account.error
        if error is not None and not isinstance(error, Cancelled):
            stats.num_errors += 1
            # Everybody may read it, and what is said of a wrong request names the requester's own fields.
            stats.last_error = f"{error.number}:{error.message if error.number >= 500 else error.code}"

    def _count_tokens(self, kind: Kind, usage: Usage) -> None:
        estimated = str(usage.estimated).lower()
        self._tokens.add((kind, "input", estimated), usage.input_tokens)
        self._tokens.add((kind, "output", estimated), usage.output_tokens)

    def attempt(self, kind: Kind, result: AttemptResult) -> None:
        """Count an attempt of a job by what came of it."""
        self._attempts.add((kind, result))

    def redelivered(self, kind: Kind) -> None:
        """Count a job that came again."""
        self._redeliveries.add((kind,))

    def dead_letter(self, kind: Kind) -> None:
        """Count a dead letter that was kept."""
        self._letters.add((kind,))

    def dropped(self, account: Account, reason: DropReason) -> None:
        """Count and log a request to which no answer may be published."""
        self._dropped.add((reason,))
        log.warning("request dropped", mode=account.mode, kind=account.kind, id=account.id, reason=reason)

    def dropped_control(self, what: Literal["cancel", "resume", "discovery"], reason: DropReason) -> None:
        """Count and log a control request to which no answer may be published."""
        self._dropped.add((reason,))
        log.warning("request dropped", mode=what, reason=reason)
