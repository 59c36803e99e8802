"""The durable side: jobs from JetStream, and how each of their outcomes ends."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg

from aichats_schemas.events import ErrorCode
from aichats_schemas.subjects import KINDS, Kind
from aichats_worker.broker.bus import Bus
from aichats_worker.broker.patches.subscribing import SlottedFetch, limit_fetching
from aichats_worker.errors import (
    Abandoned,
    Cancelled,
    DeadlineExceeded,
    Interrupted,
    InvalidRequest,
    LeaseLost,
    Overloaded,
    ShuttingDown,
    WorkerError,
)
from aichats_worker.jobs.ending import last_point, stored_failure
from aichats_worker.jobs.lease import Lease, Pulse
from aichats_worker.jobs.letters import REASON_MAX_CHARS, DeadLetters
from aichats_worker.jobs.streams import consumer_name
from aichats_worker.request.call import MODELS, Call, job_call
from aichats_worker.request.executor import Executor
from aichats_worker.request.outcome import Completed, Outcome
from aichats_worker.request.reply import Reply
from aichats_worker.request.slots import Slots
from aichats_worker.telemetry import Telemetry
from aichats_worker.text import ascii_line

log = structlog.get_logger(__name__)

FETCH_TIMEOUT_SECONDS: Final = 2.0  # shorter ones leave orphaned requests at the server
ACK_TIMEOUT_SECONDS: Final = 5.0
# For a slot that was free when the job was fetched, and taken by a core request when it came.
PATIENCE_SECONDS: Final = 1.0
LAST_PATIENCE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and when a job is tried again: exponential back-off with full jitter, in seconds."""

    max_deliver: int
    ack_wait_seconds: float
    base_seconds: float
    max_seconds: float

    def delay(self, attempt: int, error: WorkerError) -> float:
        """Return the wait before the attempt after this one: what the provider asked for, else a random one."""
        if error.retry_after_ms is not None:
            return error.retry_after_ms / 1000
        bound = min(self.max_seconds, self.base_seconds * 2.0 ** (attempt - 1))
        return random.uniform(0, bound)  # noqa: S311 - it spreads load, it hides nothing


class JobDelivery:
    """A job at work, and what each outcome means for it.

    - done: the end is published, then the job is acknowledged, confirmed;
    - a retryable error: no end; the job comes again after a delay, as a higher attempt;
    - the last delivery, or an error that no retry mends: the end is published, a dead letter kept, the job removed;
    - cancelled: the end is published and the job removed, without a dead letter;
    - shutting down, or no slot after all: no end; the job is given back at once;
    - the lease is lost: nothing at all.
    """

    def __init__(self, message: Msg, call: Call, lease: Lease, *, jobs: "Jobs", stored: bool) -> None:
        self.call = call
        self.guard = lease.check
        self.js = jobs.bus.js if stored else None
        self._message = message
        self._deliveries = message.metadata.num_delivered
        self._lease = lease
        self._nc = jobs.bus.nc
        self._letters = jobs.letters
        self._retries = jobs.retries
        self._reconnects = self._nc.stats["reconnects"]

    @property
    def queued_seconds(self) -> float:
        """Since it was stored."""
        return max(0.0, (datetime.now(UTC) - self._message.metadata.timestamp).total_seconds())

    @property
    def patience_seconds(self) -> float:
        """A moment: then it is given back, for a worker that has a slot. The last delivery has nobody after it."""
        return LAST_PATIENCE_SECONDS if self._is_last else PATIENCE_SECONDS

    @property
    def _is_last(self) -> bool:
        return self._deliveries >= self._retries.max_deliver

    @asynccontextmanager
    async def held(self, stop: Callable[[Abandoned], object]) -> AsyncIterator[None]:
        """Keep the lease."""
        async with self._lease.kept(self._nc, stop):
            yield

    async def elsewhere(self, _reply: Reply) -> None:
        """Give it back, for a worker that has room."""
        raise Overloaded("all slots are taken; try again")

    async def settle(self, reply: Reply, outcome: Outcome) -> Outcome:
        """Bring the job to its one end, or give it back."""
        if isinstance(outcome, Completed) and self._nc.stats["reconnects"] != self._reconnects:
            # Events that were on their way when the connection broke are lost: the end would close a stream with a gap.
            outcome = Interrupted("the connection to the broker broke in the middle of the answer; try again")
        try:
            self._lease.check()
            await self._settle(reply, outcome)
        except LeaseLost as lost:
            reply.abandon()
            return lost
        return outcome

    async def _settle(self, reply: Reply, outcome: Outcome) -> None:
        if isinstance(outcome, Abandoned):
            reply.abandon()
        elif isinstance(outcome, ShuttingDown) or (isinstance(outcome, Overloaded) and not self._is_last):
            reply.abandon()
            await self._message.nak()
        elif isinstance(outcome, WorkerError) and self._comes_again(outcome):
            reply.abandon()
            await self._message.nak(delay=self._retries.delay(self._deliveries, outcome))
        elif isinstance(outcome, WorkerError):
            await reply.fail(outcome)
            await self._give_up(outcome)
        else:
            await reply.done(outcome)
            await self._message.ack_sync(timeout=ACK_TIMEOUT_SECONDS)

    def _comes_again(self, error: WorkerError) -> bool:
        over = isinstance(error, DeadlineExceeded) and error.phase in ("queue", "total")
        return error.retryable and not over and not self._is_last

    async def _give_up(self, error: WorkerError) -> None:
        # The letter first: a worker that dies in between leaves a job that is delivered again, not one that is lost.
        if not isinstance(error, Cancelled):
            seq = self._message.metadata.sequence.stream
            await self._letters.write(
                self.call, stream_seq=seq, code=error.code, reason=error.message, attempts=self.call.attempt
            )
        await terminate(self._nc, self._message, error.message)


async def terminate(nc: Client, message: Msg, reason: str) -> None:
    """Take a job out of the queue, confirmed. nats-py's term() takes no reason, which the server's advisory shows."""
    line = ascii_line(reason, REASON_MAX_CHARS)
    await nc.request(message.reply, f"+TERM {line}".encode(), timeout=ACK_TIMEOUT_SECONDS)


class Jobs:
    """The job subscribers, and the rule of which jobs are run at all.

    Args:
        bus: Where the streams and consumers are.
        executor: Runs the jobs.
        slots: Of each kind; a job is fetched for a free one.
        telemetry: Counts what cannot be answered.
        retries: How often and when a job is tried again.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        executor: Executor,
        slots: Mapping[Kind, Slots],
        telemetry: Telemetry,
        retries: Retries,
    ) -> None:
        self.bus = bus
        self._executor = executor
        self._slots = slots
        self._telemetry = telemetry
        self.retries = retries
        self.letters = DeadLetters(bus)
        self._fetching: list[SlottedFetch] = []
        self._accepting = 0
        self._accepted = asyncio.Event()
        self._pulse = Pulse()

    async def subscribe(self, broker: NatsBroker, inbox_prefix: str) -> None:
        """Start the two pull subscribers."""
        self._pulse.start()
        for kind in KINDS:
            await self._subscribe(broker, kind, inbox_prefix)

    async def leave(self) -> None:
        """Fetch no more jobs; one that comes while this waits is given back, one that was just taken is started."""
        await asyncio.gather(*(fetching.close() for fetching in self._fetching))
        with suppress(TimeoutError):
            async with asyncio.timeout(ACK_TIMEOUT_SECONDS):
                while self._accepting:
                    self._accepted.clear()
                    await self._accepted.wait()
        await self._pulse.stop()

    async def _subscribe(self, broker: NatsBroker, kind: Kind, inbox_prefix: str) -> None:
        async def decode(message: NatsMessage) -> Msg:
            return message.raw_message

        async def handle(message: Msg) -> None:
            self._accepting += 1
            try:
                await self.accept(message, kind)  # starts a task and returns
            finally:
                self._accepting -= 1
                self._accepted.set()

        handle.__annotations__["message"] = MODELS[kind]  # for AsyncAPI: apply_types is off
        subscriber = broker.subscriber(
            self.bus.subjects.job(kind),
            stream=JStream(self.bus.subjects.jobs_stream, declare=False),
            durable=consumer_name(kind),
            pull_sub=PullSub(batch_size=1, timeout=FETCH_TIMEOUT_SECONDS),
            inbox_prefix=f"{inbox_prefix}.".encode(),  # FastStream ignores the connection's
            ack_policy=AckPolicy.MANUAL,
            decoder=decode,
            no_reply=True,
            title=f"job-{kind}",
            description="A job, submitted with a JetStream publish; `*` are the tenant and the id.",
        )
        subscriber(handle)
        await subscriber.start()
        self._fetching.append(limit_fetching(subscriber, self._slots[kind].room))

    async def accept(self, message: Msg, kind: Kind) -> None:
        """Start a job, or give it up where its events may not be published."""
        call = job_call(message, kind, self.bus.subjects.out)
        stored = call.reply_to == self.bus.subjects.out(call.tenant, call.id)
        if not self._may_reply(call, stored=stored):
            await self._refuse(message, call)
            return
        if stored:
            attempt = await self._next_attempt(message, call)
            if attempt is None:
                return
            call = call.of_attempt(attempt)
        lease = Lease(message, self.retries.ack_wait_seconds, self._pulse.since)
        try:
            lease.check()
        except LeaseLost:
            log.warning("a delivery came too late and is left to others", id=call.id, attempt=call.attempt)
            return
        self._executor.start(JobDelivery(message, call, lease, jobs=self, stored=stored))

    async def _next_attempt(self, message: Msg, call: Call) -> int | None:
        """Return the number of this attempt; None where the job had its end and only its acknowledgement was lost.

        The delivery count alone does not do: a broker that is killed may forget it, and count from one again.
        """
        subject = self.bus.subjects.out(call.tenant, call.id)
        point = await last_point(self.bus, subject)
        if point.time is None:
            return call.attempt
        if point.time < message.metadata.timestamp:
            # Of an earlier job of the same id: what it stored is not to be taken for this one's.
            await self.bus.js.purge_stream(self.bus.subjects.out_stream, subject=subject)
            return call.attempt
        if point.ended:
            await self._remove(message, call, subject)
            return None
        return max(call.attempt, point.attempt + 1)

    async def _remove(self, message: Msg, call: Call, subject: str) -> None:
        """Finish what a worker had begun that ended between the sentinel and the acknowledgement."""
        failure = await stored_failure(self.bus, subject)
        if failure is not None and failure.data.code != ErrorCode.CANCELLED:
            seq = message.metadata.sequence.stream
            await self.letters.write(
                call, stream_seq=seq, code=failure.data.code, reason=failure.data.message, attempts=call.attempt
            )
        await message.ack_sync(timeout=ACK_TIMEOUT_SECONDS)
        log.info("job had its end already", id=call.id, deliveries=call.attempt)

    def _may_reply(self, call: Call, *, stored: bool) -> bool:
        if stored:
            return call.problem is None
        return self.bus.rule.allows(call.reply_to, call.tenant)

    async def _refuse(self, message: Msg, call: Call) -> None:
        self._telemetry.dropped(call.record(), "forbidden_reply")
        error = InvalidRequest(call.problem or "reply_to: must be an inbox, _INBOX.<...>, of at most 255 characters")
        seq = message.metadata.sequence.stream
        await self.letters.write(call, stream_seq=seq, code=error.code, reason=error.message, attempts=call.attempt)
        await terminate(self.bus.nc, message, error.message)
