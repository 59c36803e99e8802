"""Whose trace a request is part of, and whether it is kept: the short ways say the same as OpenTelemetry's own code."""

import pytest
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aichats_worker.tracing.positions import Position, Positions

TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENTS = [
    f"00-{TRACE}-{SENDER}-01",
    f"00-{TRACE}-{SENDER}-00",
    f"00-{TRACE}-{SENDER}-02",
    f"00-{TRACE}-{SENDER}-03",
    f"00-{TRACE}-{SENDER}-ff",
    f"cc-{TRACE}-{SENDER}-01-what-comes-later",
    f" 00-{TRACE}-{SENDER}-01 ",
]
NONE = [
    f"00-{'0' * 32}-{SENDER}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SENDER}-01",
    f"00-{TRACE}-{SENDER}-01-more",
    f"00-{TRACE.upper()}-{SENDER}-01",
    f"00-{TRACE}-{SENDER}-01\n-",
    "nonsense",
    "",
]
STATES = [{}, {"tracestate": "a=1,b=2"}, {"tracestate": "wrong member"}, {"tracestate": ""}]
STATES += [{"tracestate": ",".join(f"k{number:03}=12345" for number in range(count))} for count in (32, 33, 50, 52)]


class Asked(Sampler):
    """Another object than those that are known, so that it is asked."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(self, *arguments, **named):  # type: ignore[no-untyped-def]
        return self._sampler.should_sample(*arguments, **named)

    def get_description(self) -> str:
        return "asked"


def found(sampler: Sampler, headers: dict[str, str], origin: str = "job") -> Position:
    return Positions(sampler).of(headers, "process", origin, 2)


@pytest.mark.parametrize("sampler", [ALWAYS_ON, DEFAULT_ON], ids=["always_on", "parentbased_always_on"])
@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_a_sampler_that_is_known_is_not_asked_and_nothing_comes_out_otherwise(
    sampler: Sampler, state: dict[str, str]
) -> None:
    for traceparent in [*PARENTS, *NONE]:
        headers = {"traceparent": traceparent} | state
        assert found(sampler, headers) == found(Asked(sampler), headers), traceparent
    assert found(sampler, state) == found(Asked(sampler), state)


@pytest.mark.parametrize("traceparent", PARENTS)
@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_whoever_sent_it_is_above_it_and_its_state_goes_on(traceparent: str, state: dict[str, str]) -> None:
    headers = {"traceparent": traceparent} | state
    position = found(DEFAULT_ON, headers)
    assert position.above is not None
    assert (position.trace_id.hex(), position.above.hex()) == (TRACE, SENDER)
    sent = state.get("tracestate", "")
    assert position.state == (sent if sent.count(",") < 32 and " " not in sent else "")
    went = position.headers()
    assert went.get("tracestate", "") == position.state
    assert went["traceparent"] == f"00-{TRACE}-{position.span_id.hex()}-{'01' if position.is_kept else '00'}"
    assert TraceContextTextMapPropagator().extract(went)


@pytest.mark.parametrize("traceparent", [None, *NONE])
def test_without_a_sender_it_begins_a_trace(traceparent: str | None) -> None:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    one, other = (found(DEFAULT_ON, headers, origin="") for _ in range(2))
    assert (one.above, one.is_kept) == (None, True)
    assert (len(one.trace_id), len(one.span_id)) == (16, 8)
    assert one.trace_id != other.trace_id
    assert one.span_id != other.span_id
    jobs = [found(DEFAULT_ON, headers) for _ in range(2)]
    assert jobs[0] == jobs[1], "all attempts of a job compute the same"


@pytest.mark.parametrize(
    ("sampler", "first", "kept_above", "not_kept_above"),
    [
        (ALWAYS_ON, True, True, True),
        (ALWAYS_OFF, False, False, False),
        (DEFAULT_ON, True, True, False),
        (DEFAULT_OFF, False, True, False),
        (TraceIdRatioBased(1.0), True, True, True),
        (TraceIdRatioBased(0.0), False, False, False),
        (ParentBasedTraceIdRatio(0.0), False, True, False),
        (ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON), False, True, True),
    ],
)
def test_each_sampler_decides(sampler: Sampler, first: bool, kept_above: bool, not_kept_above: bool) -> None:
    assert found(sampler, {}).is_kept is first
    assert found(sampler, {"traceparent": PARENTS[0]}).is_kept is kept_above
    assert found(sampler, {"traceparent": PARENTS[1]}).is_kept is not_kept_above
