"""Cancel: one true reply within a second, wherever the request runs or waits (contract, section 7).

Whoever of the workers gets the request looks at home, asks the others who runs it, and looks into the queue. The runner
ends it, and says so once its end is out. A job that nobody runs is ended here, by the same fence that keeps two runners
apart: whoever is refused looks again. So nobody is told what may still turn out otherwise.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import orjson
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import NotFoundError, ServiceUnavailableError

from aichats_schemas.events import ErrorCode
from aichats_schemas.subjects import QUEUE, is_token, new_id
from aichats_worker.broker.bus import Bus
from aichats_worker.broker.stopping import Stopping
from aichats_worker.errors import Cancelled, JobLost
from aichats_worker.jobs.entries import Place
from aichats_worker.jobs.finish import REMOVED_SECONDS
from aichats_worker.jobs.queue import Job
from aichats_worker.jobs.work import Jobs
from aichats_worker.request.call import job_call
from aichats_worker.request.outcome import Completed
from aichats_worker.request.runs import CANCELLED, Runs
from aichats_worker.telemetry.counting import Telemetry

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 0.85  # of the second that the requester was promised
OTHERS_TIMEOUT_SECONDS: Final = 0.3
QUEUE_TIMEOUT_SECONDS: Final = 0.6
UNKNOWN: Final = "could not be found out: the broker's streams, or the worker that runs it, do not answer; ask again"
_STOPPED, _OTHERWISE = b"1", b"0"


class Cancels:
    """Answers cancel requests.

    Args:
        bus: How the workers are asked.
        jobs: The queue and the records.
        runs: What is at work here.
        telemetry: Counts what cannot be answered.
        served: Whether this worker serves jobs. Where it does not, a broker without JetStream has no queue.
    """

    def __init__(self, bus: Bus, jobs: Jobs, runs: Runs, telemetry: Telemetry, *, served: bool) -> None:
        self._bus = bus
        self._jobs = jobs
        self._runs = runs
        self._telemetry = telemetry
        self._served = served
        self._id = new_id()
        self._subscriptions: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Subscribe."""
        subjects = self._bus.subjects
        nc = self._bus.nc
        self._subscriptions = [
            await nc.subscribe(subjects.internal("cancel", "*", "*"), cb=self._asked),
            await nc.subscribe(subjects.internal("stop", self._id, "*", "*"), cb=self._told),
        ]
        await nc.subscribe(subjects.cancel(), queue=QUEUE, cb=self._requested)

    async def stop(self, stopping: Stopping) -> None:
        """Hear no other worker any more, after all runs have ended here; the queue group was left before.

        What came is answered: whoever asked here asked nobody else.
        """
        await stopping.leave(self._bus.nc, self._subscriptions, "cancels")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=stopping.left(ANSWER_SECONDS))

    async def _asked(self, message: Msg) -> None:
        """Another worker asks who runs it: only the runner answers, and stops nothing yet."""
        tenant, request_id = message.subject.split(".")[-2:]
        if message.reply and self._runs.find(tenant, request_id) is not None:  # without a reply: as below
            await message.respond(self._id.encode())

    async def _told(self, message: Msg) -> None:
        self._spawn(self._stop_for(message))

    async def _requested(self, message: Msg) -> None:
        self._spawn(self._answer(message))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run each by itself: one must not wait for another."""
        self._keep(asyncio.create_task(work, name="cancel"))

    async def _stop_for(self, message: Msg) -> None:
        """Stop a run for another worker, and answer once its end is out."""
        tenant, request_id = message.subject.split(".")[-2:]
        run = self._runs.find(tenant, request_id)
        stopped = run is not None and await run.cancel()
        if message.reply:
            await _respond(message, _STOPPED if stopped else _OTHERWISE)

    async def _answer(self, message: Msg) -> None:
        tenant, request_id = message.subject.split(".")[-2:]
        # Without a reply it may be no request: JetStream acknowledges a job to whatever subject its submitter names as
        # the reply, past all permissions, and this one as well.
        if not self._bus.rule.allows(message.reply, tenant):
            self._telemetry.dropped_control("cancel", "forbidden_reply" if message.reply else "no_reply")
            return
        answer: dict[str, object]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                cancelled = is_token(tenant) and is_token(request_id) and await self._cancel(tenant, request_id)
            answer = {"cancelled": cancelled}
        except (NatsError, TimeoutError) as error:
            log.warning("cancel failed", error=str(error) or type(error).__name__)
            answer = {"error": UNKNOWN}
        await _respond(message, orjson.dumps(answer))

    async def _cancel(self, tenant: str, request_id: str) -> bool:
        """Look until it is known. Each round that comes to nothing has met somebody who was faster."""
        while True:
            run = self._runs.find(tenant, request_id)
            if run is not None:
                if await run.cancel():
                    return True
                if isinstance(await run.ended(), Completed):
                    return False
            found = await self._elsewhere(tenant, request_id)
            if found is not None:
                return found
            await asyncio.sleep(0)

    async def _elsewhere(self, tenant: str, request_id: str) -> bool | None:
        """Ask the others, and look into the queue meanwhile. None where it is to be looked at again."""
        asking = asyncio.create_task(self._by_another(tenant, request_id), name="cancel-elsewhere")
        asking.add_done_callback(_heard)
        try:
            try:
                async with asyncio.timeout(QUEUE_TIMEOUT_SECONDS):
                    job, place = await self._look(tenant, request_id)
            except (NatsError, TimeoutError):
                if await asking:
                    return True  # a runner knows, whatever the streams say
                raise
            if job is None:
                return _by_record(place) or await self._nobody_but(asking)
            if place.entry is not None and place.entry.is_end:
                return _by_record(place)
            if not _waits(job, place):
                by_another = await asking
                if by_another is not None:
                    return by_another or None
            return await self._end(job, place)
        finally:
            asking.cancel()

    async def _nobody_but(self, asking: asyncio.Task[bool | None]) -> bool | None:
        by_another = await asking
        return False if by_another is None else by_another or None

    async def _by_another(self, tenant: str, request_id: str) -> bool | None:
        """Have its runner stop it. True once its end is `cancelled`, False where it ended otherwise; None: nobody."""
        nc, subjects = self._bus.nc, self._bus.subjects
        try:
            answer = await nc.request(subjects.internal("cancel", tenant, request_id), timeout=OTHERS_TIMEOUT_SECONDS)
        except (NatsTimeoutError, NoRespondersError):
            return None
        runner = answer.data.decode("ascii", "replace")
        if not is_token(runner):
            return None
        # From here on only the runner's word counts: it may stop a moment after we have given up.
        answer = await nc.request(subjects.internal("stop", runner, tenant, request_id), timeout=ANSWER_SECONDS)
        return bool(answer.data == _STOPPED)

    async def _look(self, tenant: str, request_id: str) -> tuple[Job | None, Place]:
        """Return the job of this id that is queued or at work, and where its record stands.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        place = Place()
        try:
            found = await self._jobs.queue.find(tenant, request_id)
        except NotFoundError:
            found = []  # no queue: nobody holds it
        except (NoRespondersError, ServiceUnavailableError):
            if self._served:
                raise
            found = []
        try:
            place = await self._jobs.records.place(job_call(f"{tenant}.{request_id}", "text", headers={}, body=b""))
        except NatsError:
            if found:
                raise
        kind = place.entry.mark.kind if place.entry is not None else None
        # Of two kinds under one id, the one that began first has it: the other is no job of this id.
        return next((job for job in found if kind in (None, job.call.kind)), None), place

    async def _end(self, job: Job, place: Place) -> bool | None:
        """End a job that nobody runs, or whose runner does not answer. None where somebody was faster."""
        record = self._jobs.records.behind(job, place)
        record.copies = self._jobs.copies(job)
        stored = asyncio.Event()
        ending = asyncio.create_task(
            self._jobs.finish.end(job, record, Cancelled(CANCELLED), failed=record.mark.failed, stored=stored.set),
            name="cancel-end",
        )
        self._keep(ending)
        ending.add_done_callback(lambda _: _left(ending, stored))
        waiting = asyncio.create_task(stored.wait(), name="cancel-stored")
        try:
            await asyncio.wait({ending, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not stored.is_set():
                try:
                    ending.result()
                except JobLost:
                    return None
            await asyncio.wait({ending}, timeout=REMOVED_SECONDS)
            return True
        finally:
            waiting.cancel()
            if not stored.is_set():
                ending.cancel()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _heard(asking: asyncio.Task[Any]) -> None:
    """Take what became of it as heard: the queue may know first, and then nobody asks whether a runner failed.

    That it is cancelled then is not enough: where the runner's answer comes at that moment, it goes on (Python 3.11).
    """
    if not asking.cancelled():
        asking.exception()


def _left(ending: asyncio.Task[None], stored: asyncio.Event) -> None:
    """Take note of a removal that this worker's end has broken off: the end is stored, and the next worker goes on.

    Before it is stored, whoever waits for it is told.
    """
    error = None if ending.cancelled() else ending.exception()
    if error is None or not stored.is_set():
        return
    if isinstance(error, JobLost):
        log.info("a cancelled job is left in the queue for others to remove")
    else:
        log.error("defect", exc_info=error)


async def _respond(message: Msg, answer: bytes) -> None:
    try:
        await message.respond(answer)
    except NatsError as error:  # the worker ends, or its connection does: whoever asked hears nothing, and asks again
        log.warning("a cancel is not answered", error=str(error) or type(error).__name__)


def _waits(job: Job, place: Place) -> bool:
    """Whether nobody can be at work on it: it was not begun, or is to come again."""
    entry = place.entry
    return entry is None or entry.comes_again or entry.mark.job != job.seq


def _by_record(place: Place) -> bool:
    """Whether the record's end is `cancelled`."""
    entry = place.entry
    return entry is not None and entry.type == "error" and entry.data["code"] == ErrorCode.CANCELLED
