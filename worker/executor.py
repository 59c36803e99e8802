"""The life of one request, to exactly one end."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol

import structlog
from nats.js import JetStreamContext

from schemas.subjects import Kind
from worker.call import Call, Limits, read_request
from worker.errors import (
    Abandoned,
    Cancelled,
    DeadlineExceeded,
    Duplicate,
    Internal,
    Overloaded,
    RequesterGone,
    ShuttingDown,
    WorkerError,
)
from worker.provider import Finish, Provider, Question
from worker.reply import Completed, Replies, Reply
from worker.telemetry import Telemetry

log = structlog.get_logger(__name__)

Outcome = Completed | WorkerError | Abandoned

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
        """How long it waited before it came here."""

    def held(self, stop: Callable[[Abandoned], object]) -> AbstractAsyncContextManager[None]:
        """Hold what the call needs while it is here, a job's lease; `stop` says that it is lost."""

    async def settle(self, reply: Reply, outcome: Outcome) -> None:
        """Bring the request to its one end. Called once."""


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


class Slots:
    """How many requests of a kind run at once.

    Core requests never wait here. A job may: the slot that was free when it was fetched can be taken when it arrives.
    It then gets the next one, before any core request.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def free(self) -> int:
        """How many may start at once; not above 0 while somebody waits."""
        return self.count - self._held - len(self._waiting)

    async def room(self, timeout_seconds: float) -> bool:
        """Wait until one is free. False where none was within `timeout_seconds`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._room.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold one, waiting for it where none is free."""
        if self.free > 0:
            self._held += 1
        else:
            await self._handed_over()
        self._changed()
        try:
            yield
        finally:
            self._release()

    async def _handed_over(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # it came in the same moment: pass it on
            else:
                self._waiting.remove(turn)
                self._changed()
            raise

    def _release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # handed over as it is: nobody else can take it in between
                return
        self._held -= 1
        self._changed()

    def _changed(self) -> None:
        if self.free > 0:
            self._room.set()
        else:
            self._room.clear()


class Executor:
    """Takes every delivery, of core and of JetStream alike, to exactly one end.

    Args:
        provider: Where answers come from.
        replies: Where events go.
        limits: What requests may hold.
        slots: How many requests of a kind run at once; nothing queues here.
        telemetry: What is counted.
    """

    def __init__(
        self, *, provider: Provider, replies: Replies, limits: Limits, slots: dict[Kind, int], telemetry: Telemetry
    ) -> None:
        self._provider = provider
        self._replies = replies
        self._limits = limits
        self._slots: dict[Kind, Slots] = {kind: Slots(count) for kind, count in slots.items()}
        self._telemetry = telemetry
        self._runs: dict[tuple[str, str], Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, delivery: Delivery) -> None:
        """Run a delivery in a task of its own: FastStream cancels siblings together, and its frames cost each await."""
        task = asyncio.create_task(self.run(delivery), name=f"{delivery.call.mode}:{delivery.call.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def room(self, kind: Kind, timeout_seconds: float) -> bool:
        """Wait until a slot of a kind is free. False where none was within `timeout_seconds`."""
        return await self._slots[kind].room(timeout_seconds)

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

    async def run(self, delivery: Delivery) -> None:
        """Take one delivery to its end. Raises nothing."""
        run = Run(delivery)
        with (
            self._telemetry.request(delivery.call) as record,
            self._replies.opened(
                delivery.call, on_gone=lambda: run.stop(RequesterGone()), js=delivery.js, guard=delivery.guard
            ) as reply,
        ):
            async with delivery.held(run.stop):
                record.outcome = outcome = await self._outcome(run, reply)
                try:
                    await delivery.settle(reply, outcome)
                except Exception:  # the last frame of a request: there is nobody left to tell
                    record.outcome = Internal("the end could not be published")
                    log.exception("end not published", id=delivery.call.id)

    async def _outcome(self, run: Run, reply: Reply) -> Outcome:
        """The one place that turns whatever happens to a request into its outcome."""
        try:
            async with self._slot(run):
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
    async def _slot(self, run: Run) -> AsyncIterator[None]:
        """Hold the call's id and a slot of its kind. Both are free before the end is published: the next may come."""
        call = run.delivery.call
        key, slots = (call.tenant, call.id), self._slots[call.kind]
        if key in self._runs:
            raise Duplicate("a request with this tenant and id is running; wait for its end or use another id")
        if call.mode != "job" and slots.free <= 0:
            raise Overloaded(f"all {slots.count} {call.kind} slots of this worker are taken; try again")
        self._runs[key] = run
        try:
            async with slots.taken():
                yield
        finally:
            del self._runs[key]

    async def _answer(self, run: Run, reply: Reply) -> Completed:
        started = time.monotonic()
        call, queued = run.delivery.call, run.delivery.queued_seconds
        request = read_request(call, self._limits)
        seconds = request.timeout_seconds or self._limits.timeout_seconds_max
        if queued >= seconds:
            raise DeadlineExceeded("queue", seconds)
        loop = asyncio.get_running_loop()
        question = Question(
            messages=request.conversation,
            tenant=call.tenant,
            deadline=loop.time() + seconds - queued,
            proxy=request.proxy,
        )
        timer = loop.call_at(question.deadline, run.stop, DeadlineExceeded("total", seconds))
        try:
            answer = self._text if call.kind == "text" else self._image
            finish = await answer(run, reply, question)
        finally:
            timer.cancel()
        return Completed(request.model, finish, request.metadata, queued, started)

    async def _text(self, run: Run, reply: Reply, question: Question) -> Finish:
        finish = Finish()
        async with aclosing(self._provider.text(question)) as answer:
            async for item in answer:
                if isinstance(item, Finish):
                    finish = item
                else:
                    await reply.text(item)
                run.check()
        return finish

    async def _image(self, run: Run, reply: Reply, question: Question) -> Finish:
        picture = await self._provider.image(question)
        await reply.image(picture)
        run.check()
        return picture.finish
