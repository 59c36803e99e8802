"""Ends for jobs that nobody runs: cancelled in the queue, or left behind by a worker that died on the last delivery."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
import structlog
from nats.aio.msg import Msg
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from aichats_schemas.events import Done, Error, parse_event
from aichats_schemas.subjects import KINDS, QUEUE, Kind, Subjects
from aichats_worker.broker.bus import Bus
from aichats_worker.errors import Internal, WorkerError
from aichats_worker.jobs.letters import DeadLetters
from aichats_worker.jobs.streams import consumer_name
from aichats_worker.request.call import Call, stored_call
from aichats_worker.request.reply import Reply

log = structlog.get_logger(__name__)

NO_KEEPALIVE: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Point:
    """Where a job's stored events stand.

    Attributes:
        attempt: Of the last event; 0 where none is stored.
        next_seq: What the next event of that attempt has.
        final: The last event is a final one, so that only the sentinel may be missing.
        ended: The sentinel is stored.
        time: When the last message was stored, by the broker's clock; None where none is.
    """

    attempt: int = 0
    next_seq: int = 0
    final: bool = False
    ended: bool = False
    time: datetime | None = None


async def last_point(bus: Bus, subject: str) -> Point:
    """Return where the stored events of a job stand."""
    try:
        message = await bus.js.get_msg(
            bus.subjects.out_stream, subject=subject
        )  # from the leader: a replica may lag behind
    except NotFoundError:
        return Point()
    if not message.data:
        return Point(ended=True, time=message.time)
    try:
        event = parse_event(message.data)
    except ValidationError:
        return Point(time=message.time)
    return Point(event.attempt, event.seq + 1, isinstance(event, Done | Error), time=message.time)


async def stored_failure(bus: Bus, subject: str) -> Error | None:
    """Return the `error` that a job's stored events ended with; None where it ended otherwise."""
    seq, last = 1, b""
    while True:
        try:
            message = await bus.js.get_msg(bus.subjects.out_stream, seq=seq, subject=subject, next=True)
        except NotFoundError:
            break
        last = message.data or last
        seq = int(message.seq or 0) + 1
    event = parse_event(last) if last else None
    return event if isinstance(event, Error) else None


async def publish_end(bus: Bus, call: Call, error: WorkerError) -> bool:
    """Publish a job's end in place of the worker that should have. False where it had its end.

    Args:
        bus: Where its events are stored or go.
        call: The job; its `attempt` is the number of the last one.
        error: What the end says.
    """
    out_subject = bus.subjects.out(call.tenant, call.id)
    stored = call.reply_to == out_subject
    if not stored and not bus.rule.allows(call.reply_to, call.tenant):
        return True
    point = await last_point(bus, out_subject) if stored else Point()
    if point.ended:
        return False
    if point.final:
        await bus.js.publish(out_subject, b"")
        return False
    call = call.of_attempt(max(call.attempt, point.attempt))
    first_seq = point.next_seq if point.attempt == call.attempt else 0
    reply = Reply(bus.nc, call, keepalive_seconds=NO_KEEPALIVE, js=bus.js if stored else None, first_seq=first_seq)
    await reply.fail(error)
    return True


class Abandonments:
    """Ends the jobs whose worker died on the last delivery: the server leaves them in the stream, and only tells.

    Args:
        bus: Where the jobs are.
        letters: Where they are kept.
    """

    def __init__(self, bus: Bus, letters: DeadLetters) -> None:
        self._bus = bus
        self._letters = letters

    async def start(self) -> None:
        """Listen to the server's advisories, one worker for each, and look for jobs whose advisory nobody heard."""
        for kind in KINDS:
            subject = (
                f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{self._bus.subjects.jobs_stream}.{consumer_name(kind)}"
            )
            await self._bus.nc.subscribe(subject, queue=QUEUE, cb=self._told)
        for kind in KINDS:
            await self._sweep(kind)

    async def _sweep(self, kind: Kind) -> None:
        """End what was given up while no worker was up.

        Only where nothing is in work: then whatever was delivered and is still there is not delivered again.
        """
        info = await self._bus.js.consumer_info(self._bus.subjects.jobs_stream, consumer_name(kind))
        if info.num_ack_pending or info.delivered is None:
            return
        subject, seq = self._bus.subjects.job(kind), 1
        while seq <= info.delivered.stream_seq:
            try:
                message = await self._bus.js.get_msg(
                    self._bus.subjects.jobs_stream, seq=seq, subject=subject, next=True
                )
            except NotFoundError:
                return
            seq = int(message.seq or 0) + 1
            if seq <= info.delivered.stream_seq + 1:
                await self._end(seq - 1, info.config.max_deliver or 1)

    async def _told(self, message: Msg) -> None:
        try:
            advisory: dict[str, Any] = orjson.loads(message.data)
            await self._end(int(advisory["stream_seq"]), int(advisory["deliveries"]))
        except Exception:  # the next advisory must be heard all the same
            log.exception("a job that was given up could not be ended")

    async def _end(self, stream_seq: int, deliveries: int) -> None:
        try:
            message = await self._bus.js.get_msg(self._bus.subjects.jobs_stream, seq=stream_seq)
        except NotFoundError:
            return  # its worker lived long enough to remove it
        call = queued_call(message, self._bus.subjects, attempt=deliveries)
        error = Internal(f"the worker ended in the middle of the last of {deliveries} attempts; submit the job again")
        published = await publish_end(self._bus, call, error)
        if published:
            await self._letters.write(
                call, stream_seq=stream_seq, code=error.code, reason=error.message, attempts=call.attempt
            )
        await self._bus.js.delete_msg(self._bus.subjects.jobs_stream, stream_seq)
        log.warning("job ended for a worker that died", id=call.id, attempts=deliveries)


def queued_call(message: RawStreamMsg, subjects: Subjects, *, attempt: int) -> Call:
    """Read a job as it lies in the stream."""
    kind: Kind = "image" if str(message.subject).split(".")[-3] == "image" else "text"
    # nats-py gives an object of the e-mail parser's for a value that is not ASCII.
    headers = {name: str(value) for name, value in (message.headers or {}).items()}
    body = message.data or b""
    return stored_call(
        str(message.subject), kind, headers=headers, body=body, attempt=attempt, out_subject=subjects.out
    )
