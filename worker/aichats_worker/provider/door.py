"""What every call passes on its way to a provider: the limiter, the circuit, and another try before the first byte."""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from aichats_schemas.subjects import KINDS, Kind
from aichats_worker.errors import DeadlineExceeded, Interrupted, ProviderUnavailable, RateLimited, WorkerError
from aichats_worker.provider import Begun, Finish, Offers, Picture, Pictures, Question, Reasoning, Texts
from aichats_worker.provider.circuit import CallOnCircuit, Circuit, CircuitOpen
from aichats_worker.provider.circuit_log import CircuitLog
from aichats_worker.provider.limiter import Limiter
from aichats_worker.tracing import trace
from aichats_worker.tracing.trace import CallTrace

WAIT_MAX_SECONDS: Final = 5.0
CIRCUITS_MAX: Final = 256

Items = AsyncGenerator[Any, None]


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
        calls: How many calls ended so, by kind and `answered`, `left` or the error's code.
        retries: How many were made again, by kind.
        circuit_logs: What became of its circuits, by kind.
    """

    def __init__(self, provider: Guarded, policy: DoorPolicy | None = None) -> None:
        self._provider = provider
        self._policy = policy or DoorPolicy()
        self.calls: Counter[tuple[Kind, str]] = Counter()
        self.retries: Counter[Kind] = Counter()
        self.circuit_logs = {kind: CircuitLog(provider.name, kind) for kind in KINDS}
        self._limiter = Limiter(self._policy.calls_per_minute, self._policy.concurrent_calls)
        self._circuits: dict[Kind, Circuit] = {kind: self._new_circuit(self.circuit_logs[kind]) for kind in KINDS}
        self._circuits_of_proxies: OrderedDict[tuple[Kind, str], Circuit] = OrderedDict()
        provider.circuit = self._circuits["text"]

    @property
    def name(self) -> str:
        """The provider's."""
        return self._provider.name

    @property
    def doors(self) -> tuple[Self, ...]:
        """All doors there are: this one."""
        return (self,)

    @property
    def circuits(self) -> Mapping[Kind, Circuit]:
        """The operator's, by kind; requests' own proxies have theirs."""
        return self._circuits

    @property
    def working(self) -> bool:
        """False while text is refused; images and requests' own proxies have circuits of their own."""
        return self._circuits["text"].working

    @property
    def not_asked(self) -> list[str]:
        """What is not asked for a while; requests' own proxies aside."""
        return [f"{self.name} {kind}" for kind, circuit in self._circuits.items() if not circuit.working]

    @property
    def offers(self) -> Offers:
        """The provider's."""
        return self._provider.offers

    def is_closed(self, kind: Kind, question: Question) -> bool:
        """Whether a call for this question would be let through now."""
        return self._circuit_of(kind, question).working

    def text(self, question: Question, *, calls_max: int | None = None) -> Texts:
        """Wait until an answer has begun, in at most `calls_max` calls: text as it arrives, and one Finish."""
        return self._asked("text", self._provider.text, question, calls_max or self._policy.calls_max)

    def images(self, question: Question, *, calls_max: int | None = None) -> Pictures:
        """Wait until an answer has begun, in at most `calls_max` calls: each image, and one Finish."""
        return self._asked("image", self._provider.images, question, calls_max or self._policy.calls_max)

    async def close(self) -> None:
        """Close all connections."""
        await self._provider.close()

    @asynccontextmanager
    async def _asked(
        self, kind: Kind, ask: Callable[[Question], Items], question: Question, calls_max: int
    ) -> AsyncIterator[Begun[Any]]:
        call, has_begun = 0, False
        with trace.asking(self.name, kind, question.model, question.options) as traced:
            while True:
                call += 1
                try:
                    async with self._asked_once(kind, ask, question, traced) as answer:
                        has_begun = True
                        yield answer
                        return
                except WorkerError as error:
                    wait = None if has_begun or call >= calls_max else self._wait_before_next(call, error, question)
                    if wait is None:
                        if not has_begun or _broke_off(error):
                            error.provider = self.name
                            traced.failed(error)
                        raise
                    traced.again(error, wait)
                self.retries[kind] += 1
                await asyncio.sleep(wait)

    @asynccontextmanager
    async def _asked_once(
        self, kind: Kind, ask: Callable[[Question], Items], question: Question, traced: CallTrace
    ) -> AsyncIterator[Begun[Any]]:
        circuit = self._circuit_of(kind, question)
        circuit.check()  # before the wait for a turn; again after it
        async with self._limiter.turn(question.tenant, question.deadline):
            with circuit.call() as call, self._counted(kind, call):
                async with aclosing(ask(question)) as items:
                    first = await anext(items)
                    call.answered()
                    if not isinstance(first, Finish):
                        traced.first()
                    yield Begun(first, items, traced)

    @contextmanager
    def _counted(self, kind: Kind, call: CallOnCircuit) -> Iterator[None]:
        """Take note of how a call ends, for the limiter and for whoever looks."""
        outcome = "left"  # by the requester, or for a deadline
        try:
            yield
            outcome = "answered"
            self._limiter.speed_up()
        except WorkerError as error:
            if not call.has_answer or _broke_off(error):
                outcome = error.code.value
            if isinstance(error, RateLimited):
                self._limiter.slow_down(error.retry_after_ms)
            raise
        finally:
            self.calls[kind, outcome] += 1

    def _wait_before_next(self, call: int, error: WorkerError, question: Question) -> float | None:
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

    def _circuit_of(self, kind: Kind, question: Question) -> Circuit:
        if question.proxy is None:
            return self._circuits[kind]
        key = (kind, question.proxy)
        if key not in self._circuits_of_proxies:
            self._circuits_of_proxies[key] = self._new_circuit()
        self._circuits_of_proxies.move_to_end(key)
        if len(self._circuits_of_proxies) > CIRCUITS_MAX:
            self._circuits_of_proxies.popitem(last=False)
        return self._circuits_of_proxies[key]

    def _new_circuit(self, told: CircuitLog | None = None) -> Circuit:
        return Circuit(self._policy.circuit_failures, self._policy.circuit_open_seconds, told=told)


def _broke_off(error: WorkerError) -> bool:
    """Whether this is how a provider ends an answer that has begun; any other error came from the requester's side."""
    return isinstance(error, Interrupted) or (isinstance(error, DeadlineExceeded) and error.phase == "stall")
