"""Where a request's span belongs: below whoever sent it, or at the beginning of a trace; and whether it is kept."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from random import getrandbits
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import SpanContext, SpanKind, TraceState, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_NOWHERE: Final = Context()
# What comes as nearly all does is read here. Whatever else there is OpenTelemetry's own code reads: that takes as long
# as to make a span.
_STATE_MAX_CHARS: Final = 512
_USUAL: Final = re.compile("00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-0([0-3])", re.ASCII)


@dataclass(slots=True)  # nobody changes one; a frozen one takes four times as long to make
class Position:
    """Where a request's span is.

    Attributes:
        trace_id: 16 bytes.
        span_id: 8 bytes.
        above: The id of its sender's span; None for a trace's first.
        state: The senders' own `tracestate`, which goes on as it came; empty where there is none.
        is_kept: By the sampler: nothing is written of one that is not.
    """

    trace_id: bytes
    span_id: bytes
    above: bytes | None
    state: str
    is_kept: bool

    def headers(self) -> dict[str, str]:
        """Return the headers by which another process goes on below it."""
        found = {"traceparent": f"00-{self.trace_id.hex()}-{self.span_id.hex()}-{self.is_kept:02x}"}
        return found | {"tracestate": self.state} if self.state else found


def new_span_id() -> bytes:
    """Return 8 bytes by chance, which are not all 0."""
    return (getrandbits(64) or 1).to_bytes(8, "big")


def span_id_of(origin: str, attempt: int) -> bytes:
    """Return the id of an attempt's span.

    It is computed and not drawn: each attempt knows what the one before it was, whoever ran that.
    """
    return sha256(f"{origin}.{attempt}".encode()).digest()[:8]


def _trace_id_of(origin: str) -> int:
    return int.from_bytes(sha256(origin.encode()).digest()[:16], "big")


class Positions:
    """Finds where a request's span belongs.

    Args:
        sampler: OpenTelemetry's, which says what is kept. The two that keep whatever begins here, one of them its
            default, are known by themselves: to ask one costs as much as to make a span.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._keeps_all = sampler is ALWAYS_ON
        self._is_known = self._keeps_all or sampler is DEFAULT_ON

    def of(self, headers: Mapping[str, str], name: str, origin: str, attempt: int) -> Position:
        """Find a request's position.

        Args:
            headers: As they came.
            name: Of the span: a sampler may look at it.
            origin: What all attempts of a job have in common; empty in core.
            attempt: Which of them it is.
        """
        span_id = span_id_of(origin, attempt) if origin else new_span_id()
        sender, state = headers.get("traceparent"), headers.get("tracestate", "")
        if sender is None:
            return self._first(span_id, name, origin)
        if self._is_known and len(state) <= _STATE_MAX_CHARS and (usual := _USUAL.fullmatch(sender)) is not None:
            above, is_kept = bytes.fromhex(usual[2]), self._keeps_all or usual[3] in "13"
            state = TraceState.from_header([state]).to_header() if state else ""
            return Position(bytes.fromhex(usual[1]), span_id, above, state, is_kept)
        context = _PROPAGATOR.extract(headers)
        found = get_current_span(context).get_span_context()
        return self._below(context, found, name, span_id) if found.is_valid else self._first(span_id, name, origin)

    def _first(self, span_id: bytes, name: str, origin: str) -> Position:
        trace_id = _trace_id_of(origin) if origin else getrandbits(128) or 1
        is_kept, state = (True, "") if self._is_known else self._chosen(_NOWHERE, trace_id, name)
        return Position(trace_id.to_bytes(16, "big"), span_id, None, state, is_kept)

    def _below(self, sender: Context, above: SpanContext, name: str, span_id: bytes) -> Position:
        if self._is_known:
            is_kept, state = self._keeps_all or above.trace_flags.sampled, above.trace_state.to_header()
        else:
            is_kept, state = self._chosen(sender, above.trace_id, name)
        return Position(above.trace_id.to_bytes(16, "big"), span_id, above.span_id.to_bytes(8, "big"), state, is_kept)

    def _chosen(self, sender: Context, trace_id: int, name: str) -> tuple[bool, str]:
        chosen = self._sampler.should_sample(sender, trace_id, name, SpanKind.CONSUMER)
        state = chosen.trace_state.to_header() if chosen.trace_state else ""
        return chosen.decision is Decision.RECORD_AND_SAMPLE, state
