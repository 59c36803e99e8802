"""What every call passes on its way to a provider: the limiter, the circuit, and another try before the first byte."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, Protocol

from aichats_worker.errors import ProviderUnavailable, RateLimited, WorkerError
from aichats_worker.provider import Finish, Picture, Provider, Question
from aichats_worker.provider.circuit import Circuit, CircuitOpen
from aichats_worker.provider.limiter import Limiter

WAIT_MAX_SECONDS: Final = 5.0
CIRCUITS_MAX: Final = 256


class Guarded(Provider, Protocol):
    """A provider that can say whether it works."""

    circuit: Circuit


class Door:
    """A provider around a provider.

    A call is made again only while nothing of its answer has arrived, only after ProviderUnavailable or RateLimited,
    and only if the wait fits the request's deadline; never because the circuit is open.

    Args:
        provider: What is behind the door.
        calls_max: Calls for one question before the first byte.
        circuit_failures: Failures in a row that open a circuit; there is one for each proxy.
        circuit_open_seconds: For how long.
        retry_base_seconds: First step of the exponential back-off, which has full jitter.
        retry_max_seconds: Upper bound of a back-off.
        calls_per_minute: Calls that begin in a minute; 0 for any number.
        concurrent_calls: Calls at once; 0 for any number.
    """

    def __init__(
        self,
        provider: Guarded,
        *,
        calls_max: int = 3,
        circuit_failures: int = 5,
        circuit_open_seconds: float = 30,
        retry_base_seconds: float = 1,
        retry_max_seconds: float = 30,
        calls_per_minute: int = 0,
        concurrent_calls: int = 0,
    ) -> None:
        self._provider = provider
        self._calls_max = calls_max
        self._circuit_failures = circuit_failures
        self._circuit_open_seconds = circuit_open_seconds
        self._retry_base_seconds = retry_base_seconds
        self._retry_max_seconds = retry_max_seconds
        self._limiter = Limiter(calls_per_minute, concurrent_calls)
        self._circuits: OrderedDict[str, Circuit] = OrderedDict()
        self._circuit = provider.circuit = self._new_circuit()

    @property
    def working(self) -> bool:
        """False while the operator's circuit is open; requests' own proxies have theirs."""
        return self._circuit.working

    async def text(self, question: Question) -> AsyncGenerator[str | Finish, None]:
        """Yield text as it arrives, never empty, and one Finish as the last item."""
        call, started = 0, False
        while True:
            call += 1
            try:
                async with aclosing(self._text_once(question)) as items:
                    async for item in items:
                        started = True
                        yield item
            except WorkerError as error:
                wait = None if started else self._wait_before_next(call, error, question)
                if wait is None:
                    raise
            else:
                return
            await asyncio.sleep(wait)

    async def image(self, question: Question) -> Picture:
        """Make one image of the last message."""
        call = 0
        while True:
            call += 1
            try:
                return await self._image_once(question)
            except WorkerError as error:
                wait = self._wait_before_next(call, error, question)
                if wait is None:
                    raise
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close all connections."""
        await self._provider.close()

    async def _text_once(self, question: Question) -> AsyncGenerator[str | Finish, None]:
        circuit = self._circuit_of(question)
        circuit.check()  # before the wait for a turn; again after it
        async with self._limiter.turn(question.tenant, question.deadline):
            with circuit.call() as call:
                try:
                    async with aclosing(self._provider.text(question)) as items:
                        async for item in items:
                            call.answered()
                            yield item
                except RateLimited as error:
                    self._limiter.slow_down(error.retry_after_ms)
                    raise
                self._limiter.speed_up()

    async def _image_once(self, question: Question) -> Picture:
        circuit = self._circuit_of(question)
        circuit.check()
        async with self._limiter.turn(question.tenant, question.deadline):
            with circuit.call():
                try:
                    picture = await self._provider.image(question)
                except RateLimited as error:
                    self._limiter.slow_down(error.retry_after_ms)
                    raise
                self._limiter.speed_up()
                return picture

    def _wait_before_next(self, call: int, error: WorkerError, question: Question) -> float | None:
        """Return the seconds until the next call; None where there is to be none."""
        if not isinstance(error, ProviderUnavailable | RateLimited) or isinstance(error, CircuitOpen):
            return None
        asked = (error.retry_after_ms or 0) / 1000
        if call >= self._calls_max or asked > WAIT_MAX_SECONDS:
            return None
        # After random calls that fail together, full jitter spreads what a fixed step would send together again.
        step = min(self._retry_max_seconds, self._retry_base_seconds * 2 ** (call - 1))
        wait = max(asked, random.uniform(0, step))  # noqa: S311 - jitter is no secret
        fits = asyncio.get_running_loop().time() + wait < question.deadline
        return wait if fits else None

    def _circuit_of(self, question: Question) -> Circuit:
        if question.proxy is None:
            return self._circuit
        if question.proxy not in self._circuits:
            self._circuits[question.proxy] = self._new_circuit()
        self._circuits.move_to_end(question.proxy)
        if len(self._circuits) > CIRCUITS_MAX:
            self._circuits.popitem(last=False)
        return self._circuits[question.proxy]

    def _new_circuit(self) -> Circuit:
        return Circuit(self._circuit_failures, self._circuit_open_seconds)
