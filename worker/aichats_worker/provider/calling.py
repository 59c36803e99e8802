"""One call to a provider: its turn, its place on the circuit, and its answer until it is left."""

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from aichats_schemas.subjects import Kind
from aichats_worker.errors import DeadlineExceeded, Interrupted, RateLimited, WorkerError
from aichats_worker.provider import Question
from aichats_worker.provider.circuit import Circuit
from aichats_worker.provider.limiter import Limiter

Calls = Counter[tuple[Kind, str]]
Items = AsyncGenerator[Any, None]
_ANSWERED: Final = "answered"
_LEFT: Final = "left"  # by the requester, or for a deadline


@dataclass(slots=True)  # not frozen: one for each request
class Gate:
    """What a call passes.

    Attributes:
        limiter: Whose turn it is.
        circuit: Whether the provider is asked at all.
        ended: How many calls ended so, by kind and outcome.
    """

    limiter: Limiter
    circuit: Circuit
    ended: Calls


class ProviderCall:
    """A call from its turn until its block is left. Entering it waits for the first item of the answer.

    A class, since each generator around a call costs a short request as much as reading it.

    Args:
        gate: What it passes.
        kind: What is asked for.
        question: Whose turn it is, and until when.
        items: The provider's answer, not begun.

    Attributes:
        first: The first item.
        items: What comes behind it.
    """

    __slots__ = ("_gate", "_kind", "_on_circuit", "_question", "first", "items")

    def __init__(self, gate: Gate, kind: Kind, question: Question, items: Items) -> None:
        self.first: Any = None
        self.items = items
        self._gate = gate
        self._kind = kind
        self._question = question

    async def __aenter__(self) -> None:
        limiter, circuit = self._gate.limiter, self._gate.circuit
        if limiter.limits:
            circuit.check()  # before the wait for a turn; again after it
            await limiter.enter(self._question.tenant, self._question.deadline)
        try:
            self._on_circuit = circuit.call()
        except BaseException:
            limiter.leave()
            raise
        try:
            self.first = await anext(self.items)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        self._on_circuit.answered()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.items.aclose()
        except BaseException as closing:
            error = closing
            raise
        finally:
            self._count(error)
            self._on_circuit.__exit__(kind, error, trace)
            self._gate.limiter.leave()

    def _count(self, error: BaseException | None) -> None:
        """Take note of how it ended, for the limiter and for whoever looks."""
        outcome = _LEFT if error is not None else _ANSWERED
        if error is None:
            self._gate.limiter.speed_up()
        elif isinstance(error, WorkerError) and (not self._on_circuit.has_answer or broke_off(error)):
            outcome = error.code.value
        if isinstance(error, RateLimited):
            self._gate.limiter.slow_down(error.retry_after_ms)
        self._gate.ended[self._kind, outcome] += 1


def broke_off(error: BaseException | None) -> bool:
    """Whether this is how a provider ends an answer that has begun; any other error came from the requester's side."""
    return isinstance(error, Interrupted) or (isinstance(error, DeadlineExceeded) and error.phase == "stall")
