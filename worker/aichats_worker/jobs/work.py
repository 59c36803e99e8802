"""Takes jobs as they are delivered: which of them are run, and what becomes of the others."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aichats_schemas.subjects import Kind
from aichats_worker.errors import Duplicate, Internal, InvalidRequest, JobLost
from aichats_worker.jobs.clock import BrokerClock
from aichats_worker.jobs.copies import Copies
from aichats_worker.jobs.delivery import Desk, JobDelivery, Rules
from aichats_worker.jobs.finish import Ending
from aichats_worker.jobs.lease import Leases
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.queue import Job, Queue, delivered
from aichats_worker.jobs.record import Record
from aichats_worker.jobs.records import Elsewhere, Ended, Exhausted, Records, Start, Taken, Unsure
from aichats_worker.request.call import Call
from aichats_worker.request.events import Envelope, error_data, error_headers
from aichats_worker.request.executor import Executor
from aichats_worker.request.runs import Run
from aichats_worker.request.watch import Watch
from aichats_worker.telemetry.counting import Telemetry
from aichats_worker.telemetry.logs import Said

log = structlog.get_logger(__name__)

# For a slot that was free when the job was asked for, and taken by a core request when it came.
PATIENCE_SECONDS: Final = 1.0
TURN_SECONDS: Final = 1.0  # until a job is looked at again whose id runs here as something else
RECORD_AWAY_SECONDS: Final = 5.0


class Jobs:
    """The jobs of this worker.

    Args:
        mail: How the broker is asked.
        executor: Runs them.
        watch: Keeps the copies of their events alive.
        telemetry: Counts what cannot be answered.
        rules: When they are tried again.
    """

    def __init__(self, mail: Mailbox, executor: Executor, watch: Watch, *, telemetry: Telemetry, rules: Rules) -> None:
        self.clock = BrokerClock()
        self.mail = mail
        self.queue = Queue(mail)
        self.records = Records(mail, rules.attempts_max)
        self.finish = Ending(mail, self.queue, self.records, telemetry)
        self.leases = Leases(self.queue)
        self._desk = Desk(
            self.queue,
            self.finish,
            rules,
            now=self.clock.now,
            budget=executor.budget_seconds,
            attempted=telemetry.attempt,
        )
        self._rule = mail.bus.rule
        self._executor = executor
        self._watch = watch
        self._telemetry = telemetry
        self._here: Counter[Kind] = Counter()
        self._let_go: list[Callable[[], object]] = []
        self._leaving = False
        self._said = Said()

    def here(self, kind: Kind) -> int:
        """Return how many jobs of a kind are here: those included whose slot is free, and whose end is not complete."""
        return self._here[kind]

    def follow(self, let_go: Callable[[], object]) -> None:
        """Have `let_go` called after each job that has left."""
        self._let_go.append(let_go)

    def leave(self) -> None:
        """Run no more: what still comes is given back."""
        self._leaving = True

    def received(self, message: Msg, kind: Kind) -> None:
        """Take a job in. Its slot is taken now: whoever looks next sees what is free."""
        job = delivered(message, kind)
        if job.delivery > 1:
            self._telemetry.redelivered(kind)
        has_slot = not self._leaving and self._executor.slots[kind].take()
        self._here[kind] += 1
        self._executor.runs.spawn(self._held(job, has_slot), f"job:{job.call.id}")

    async def _held(self, job: Job, has_slot: bool) -> None:
        try:
            await self._take(job, has_slot)
        finally:
            self._here[job.call.kind] -= 1
            for let_go in self._let_go:
                let_go()

    async def _take(self, job: Job, has_slot: bool) -> None:
        """Run a job, or see to it otherwise. Raises nothing: whatever goes wrong, it is delivered again."""
        call, slots = job.call, self._executor.slots[job.call.kind]
        with ExitStack() as held:
            if has_slot:
                held.callback(slots.give_back)
            try:
                if self._leaving:
                    await self._give_back(job)
                elif not self._may_reply(call):
                    await self._refuse(job)
                else:
                    await self._run(job, held, has_slot)
            except JobLost:
                log.info("a job is somebody else's", id=call.id)
            except NatsError as error:
                log.warning("a job comes again later", id=call.id, error=str(error) or type(error).__name__)
            except Exception:
                log.exception("defect", id=call.id)

    async def _run(self, job: Job, held: ExitStack, has_slot: bool) -> None:
        """Run a job if its tenant and id are free here, and if there is a slot for it soon."""
        run, runs = Run(job.call), self._executor.runs
        if not runs.claim(run):
            if not self.leases.holds(job):  # its own run goes on, and keeps it
                await self._give_back(job, TURN_SECONDS)
            return
        try:
            with self.leases.held(job):
                if not has_slot and await self._slot(job):
                    has_slot = True
                    held.callback(self._executor.slots[job.call.kind].give_back)
                if not has_slot and self._left(job) > 0:
                    await self._give_back(job)
                    return
                await self._attempt(job, run, held, has_slot=has_slot)
        finally:
            runs.release(run)
            run.end(JobLost())  # where it has run, it has said already how it ended

    async def _slot(self, job: Job) -> bool:
        """Wait a moment for a slot, and no longer than the job has time: then another worker may have one."""
        return await self._executor.slots[job.call.kind].wait(min(PATIENCE_SECONDS, self._left(job)))

    def _left(self, job: Job) -> float:
        """How many seconds of its budget a job has still."""
        return self._executor.budget_seconds(job.call) - (self.clock.now() - job.submitted)

    async def _give_back(self, job: Job, delay_seconds: float = 0) -> None:
        """Give back what was not begun, unless a later delivery was: the broker would take the job from that one.

        It goes by the job, and not by the delivery: one out of an old socket stands for the one that is at work.
        """
        entry = (await self.records.place(job.call)).entry
        if entry is None or entry.mark.job != job.seq or entry.mark.delivery < job.delivery:
            await self.queue.give_back(job, delay_seconds)

    async def _attempt(self, job: Job, run: Run, held: ExitStack, *, has_slot: bool) -> None:
        """Begin an attempt and run it; without a slot it ends at once, since its time is over."""
        copies = self.copies(job)
        try:
            start = await self.records.begin(job, copies)
        except NatsError as error:
            reason = str(error) or type(error).__name__
            if self._said.is_new(reason):
                log.warning("a job's record cannot be written", id=job.call.id, reason=reason)
            await self.queue.give_back(job, RECORD_AWAY_SECONDS)
            return
        if not isinstance(start, Record):
            held.close()  # the provider is not asked: what may take as long as the broker is away needs no slot
            await self._otherwise(job, start, copies)
            return
        if start.attempt > 1:
            # One out of an old socket may begin before a retry is due: the delivery that comes then is put off.
            with suppress(NatsError):
                await self.queue.keep(job)
        started = job.of_attempt(start.attempt)
        run.becomes(started.call)
        self.leases.check(job, lambda: _still_ours(start, run))
        with ExitStack() as kept:
            if copies is not None:
                copies.ours = lambda: _still_ours(start, run)
                kept.enter_context(self._watch.kept(copies))
            held.pop_all()  # the executor gives the slot back, before the end is stored
            await self._executor.serve(JobDelivery(started, start, self._desk), run, has_slot=has_slot)

    async def _otherwise(self, job: Job, start: Start, copies: Copies | None) -> None:
        if isinstance(start, Ended):
            log.info("a job had its end already", id=job.call.id)
            await self.finish.begun(job, start.entry, copies)
        elif isinstance(start, Exhausted):
            failed = self.records.attempts_max
            error = Internal(f"a worker ended in the middle of the last of {failed} attempts; submit the job again")
            await self.finish.end(job, start.record, error, failed=failed)
            log.warning("job ended for a worker that died", id=job.call.id, attempts=failed)
        elif isinstance(start, Unsure):
            # Behind a beginning that may be there: else the next worker takes it for one of a worker that died.
            await start.record.append(b"status", b'"given_back"')
            await self.queue.give_back(job)
        elif isinstance(start, Taken):
            log.warning("job dropped: its id is taken", id=job.call.id)
            await self.finish.refuse(job, Duplicate("this id is taken by a job of the other kind; use another id"))
        elif isinstance(start, Elsewhere):
            log.info("a delivery came too late and is left to others", id=job.call.id, delivery=job.delivery)

    async def _refuse(self, job: Job) -> None:
        """Keep a letter for what has no record: told where that may be published, else dropped and counted."""
        call = job.call.of_attempt(1)
        error = InvalidRequest(call.problem or "reply_to: must be an inbox, _INBOX.<...>, of at most 255 characters")
        if not call.reply_to or not self._rule.allows(call.reply_to, call.tenant):
            self._telemetry.dropped(call.account(), "forbidden_reply")
            await self.finish.refuse(job, error)
            return
        account = call.account()
        with self._telemetry.request(account):
            account.ended(error)
            event = Envelope(call.id, call.attempt).event(b"error", error_data(error))
            await Copies(self._watch.line(call.reply_to), call.id).end(event, error_headers(error))
            await self.finish.refuse(job, error)

    def _may_reply(self, call: Call) -> bool:
        return call.problem is None and (not call.reply_to or self._rule.allows(call.reply_to, call.tenant))

    def copies(self, job: Job) -> Copies | None:
        """Return where a job's events go beside its record; None where it names no `reply_to`, or one that is none."""
        call = job.call
        if not call.reply_to or not self._may_reply(call):
            return None
        return Copies(self._watch.line(call.reply_to), call.id)


async def _still_ours(record: Record, run: Run) -> bool:
    """Look whether a job is still ours; stop its run where it is not."""
    ours = await record.is_ours()
    if not ours:
        run.stop(JobLost())
    return ours
