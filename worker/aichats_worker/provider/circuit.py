"""Stops asking a provider that fails, and finds out when it works again."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from aichats_worker.errors import ProviderUnavailable, WorkerError
from aichats_worker.provider.circuit_log import CircuitLog

_PROBE_MS: Final = 1000


class CircuitOpen(ProviderUnavailable):
    """The provider was not asked at all."""


class Circuit:
    """Opens after failures in a row, or at once where only the operator can help; then one call probes the way.

    What counts as a failure, and what opens it at once, an error says itself: its attribute `circuit`. Every other end
    of a call is an answer, and ends the row of failures.

    Args:
        failures_max: Failures in a row that open it.
        open_seconds: For how long; after that, one call is let through, whose end closes or opens it again.
        clock: Seconds that never go back.
        told: Is told when it opens and closes.
    """

    def __init__(
        self,
        failures_max: int = 5,
        open_seconds: float = 30,
        *,
        clock: Callable[[], float] = time.monotonic,
        told: CircuitLog | None = None,
    ) -> None:
        self._failures_max = failures_max
        self._open_seconds = open_seconds
        self._clock = clock
        self._told = told
        self._failures = 0
        self._opened_until: float | None = None
        self._probe: CallOnCircuit | None = None

    @property
    def working(self) -> bool:
        """False while calls are refused without a probe being due."""
        return self._opened_until is None or self._clock() >= self._opened_until

    def check(self) -> None:
        """Raise CircuitOpen if a call would be refused now."""
        if self._opened_until is None:
            return
        left_ms = int((self._opened_until - self._clock()) * 1000)
        if left_ms > 0 or self._probe is not None:
            wait = max(left_ms, _PROBE_MS)
            raise CircuitOpen("the provider fails at the moment and is not asked; try again later", retry_after_ms=wait)

    def call(self) -> "CallOnCircuit":
        """Return a context manager around one call, which learns from how the call ends.

        Raises:
            CircuitOpen: At once.
        """
        self.check()
        call = CallOnCircuit(self)
        if self._opened_until is not None:
            self._probe = call
        return call

    def _ended(self, call: "CallOnCircuit", error: BaseException | None) -> None:
        probing = self._probe is call
        if probing:
            self._probe = None
        effect = error.circuit if isinstance(error, WorkerError) else "none"
        if effect == "opens" or (effect == "counts" and self._is_too_much(probing=probing)):
            self._opened_until = self._clock() + self._open_seconds
            if self._told is not None and isinstance(error, WorkerError):
                self._told.opens(error, self._open_seconds)
        elif effect == "none" and isinstance(error, WorkerError | None) and (probing or self._opened_until is None):
            # A call that began before the circuit opened says nothing about now: only the probe closes it.
            if self._told is not None and self._opened_until is not None:
                self._told.closes()
            self._opened_until, self._failures = None, 0

    def _is_too_much(self, *, probing: bool) -> bool:
        self._failures += 1
        return probing or (self._opened_until is None and self._failures >= self._failures_max)


class CallOnCircuit:
    """One call. It counts once: at its first answer, or at its end. A cancelled call says nothing."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit: Circuit | None = circuit

    @property
    def has_answer(self) -> bool:
        """Whether the provider has answered."""
        return self._circuit is None

    def answered(self) -> None:
        """The provider answers: what happens to the rest of the answer does not count."""
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._circuit is not None:
            circuit, self._circuit = self._circuit, None
            circuit._ended(self, error)  # noqa: SLF001 - the two are one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._end(error)
