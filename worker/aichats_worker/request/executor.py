"""The life of one request, to exactly one end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol

import structlog
from nats.js import JetStreamContext

from aichats_schemas.subjects import Kind
from aichats_worker.errors import (
    Abandoned,
    Cancelled,
    DeadlineExceeded,
    Duplicate,
    Internal,
    RequesterGone,
    ShuttingDown,
    WorkerError,
)
from aichats_worker.provider import Finish, Provider, Question, Reasoning
from aichats_worker.request.call import Call, Limits, ignored_by, read_request
from aichats_worker.request.outcome import Completed, Outcome
from aichats_worker.request.reply import Replies, Reply
from aichats_worker.request.slots import Slots
from aichats_worker.request.usage import Meter
from aichats_worker.telemetry import Telemetry

log = structlog.get_logger(__name__)

# After a stop, how long requests get to publish their ends before the connection is closed under them.
STOP_TIMEOUT_SECONDS = 5.0


class Delivery(Protocol):
    """A call, and what becomes of it once its outcome is known: core and jobs end differently."""

    @property
    def call(self) -> Call:
        """What is asked."""

    @property
    def js(self) -> JetStreamContext | None:
        """Where the events are stored, if they are."""

    @property
    def guard(self) -> Callable[[], None] | None:
        """Called before each message that is published for the call; raises where none may be any more."""

    @property
    def queued_seconds(self) -> float:
        """How long it has waited until now."""

    @property
    def patience_seconds(self) -> float:
        """How long it may wait for a slot here, where none is free."""

    def held(self, stop: Callable[[Abandoned], object]) -> AbstractAsyncContextManager[None]:
        """Hold what the call needs while it is here, a job's lease; `stop` says that it is lost."""

    async def elsewhere(self, reply: Reply) -> None:
        """Where no slot is free here: returns once one was taken here after all, else raises what came of it."""

    async def settle(self, reply: Reply, outcome: Outcome) -> Outcome:
        """Bring the request to its one end. Called once. Returns what it came to, which may be something else."""


class Run:
    """A request at work, and the one way to stop it: deadline, cancel, shutdown, a requester that went away.

    A stop is a cause and a cancellation. The cause is kept apart since nats-py's publish swallows a cancellation under
    back-pressure: check() after each publish finds it all the same.
    """

    __slots__ = ("_cause", "_ended", "_task", "delivery")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self._task = asyncio.current_task()
        self._cause: WorkerError | Abandoned | None = None
        self._ended = False

    def stop(self, cause: WorkerError | Abandoned) -> bool:
        """Stop the request with `cause` as its outcome. False where it has ended or is being stopped already."""
        if self._cause is not None or self._ended or self._task is None:
            return False
        self._cause = cause
        self._task.cancel()
        return True

    def check(self) -> None:
        """Raise the cause of a stop whose cancellation was swallowed."""
        if self._cause is not None:
            raise self._cause

    def end(self) -> WorkerError | Abandoned | None:
        """From here on nothing stops the request: return the cause of a stop, and forget its cancellation."""
        self._ended = True
        while self._task is not None and self._task.cancelling():
            self._task.uncancel()
        return self._cause


class Executor:
    """Takes every delivery, of core and of JetStream alike, to exactly one end.

    Args:
        provider: Where answers come from.
        replies: Where events go.
        limits: What requests may hold.
        slots: Of each kind; no core request waits for one.
        telemetry: What is counted.
    """

    def __init__(
        self, *, provider: Provider, replies: Replies, limits: Limits, slots: Mapping[Kind, Slots], telemetry: Telemetry
    ) -> None:
        self._provider = provider
        self._replies = replies
        self._limits = limits
        self._slots = slots
        self._telemetry = telemetry
        self._runs: dict[tuple[str, str], Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, delivery: Delivery, *, has_slot: bool = False) -> None:
        """Run a delivery in a task of its own: FastStream cancels siblings together, and its frames cost each await.

        Its slot is taken now and not in the task: whoever looks next sees what is free.

        Args:
            delivery: What is to be run.
            has_slot: A slot was taken for it already.
        """
        has_slot = has_slot or self._slots[delivery.call.kind].take()
        task = asyncio.create_task(self._run(delivery, has_slot), name=f"{delivery.call.mode}:{delivery.call.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, tenant: str, request_id: str) -> bool:
        """Stop a running request for its requester. False where none runs under that tenant and id."""
        run = self._runs.get((tenant, request_id))
        return run is not None and run.stop(Cancelled("cancelled by the requester"))

    async def drain(self, timeout_seconds: float) -> int:
        """Wait for the running requests; stop what is left after `timeout_seconds`. Returns how many were cut off."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
        cause = ShuttingDown("this worker is shutting down; send the request again")
        cut = sum(run.stop(cause) for run in list(self._runs.values()))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT_SECONDS)
        return cut

    async def _run(self, delivery: Delivery, has_slot: bool) -> None:
        """Take one delivery to its end. Raises nothing."""
        run, record = Run(delivery), delivery.call.record()
        with (
            self._telemetry.request(record),
            self._replies.opened(
                delivery.call, on_gone=lambda: run.stop(RequesterGone()), js=delivery.js, guard=delivery.guard
            ) as reply,
        ):
            async with delivery.held(run.stop):
                outcome = await self._outcome(run, reply, has_slot)
                try:
                    record.ended(await delivery.settle(reply, outcome))
                except Exception:  # the last frame of a request: there is nobody left to tell
                    record.ended(Internal("the end could not be published"))
                    log.exception("end not published", id=delivery.call.id)

    async def _outcome(self, run: Run, reply: Reply, has_slot: bool) -> Outcome:
        """The one place that turns whatever happens to a request into its outcome."""
        try:
            async with self._slot(run, reply, has_slot):
                outcome: Outcome = await self._answer(run, reply)
        except (WorkerError, Abandoned) as end:
            outcome = end
        except asyncio.CancelledError:  # by Run.stop, whose cause wins below; by anything else it is a defect
            outcome = Internal("the request was interrupted inside the worker; try again")
        except Exception:  # a defect ends one request, told truthfully, and nothing else
            log.exception("defect", id=run.delivery.call.id)
            outcome = Internal("a defect of the worker's; its operator finds the cause in the log under this id")
        return run.end() or outcome

    @asynccontextmanager
    async def _slot(self, run: Run, reply: Reply, has_slot: bool) -> AsyncIterator[None]:
        """Hold the call's id and a slot of its kind. Both are free before the end is published: the next may come."""
        call = run.delivery.call
        key, slots = (call.tenant, call.id), self._slots[call.kind]
        if key in self._runs:
            if has_slot:
                slots.give_back()
            raise Duplicate("a request with this tenant and id is running; wait for its end or use another id")
        self._runs[key] = run
        try:
            if not has_slot and not await slots.wait(run.delivery.patience_seconds):
                await run.delivery.elsewhere(reply)
            async with slots.held():
                yield
        finally:
            del self._runs[key]

    async def _answer(self, run: Run, reply: Reply) -> Completed:
        started = time.monotonic()
        call, queued = run.delivery.call, run.delivery.queued_seconds
        request = read_request(call, self._limits, self._provider.offers)
        seconds = request.timeout_seconds or self._limits.timeout_seconds_max
        if queued >= seconds:
            raise DeadlineExceeded("queue", seconds)
        loop = asyncio.get_running_loop()
        question = Question(
            messages=request.conversation,
            tenant=call.tenant,
            deadline=loop.time() + seconds - queued,
            proxy=request.proxy,
            model=request.model,
            options=request.options,
        )
        meter = Meter(question)
        timer = loop.call_at(question.deadline, run.stop, DeadlineExceeded("total", seconds))
        try:
            answer = self._text if call.kind == "text" else self._images
            with meter.charging(run.check):
                finish = meter.finished(await answer(run, reply, question, meter))
        finally:
            timer.cancel()
        ignored = ignored_by(request)
        return Completed(request.model or "", finish, request.metadata, queued, started, ignored)

    async def _text(self, run: Run, reply: Reply, question: Question, meter: Meter) -> Finish:
        finish = Finish()
        async with aclosing(self._provider.text(question)) as answer:
            async for item in answer:
                if isinstance(item, Finish):
                    finish = item
                else:
                    meter.count(item)
                    await (reply.reasoning(item) if isinstance(item, Reasoning) else reply.text(item))
                run.check()
        return finish

    async def _images(self, run: Run, reply: Reply, question: Question, meter: Meter) -> Finish:
        finish, index = Finish(), 0
        async with aclosing(self._provider.images(question)) as answer:
            async for item in answer:
                if isinstance(item, Finish):
                    finish = item
                else:
                    meter.count()
                    await reply.image(index, item)
                    index += 1
                run.check()
        return finish
