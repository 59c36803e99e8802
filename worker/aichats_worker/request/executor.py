"""The life of one request, to exactly one end."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Protocol

import structlog

from aichats_schemas.subjects import Kind
from aichats_worker.errors import Abandoned, DeadlineExceeded, Duplicate, Internal, WorkerError, without_frames
from aichats_worker.provider import Finish, Provider, Question, Reasoning
from aichats_worker.request.asked import Limits, read_request
from aichats_worker.request.call import Call
from aichats_worker.request.outcome import Completed, Outcome
from aichats_worker.request.reply import Writer
from aichats_worker.request.runs import Run, Runs
from aichats_worker.request.slots import Slots
from aichats_worker.request.usage import Meter
from aichats_worker.telemetry.counting import Telemetry
from aichats_worker.tracing import trace

log = structlog.get_logger(__name__)


class Delivery(Protocol):
    """A call, and what becomes of it once its outcome is known: core and jobs end differently."""

    @property
    def call(self) -> Call:
        """What is asked."""

    @property
    def queued_seconds(self) -> float:
        """How long it has waited until now."""

    @property
    def origin(self) -> str:
        """What all attempts of a job, and no others, have in common; empty in core."""

    async def elsewhere(self) -> None:
        """Where no slot is free here: return once one was taken here after all, else raise what came of it."""

    def opened(self, run: Run) -> AbstractContextManager[Writer]:
        """Return where the answer goes, as long as the block lasts."""

    async def settle(self, run: Run, outcome: Outcome) -> Outcome:
        """Bring the request to its one end. Called once, inside `opened`. Returns what it came to in the end."""


class Executor:
    """Takes every delivery, of core and of JetStream alike, to exactly one end.

    Args:
        provider: Where answers come from.
        limits: What requests may hold.
        slots: Of each kind; no core request waits for one.
        runs: What is at work here.
        telemetry: What is counted.
    """

    def __init__(
        self, provider: Provider, limits: Limits, slots: Mapping[Kind, Slots], *, runs: Runs, telemetry: Telemetry
    ) -> None:
        self.slots = slots
        self.runs = runs
        self._limits = limits
        self._provider = provider
        self._telemetry = telemetry

    def start(self, delivery: Delivery, *, has_slot: bool = False) -> None:
        """Run a delivery in a task of its own: FastStream cancels siblings together, and its frames cost each await.

        Its slot is taken now and not in the task: whoever looks next sees what is free.

        Args:
            delivery: What is to be run.
            has_slot: A slot was taken for it already.
        """
        call = delivery.call
        has_slot = has_slot or self.slots[call.kind].take()
        self.runs.spawn(self.serve(delivery, Run(call), has_slot=has_slot), f"{call.mode}:{call.id}")

    def budget_seconds(self, call: Call) -> float:
        """Return how long a call may take, queue wait included; the longest for one that cannot be read."""
        with suppress(WorkerError):
            asked = read_request(call, self._limits, self._provider.offers)
            return asked.timeout_seconds or self._limits.timeout_seconds_max
        return self._limits.timeout_seconds_max

    async def serve(self, delivery: Delivery, run: Run, *, has_slot: bool) -> None:
        """Take one delivery to its end. Raises nothing."""
        account = run.account
        account.queued_seconds = delivery.queued_seconds
        outcome: Outcome | None = None
        try:
            with (
                # The trace is around the count and the log, which names it.
                trace.request(run.call, account.queued_seconds, delivery.origin) as traced,
                self._telemetry.request(account),
                delivery.opened(run) as writer,
            ):
                account.trace_id = traced.trace_id
                found = await self._outcome(delivery, run, writer, has_slot)
                try:
                    outcome = await delivery.settle(run, found)
                except Exception:  # the last frame of a request: there is nobody left to tell
                    log.exception("end not published", id=delivery.call.id)
                    outcome = _unpublished()
                account.ended(run.charged(outcome))
                account.sent = writer.sent
                traced.ended(account.outcome, account.error, account.usage)
        finally:
            self.runs.release(run)
            run.end(without_frames(_unpublished() if outcome is None else outcome))

    async def _outcome(self, delivery: Delivery, run: Run, writer: Writer, has_slot: bool) -> Outcome:
        """The one place that turns whatever happens to a request into its outcome."""
        try:
            self._claim(run, has_slot)
            if not has_slot:
                run.begin()  # it can be stopped while it looks for one
                await delivery.elsewhere()
            since = time.monotonic()
            try:
                run.begin()
                outcome: Outcome = await self._answer(delivery, run, writer)
            finally:  # free before the end is out: the next request may come
                await self.slots[delivery.call.kind].end(time.monotonic() - since)
        except (WorkerError, Abandoned) as end:
            outcome = end
        except asyncio.CancelledError:  # by Run.stop, whose cause wins below; by anything else it is a defect
            outcome = Internal("the request was interrupted inside the worker; try again")
        except Exception:  # a defect ends one request, told truthfully, and nothing else
            log.exception("defect", id=delivery.call.id)
            outcome = Internal("a defect of the worker's; its operator finds the cause in the log under this id")
        return run.charged(run.over() or outcome)

    def _claim(self, run: Run, has_slot: bool) -> None:
        if not self.runs.claim(run):
            if has_slot:
                self.slots[run.call.kind].give_back()
            raise Duplicate("a request with this tenant and id is running; wait for its end or use another id")

    async def _answer(self, delivery: Delivery, run: Run, writer: Writer) -> Completed:
        started = time.monotonic()
        call, queued = delivery.call, delivery.queued_seconds
        asked = read_request(call, self._limits, self._provider.offers)
        run.account.model = asked.model
        seconds = asked.timeout_seconds or self._limits.timeout_seconds_max
        if queued >= seconds:
            raise DeadlineExceeded("queue", seconds)
        loop = asyncio.get_running_loop()
        question = Question(
            messages=asked.messages,
            tenant=call.tenant,
            deadline=loop.time() + seconds - queued,
            proxy=asked.proxy,
            model=asked.model,
            options=asked.options,
        )
        meter = Meter(question)
        run.spends(meter.spent)
        timer = loop.call_at(question.deadline, lambda: run.stop(DeadlineExceeded("total", seconds)))
        try:
            answer = self._text if call.kind == "text" else self._images
            finish = meter.finished(await answer(run, writer, question, meter))
            await writer.written()
            run.check()
        finally:
            timer.cancel()
        return Completed(asked.model, finish, asked.metadata, queued, started, asked.ignored)

    async def _text(self, run: Run, writer: Writer, question: Question, meter: Meter) -> Finish:
        async with self._provider.text(question) as answer:
            item = answer.first
            while not isinstance(item, Finish):
                meter.count(item)
                rest = writer.reasoning(item) if isinstance(item, Reasoning) else writer.text(item)
                if rest is not None:  # without a wait nobody could stop the request
                    await rest
                    run.check()
                item = await anext(answer.rest)
            answer.traced.finished(item.finish_reason, item.model, item.usage)
        return item

    async def _images(self, run: Run, writer: Writer, question: Question, meter: Meter) -> Finish:
        index = 0
        async with self._provider.images(question) as answer:
            item = answer.first
            while not isinstance(item, Finish):
                meter.count()
                await writer.image(index, item)
                index += 1
                run.check()
                item = await anext(answer.rest)
            answer.traced.finished(item.finish_reason, item.model, item.usage)
        return item


def _unpublished() -> Internal:
    return Internal("the end could not be published")
