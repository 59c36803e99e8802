import asyncio
from contextlib import suppress

import pytest

from aichats_worker.errors import (
    BadResponse,
    Challenge,
    DeadlineExceeded,
    Interrupted,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    TooLarge,
    WorkerError,
)
from aichats_worker.provider.circuit import Circuit, CircuitOpen


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def circuit(time: Time) -> Circuit:
    return Circuit(3, 30, clock=time)


def end(circuit: Circuit, error: BaseException | None = None) -> None:
    """One call that ends so."""
    with suppress(WorkerError, asyncio.CancelledError), circuit.call():
        if error is not None:
            raise error


FAILURES = [
    ProviderUnavailable("x"),
    BadResponse("x"),
    DeadlineExceeded("connect", 1),
    DeadlineExceeded("first_byte", 1),
]
ANSWERS = [None, RateLimited("x"), TooLarge("x"), Interrupted("x"), DeadlineExceeded("stall", 1)]


@pytest.mark.parametrize("error", FAILURES)
def test_failures_in_a_row_open_it(circuit: Circuit, error: WorkerError) -> None:
    for working in (True, True, False):
        end(circuit, error)
        assert circuit.working is working
    with pytest.raises(CircuitOpen) as refused:
        circuit.call()
    assert refused.value.retry_after_ms == 30_000


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_ends_the_row(circuit: Circuit, answer: WorkerError | None) -> None:
    for error in (ProviderUnavailable("x"), ProviderUnavailable("x"), answer, ProviderUnavailable("x")):
        end(circuit, error)
    assert circuit.working


@pytest.mark.parametrize("error", [Challenge("x"), QuotaExhausted("x")])
def test_what_only_the_operator_can_mend_opens_it_at_once(circuit: Circuit, error: WorkerError) -> None:
    end(circuit, error)
    assert not circuit.working


def test_a_cancelled_call_says_nothing(circuit: Circuit) -> None:
    for _ in range(9):
        end(circuit, asyncio.CancelledError())
    assert circuit.working
    for _ in range(2):
        end(circuit, ProviderUnavailable("x"))
    end(circuit, asyncio.CancelledError())
    end(circuit, ProviderUnavailable("x"))
    assert not circuit.working


def test_after_its_time_one_probe_goes_through_and_an_answer_closes_it(circuit: Circuit, time: Time) -> None:
    end(circuit, Challenge("x"))
    time.now += 30
    assert circuit.working
    with circuit.call() as probe:
        with pytest.raises(CircuitOpen) as refused:
            circuit.check()
        assert refused.value.retry_after_ms == 1000
        probe.answered()
        circuit.check()
    end(circuit)
    assert circuit.working


def test_a_probe_that_fails_opens_it_again(circuit: Circuit, time: Time) -> None:
    end(circuit, Challenge("x"))
    time.now += 30
    end(circuit, ProviderUnavailable("x"))
    assert not circuit.working
    time.now += 30
    end(circuit)
    end(circuit, ProviderUnavailable("x"))
    assert circuit.working


def test_a_cancelled_probe_leaves_the_way_to_the_next(circuit: Circuit, time: Time) -> None:
    end(circuit, Challenge("x"))
    time.now += 30
    end(circuit, asyncio.CancelledError())
    end(circuit)
    circuit.check()
    assert circuit.working


def test_a_call_from_before_does_not_close_it(circuit: Circuit, time: Time) -> None:
    with circuit.call():
        end(circuit, Challenge("x"))
    assert not circuit.working
    with pytest.raises(CircuitOpen):
        circuit.check()
    time.now += 30
    circuit.check()
