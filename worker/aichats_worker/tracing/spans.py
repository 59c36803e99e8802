"""The same as OpenTelemetry's spans, by the semantic conventions for messaging and for generative AI.

Never any content: no prompt, no answer, no `stop`, no metadata, and of an error its code alone, since a message may
name a requester's own fields. Never anything to a provider: its calls carry no header of a trace.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from time import monotonic
from typing import Any, Final, NamedTuple, Self

from opentelemetry.sdk.trace.sampling import Sampler

from aichats_schemas.events import Usage
from aichats_schemas.subjects import QUEUE, Kind
from aichats_worker.errors import WorkerError
from aichats_worker.tracing import messages
from aichats_worker.tracing.messages import Piece, Pieces, SpanMessage, said, said_once
from aichats_worker.tracing.positions import Position, Positions, new_span_id, span_id_of
from aichats_worker.tracing.protobuf import pack_fraction
from aichats_worker.tracing.trace import UNASKED, CallTrace, RequestTrace, Traced

HandOver = Callable[[SpanMessage], object]

_ID: Final = messages.TextSaid("messaging.message.id")
_FIRST: Final = messages.event_named("first piece of the answer", {})
_TIME_TO_FIRST: Final = messages.fraction_said("gen_ai.response.time_to_first_chunk")
_OPERATIONS: Final[Mapping[Kind, str]] = {"text": "chat", "image": "generate_content"}
_OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}


class _Kind(NamedTuple):
    """What all spans of a kind have in common: their name, and all of it as their message says it."""

    name: str
    piece: Piece


class Spans:
    """Makes spans of what the rooms tell.

    Args:
        hand_over: Takes each once it has ended.
        sampler: Which of them are kept.
        prefix: Of the worker's subjects.
    """

    def __init__(self, hand_over: HandOver, sampler: Sampler, prefix: str) -> None:
        self._hand_over = hand_over
        self._positions = Positions(sampler)
        self._prefix = prefix
        self._kinds: dict[tuple[str, ...], _Kind] = {}

    def request(self, call: Traced, queued_seconds: float, origin: str) -> AbstractContextManager[RequestTrace]:
        """Follow a request: below whoever sent it, and beside the attempt before it."""
        kind = self._kinds.get((call.mode, call.kind)) or self._request_of(call)
        position = self._positions.of(call.headers, kind.name, origin, call.attempt)
        if not position.is_kept:
            return _RequestSpan(position, None, self._hand_over)
        span = messages.begun(kind.piece, position.trace_id, position.span_id)
        span += (
            _ID(call.id),
            said("messaging.message.body.size", len(call.body)),
            said("aichats.attempt", call.attempt),
        )
        if call.problem is None:
            span.append(said("aichats.tenant", call.tenant))
        if position.above is not None:
            span.append(messages.below(position.above, of_another=True))
        if position.state:
            span.append(messages.trace_state(position.state))
        if origin:
            span.append(said_once("aichats.queued_seconds", queued_seconds))
            if call.attempt > 1:  # another worker may have run the one before, and need not have ended it
                span.append(messages.link(position.trace_id, span_id_of(origin, call.attempt - 1)))
        return _RequestSpan(position, span, self._hand_over)

    def _request_of(self, call: Traced) -> _Kind:
        """What all requests of a mode and kind have in common is made once."""
        parts = "{tenant}.{id}" if call.mode == "job" else "{tenant}"
        template = f"{self._prefix}.{call.mode}.{call.kind}.{parts}"
        attributes = {
            "messaging.system": "nats",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.template": template,
            "messaging.consumer.group.name": f"{QUEUE}-{call.kind}" if call.mode == "job" else QUEUE,
        }
        name = f"process {template}"
        kind = _Kind(name, messages.kind_of(name, messages.CONSUMER, attributes))
        return self._kinds.setdefault((call.mode, call.kind), kind)

    def asking(
        self, provider: str, kind: Kind, model: str | None, options: Mapping[str, Any]
    ) -> AbstractContextManager[CallTrace]:
        """Follow a provider's answer, below the request."""
        request = _request.get()
        if request is None or request.span is None:
            return UNASKED
        key = (provider, kind, model or "", "json" if options.get("json") else kind)
        known = self._kinds.get(key) or self._call_of(provider, kind, *key[2:])
        return _CallSpan(request, known.piece, options, self._hand_over)

    def _call_of(self, provider: str, kind: Kind, model: str, output: str) -> _Kind:
        """The same for a provider's calls. There are as many models as are offered."""
        operation = _OPERATIONS[kind]
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
            "gen_ai.request.stream": kind == "text",
            "gen_ai.output.type": output,
            **({"gen_ai.request.model": model} if model else {}),
        }
        name = f"{operation} {model}".rstrip()
        known = _Kind(name, messages.kind_of(name, messages.CLIENT, attributes))
        return self._kinds.setdefault((provider, kind, model, output), known)

    def carrier(self) -> dict[str, str]:
        """Return the request's own context, as headers."""
        request = _request.get()
        return {} if request is None else request.position.headers()


class _RequestSpan(RequestTrace):
    """A request's part, as the block around it.

    Args:
        position: Where it is.
        span: None where nothing of it is kept; whoever is below it in another process is told so.
        hand_over: Takes it once it has ended.
    """

    __slots__ = ("_hand_over", "_token", "position", "span")
    _token: "Token[_RequestSpan | None]"

    def __init__(self, position: Position, span: Pieces | None, hand_over: HandOver) -> None:
        self.position = position
        self.span = span
        self._hand_over = hand_over

    def __enter__(self) -> Self:
        self._token = _request.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _request.reset(self._token)
        if self.span is not None:
            self._hand_over(messages.ended(self.span))

    @property
    def trace_id(self) -> str:
        return self.position.trace_id.hex()

    def ended(self, outcome: str, error: WorkerError | None, usage: Usage | None) -> None:
        if self.span is None:
            return
        self.span.append(said("aichats.outcome", outcome))
        if usage is not None:
            _count(self.span, usage)
            self.span.append(said("aichats.usage.estimated", usage.estimated))
        if error is not None:
            self.span.append(messages.failure(error))


_request: ContextVar[_RequestSpan | None] = ContextVar("request", default=None)


def _count(span: Pieces, usage: Usage) -> None:
    span += (
        said("gen_ai.usage.input_tokens", usage.input_tokens),
        said("gen_ai.usage.output_tokens", usage.output_tokens),
    )


class _CallSpan(CallTrace):
    """A provider's part, as the block around it; its span begins with the block.

    Args:
        request: What it is part of.
        kind: What all such calls have in common.
        options: Of the request.
        hand_over: Takes it once it has ended.
    """

    __slots__ = ("_hand_over", "_kind", "_options", "_request", "_since", "_span")
    _since: float
    _span: Pieces

    def __init__(self, request: _RequestSpan, kind: Piece, options: Mapping[str, Any], hand_over: HandOver) -> None:
        self._request = request
        self._kind = kind
        self._options = options
        self._hand_over = hand_over

    def __enter__(self) -> Self:
        above = self._request.position
        self._since = monotonic()
        self._span = span = messages.begun(self._kind, above.trace_id, new_span_id())
        span.append(messages.below(above.span_id, of_another=False))
        if above.state:
            span.append(messages.trace_state(above.state))
        for name, value in self._options.items():
            if (option := _OPTIONS.get(name)) is not None:
                span.append(said_once(option, value))
        return self

    def __exit__(self, *_: object) -> None:
        self._hand_over(messages.ended(self._span))

    def failed(self, error: WorkerError) -> None:
        self._span.append(messages.failure(error))

    def first(self) -> None:
        self._span += (_TIME_TO_FIRST, pack_fraction(monotonic() - self._since))
        if self._request.span is not None:
            self._request.span.append(messages.event(_FIRST))

    def again(self, error: WorkerError, seconds: float) -> None:
        about = {"error.type": str(error.code), "aichats.wait_seconds": seconds}
        self._span.append(messages.event(messages.event_named("asked again", about)))

    def finished(self, reason: str, model: str, usage: Usage | None) -> None:
        self._span.append(said("gen_ai.response.finish_reasons", (reason,)))
        if model:
            self._span.append(said("gen_ai.response.model", model))
        if usage is not None:
            _count(self._span, usage)
