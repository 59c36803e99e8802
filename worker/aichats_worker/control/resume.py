"""Resume: a job's stored events from a point on, then the live ones, then the sentinel (contract, section 7)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

import orjson
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aichats_schemas.subjects import KINDS, QUEUE, REPLY_TO, is_token, new_id
from aichats_worker.broker.bus import Bus
from aichats_worker.errors import Abandoned, Internal, InvalidRequest, Overloaded, RequesterGone, WorkerError
from aichats_worker.jobs.ending import last_point
from aichats_worker.request.call import Call
from aichats_worker.request.reply import Replies, Reply
from aichats_worker.telemetry import Telemetry

log = structlog.get_logger(__name__)

RESUMES_MAX: Final = 256
# A job that says nothing for so long, status events included, is not at work: queued, waiting for its retry, or gone.
LOOK_AGAIN_SECONDS: Final = 5.0
NOTHING: Final = "nothing is stored and nothing is queued under this id (a job that named a reply_to stores nothing)"

Stored = tuple[bytes, dict[str, str] | None]


class _Point(BaseModel):
    model_config = ConfigDict(strict=True)

    attempt: int = Field(ge=0)
    seq: int = Field(ge=0)


class ResumeRequest(BaseModel):
    """What a resume asks for: a job's id, and the last event that the requester has."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    id: str
    after: _Point | None = None


class Resumes:
    """Serves resume requests.

    Args:
        bus: Where the records are.
        replies: Notices requesters that went away.
        telemetry: Counts what cannot be answered.
    """

    def __init__(self, bus: Bus, replies: Replies, telemetry: Telemetry) -> None:
        self._bus = bus
        self._replies = replies
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Subscribe."""
        await self._bus.nc.subscribe(self._bus.subjects.resume(), queue=QUEUE, cb=self._requested)

    async def stop(self) -> None:
        """Cut the replies that are under way: their requesters ask another worker."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    async def _requested(self, message: Msg) -> None:
        tenant = message.subject.rpartition(".")[2]
        if not self._bus.rule.allows(message.reply, tenant):
            self._telemetry.dropped_control("resume", "forbidden_reply" if message.reply else "no_reply")
            return
        task = asyncio.create_task(self._serve(message, tenant), name="resume")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, message: Msg, tenant: str) -> None:
        request, refusal = ResumeRequest(id=new_id()), None
        try:
            request = self._read(message, tenant)
        except WorkerError as error:
            refusal = error
        call = Call("req", "text", tenant, request.id, message.reply, message.data, {}, attempt=0)
        me = asyncio.current_task()
        with self._replies.opened(call, on_gone=lambda: me and me.cancel()) as reply:
            try:
                if refusal is not None:
                    raise refusal
                await self._forward(reply, tenant, request)
            except WorkerError as error:
                await reply.fail(error)
            except NatsError:
                log.exception("resume failed")
                await reply.fail(Internal("the stored events cannot be read; try again"))
            except (Abandoned, asyncio.CancelledError):
                reply.abandon()

    def _read(self, message: Msg, tenant: str) -> ResumeRequest:
        if len(self._tasks) > RESUMES_MAX:
            raise Overloaded(f"this worker serves {RESUMES_MAX} resumes already; try again")
        try:
            request = ResumeRequest.model_validate_json(message.data)
        except ValidationError as error:
            named = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
            raise InvalidRequest(named) from None
        if not (is_token(tenant) and is_token(request.id)):
            raise InvalidRequest("tenant and id: must be 1 to 64 of A-Z, a-z, 0-9, _ and -")
        return request

    async def _forward(self, reply: Reply, tenant: str, request: ResumeRequest) -> None:
        subject = self._bus.subjects.out(tenant, request.id)
        last = (request.after.attempt, request.after.seq) if request.after else (0, -1)
        live: asyncio.Queue[Stored] = asyncio.Queue()

        async def heard(message: Msg) -> None:
            await live.put((message.data, message.headers))

        # Live first, stored second: what is published in between comes twice, and (attempt, seq) tells.
        subscription = await self._bus.nc.subscribe(subject, cb=heard)
        try:
            async with aclosing(self._events(subject, tenant, request.id, live)) as events:
                async for payload, headers in events:
                    if payload and (place := _place(payload)) > last:
                        last = place
                        await reply.forward(payload, headers)
            await reply.forward_end()
        finally:
            with suppress(NatsError):
                await subscription.unsubscribe()

    async def _events(
        self, subject: str, tenant: str, request_id: str, live: asyncio.Queue[Stored]
    ) -> AsyncGenerator[Stored, None]:
        """Yield what is stored, then what comes, up to the sentinel."""
        last: bytes | None = None
        async for stored in self._stored(subject):
            if not stored[0]:
                return
            last = stored[0]
            yield stored
        if last is None and not await self._queued(tenant, request_id):
            raise InvalidRequest(f"id: {NOTHING}")
        while True:
            try:
                async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                    event = await live.get()
            except TimeoutError:
                await self._check_still_there(subject, tenant, request_id)
                continue
            # The broker stores a moment after it has sent on: an event can be too early for the one, too late for the
            # other. By now it is stored. What comes twice is dropped by whoever forwards it.
            if _skips(last, event[0]):
                async for stored in self._stored(subject):
                    if not stored[0]:
                        return
                    yield stored
            if not event[0]:
                return
            last = event[0]
            yield event

    async def _check_still_there(self, subject: str, tenant: str, request_id: str) -> None:
        """Give up where the job has gone without an end that was heard: its sentinel is stored, or it is nowhere."""
        if (await last_point(self._bus, subject)).ended or not await self._queued(tenant, request_id):
            raise RequesterGone

    async def _stored(self, subject: str) -> AsyncGenerator[Stored, None]:
        seq = 1
        while True:
            try:
                message = await self._bus.js.get_msg(
                    self._bus.subjects.out_stream, seq=seq, subject=subject, direct=True, next=True
                )
            except NotFoundError:
                return
            yield message.data or b"", _error_headers(message.headers)
            seq = int(message.seq or 0) + 1

    async def _queued(self, tenant: str, request_id: str) -> bool:
        for kind in KINDS:
            try:
                message = await self._bus.js.get_msg(
                    self._bus.subjects.jobs_stream, subject=self._bus.subjects.job(kind, tenant, request_id)
                )
            except NotFoundError:
                continue
            return REPLY_TO not in (message.headers or {})
        return False


def _error_headers(headers: dict[str, str] | None) -> dict[str, str] | None:
    """Return the headers of an `error` event without those that a direct get adds."""
    ours = {name: value for name, value in (headers or {}).items() if name.startswith("Nats-Service-Error")}
    return ours or None


def _skips(last: bytes | None, payload: bytes) -> bool:
    """Whether something is missing between two events, or between the last one and the sentinel."""
    if not payload:
        return last is None or orjson.loads(last)["type"] not in ("done", "error")
    (was, seq), (attempt, number) = _place(last) if last else (0, -1), _place(payload)
    return (attempt, number) > (was, seq) and number > (seq + 1 if attempt == was else 0)


def _place(payload: bytes) -> tuple[int, int]:
    """Return an event's `(attempt, seq)`; a place before all others for what is none.

    JetStream acknowledges a job to whatever subject its submitter names as the reply, and this one as well.
    """
    try:
        event = orjson.loads(payload)
        return event["attempt"], event["seq"]
    except (ValueError, LookupError, TypeError):
        return -1, -1
