"""What every call passes on its way to a provider: the limiter, the circuit, and another try before the first byte."""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from aichats_schemas.subjects import KINDS, Kind
from aichats_worker.errors import ProviderUnavailable, RateLimited, WorkerError, without_frames
from aichats_worker.provider import Begun, Finish, Offers, Picture, Pictures, Question, Reasoning, Texts
from aichats_worker.provider.calling import Calls, Gate, ProviderCall, broke_off
from aichats_worker.provider.circuit import Circuit, CircuitOpen
from aichats_worker.provider.circuit_log import CircuitLog
from aichats_worker.provider.limiter import Limiter
from aichats_worker.tracing import trace

WAIT_MAX_SECONDS: Final = 5.0
CIRCUITS_MAX: Final = 256


class Guarded(Protocol):
    """What a door needs of what is behind it."""

    name: str
    circuit: Circuit

    @property
    def offers(self) -> Offers:
        """Which models there are, and what they can honour."""

    def text(self, question: Question) -> AsyncGenerator[str | Reasoning | Finish, None]:
        """Yield text as it arrives, never empty, and one Finish as the last item. Reasoning where it was asked for."""

    def images(self, question: Question) -> AsyncGenerator[Picture | Finish, None]:
        """Yield each image of the last message as soon as it is there, and one Finish as the last item."""

    async def close(self) -> None:
        """Close all connections."""


@dataclass(frozen=True, slots=True)
class DoorPolicy:
    """How a provider is asked.

    Attributes:
        calls_max: Calls for one question before the first byte.
        circuit_failures: Failures in a row that open a circuit; there is one for each kind and proxy.
        circuit_open_seconds: For how long.
        retry_base_seconds: First step of the exponential back-off, which has full jitter.
        retry_max_seconds: Upper bound of a back-off.
        calls_per_minute: Calls that begin in a minute; 0 for any number.
        concurrent_calls: Calls at once; 0 for any number.
    """

    calls_max: int = 3
    circuit_failures: int = 5
    circuit_open_seconds: float = 30
    retry_base_seconds: float = 1
    retry_max_seconds: float = 30
    calls_per_minute: int = 0
    concurrent_calls: int = 0


class Door:
    """A provider around a provider.

    A call is made again only while nothing of its answer has arrived, only after ProviderUnavailable or RateLimited,
    and only if the wait fits the request's deadline; never because the circuit is open.

    Args:
        provider: What is behind the door.
        policy: How it is asked.

    Attributes:
        name: The provider's.
        calls: How many calls ended so, by kind and `answered`, `left` or the error's code.
        retries: How many were made again, by kind.
        circuit_logs: What became of its circuits, by kind.
    """

    def __init__(self, provider: Guarded, policy: DoorPolicy | None = None) -> None:
        self.name = provider.name
        self._provider = provider
        self._policy = policy or DoorPolicy()
        self.calls: Calls = Counter()
        self.retries: Counter[Kind] = Counter()
        self.circuit_logs = {kind: CircuitLog(provider.name, kind) for kind in KINDS}
        self._limiter = Limiter(self._policy.calls_per_minute, self._policy.concurrent_calls)
        self._gates = {kind: self._new_gate(self.circuit_logs[kind]) for kind in KINDS}
        self._gates_of_proxies: OrderedDict[tuple[Kind, str], Gate] = OrderedDict()
        provider.circuit = self._gates["text"].circuit

    @property
    def doors(self) -> tuple[Self, ...]:
        """All doors there are: this one."""
        return (self,)

    @property
    def circuits(self) -> Mapping[Kind, Circuit]:
        """The operator's, by kind; requests' own proxies have theirs."""
        return {kind: gate.circuit for kind, gate in self._gates.items()}

    @property
    def working(self) -> bool:
        """False while text is refused; images and requests' own proxies have circuits of their own."""
        return self._gates["text"].circuit.working

    @property
    def not_asked(self) -> list[str]:
        """What is not asked for a while; requests' own proxies aside."""
        return [f"{self.name} {kind}" for kind, circuit in self.circuits.items() if not circuit.working]

    @property
    def offers(self) -> Offers:
        """The provider's."""
        return self._provider.offers

    def is_closed(self, kind: Kind, question: Question) -> bool:
        """Whether a call for this question would be let through now."""
        return self._gate_of(kind, question).circuit.working

    def text(self, question: Question, *, calls_max: int | None = None) -> Texts:
        """Wait until an answer has begun, in at most `calls_max` calls: text as it arrives, and one Finish."""
        return _Asked(self, "text", question, calls_max or self._policy.calls_max)

    def images(self, question: Question, *, calls_max: int | None = None) -> Pictures:
        """Wait until an answer has begun, in at most `calls_max` calls: each image, and one Finish."""
        return _Asked(self, "image", question, calls_max or self._policy.calls_max)

    async def close(self) -> None:
        """Close all connections."""
        await self._provider.close()

    def call(self, kind: Kind, question: Question) -> ProviderCall:
        """Make ready for one call."""
        ask = self._provider.text if kind == "text" else self._provider.images
        return ProviderCall(self._gate_of(kind, question), kind, question, ask(question))

    def wait_before_next(self, call: int, error: WorkerError, question: Question) -> float | None:
        """Return the seconds until the next call; None where there is to be none."""
        if not isinstance(error, ProviderUnavailable | RateLimited) or isinstance(error, CircuitOpen):
            return None
        asked = (error.retry_after_ms or 0) / 1000
        if asked > WAIT_MAX_SECONDS:
            return None
        # After random calls that fail together, full jitter spreads what a fixed step would send together again.
        step = min(self._policy.retry_max_seconds, self._policy.retry_base_seconds * 2 ** (call - 1))
        wait = max(asked, random.uniform(0, step))  # noqa: S311 - jitter is no secret
        fits = asyncio.get_running_loop().time() + wait < question.deadline
        return wait if fits else None

    def _gate_of(self, kind: Kind, question: Question) -> Gate:
        if question.proxy is None:
            return self._gates[kind]
        key = (kind, question.proxy)
        if key not in self._gates_of_proxies:
            self._gates_of_proxies[key] = self._new_gate()
        self._gates_of_proxies.move_to_end(key)
        if len(self._gates_of_proxies) > CIRCUITS_MAX:
            self._gates_of_proxies.popitem(last=False)
        return self._gates_of_proxies[key]

    def _new_gate(self, told: CircuitLog | None = None) -> Gate:
        circuit = Circuit(self._policy.circuit_failures, self._policy.circuit_open_seconds, told=told)
        return Gate(self._limiter, circuit, self.calls)


class _Asked(AbstractAsyncContextManager[Begun[Any]]):
    """A question at the door: calls are made until an answer has begun, and the last one ends with the block.

    Args:
        door: Which one.
        kind: What is asked for.
        question: What is asked.
        calls_max: Before the first byte.
    """

    def __init__(self, door: Door, kind: Kind, question: Question, calls_max: int) -> None:
        self._door = door
        self._kind = kind
        self._question = question
        self._calls_max = calls_max
        self._trace = trace.asking(door.name, kind, question.model, question.options)

    async def __aenter__(self) -> Begun[Any]:
        self._traced = self._trace.__enter__()
        calls = 0
        try:
            while True:
                calls += 1
                self._call = call = self._door.call(self._kind, self._question)
                try:
                    await call.__aenter__()
                except WorkerError as error:
                    wait = self._wait_after(error, calls)
                    if wait is None:
                        raise
                else:
                    break
                await asyncio.sleep(wait)
        except BaseException as error:
            self._trace.__exit__(type(error), error, error.__traceback__)
            raise
        if not isinstance(call.first, Finish):
            self._traced.first()
        return Begun(call.first, call.items, self._traced)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._call.__aexit__(kind, error, trace)
            if isinstance(error, WorkerError) and broke_off(error):
                self._failed(error)
        finally:
            self._trace.__exit__(kind, error, trace)

    def _wait_after(self, error: WorkerError, calls: int) -> float | None:
        """Return the seconds until the next call; None where that was the last one, and this its end."""
        again = calls < self._calls_max
        wait = self._door.wait_before_next(calls, error, self._question) if again else None
        if wait is None:
            self._failed(error)
        else:
            self._traced.again(without_frames(error), wait)
            self._door.retries[self._kind] += 1
        return wait

    def _failed(self, error: WorkerError) -> None:
        error.provider = self._door.name
        self._traced.failed(error)
