"""The subscribers: what the worker takes from NATS, a line or two each."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Literal

from faststream.nats import NatsBroker, NatsMessage
from faststream.nats.subscriber.usecases import CoreSubscriber

from aichats_schemas.events import StreamEvent
from aichats_schemas.subjects import KINDS, QUEUE, Kind, ReplyRule, Subjects
from aichats_worker.direct.handover import Place
from aichats_worker.errors import Abandoned, Cancelled, HandedOver, TooLarge, WorkerError
from aichats_worker.request.call import MODELS, Call, core_call
from aichats_worker.request.executor import Executor
from aichats_worker.request.outcome import Outcome
from aichats_worker.request.reply import Reply
from aichats_worker.telemetry import Telemetry

CoreMode = Literal["req", "ask"]
MODES: tuple[CoreMode, ...] = ("req", "ask")
Give = Callable[[Call, Callable[[Place], object]], Awaitable[None]]


class CoreDelivery:
    """A `req` or an `ask`: whatever its outcome, the requester is told at once, and it is never run again.

    Args:
        call: What is asked.
        give: Looks for a worker that has room, where this one has none.
    """

    queued_seconds = 0.0  # core NATS stores nothing and stamps nothing
    patience_seconds = 0.0
    js = None
    guard = None

    def __init__(self, call: Call, give: Give) -> None:
        self.call = call
        self._give = give
        self._place: Place | None = None

    def held(self, _stop: Callable[[Abandoned], object]) -> AbstractAsyncContextManager[None]:
        """Nothing is held: nobody else can have it."""
        return nullcontext()

    async def elsewhere(self, reply: Reply) -> None:
        """Have another worker do it all. Stopped meanwhile, it is stopped there."""
        reply.hush()  # the other one's events begin at 0
        await self._give(self.call, self._given)
        reply.speak()

    def _given(self, place: Place) -> None:
        self._place = place

    async def settle(self, reply: Reply, outcome: Outcome) -> Outcome:
        """Publish the end, unless another worker has it."""
        if self._place is not None:
            reply.abandon()
            if isinstance(outcome, Cancelled):
                await self._place.cancel()
            return HandedOver()
        if isinstance(outcome, Abandoned):
            reply.abandon()
            return outcome
        if isinstance(outcome, WorkerError):
            await reply.fail(outcome)
            return outcome
        try:
            await reply.done(outcome)
        except TooLarge as error:
            await reply.fail(error)
            return error
        return outcome


class Core:
    """The core subscribers and the rule of who is answered at all (contract, section 5)."""

    def __init__(
        self,
        executor: Executor,
        telemetry: Telemetry,
        *,
        give: Give,
        rule: ReplyRule,
    ) -> None:
        self._executor = executor
        self._give = give
        self._telemetry = telemetry
        self._rule = rule
        self._subscribers: list[CoreSubscriber] = []

    def accept(self, call: Call, *, has_slot: bool = False) -> bool:
        """Start a call, or drop it where nothing may be published to its reply subject: False then.

        Args:
            call: As it came.
            has_slot: A slot was taken for it already.
        """
        if not call.reply_to:
            self._telemetry.dropped(call.record(), "no_reply")
            return False
        if not self._rule.allows(call.reply_to, call.tenant):
            self._telemetry.dropped(call.record(), "forbidden_reply")
            return False
        self._executor.start(CoreDelivery(call, self._give), has_slot=has_slot)
        return True

    def subscribe(self, broker: NatsBroker, subjects: Subjects) -> None:
        """Declare the four core subscribers; broker.start() subscribes them."""
        self._subscribers = [self._declare(broker, subjects, mode, kind) for kind in KINDS for mode in MODES]

    def left(self) -> None:
        """Their subscriptions have ended: FastStream's stop() must not end them again."""
        for subscriber in self._subscribers:
            subscriber.subscription = None

    def _declare(self, broker: NatsBroker, subjects: Subjects, mode: CoreMode, kind: Kind) -> CoreSubscriber:
        async def decode(message: NatsMessage) -> Call:
            return core_call(message.raw_message, mode, kind)

        async def handle(call: Call) -> None:
            self.accept(call)  # starts a task and returns, so FastStream's own concurrency is not needed

        # apply_types is off: annotations only tell AsyncAPI what to send.
        handle.__annotations__["call"] = MODELS[kind]
        subscriber = broker.subscriber(
            subjects.request(mode, kind),
            QUEUE,
            decoder=decode,
            no_reply=True,  # FastStream would publish an empty message of its own after the events
            title=f"{mode}-{kind}",
            description=f"{_WHAT[mode]} Plain UTF-8 text in place of the JSON is the prompt. `*` is the tenant.",
        )
        subscriber(handle)
        broker.publisher(
            f"_INBOX.{mode}.{kind}",  # AsyncAPI: the channel stands for every requester's inbox
            schema=StreamEvent,
            title=f"{mode}-{kind}-events",
            description="Published to each request's reply subject; after the last event one message of zero bytes.",
        )
        return subscriber


_WHAT: dict[CoreMode, str] = {
    "req": "Streamed reply: many events, then the sentinel.",
    "ask": "The whole answer as one result event, then the sentinel.",
}
