"""What this worker asks of JetStream, and all that JetStream sends it, on one subscription: accounts limit those."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionReconnectingError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import APIError

from aichats_worker.broker.bus import Bus
from aichats_worker.broker.stopping import Stopping

ASK_TIMEOUT_SECONDS: Final = 2.0
NO_RESPONDERS: Final = "503"
STAMP_TOKENS: Final = 9  # of the old form, $JS and ACK included
DELIVERED: Final = "$JS.ACK."

Received = Callable[[Msg], object]


class Mailbox:
    """Inboxes below one subscription. What comes is handed over at once, in order; nobody may wait in between.

    Args:
        bus: The connection, and where JetStream's API is.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._inbox = f"{bus.nc.new_inbox()}."
        self._boxes: dict[str, Received] = {}
        self._consumers: dict[str, Received] = {}
        self._count = 0
        self._subscription: Any = None

    @property
    def nc(self) -> Client:
        """The connection."""
        return self.bus.nc

    async def start(self) -> None:
        """Subscribe."""
        self._subscription = await self.nc.subscribe(f"{self._inbox}*", cb=self._got)

    async def stop(self, stopping: Stopping) -> None:
        """Let the broker send no more; what has arrived is handed over. Requests that stand have nobody any more."""
        if self._subscription is not None:
            await stopping.leave(self.nc, [self._subscription], "jobs")

    def open(self, received: Received) -> str:
        """Return a new inbox, whose messages are handed to `received`."""
        self._count += 1
        subject = f"{self._inbox}{self._count}"
        self._boxes[subject] = received
        return subject

    def close(self, subject: str) -> None:
        """Forget an inbox; what still comes is dropped."""
        self._boxes.pop(subject, None)

    def deliver(self, consumer: str, received: Received) -> None:
        """Hand what a consumer delivers to `received`: such messages come under their own subjects."""
        self._consumers[consumer] = received

    def forget(self, consumer: str) -> None:
        """Drop what a consumer still delivers."""
        self._consumers.pop(consumer, None)

    async def _got(self, message: Msg) -> None:
        if message.reply.startswith(DELIVERED):
            received = self._consumers.get(stamp_of(message.reply).consumer)
        else:
            received = self._boxes.get(message.subject)
        if received is not None:
            received(message)

    async def ask(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = ASK_TIMEOUT_SECONDS,
    ) -> Msg:
        """Send a request and return its answer. As nats-py's, at half of its cost.

        Raises:
            nats.errors.NoRespondersError: Nobody is there.
            nats.errors.TimeoutError: No answer in time. Whether the request has come is not known.
            nats.errors.Error: It could not be sent.
        """
        return (await self._answers(subject, payload, headers, timeout_seconds, lambda _: True))[-1]

    async def ask_for_many(self, subject: str, payload: bytes, *, timeout_seconds: float) -> list[Msg]:
        """Send a request and return its answers, up to the one that has a status.

        Raises:
            nats.errors.NoRespondersError: Nobody is there.
            nats.errors.TimeoutError: Not all of them came in time.
            nats.errors.Error: It could not be sent.
        """
        return await self._answers(subject, payload, None, timeout_seconds, _has_status)

    async def _answers(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        timeout_seconds: float,
        is_last: Callable[[Msg], bool],
    ) -> list[Msg]:
        if not self.nc.is_connected:
            # What lies in nats-py's buffer is sent much later, whatever has come of it meanwhile.
            raise ConnectionReconnectingError
        loop = asyncio.get_running_loop()
        answers: list[Msg] = []
        complete: asyncio.Future[None] = loop.create_future()

        def received(message: Msg) -> None:
            answers.append(message)
            if is_last(message) and not complete.done():
                complete.set_result(None)

        def too_late() -> None:
            if not complete.done():
                complete.set_exception(NatsTimeoutError())

        inbox = self.open(received)
        timer = loop.call_later(timeout_seconds, too_late)
        try:
            await self.nc.publish(subject, payload, reply=inbox, headers=headers)  # type: ignore[arg-type]
            await complete
        finally:
            timer.cancel()
            self.close(inbox)
        if not answers[-1].data and (answers[-1].headers or {}).get("Status") == NO_RESPONDERS:
            raise NoRespondersError
        return answers

    async def api(self, call: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call JetStream's API and return its answer.

        Args:
            call: Such as `STREAM.INFO.AIJOBS`.
            request: The call's own.

        Raises:
            nats.js.errors.APIError: It says no.
            nats.errors.Error: It says nothing.
        """
        message = await self.ask(self.bus.api(call), orjson.dumps(request) if request else b"")
        return judged(message.data)


def _has_status(message: Msg) -> bool:
    return "Status" in (message.headers or {})


def judged(data: bytes) -> dict[str, Any]:
    """Read an answer of JetStream's.

    Raises:
        nats.js.errors.APIError: It is a refusal.
    """
    answer: dict[str, Any] = orjson.loads(data)
    if "error" in answer:
        APIError.from_error(answer["error"])  # raises the class that fits
    return answer


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the broker says of a message that a consumer delivered, in the subject where its acknowledgement goes.

    Attributes:
        consumer: Which one; messages come under their own subject, and this alone tells whose they are.
        delivery: How often it has been delivered, this time included.
        stream_seq: Its place in the stream.
        consumer_seq: Its place among what the consumer has delivered.
        time: When it was stored, in seconds since 1970 by the broker's clock.
    """

    consumer: str
    delivery: int
    stream_seq: int
    consumer_seq: int
    time: float


def stamp_of(reply: str) -> Stamp:
    """Read `$JS.ACK.<stream>.<consumer>...`, or the form that has a domain and an account before the stream."""
    tokens = reply.split(".")
    first = 2 if len(tokens) <= STAMP_TOKENS else 4
    consumer, delivery, stream_seq, consumer_seq, time_ns = tokens[first + 1 : first + 6]
    return Stamp(consumer, int(delivery), int(stream_seq), int(consumer_seq), int(time_ns) / 1e9)
