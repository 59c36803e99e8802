"""The queue: jobs as they wait in AIJOBS, as they are delivered, and how they leave it."""

from dataclasses import dataclass, replace
from typing import Final

import orjson
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aichats_schemas.subjects import KINDS, Kind
from aichats_worker.jobs.mailbox import Mailbox, stamp_of
from aichats_worker.jobs.messages import Messages
from aichats_worker.request.call import Call, job_call
from aichats_worker.text import ascii_line

REASON_MAX_CHARS: Final = 200
SAME_SECONDS: Final = 1e-5  # the same stamp of the broker's, read in two forms


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is in the queue.

    Attributes:
        call: What it asks.
        seq: Its place in the stream, which tells it from a later job of the same id.
        submitted: When it was stored, in seconds since 1970 by the broker's clock.
        delivery: How often it has been delivered; 0 as it lies in the stream.
        ack: Where its acknowledgements go; empty where it was not delivered.
    """

    call: Call
    seq: int
    submitted: float
    delivery: int = 0
    ack: str = ""

    def of_attempt(self, attempt: int) -> "Job":
        """Return the same job with the number of an attempt."""
        return replace(self, call=self.call.of_attempt(attempt))


def delivered(message: Msg, kind: Kind) -> Job:
    """Read a job as JetStream delivered it."""
    stamp = stamp_of(message.reply)
    call = job_call(message.subject, kind, headers=message.headers or {}, body=message.data)
    return Job(call, stamp.stream_seq, stamp.time, stamp.delivery, message.reply)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the queue holds of one kind, as the broker said it last: every worker sees the same.

    Attributes:
        waiting: Jobs that nobody has fetched yet.
        taken: Jobs that run, or wait for their next attempt.
        oldest_seconds: How long the first of those that wait has waited; 0 for none.
    """

    waiting: int = 0
    taken: int = 0
    oldest_seconds: float = 0.0


class Queue:
    """The jobs' stream.

    Args:
        mail: How the broker is asked.
    """

    def __init__(self, mail: Mailbox) -> None:
        self._mail = mail
        self._subjects = mail.bus.subjects
        self._messages = Messages(mail, self._subjects.jobs_stream)

    async def find(self, tenant: str, request_id: str) -> list[Job]:
        """Return the jobs of an id, one of each kind at most, that are queued or at work.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        found = []
        for kind in KINDS:
            message = await self._messages.last(self._subjects.job(kind, tenant, request_id))
            if message is not None:
                call = job_call(message.subject, kind, headers=message.headers, body=message.data)
                found.append(Job(call, message.seq, message.time))
        return found

    async def oldest(self, kind: Kind, seq: int) -> float | None:
        """Return when the first job of a kind from a place on was stored, in seconds since 1970; None for none.

        Raises:
            nats.errors.Error: It cannot be found out.
        """
        message = await self._messages.next(self._subjects.job(kind), seq)
        return None if message is None else message.time

    async def remove(self, job: Job, reason: str | None = None) -> None:
        """Take a job out of the queue, confirmed. One that is not there any more is no error.

        Args:
            job: Delivered or not.
            reason: Why it was given up: the server's advisory shows it.

        Raises:
            nats.errors.Error: It may still be there.
        """
        if not job.ack:
            await self._messages.delete(job.seq)
            return
        word = b"+ACK" if reason is None else f"+TERM {ascii_line(reason, REASON_MAX_CHARS)}".encode()
        try:
            await self._mail.ask(job.ack, word)
        except NatsError:  # its consumer may be gone, and the stream: the number is another job's then
            message = await self._messages.at(job.seq)
            if message is not None and abs(message.time - job.submitted) < SAME_SECONDS:
                await self._messages.delete(job.seq)

    async def give_back(self, job: Job, delay_seconds: float = 0) -> None:
        """Have a job delivered again after a delay.

        Raises:
            nats.errors.Error: It comes all the same, once the consumer's ack_wait has passed.
        """
        delay = orjson.dumps({"delay": round(delay_seconds * 1e9)}) if delay_seconds > 0 else b""
        await self._mail.ask(job.ack, b"-NAK " + delay if delay else b"-NAK")

    async def keep(self, job: Job) -> None:
        """Say that a job is in work. Not confirmed: it only saves the provider a second call."""
        if self._mail.nc.is_connected:
            await self._mail.nc.publish(job.ack, b"+WPI")
