"""How the log is written, and how often the same is said."""

import logging
import os
import re
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

# A reason is said when it is new, and again after this: not at each of the tries.
SAY_AGAIN_SECONDS: Final = 300.0
REASONS_MAX: Final = 1000
_PLACE: Final = re.compile(r"%[-+.\d]*[a-z]")  # where a line of the log has something filled in

log = structlog.get_logger(__name__)


class Said:
    """Remembers what the log was told lately: many requests, or many tries, have one and the same reason."""

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._last = 0.0

    def is_new(self, reason: str) -> bool:
        """Say whether a reason is to be told now, and take note of it."""
        now = self._last = time.monotonic()
        if now - self._when.get(reason, float("-inf")) < SAY_AGAIN_SECONDS:
            return False
        if len(self._when) >= REASONS_MAX:
            self._when.clear()
        self._when[reason] = now
        return True

    def forget(self, quiet_seconds: float = 0) -> bool:
        """Tell everything anew from here on. Returns whether there was anything.

        Args:
            quiet_seconds: Do it only where there was no reason of any kind for so long.
        """
        said = bool(self._when)
        if said and time.monotonic() - self._last < quiet_seconds:
            return False
        self._when.clear()
        return said


class _Hearsay(logging.Handler):
    """Tells what OpenTelemetry's own log says, once for each reason, and without what it fills in.

    That may be a requester's `tracestate`, the operator's headers with their keys, an address with its token, or a
    receiver's whole answer; and some of it is said of each request.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said = Said()

    def emit(self, record: logging.LogRecord) -> None:
        filled = record.args if isinstance(record.args, tuple) else ()
        errors = [type(each).__name__ for each in filled if isinstance(each, BaseException)]
        codes = [str(each) for each in filled if isinstance(each, int)]  # a receiver's status
        causes = ", ".join(errors + codes)
        reason = _PLACE.sub("...", str(record.msg))
        if self._said.is_new(f"{reason} {causes}"):
            log.warning("traces have trouble", reason=reason, cause=causes or None)


def configure_logging(level: str, log_format: str) -> None:
    """Send all logs, FastStream's and nats-py's too, to standard error as lines of JSON or for a terminal."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, _without_none]
    if console:  # which renders exceptions by itself, without local variables: they hold prompts
        shared.append(structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False))
    else:
        shared.append(structlog.stdlib.add_logger_name)
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),  # what is not written need not be made up
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(console=console)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    faststream = logging.getLogger("faststream")  # comes with a handler and a level of its own
    faststream.handlers.clear()
    faststream.propagate = True
    faststream.setLevel(max(root.level, logging.ERROR))  # below that it tells of its tasks, and what nats-py told us
    traces = logging.getLogger("opentelemetry")
    traces.handlers[:] = [_Hearsay()]
    traces.propagate = False
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # below that it tells addresses: OpenTelemetry sends with it


def _renderer(*, console: bool) -> Any:
    if not console:
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
        pad_event_to=16,
        pad_level=True,
    )


def _without_none(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A field that says nothing is left out."""
    for name in [name for name, value in event.items() if value is None]:
        del event[name]
    return event
