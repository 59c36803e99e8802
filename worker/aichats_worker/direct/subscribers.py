"""The subscribers: what the worker takes from NATS, a line or two each."""

from collections.abc import Awaitable, Callable

from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases import CoreSubscriber
from nats.aio.msg import Msg

from aichats_schemas.requests import MODELS
from aichats_schemas.subjects import KINDS, QUEUE, CoreMode, Kind, ReplyRule, Subjects
from aichats_worker.broker.patches.subscribing import take_directly
from aichats_worker.direct.handover import Taker
from aichats_worker.errors import Abandoned, Cancelled, HandedOver, RequesterGone, TooLarge, WorkerError
from aichats_worker.request.call import Call, core_call
from aichats_worker.request.executor import Executor
from aichats_worker.request.outcome import Outcome
from aichats_worker.request.reply import Ask, Reply
from aichats_worker.request.runs import Run
from aichats_worker.request.watch import Kept, Watch
from aichats_worker.telemetry.counting import Telemetry

MODES: tuple[CoreMode, ...] = ("req", "ask")
Give = Callable[[Call, Callable[[Taker], object]], Awaitable[None]]


class CoreDelivery:
    """A `req` or an `ask`: whatever its outcome, the requester is told at once, and it is never run again.

    Args:
        call: What is asked.
        core: Whose it is.
    """

    queued_seconds = 0.0  # core NATS stores nothing and stamps nothing
    origin = ""

    def __init__(self, call: Call, core: "Core") -> None:
        self.call = call
        self._core = core
        self._place: Taker | None = None
        line = core.watch.line(call.reply_to, probed=call.mode == "req")
        self._reply = Ask(line, call) if call.mode == "ask" else Reply(line, call)

    def opened(self, run: Run) -> Kept[Reply]:
        """Stop the request once the server says that nobody listens (`req` alone)."""
        return self._core.watch.kept(self._reply, on_gone=lambda: run.stop(RequesterGone()))

    async def elsewhere(self) -> None:
        """Have another worker do it all; return where a slot came free here first."""
        self._reply.hush()  # the other one's events begin at 0
        await self._core.give(self.call, self._given)
        self._reply.speak()

    def _given(self, place: Taker) -> None:
        self._place = place

    async def settle(self, run: Run, outcome: Outcome) -> Outcome:
        """Publish the end, unless another worker has it. Cancelled meanwhile, it is cancelled there."""
        if self._place is not None:
            self._reply.abandon()
            cancelled = isinstance(outcome, Cancelled) and await self._place.cancel()
            return outcome if cancelled else HandedOver()
        self._core.executor.runs.release(run)  # before the end is out: the next request of this id may come
        if isinstance(outcome, Abandoned):
            self._reply.abandon()
        elif isinstance(outcome, WorkerError):
            await self._reply.fail(outcome)
        else:
            try:
                await self._reply.done(outcome)
            except TooLarge as error:
                outcome = run.charged(error)
                await self._reply.fail(error)
        return outcome


class Core:
    """The core subscribers and the rule of who is answered at all (contract, section 5).

    Args:
        executor: Runs the requests.
        watch: Keeps their replies alive.
        telemetry: Counts what cannot be answered.
        give: Looks for a worker that has room, where this one has none.
        rule: Where something may be published at all.
    """

    def __init__(self, executor: Executor, watch: Watch, telemetry: Telemetry, *, give: Give, rule: ReplyRule) -> None:
        self.executor = executor
        self.watch = watch
        self.give = give
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
            self._telemetry.dropped(call.account(), "no_reply")
            return False
        if not self._rule.allows(call.reply_to, call.tenant):
            self._telemetry.dropped(call.account(), "forbidden_reply")
            return False
        self.executor.start(CoreDelivery(call, self), has_slot=has_slot)
        return True

    def subscribe(self, broker: NatsBroker, subjects: Subjects) -> None:
        """Declare the four core subscribers; broker.start() subscribes them."""
        self._subscribers = [self._declare(broker, subjects, mode, kind) for kind in KINDS for mode in MODES]

    def left(self) -> None:
        """Their subscriptions have ended: FastStream's stop() must not end them again."""
        for subscriber in self._subscribers:
            subscriber.subscription = None

    def _declare(self, broker: NatsBroker, subjects: Subjects, mode: CoreMode, kind: Kind) -> CoreSubscriber:
        async def handle(body: object) -> None:
            """Nobody calls it: its annotation tells AsyncAPI what to send."""

        def take(message: Msg) -> None:
            self.accept(core_call(message, mode, kind))  # starts a task and returns

        handle.__annotations__["body"] = MODELS[kind]
        subscriber = broker.subscriber(
            subjects.request(mode, kind),
            QUEUE,
            no_reply=True,  # FastStream would publish an empty message of its own after the events
            title=f"{mode}-{kind}",
            description=f"{_WHAT[mode]} Plain UTF-8 text in place of the JSON is the prompt. "
            f"`nats req {subjects.request(mode, kind, 'default')} 'Say hi' {_OPTIONS[mode]}` does it.",
        )
        subscriber(handle)
        take_directly(subscriber, take)
        return subscriber


_WHAT: dict[CoreMode, str] = {
    "req": "Streamed reply: many events, then the sentinel.",
    "ask": "The whole answer as one result event, then the sentinel.",
}
_OPTIONS: dict[CoreMode, str] = {"req": "--wait-for-empty --raw --reply-timeout=5s", "ask": "--timeout=120s"}
