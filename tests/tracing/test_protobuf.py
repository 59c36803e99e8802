"""What is written by hand, read by protobuf's own library."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from aichats_worker.tracing import messages
from aichats_worker.tracing.protobuf import eight, four, head, pack_fraction, pack_whole, sized, whole
from tests.tracing.receiver import plain

TEXTS = st.text(max_size=300)  # of one byte's length, and of two
WHOLES = st.integers(-(2**63), 2**63 - 1)
FRACTIONS = st.floats()
VALUES = st.one_of(TEXTS, st.booleans(), WHOLES, FRACTIONS, st.lists(TEXTS).map(tuple))


def same(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or (type(one) is type(other) and one == other)


def told(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def nothing_unknown(message: ExportTraceServiceRequest) -> bool:
    """Whether the library would write all of it again: what it does not know it would keep apart."""
    before = message.ByteSize()
    message.DiscardUnknownFields()
    return bool(message.ByteSize() == before)


@given(WHOLES, st.booleans(), FRACTIONS, st.binary(max_size=20_000))
def test_each_way_to_write_a_value_is_read_again(number: int, truth: bool, fraction: float, some: bytes) -> None:
    assert AnyValue.FromString(whole(3, number)).int_value == number
    assert AnyValue.FromString(whole(2, truth)).bool_value is truth
    assert same(AnyValue.FromString(eight(4) + pack_fraction(fraction)).double_value, fraction)
    assert AnyValue.FromString(sized(7, some)).bytes_value == some
    assert head(7, len(some)) + some == sized(7, some)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_times_and_flags_are_read_again(time: int, flags: int) -> None:
    span = Span.FromString(eight(7) + pack_whole(time) + four(16, flags))
    assert (span.start_time_unix_nano, span.flags) == (time, flags)


@given(TEXTS, VALUES)
def test_an_attribute_is_its_name_and_value_of_its_own_type(name: str, value: Any) -> None:
    pair = KeyValue.FromString(messages.attribute(name, value))
    assert pair.key == name
    assert same(plain(pair.value), told(value))
    for write in (messages.said, messages.said_once):
        (of_span,) = Span.FromString(write(name, value)).attributes
        assert same(plain(of_span.value), told(value))


@given(TEXTS, st.text(max_size=2 * messages.SHORT_MAX_BYTES))
def test_a_text_that_does_not_repeat_is_written_like_any_other(name: str, text: str) -> None:
    assert messages.TextSaid(name)(text) == messages.said_once(name, text)


def test_what_is_equal_and_of_another_type_is_not_taken_for_it() -> None:
    values = (1, True, 1.0, 0, False, 0.0)
    read = [plain(Span.FromString(messages.said("aichats.some", value)).attributes[0].value) for value in values]
    assert [(type(one), one) for one in read] == [(type(value), value) for value in values]


def test_what_repeats_is_kept_in_bounds() -> None:
    for number in range(2 * messages.REPEATED_MAX):
        messages.said("aichats.some", number)
    assert messages.said.cache_info().currsize == messages.REPEATED_MAX


def test_half_a_surrogate_pair_ends_no_request() -> None:
    assert plain(KeyValue.FromString(messages.attribute("name", "a\ud800b")).value) == "a?b"
    assert messages.TextSaid("name")("a\ud800b") == messages.said_once("name", "a\ud800b")


@given(st.dictionaries(TEXTS, VALUES, max_size=30), st.binary(min_size=16, max_size=16), st.integers(1, 20))
def test_a_batch_is_read_as_its_resource_and_spans(said: dict[str, Any], trace_id: bytes, count: int) -> None:
    made = []
    for number in range(count):
        span = messages.begun(messages.kind_of("process", messages.CONSUMER, said), trace_id, bytes([number] * 8))
        span += (messages.below(b"s" * 8, of_another=True), messages.trace_state("vendor=1"))
        span += (messages.link(trace_id, b"l" * 8), messages.event(messages.event_named("again", said)))
        made.append(messages.ended(span))
    request = ExportTraceServiceRequest.FromString(messages.Batch(said, "1.2").of(made))
    assert nothing_unknown(request)
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    assert {pair.key for pair in resource.resource.attributes} == set(said)
    assert (scope.scope.name, scope.scope.version) == ("aichats_worker", "1.2")
    assert [span.span_id for span in scope.spans] == [bytes([number] * 8) for number in range(count)]
    for read in scope.spans:
        assert (read.name, read.kind, read.trace_id) == ("process", Span.SPAN_KIND_CONSUMER, trace_id)
        assert (read.parent_span_id, read.trace_state, read.flags) == (b"s" * 8, "vendor=1", 0x301)
        assert (read.links[0].trace_id, read.links[0].span_id) == (trace_id, b"l" * 8)
        assert len(read.attributes) == len(read.events[0].attributes) == len(said)
        assert read.start_time_unix_nano <= read.events[0].time_unix_nano <= read.end_time_unix_nano
        assert read.status.code == Status.STATUS_CODE_UNSET
