"""The requesters: they submit, cancel and read at the plan's moments, and write down what they are told."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from benchmarks.chaos.evidence import SENTINEL, TENANT, Cancel, Evidence, Reading, is_end
from benchmarks.chaos.plan import BURST, Burst, Job
from benchmarks.chaos.provider import FILLING, PROMPT
from benchmarks.chaos.reader import Calm, Mailbox, read

SUBMIT_SECONDS: Final = 120.0
SUBMIT_TIMEOUT_SECONDS: Final = 3.0
BELIEVED_SECONDS: Final = 20.0
CANCEL_TIMEOUT_SECONDS: Final = 10.0
FILL_SECONDS: Final = 20.0
COPIES: Final = "_INBOX.chaos-copies"


class Requesters:
    """All requesters, over a connection to each broker.

    Args:
        clients: The connections.
        calm: Whether the brokers lost nothing between two times.
        evidence: Where it is written down.
    """

    def __init__(self, clients: Sequence[Client], calm: Calm, evidence: Evidence) -> None:
        self._mailboxes = [Mailbox(client) for client in clients]
        self._calm = calm
        self._evidence = evidence
        self._number = 0

    async def open(self) -> None:
        """Subscribe."""
        for mailbox in self._mailboxes:
            await mailbox.open()
        await self._mailboxes[0].nc.subscribe(f"{COPIES}.*", cb=self._copied)
        await self._mailboxes[0].nc.flush()

    async def run(self, jobs: Sequence[Job], started: float) -> None:
        """Live all jobs, each from its time after `started` on, until every reader has its job's end."""
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                await asyncio.sleep(max(0.0, started + job.at - time.monotonic()))
                group.create_task(self._live(job))

    async def fill(self, bursts: Sequence[Burst], started: float) -> None:
        """Take the workers' slots for a while, by core requests, each burst at its time after `started`."""
        async with asyncio.TaskGroup() as group:
            for burst in sorted(bursts, key=lambda burst: burst.at):
                await asyncio.sleep(max(0.0, started + burst.at - time.monotonic()))
                for _ in range(BURST):
                    group.create_task(self._take(burst.seconds))

    async def replay(self, job: Job) -> None:
        """Read a job after it all."""
        self._evidence.replays.append(reading := Reading(job.id))
        await read(self._next(), reading, lambda _begin, _end: True)

    def answered_twice(self) -> int:
        """How many messages came after what was the last one."""
        return sum(mailbox.late for mailbox in self._mailboxes)

    @property
    def client(self) -> Client:
        """One of the connections."""
        return self._mailboxes[0].nc

    def _next(self) -> Mailbox:
        self._number += 1
        return self._mailboxes[self._number % len(self._mailboxes)]

    async def _live(self, job: Job) -> None:
        self._evidence.sent[job.id] = time.time()
        if not await self._submit(job):
            self._evidence.wrong.append(f"{job.id} could not be submitted within {SUBMIT_SECONDS:g} s")
            return
        self._evidence.acked[job.id] = time.time()
        async with asyncio.TaskGroup() as group:
            for delay in job.cancels:
                group.create_task(self._cancel(job, delay))
            for delay in job.resumes:
                group.create_task(self._read(job, delay))
            if job.again is not None:
                await asyncio.sleep(job.again)
                await self._publish(job)  # refused while it is queued; later it is stored, and must run nothing

    async def _submit(self, job: Job) -> bool:
        """Submit until it is stored: acknowledged, or refused for its being there, twice and longer apart than a fault.

        A leader that is cut off counts among those of a subject what it has not stored yet, and then never stores it.
        """
        deadline, believed = time.monotonic() + SUBMIT_SECONDS, False
        while time.monotonic() < deadline:
            answer = await self._publish(job)
            refusal = answer.get("error")  # a refusal has a seq of 0 beside it
            if answer and not refusal:
                return True
            if "per subject" in (refusal or {}).get("description", ""):
                if believed:
                    return True
                believed = True
                await asyncio.sleep(BELIEVED_SECONDS)
                self._evidence.twice.add(job.id)  # if it has ended meanwhile, it is stored once more
            await asyncio.sleep(0.2)
        return False

    async def _publish(self, job: Job) -> dict[str, Any]:
        body: dict[str, Any] = {"prompt": PROMPT + job.id}
        if job.budget is not None:
            body["timeout_seconds"] = job.budget
        headers = {"reply_to": f"{COPIES}.{job.id}"} if job.copied else None
        subject = f"ai.v1.job.{job.kind}.{TENANT}.{job.id}"
        try:
            answer = await self._next().nc.request(
                subject, orjson.dumps(body), timeout=SUBMIT_TIMEOUT_SECONDS, headers=headers
            )
        except (NatsError, TimeoutError):
            return {}
        said: dict[str, Any] = orjson.loads(answer.data)
        return said

    async def _cancel(self, job: Job, delay: float) -> None:
        await asyncio.sleep(delay)
        cancel = Cancel(job.id, time.time())
        self._evidence.cancels.append(cancel)
        message = await self._replied(f"ai.v1.ctl.cancel.{TENANT}.{job.id}")
        cancel.replied, cancel.calm = time.time(), self._calm(cancel.sent, time.time())
        if message is None:
            return
        said = orjson.loads(message.data) if message.data else {"nobody": True}
        cancel.answer = "true" if said.get("cancelled") else "false" if "cancelled" in said else next(iter(said))

    async def _replied(self, subject: str) -> Msg | None:
        mailbox = self._next()
        with mailbox.address() as (reply, came):
            try:
                await mailbox.nc.publish(subject, b"", reply=reply)
                message = await asyncio.wait_for(came.get(), CANCEL_TIMEOUT_SECONDS)
            except (NatsError, TimeoutError):
                return None
            mailbox.ended(reply)
        return message

    async def _read(self, job: Job, delay: float) -> None:
        await asyncio.sleep(delay)
        self._evidence.readings.append(reading := Reading(job.id))
        await read(self._next(), reading, self._calm)

    async def _take(self, seconds: float) -> None:
        """Ask over core NATS, and note what came of it: a fault may cost a request its answer, and nothing else may."""
        mailbox, begin, told = self._next(), time.time(), "cut"
        with mailbox.address() as (reply, came):
            try:
                body = f"{FILLING}{seconds}".encode()
                await mailbox.nc.publish(f"ai.v1.req.text.{TENANT}", body, reply=reply)
                while (message := await asyncio.wait_for(came.get(), FILL_SECONDS)).data:
                    event = orjson.loads(message.data)
                    told = event["data"].get("code", "done") if is_end(event) else told
                mailbox.ended(reply)
                told = "overloaded" if (message.headers or {}).get("Status") == "503" else told  # nobody has room
            except (NatsError, TimeoutError):
                told = "cut"
        self._evidence.bursts[f"core requests told {told}"] += 1
        if told not in ("done", "overloaded", "shutting_down") and self._calm(begin, time.time()):
            self._evidence.wrong.append(f"a core request was told {told}, though no fault was near")

    async def _copied(self, message: Msg) -> None:
        copied = self._evidence.copies[message.subject.rpartition(".")[2]]
        copied.events.append(orjson.loads(message.data) if message.data else SENTINEL)
        copied.last = time.time()
