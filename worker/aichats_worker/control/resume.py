"""Resume: a job's record from a point on, then the live events, then the sentinel (contract, section 7)."""

import asyncio
from contextlib import aclosing
from typing import Final

import orjson
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aichats_schemas.subjects import QUEUE, is_token, new_id
from aichats_worker.broker.stopping import Stopping
from aichats_worker.control.replay import Replay
from aichats_worker.errors import (
    Abandoned,
    Expired,
    Internal,
    Interrupted,
    InvalidRequest,
    Overloaded,
    RequesterGone,
    ShuttingDown,
    WorkerError,
)
from aichats_worker.jobs.copies import Copies
from aichats_worker.jobs.entries import Place, own_headers
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.work import Jobs
from aichats_worker.request.call import Call
from aichats_worker.request.events import Envelope, error_data, error_headers
from aichats_worker.request.runs import Run
from aichats_worker.request.watch import Watch
from aichats_worker.telemetry.counting import Telemetry

log = structlog.get_logger(__name__)

RESUMES_MAX: Final = 256
# After so long a silence it is looked whether the record, and the job, are still there.
LOOK_AGAIN_SECONDS: Final = 5.0
STOP_TIMEOUT_SECONDS: Final = 2.0
EXPIRED: Final = "the record's beginning, or what follows `after`, is gone; submit the job again under another id"

Point = tuple[int, int]
NOTHING: Final[Point] = (0, -1)  # before all events


class After(BaseModel):
    """The last event that a requester has: of which attempt, and its number."""

    model_config = ConfigDict(strict=True)

    attempt: int = Field(ge=0)
    seq: int = Field(ge=0)


class ResumeRequest(BaseModel):
    """What a resume asks for: a job's id, and the last event that the requester has."""

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"id": "r9"}, {"id": "r9", "after": {"attempt": 1, "seq": 41}}]},
    )

    id: str
    after: After | None = None

    @property
    def point(self) -> Point:
        """The last event that the requester has; one before all others for none."""
        return (self.after.attempt, self.after.seq) if self.after else NOTHING


class Resumes:
    """Serves resume requests.

    Args:
        mail: How the records are read.
        jobs: The queue and the records.
        watch: Keeps the replies alive, and notices requesters that went away.
        telemetry: Counts what cannot be answered.
    """

    def __init__(self, mail: Mailbox, jobs: Jobs, watch: Watch, telemetry: Telemetry) -> None:
        self._mail = mail
        self._bus = mail.bus
        self._jobs = jobs
        self._watch = watch
        self._telemetry = telemetry
        self._runs: dict[asyncio.Task[None], Run] = {}

    @property
    def running(self) -> int:
        """How many are served now; each has a consumer of its own at the broker."""
        return len(self._runs)

    async def start(self) -> None:
        """Subscribe."""
        await self._bus.nc.subscribe(self._bus.subjects.resume(), queue=QUEUE, cb=self._requested)

    def again(self) -> None:
        """After a reconnect: what was on its way is lost, and nobody knows how much. Whoever reads asks again."""
        for run in list(self._runs.values()):
            run.stop(Interrupted("the connection to the broker broke; resume again with `after`"))

    async def stop(self, stopping: Stopping) -> None:
        """End those that are under way: their requesters ask another worker, with `after`.

        The queue group was left before.
        """
        for run in list(self._runs.values()):
            run.stop(ShuttingDown("this worker is shutting down; resume again with `after`"))
        if self._runs:
            await asyncio.wait(self._runs, timeout=stopping.left(STOP_TIMEOUT_SECONDS))

    async def _requested(self, message: Msg) -> None:
        tenant = message.subject.rpartition(".")[2]
        if not self._bus.rule.allows(message.reply, tenant):
            self._telemetry.dropped_control("resume", "forbidden_reply" if message.reply else "no_reply")
            return
        call = Call("req", "text", tenant, new_id(), message.reply, message.data, {}, attempt=0)
        run = Run(call)
        task = asyncio.create_task(self._serve(run), name="resume")
        self._runs[task] = run
        task.add_done_callback(lambda done: self._runs.pop(done, None))

    async def _serve(self, run: Run) -> None:
        """Answer one request, to an end in every case but one: nobody listens."""
        call = run.call
        end: WorkerError | Abandoned | None = None
        request, refusal = ResumeRequest(id=call.id), None
        try:
            request = self._read(call)
        except WorkerError as error:
            refusal = error
        outlet = Copies(self._watch.line(call.reply_to, probed=True), request.id)
        with self._watch.kept(outlet, on_gone=lambda: run.stop(RequesterGone())):
            try:
                run.begin()
                if refusal is None:
                    await self._follow(run, outlet, request)
                end = refusal
            except (WorkerError, Abandoned) as error:
                end = error
            except asyncio.CancelledError:
                end = None
            except NatsError as error:
                log.warning("a resume cannot read its record", error=str(error) or type(error).__name__)
                end = Internal("the stored events cannot be read; try again with `after`")
            except Exception:  # a defect ends one resume, told truthfully
                log.exception("defect", id=request.id)
                end = Internal("a defect of the worker's; its operator finds the cause in the log under this id")
            await self._say(outlet, request.id, run.over() or end)

    async def _say(self, outlet: Copies, request_id: str, end: WorkerError | Abandoned | None) -> None:
        if isinstance(end, WorkerError):
            event = Envelope(request_id, 0).event(b"error", error_data(end))
            try:
                await outlet.end(event, error_headers(end))
            except WorkerError as error:
                log.warning("a resume's end is not published", error=error.message)
        outlet.abandon()

    def _read(self, call: Call) -> ResumeRequest:
        if len(self._runs) > RESUMES_MAX:
            raise Overloaded(f"this worker serves {RESUMES_MAX} resumes already; try again")
        try:
            request = ResumeRequest.model_validate_json(call.body)
        except ValidationError as error:
            named = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
            raise InvalidRequest(named) from None
        if not (is_token(call.tenant) and is_token(request.id)):
            raise InvalidRequest("tenant and id: must be 1 to 64 of A-Z, a-z, 0-9, _ and -")
        return request

    async def _follow(self, run: Run, outlet: Copies, request: ResumeRequest) -> None:
        """Forward what is behind the point, up to the job's final event."""
        job = Call("job", "text", run.call.tenant, request.id, "", b"", {}, attempt=0)
        place = await self._begin(job, request)
        point = request.point
        entry = place.entry
        if entry is not None and entry.is_end and (entry.attempt, entry.number) == point:
            await outlet.end(entry.payload, entry.headers)  # again: a reply never ends without it
            return
        seq = await self._jobs.records.seq_after(job, point, entry) if request.after and entry is not None else 1
        replay = Replay(self._mail, self._bus.subjects.out_stream, self._bus.subjects.out(job.tenant, job.id), seq)
        async with aclosing(replay.messages(LOOK_AGAIN_SECONDS)) as messages:
            async for message in messages:
                run.check()
                if message is None:
                    await self._look_again(job, replay.next_seq, has_some=point != NOTHING)
                    continue
                event = orjson.loads(message.data)
                found = (event["attempt"], event["seq"])
                _check_follows(point, found)
                point = found
                if event["type"] in ("done", "error"):
                    await outlet.end(message.data, own_headers(message.headers))
                    return
                await outlet.copy(message.data, None)

    async def _begin(self, job: Call, request: ResumeRequest) -> Place:
        """Return where the record stands.

        Raises:
            InvalidRequest: There is nothing, and nothing is to come.
            Expired: There was something, or there was more.
        """
        place = await self._jobs.records.place(job)
        if place.entry is not None and (place.entry.attempt, place.entry.number) < request.point:
            raise Expired(f"id: {EXPIRED}")  # whoever has an event has it from the record: it was begun anew
        if place.entry is None:
            if request.after is not None:
                raise Expired(f"id: {EXPIRED}")
            if not await self._is_queued(job):
                # It may have begun, and ended, between the two questions.
                place = await self._jobs.records.place(job)
                if place.entry is None:
                    raise InvalidRequest("id: nothing is stored and nothing is queued under this id")
        return place

    async def _is_queued(self, job: Call) -> bool:
        try:
            return bool(await self._jobs.queue.find(job.tenant, job.id))
        except NotFoundError:
            return False  # there is no queue

    async def _look_again(self, job: Call, next_seq: int, *, has_some: bool) -> None:
        """After a silence: is there still something to come? What was read so far may be no worker's alone.

        Raises:
            Expired: The record is gone, or its part that was to come next.
            Internal: The job is gone without an end.
        """
        queued = await self._is_queued(job)  # first: a job leaves the queue behind its end
        place = await self._jobs.records.place(job)
        if place.entry is None:
            if has_some or not queued:
                raise Expired(f"id: {EXPIRED}")
            return
        # A record that was read does not become shorter, and one whose end was read is not looked at again.
        is_read = place.entry.seq < next_seq
        if place.seq + 1 < next_seq or (place.entry.is_end and is_read):
            raise Expired(f"id: {EXPIRED}")
        if not queued and is_read:
            raise Internal("the job has left the queue without an end: its operator removed it; submit it again")


def _check_follows(point: Point, found: Point) -> None:
    """Raise Expired where an event is missing between two, or the record was begun anew.

    After a purge a job's attempts count from 1 again: joined to what was read before, two answers would look like one.
    """
    expected = point[1] + 1 if found[0] == point[0] else 0
    if found <= point or found[1] != expected:
        raise Expired(f"id: {EXPIRED}")
