"""A span as OTLP's own message, in pieces: what repeats is written once, and no object comes between.

The numbers of the fields are those of opentelemetry/proto/trace/v1/trace.proto and common/v1/common.proto, which are
stable: none of them ever changes its meaning.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from time import time_ns
from typing import Any, Final

from opentelemetry.trace import SpanContext, TraceFlags

from aichats_worker.errors import WorkerError
from aichats_worker.tracing.protobuf import eight, four, head, pack_fraction, pack_whole, sized, varint, whole

# Of what repeats, such as tenants, models, outcomes and counts: half a MB in all. The longest is a tenant or a model.
REPEATED_MAX: Final = 1024
SHORT_MAX_BYTES: Final = 64  # as an id is
CLIENT, CONSUMER = 3, 5

_TRACE_ID, _SPAN_ID, _ABOVE = head(1, 16), head(2, 8), head(4, 8)
_TRACE_STATE, _NAME, _KIND = 3, 5, 6
_STARTED, _ENDED = eight(7), eight(8)
_ATTRIBUTE, _EVENT, _LINK = 9, 11, 13
_EVENT_TIME: Final = eight(1)
_FAILED: Final = sized(15, whole(3, 2))
# The first bit says that it is kept, the others that it is known whether what is above it is another process's.
_OWN, _ANOTHERS = four(16, 0x101), four(16, 0x301)
_TRUTH, _WHOLE, _FRACTION = whole(2, 0)[:-1], whole(3, 0)[:-1], eight(4)

Piece = bytes
Pieces = list[bytes]


def _text(value: str) -> bytes:
    return sized(1, value.encode(errors="replace"))


_VALUES: Final[Mapping[type, Callable[[Any], bytes]]] = {
    str: _text,
    bool: lambda value: _TRUTH + varint(value),
    int: lambda value: _WHOLE + varint(value),
    float: lambda value: _FRACTION + pack_fraction(value),
}


def attribute(name: str, value: Any) -> bytes:
    """Return an attribute's message: of a text, a truth, a number of 64 bits, or several texts."""
    if (write := _VALUES.get(type(value))) is not None:
        written = write(value)
    else:
        written = sized(5, b"".join([sized(1, _text(str(each))) for each in value]))
    return _text(name) + sized(2, written)


def said_once(name: str, value: Any) -> Piece:
    """Return a span's attribute that hardly any other has the same value of."""
    return sized(_ATTRIBUTE, attribute(name, value))


# The same of one whose values repeat. Types are told apart, since 1, 1.0 and True are equal.
said = lru_cache(REPEATED_MAX, typed=True)(said_once)


class TextSaid:
    """An attribute whose texts do not repeat, and are short: what stands before one depends on its length alone.

    Args:
        name: The attribute's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._heads = [said_once(name, "." * length)[: -length or None] for length in range(SHORT_MAX_BYTES + 1)]

    def __call__(self, text: str) -> Piece:
        """Return the attribute of one."""
        value = text.encode(errors="replace")
        return self._heads[len(value)] + value if len(value) <= SHORT_MAX_BYTES else said_once(self._name, text)


def fraction_said(name: str) -> bytes:
    """Return what comes before the value of an attribute that has a fraction, as `pack_fraction` gives it."""
    return said_once(name, 0.0)[:-8]


def kind_of(name: str, kind: int, attributes: Mapping[str, Any]) -> Piece:
    """Return what all spans of a kind have in common."""
    about = [said_once(each, value) for each, value in attributes.items()]
    return b"".join([sized(_NAME, name.encode()), whole(_KIND, kind), *about])


def below(above: bytes, *, of_another: bool) -> Piece:
    """Return the id of what a span is part of, which is another process's or this one's."""
    return _ABOVE + above + (_ANOTHERS if of_another else _OWN)


def trace_state(state: str) -> Piece:
    """Return the senders' own `tracestate`."""
    return sized(_TRACE_STATE, state.encode())


def link(trace_id: bytes, span_id: bytes) -> Piece:
    """Return a link to another span."""
    return sized(_LINK, _TRACE_ID + trace_id + _SPAN_ID + span_id)


def event_named(name: str, attributes: Mapping[str, Any]) -> bytes:
    """Return all of an event but its time."""
    about = [sized(3, attribute(each, value)) for each, value in attributes.items()]
    return b"".join([sized(2, name.encode()), *about])


def event(named: bytes) -> Piece:
    """Return an event that happens now, of what `event_named` gave."""
    return sized(_EVENT, _EVENT_TIME + pack_whole(time_ns()) + named)


def failure(error: WorkerError) -> Piece:
    """Return what is said of an error: of a requester's own it is no failure, as with a 4xx of a server's."""
    code = said("error.type", str(error.code))
    return code if error.fault == "requester" else code + _FAILED


class SpanMessage(bytes):
    """A span that has ended: its message, as a field of the batch's.

    Attributes:
        context: What OpenTelemetry's processor asks of each span is whether it is kept, and all of these are.
    """

    __slots__ = ()
    context: Final = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def begun(kind: Piece, trace_id: bytes, span_id: bytes) -> Pieces:
    """Return a span that begins now, of a kind that `kind_of` gave. Its pieces may follow in any order."""
    return [kind, _TRACE_ID, trace_id, _SPAN_ID, span_id, _STARTED, pack_whole(time_ns())]


def ended(span: Pieces) -> SpanMessage:
    """Return a span that ends now."""
    span += (_ENDED, pack_whole(time_ns()))
    return SpanMessage(sized(2, b"".join(span)))


class Batch:
    """Makes a request to a receiver of many spans.

    Args:
        resource: What the worker is.
        version: Of the worker.
    """

    def __init__(self, resource: Mapping[str, Any], version: str) -> None:
        about = [sized(1, attribute(name, value)) for name, value in resource.items()]
        self._resource = sized(1, b"".join(about))
        self._scope = sized(1, _text("aichats_worker") + sized(2, version.encode()))

    def of(self, spans: Sequence[bytes]) -> bytes:
        """Return all of them in one message."""
        return sized(1, self._resource + sized(2, b"".join([self._scope, *spans])))
