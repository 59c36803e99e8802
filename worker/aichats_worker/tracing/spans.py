"""The same as OpenTelemetry's spans, by the semantic conventions for messaging and for generative AI.

Never any content: no prompt, no answer, no `stop`, no metadata, and of an error its code alone, since a message may
name a requester's own fields. Never anything to a provider: its calls carry no header of a trace.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aichats_schemas import __version__
from aichats_schemas.events import Usage
from aichats_schemas.subjects import QUEUE, Kind
from aichats_worker.errors import WorkerError
from aichats_worker.tracing.trace import CallTrace, RequestTrace, Traced

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_request: ContextVar[Span | None] = ContextVar("request", default=None)
_wanted: ContextVar[tuple[int, int] | None] = ContextVar("wanted", default=None)

_OPERATIONS: Final[Mapping[Kind, str]] = {"text": "chat", "image": "generate_content"}
_OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}


class Ids(RandomIdGenerator):
    """Ids by chance, but those of a job's attempts: each knows what the one before it was, whoever ran that."""

    def generate_span_id(self) -> int:
        """Return the id that is wanted, else one by chance."""
        wanted = _wanted.get()
        return wanted[1] if wanted is not None else super().generate_span_id()

    def generate_trace_id(self) -> int:
        """Return the id that is wanted, else one by chance."""
        wanted = _wanted.get()
        return wanted[0] if wanted is not None else super().generate_trace_id()


def _ids_of(origin: str, attempt: int) -> tuple[int, int]:
    """Return the ids of a trace that nobody else began, and of an attempt's span."""
    return _hashed(origin, 16), _hashed(f"{origin}.{attempt}", 8)


def _hashed(text: str, size: int) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:size], "big")


class Spans:
    """Makes spans of what the rooms tell.

    Args:
        provider: Where they go.
        prefix: Of the worker's subjects.
    """

    def __init__(self, provider: TracerProvider, prefix: str) -> None:
        self._tracer = provider.get_tracer("aichats_worker", __version__)
        self._prefix = prefix

    @contextmanager
    def request(self, call: Traced, queued_seconds: float, origin: str) -> Iterator[RequestTrace]:
        """Follow a request: below whoever sent it, and beside the attempt before it."""
        span = self._begin(call, queued_seconds, origin, _PROPAGATOR.extract(call.headers))
        token = _request.set(span)
        try:
            yield _RequestSpan(span)
        finally:
            _request.reset(token)
            span.end()

    def _begin(self, call: Traced, queued_seconds: float, origin: str, sender: Context) -> Span:
        parts = "{tenant}.{id}" if call.mode == "job" else "{tenant}"
        template = f"{self._prefix}.{call.mode}.{call.kind}.{parts}"
        attributes: dict[str, Any] = {
            "messaging.system": "nats",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.template": template,
            "messaging.consumer.group.name": f"{QUEUE}-{call.kind}" if call.mode == "job" else QUEUE,
            "messaging.message.id": call.id,
            "messaging.message.body.size": len(call.body),
            "aichats.attempt": call.attempt,
        }
        if call.problem is None:
            attributes["aichats.tenant"] = call.tenant
        if not origin:
            return self._tracer.start_span(f"process {template}", sender, SpanKind.CONSUMER, attributes)
        attributes["aichats.queued_seconds"] = queued_seconds
        token = _wanted.set(_ids_of(origin, call.attempt))
        try:
            return self._tracer.start_span(
                f"process {template}", sender, SpanKind.CONSUMER, attributes, _before(call, origin, sender)
            )
        finally:
            _wanted.reset(token)

    @contextmanager
    def asking(self, provider: str, kind: Kind, model: str | None, options: Mapping[str, Any]) -> Iterator[CallTrace]:
        """Follow a provider's answer, below the request."""
        operation = _OPERATIONS[kind]
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
            "gen_ai.request.stream": kind == "text",
            "gen_ai.output.type": "json" if options.get("json") else kind,
        }
        if model is not None:
            attributes["gen_ai.request.model"] = model
        attributes |= {_OPTIONS[name]: value for name, value in options.items() if name in _OPTIONS}
        request = _request.get()
        above = Context() if request is None else set_span_in_context(request)
        span = self._tracer.start_span(f"{operation} {model or ''}".rstrip(), above, SpanKind.CLIENT, attributes)
        try:
            yield _CallSpan(span, request)
        finally:
            span.end()

    def carrier(self) -> dict[str, str]:
        """Return the request's own context, as headers."""
        headers: dict[str, str] = {}
        if (span := _request.get()) is not None:
            _PROPAGATOR.inject(headers, set_span_in_context(span))
        return headers


def _before(call: Traced, origin: str, sender: Context) -> list[Link]:
    """Return the attempt before this one, which another worker may have run, and need not have ended."""
    if call.attempt <= 1:
        return []
    above = get_current_span(sender).get_span_context()
    trace_id, span_id = _ids_of(origin, call.attempt - 1)
    flags = above.trace_flags if above.is_valid else TraceFlags(TraceFlags.SAMPLED)
    return [Link(SpanContext(above.trace_id if above.is_valid else trace_id, span_id, True, flags))]


def _failed(span: Span, error: WorkerError) -> None:
    span.set_attribute("error.type", str(error.code))
    if error.fault != "requester":  # as with a 4xx of a server's: its own part was well
        span.set_status(Status(StatusCode.ERROR))


def _counted(usage: Usage) -> dict[str, int]:
    return {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}


class _RequestSpan(RequestTrace):
    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def trace_id(self) -> str:
        return format_trace_id(self._span.get_span_context().trace_id)

    def ended(self, outcome: str, error: WorkerError | None, usage: Usage | None) -> None:
        attributes: dict[str, Any] = {"aichats.outcome": outcome}
        if usage is not None:
            attributes |= _counted(usage) | {"aichats.usage.estimated": usage.estimated}
        self._span.set_attributes(attributes)
        if error is not None:
            _failed(self._span, error)


class _CallSpan(CallTrace):
    __slots__ = ("_request", "_since", "_span")

    def __init__(self, span: Span, request: Span | None) -> None:
        self._span = span
        self._request = request
        self._since = time.monotonic()

    def failed(self, error: WorkerError) -> None:
        _failed(self._span, error)

    def first(self) -> None:
        self._span.set_attribute("gen_ai.response.time_to_first_chunk", time.monotonic() - self._since)
        if self._request is not None:
            self._request.add_event("first piece of the answer")

    def again(self, error: WorkerError, seconds: float) -> None:
        self._span.add_event("asked again", {"error.type": str(error.code), "aichats.wait_seconds": seconds})

    def finished(self, reason: str, model: str, usage: Usage | None) -> None:
        attributes: dict[str, Any] = {"gen_ai.response.finish_reasons": (reason,)}
        if model:
            attributes["gen_ai.response.model"] = model
        if usage is not None:
            attributes |= _counted(usage)
        self._span.set_attributes(attributes)
