"""A requester's side of jobs: what is submitted, stored, queued and given up, as the broker has it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from aichats_client import submit
from aichats_schemas import parse_event
from aichats_worker.app import App
from aichats_worker.jobs.wanted import CLOSED_MAX_BYTES
from tests.conftest import StartWorker
from tests.processes import NatsServer, WorkerProcess

WAIT_SECONDS = 60.0
FINAL = ("done", "error")
StartJobs = Callable[..., Awaitable[App]]


@dataclass(frozen=True)
class Stored:
    """An event as it is stored."""

    seq: int
    event: Any
    headers: dict[str, str]


class Broker:
    """A requester's connection to a server of its own, and all that is stored for jobs."""

    def __init__(self, server: NatsServer, nc: Client) -> None:
        self.server = server
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream()
        self.heard: asyncio.Queue[Msg] = asyncio.Queue()
        self._listening = False

    async def listen(self) -> None:
        """Hear what is stored from now on. Not by a plain subscription, which hears what the stream refuses as well."""
        if not self._listening:
            self._listening = True
            await self.js.subscribe("ai.v1.out.>", cb=self.heard.put, ordered_consumer=True)

    async def submit(self, body: str | dict[str, Any], request_id: str = "r1", **options: Any) -> Any:
        return await submit(self.js, options.pop("kind", "text"), body, request_id=request_id, tenant="t", **options)

    async def end(self) -> list[Any]:
        """Everything up to the next final event."""
        events = await self.events(1)
        while events[-1].type not in FINAL:
            events += await self.events(1)
        return events

    async def events(self, count: int) -> list[Any]:
        async with asyncio.timeout(WAIT_SECONDS):
            return [parse_event((await self.heard.get()).data) for _ in range(count)]

    async def content(self, count: int = 1) -> None:
        """Wait until so many pieces of an answer are stored."""
        while count:
            count -= (await self.events(1))[0].type == "response"

    async def record(self, request_id: str = "r1", tenant: str = "t") -> list[Stored]:
        """The events of a job as they are stored now."""
        found, seq = list[Stored](), 1
        subject = f"ai.v1.out.{tenant}.{request_id}"
        with contextlib.suppress(NotFoundError):
            while True:
                message = await self.js.get_msg("AIOUT", seq=seq, subject=subject, next=True)
                seq = int(message.seq or 0) + 1
                if message.headers and "Ai-Job" in message.headers:
                    found.append(Stored(seq - 1, parse_event(message.data or b""), dict(message.headers)))
        return found

    async def jobs_left(self) -> int:
        return int((await self.js.stream_info("AIJOBS")).state.messages)

    async def asked_for(self) -> None:
        """Wait until a worker asks for text jobs: what is submitted next goes there."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not (await self.js.consumer_info("AIJOBS", "ai-workers-text")).num_waiting:
                await asyncio.sleep(0.02)

    async def removed(self) -> None:
        """Wait until no job is in the queue."""
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.jobs_left():
                await asyncio.sleep(0.02)

    async def dead(self) -> list[dict[str, str]]:
        """The headers of all dead letters."""
        found = []
        for seq in range(1, (await self.js.stream_info("AIDEAD")).state.last_seq + 1):
            with contextlib.suppress(NotFoundError):
                found.append(dict((await self.js.get_msg("AIDEAD", seq=seq)).headers or {}))
        return found


@contextlib.asynccontextmanager
async def flooded(broker: Broker, every_seconds: float) -> AsyncIterator[None]:
    """Messages of nobody's on the record of r1, as JetStream acknowledges jobs whose reply subject it is."""

    async def flood(nc: Client) -> None:
        while True:
            await nc.publish("ai.v1.out.t.r1", b'{"stream":"AIJOBS","seq":2}')
            await asyncio.sleep(every_seconds)

    nc = await nats.connect(broker.server.url)
    flooding = asyncio.create_task(flood(nc))
    try:
        yield
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        await nc.close()


def text_of(events: list[Any]) -> str:
    """What the last attempt of some events says."""
    last = max(event.attempt for event in events)
    return "".join(event.data for event in events if event.type == "response" and event.attempt == last)


def checked(record: list[Stored]) -> list[Any]:
    """Hold a record against section 8 of the contract: order, fence, one end at its end; return its events."""
    events = [stored.event for stored in record]
    places = [(event.attempt, event.seq) for event in events]
    assert places == sorted(set(places)), "a lower attempt, or a number twice"
    for attempt in {event.attempt for event in events}:
        numbers = [event.seq for event in events if event.attempt == attempt]
        assert numbers == list(range(len(numbers))), f"a gap in attempt {attempt}"
    assert [event.type in FINAL for event in events] == [False] * (len(events) - 1) + [True], "one end, at the end"
    expected = [int(stored.headers["Nats-Expected-Last-Subject-Sequence"]) for stored in record]
    assert expected[1:] == [stored.seq for stored in record[:-1]], "each is behind the one before"
    return events


@pytest.fixture
async def broker(own_nats_server: Callable[..., NatsServer]) -> AsyncIterator[Broker]:
    server = own_nats_server()
    nc = await nats.connect(server.url)
    yield Broker(server, nc)
    await nc.close()


@pytest.fixture
def start_jobs(start_worker: StartWorker, broker: Broker) -> StartJobs:
    """Start a worker that serves jobs, with settings that suit a test."""

    async def start(**settings: Any) -> App:
        defaults = {
            "nats_url": broker.server.url,
            "worker_jobs": True,
            "worker_retry_base_seconds": 0.05,
            "worker_retry_max_seconds": 0.1,
            "worker_ack_wait_seconds": 10,
            "provider_calls_max": 1,
            "provider_circuit_failures": 1000,
        }
        app = await start_worker(**(defaults | settings))
        await serving_jobs(app)
        await broker.listen()
        return app

    return start


async def serving_jobs(worker: Any) -> None:
    """Wait until a worker, in this process or not, serves jobs."""
    if isinstance(worker, WorkerProcess):
        await worker.serving_jobs()
        return
    async with asyncio.timeout(WAIT_SECONDS):
        while worker.jobs is None:
            await asyncio.sleep(0.01)


def settings_for(broker: Broker, **more: str) -> dict[str, str]:
    return {
        "NATS_URL": broker.server.url,
        "WORKER_ACK_WAIT_SECONDS": "1",
        "WORKER_RETRY_BASE_SECONDS": "0.05",
        "WORKER_RETRY_MAX_SECONDS": "0.1",
    } | more


async def provisioned(broker: Broker) -> None:
    """Wait until a worker process serves jobs."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(NotFoundError):
                if (await broker.js.stream_info("AIJOBS")).config.max_bytes != CLOSED_MAX_BYTES:
                    break
            await asyncio.sleep(0.05)
    await broker.listen()
