"""What is known of a request, and the line that the log gets of it at its end."""

from dataclasses import dataclass
from typing import Any, Final

from aichats_schemas.events import Usage
from aichats_schemas.subjects import Kind, Mode
from aichats_worker.errors import Abandoned, WorkerError
from aichats_worker.text import ascii_line

CORRELATION_ID_MAX_CHARS: Final = 128  # in the log; a header may be as long as a message
MESSAGE_MAX_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Sent:
    """What has gone out of an answer.

    Attributes:
        events: Those published or stored, its end included.
        bytes: Of those events.
        first: When the first piece of the answer came, by time.monotonic(); None where none did.
        last: When the last event before the end went out, by the same clock; None where that says nothing, of what is
            sent whole or joined.
    """

    events: int = 0
    bytes: int = 0
    first: float | None = None
    last: float | None = None

    @property
    def gap_seconds(self) -> float | None:
        """The mean time between two events, the end aside; None where there were no two."""
        gaps = self.events - 2
        if self.first is None or self.last is None or gaps < 1 or self.last < self.first:
            return None
        return (self.last - self.first) / gaps


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
        trace_id: Of the trace that it is part of, in hexadecimal; None without tracing.
        model: That it asked for, or the default; None where it could not be read.
        provider: Who answered, or failed last; None where nobody was asked.
        queued_seconds: How long it had waited when it began; 0 in core.
        outcome: `done`, `gone`, `handed_over`, `lost`, or the error's code.
        error: What the requester was told, or None.
        usage: In tokens, or None where nothing was made.
        sent: What went out.
    """

    mode: Mode
    kind: Kind
    tenant: str | None
    id: str
    attempt: int
    correlation_id: str | None
    trace_id: str | None = None
    model: str | None = None
    provider: str | None = None
    queued_seconds: float = 0.0
    outcome: str = "internal"
    error: WorkerError | None = None
    usage: Usage | None = None
    sent: Sent = Sent()

    def ended(self, outcome: object) -> None:
        """Take note of what came of it: a WorkerError, an Abandoned, or an answer."""
        self.usage = getattr(outcome, "usage", None)
        self.provider = getattr(outcome, "provider", None) or None
        self.error = outcome if isinstance(outcome, WorkerError) else None
        if isinstance(outcome, WorkerError):
            self.outcome = str(outcome.code)
        else:
            self.outcome = outcome.label if isinstance(outcome, Abandoned) else "done"

    @property
    def is_failure(self) -> bool:
        """Whether the service's side failed: its operator, its provider or the worker, and not the requester."""
        return self.error is not None and self.error.fault != "requester"

    def line(self, seconds: float, first_seconds: float | None) -> dict[str, Any]:
        """Return the fields of its line in the log; those that are None are left out there.

        Args:
            seconds: From receipt to end.
            first_seconds: From receipt to the first piece of the answer; None where none came.
        """
        usage = self.usage
        return {
            "mode": self.mode,
            "kind": self.kind,
            "tenant": self.tenant,
            "id": self.id,
            "attempt": self.attempt,
            "outcome": self.outcome,
            "message": ascii_line(self.error.logged, MESSAGE_MAX_CHARS) if self.error is not None else None,
            "model": self.model,
            "provider": self.provider,
            "seconds": round(seconds, 3),
            "first_seconds": None if first_seconds is None else round(first_seconds, 3),
            "queued_seconds": round(self.queued_seconds, 3) if self.mode == "job" else None,
            "events": self.sent.events or None,
            "bytes": self.sent.bytes or None,
            "input_tokens": usage.input_tokens if usage is not None else None,
            "output_tokens": usage.output_tokens if usage is not None else None,
            "trace_id": self.trace_id,
            "correlation_id": _shown(self.correlation_id),
        }


def _shown(correlation_id: str | None) -> str | None:
    return None if correlation_id is None else ascii_line(correlation_id, CORRELATION_ID_MAX_CHARS)
