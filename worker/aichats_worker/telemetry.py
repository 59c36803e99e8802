"""Metric names, log fields and the counters behind them, once. No label ever holds a subject, a tenant or an id."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aichats_schemas.events import Usage
from aichats_schemas.subjects import Kind, Mode
from aichats_worker.errors import Abandoned, Cancelled, HandedOver, WorkerError
from aichats_worker.text import ascii_line

log = structlog.get_logger("aichats_worker.request")

DropReason = Literal["no_reply", "forbidden_reply"]
CORRELATION_ID_MAX_CHARS = 128  # in the log; a header may be as long as a message

DURATION_BUCKETS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass(slots=True)
class Account:
    """What is known of a request: whose it is, and at its end how it ended.

    Attributes:
        mode: `req`, `ask` or `job`.
        kind: `text` or `image`.
        tenant: None where the subject held none.
        id: The request's id.
        attempt: 1 in core.
        correlation_id: The requester's own, or None.
        outcome: `done`, `gone`, `handed_over`, `lost`, or the error's code.
        error: What the requester was told, or None.
        usage: In tokens, or None where nothing was made.
    """

    mode: Mode
    kind: Kind
    tenant: str | None
    id: str
    attempt: int
    correlation_id: str | None
    outcome: str = "internal"
    error: WorkerError | None = None
    usage: Usage | None = None

    def ended(self, outcome: object) -> None:
        """Take note of what came of it: a WorkerError, an Abandoned, or an answer."""
        self.usage = getattr(outcome, "usage", None)
        self.error = outcome if isinstance(outcome, WorkerError) else None
        if isinstance(outcome, WorkerError):
            self.outcome = str(outcome.code)
        else:
            self.outcome = outcome.label if isinstance(outcome, Abandoned) else "done"


@dataclass(slots=True)
class EndpointStats:
    """What the services API says of one endpoint. Nanoseconds, as ADR-32 has them."""

    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0


class Telemetry:
    """The worker's own few metrics and the counters of the services API."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.endpoints: dict[tuple[str, str], EndpointStats] = {}
        self._requests = Counter(
            "aichats_requests", "Requests by their end.", ("mode", "kind", "outcome"), registry=self.registry
        )
        self._duration = Histogram(
            "aichats_request_duration_seconds",
            "From receipt to end.",
            ("mode", "kind"),
            buckets=DURATION_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "aichats_tokens",
            "Tokens of answers and parts of answers, as providers counted or estimated.",
            ("kind", "direction", "estimated"),
            registry=self.registry,
        )
        self._running = Gauge("aichats_requests_running", "Requests at work now.", ("kind",), registry=self.registry)
        self._dropped = Counter(
            "aichats_requests_dropped", "Requests that cannot be answered.", ("reason",), registry=self.registry
        )

    def watch_provider(self, working: Callable[[], bool]) -> None:
        """Show whether the provider's circuit is closed."""
        gauge = Gauge("aichats_provider_working", "0 while the provider is not asked.", registry=self.registry)
        gauge.set_function(lambda: float(working()))

    def watch_clock(self, offset_seconds: Callable[[], float]) -> None:
        """Show by how much this machine's clock differs from the broker's."""
        gauge = Gauge("aichats_clock_offset_seconds", "This machine's clock less the broker's.", registry=self.registry)
        gauge.set_function(offset_seconds)

    def watch_jobs(self, served: Callable[[], bool]) -> None:
        """Show whether jobs are served."""
        gauge = Gauge("aichats_jobs_served", "0 while no jobs can be fetched.", registry=self.registry)
        gauge.set_function(lambda: float(served()))

    def watch_streams(self, problems: Callable[[], int]) -> None:
        """Show how much of what jobs need at the broker is missing or wrong."""
        gauge = Gauge(
            "aichats_jobs_problems", "Streams and consumers of jobs that are missing or wrong.", registry=self.registry
        )
        gauge.set_function(lambda: float(problems()))

    def watch_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Show how many tasks the event loop has: what a leak of them would be seen by."""
        gauge = Gauge("aichats_event_loop_tasks", "Tasks of the event loop that are not done.", registry=self.registry)
        gauge.set_function(lambda: len(asyncio.all_tasks(loop)))

    @contextmanager
    def request(self, account: Account) -> Iterator[None]:
        """Count and time a request. The caller tells the account how it ended."""
        started = time.monotonic()
        running = self._running.labels(account.kind)
        running.inc()
        try:
            yield
        finally:
            running.dec()
            seconds = time.monotonic() - started
            self._requests.labels(account.mode, account.kind, account.outcome).inc()
            self._duration.labels(account.mode, account.kind).observe(seconds)
            if account.usage is not None:
                self._count_tokens(account.kind, account.usage)
            if account.outcome != HandedOver.label:
                self._count(account, seconds)
            log.info(
                "request ended",
                mode=account.mode,
                kind=account.kind,
                tenant=account.tenant,
                id=account.id,
                attempt=account.attempt,
                outcome=account.outcome,
                seconds=round(seconds, 3),
                correlation_id=_shown(account.correlation_id),
            )

    def _count(self, account: Account, seconds: float) -> None:
        stats = self.endpoints.setdefault((account.mode, account.kind), EndpointStats())
        stats.num_requests += 1
        stats.processing_time += int(seconds * 1e9)
        error = account.error
        if error is not None and not isinstance(error, Cancelled):
            stats.num_errors += 1
            # Everybody may read it, and what is said of a wrong request names the requester's own fields.
            stats.last_error = f"{error.number}:{error.message if error.number >= 500 else error.code}"

    def _count_tokens(self, kind: Kind, usage: Usage) -> None:
        estimated = str(usage.estimated).lower()
        self._tokens.labels(kind, "input", estimated).inc(usage.input_tokens)
        self._tokens.labels(kind, "output", estimated).inc(usage.output_tokens)

    def dropped(self, account: Account, reason: DropReason) -> None:
        """Count and log a request to which no answer may be published."""
        self._dropped.labels(reason).inc()
        log.warning("request dropped", mode=account.mode, kind=account.kind, id=account.id, reason=reason)

    def dropped_control(self, what: Literal["cancel", "resume", "discovery"], reason: DropReason) -> None:
        """Count and log a control request to which no answer may be published."""
        self._dropped.labels(reason).inc()
        log.warning("request dropped", mode=what, reason=reason)


def _shown(correlation_id: str | None) -> str | None:
    return None if correlation_id is None else ascii_line(correlation_id, CORRELATION_ID_MAX_CHARS)


def configure_logging(level: str, log_format: str) -> None:
    """Send all logs, FastStream's and nats-py's too, to standard error as lines of JSON or for a terminal."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    if console:
        shared.pop()  # the console renders exceptions by itself, without local variables: they hold prompts
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    faststream = logging.getLogger("faststream")  # comes with a handler and a level of its own
    faststream.handlers.clear()
    faststream.propagate = True
    faststream.setLevel(max(root.level, logging.ERROR))  # below that it tells of its tasks, and what nats-py told us
