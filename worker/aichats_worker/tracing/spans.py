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
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aichats_schemas.events import Usage
from aichats_schemas.subjects import QUEUE, Kind
from aichats_worker.errors import WorkerError
from aichats_worker.tracing.messages import Followed, attributes_of
from aichats_worker.tracing.trace import CallTrace, RequestTrace, Traced

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_IDS: Final = RandomIdGenerator()
_request: ContextVar[Followed | None] = ContextVar("request", default=None)

_OPERATIONS: Final[Mapping[Kind, str]] = {"text": "chat", "image": "generate_content"}
_OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}


def _ids_of(origin: str, attempt: int) -> tuple[int, int]:
    """Return the ids of a job's trace, where nobody else began one, and of an attempt's span.

    They are computed and not drawn: each attempt knows what the one before it was, whoever ran that.
    """
    return _hashed(origin, 16), _hashed(f"{origin}.{attempt}", 8)


def _hashed(text: str, size: int) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:size], "big")


class Spans:
    """Makes spans of what the rooms tell.

    Args:
        processor: Where they go once they have ended.
        sampler: Which of them are kept.
        prefix: Of the worker's subjects.
    """

    def __init__(self, processor: SpanProcessor, sampler: Sampler, prefix: str) -> None:
        self._processor = processor
        self._sampler = sampler
        self._prefix = prefix
        self._known: dict[tuple[str, ...], SpanMessage] = {}

    @contextmanager
    def request(self, call: Traced, queued_seconds: float, origin: str) -> Iterator[RequestTrace]:
        """Follow a request: below whoever sent it, and beside the attempt before it."""
        span = self._begin(call, origin)
        span.says("messaging.message.id", call.id)
        span.says("messaging.message.body.size", len(call.body))
        span.says("aichats.attempt", call.attempt)
        if call.problem is None:
            span.says("aichats.tenant", call.tenant)
        if origin:
            span.says("aichats.queued_seconds", queued_seconds)
        token = _request.set(span)
        try:
            yield _RequestSpan(span)
        finally:
            _request.reset(token)
            self._end(span)

    def _begin(self, call: Traced, origin: str) -> Followed:
        sender = _PROPAGATOR.extract(call.headers)
        found = get_current_span(sender).get_span_context()
        above = found if found.is_valid else None
        wanted = _ids_of(origin, call.attempt) if origin else (0, 0)
        trace_id = above.trace_id if above is not None else wanted[0] or _IDS.generate_trace_id()
        known = self._request_of(call)
        chosen = self._sampler.should_sample(sender, trace_id, known.name, SpanKind.CONSUMER)
        flags = TraceFlags(TraceFlags.SAMPLED if chosen.decision is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT)
        state = chosen.trace_state
        context = SpanContext(trace_id, wanted[1] or _IDS.generate_span_id(), False, flags, state)
        span = Followed(context, above, known)
        if origin and call.attempt > 1:  # another worker may have run the one before, and need not have ended it
            before = _ids_of(origin, call.attempt - 1)[1]
            span.message.links.add(trace_id=span.message.trace_id, span_id=before.to_bytes(8, "big"))
        return span

    def _request_of(self, call: Traced) -> SpanMessage:
        """What all requests of a mode and kind have in common is made once."""
        if (known := self._known.get((call.mode, call.kind))) is None:
            parts = "{tenant}.{id}" if call.mode == "job" else "{tenant}"
            template = f"{self._prefix}.{call.mode}.{call.kind}.{parts}"
            attributes = {
                "messaging.system": "nats",
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.destination.template": template,
                "messaging.consumer.group.name": f"{QUEUE}-{call.kind}" if call.mode == "job" else QUEUE,
            }
            known = self._known[call.mode, call.kind] = SpanMessage(
                name=f"process {template}", kind=SpanMessage.SPAN_KIND_CONSUMER, attributes=attributes_of(attributes)
            )
        return known

    @contextmanager
    def asking(self, provider: str, kind: Kind, model: str | None, options: Mapping[str, Any]) -> Iterator[CallTrace]:
        """Follow a provider's answer, below the request."""
        request = _request.get()
        if request is None:
            yield CallTrace()
            return
        above = request.context
        context = SpanContext(above.trace_id, _IDS.generate_span_id(), False, above.trace_flags, above.trace_state)
        span = Followed(context, above, self._call_of(provider, kind, model, "json" if options.get("json") else kind))
        for name in options.keys() & _OPTIONS.keys():
            span.says(_OPTIONS[name], options[name])
        try:
            yield _CallSpan(span, request)
        finally:
            self._end(span)

    def _call_of(self, provider: str, kind: Kind, model: str | None, output: str) -> SpanMessage:
        """The same for a provider's calls. There are as many models as are offered."""
        if (known := self._known.get((provider, kind, model or "", output))) is None:
            operation = _OPERATIONS[kind]
            attributes = {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": provider,
                "gen_ai.request.stream": kind == "text",
                "gen_ai.output.type": output,
                **({"gen_ai.request.model": model} if model else {}),
            }
            known = self._known[provider, kind, model or "", output] = SpanMessage(
                name=f"{operation} {model or ''}".rstrip(),
                kind=SpanMessage.SPAN_KIND_CLIENT,
                attributes=attributes_of(attributes),
            )
        return known

    def _end(self, span: Followed) -> None:
        span.message.end_time_unix_nano = time.time_ns()
        self._processor.on_end(span)  # type: ignore[arg-type] # it looks at the context, and hands it on as it is

    def carrier(self) -> dict[str, str]:
        """Return the request's own context, as headers."""
        headers: dict[str, str] = {}
        if (span := _request.get()) is not None:
            _PROPAGATOR.inject(headers, set_span_in_context(NonRecordingSpan(span.context), Context()))
        return headers


class _RequestSpan(RequestTrace):
    __slots__ = ("_span",)

    def __init__(self, span: Followed) -> None:
        self._span = span

    @property
    def trace_id(self) -> str:
        return format_trace_id(self._span.context.trace_id)

    def ended(self, outcome: str, error: WorkerError | None, usage: Usage | None) -> None:
        self._span.says("aichats.outcome", outcome)
        if usage is not None:
            self._span.counted(usage)
            self._span.says("aichats.usage.estimated", usage.estimated)
        if error is not None:
            self._span.failed(error)


class _CallSpan(CallTrace):
    __slots__ = ("_request", "_since", "_span")

    def __init__(self, span: Followed, request: Followed) -> None:
        self._span = span
        self._request = request
        self._since = time.monotonic()

    def failed(self, error: WorkerError) -> None:
        self._span.failed(error)

    def first(self) -> None:
        self._span.says("gen_ai.response.time_to_first_chunk", time.monotonic() - self._since)
        self._request.event("first piece of the answer")

    def again(self, error: WorkerError, seconds: float) -> None:
        attributes = attributes_of({"error.type": str(error.code), "aichats.wait_seconds": seconds})
        self._span.event("asked again", *attributes)

    def finished(self, reason: str, model: str, usage: Usage | None) -> None:
        self._span.says("gen_ai.response.finish_reasons", (reason,))
        if model:
            self._span.says("gen_ai.response.model", model)
        if usage is not None:
            self._span.counted(usage)
