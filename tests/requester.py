"""A requester that looks at every message on its reply subject, and holds it against the contract."""

import asyncio
from typing import Any, cast

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aichats_schemas import StreamEvent, parse_event

WAIT_SECONDS = 60.0
FINAL = ("done", "result", "error")


class Exchange:
    """One request and what came back. Subscribes first, so that nothing is missed."""

    def __init__(self, nc: Client, inbox: str | None = None) -> None:
        self.nc = nc
        self.inbox = inbox or nc.new_inbox()
        self.messages: list[Msg] = []
        self._queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Any = None

    async def listen(self) -> "Exchange":
        """Subscribe, for what is asked in another way."""
        self._subscription = await self.nc.subscribe(self.inbox, cb=self._queue.put)
        return self

    async def send(
        self, subject: str, body: bytes | dict[str, Any], headers: dict[str, str] | None = None
    ) -> "Exchange":
        await self.listen()
        payload = body if isinstance(body, bytes) else orjson.dumps(body)
        await self.nc.publish(subject, payload, reply=self.inbox, headers=headers)
        return self

    async def next(self) -> Msg:
        async with asyncio.timeout(WAIT_SECONDS):
            message = await self._queue.get()
        self.messages.append(message)
        return message

    async def event(self) -> StreamEvent:
        """The next message as an event."""
        return parse_event((await self.next()).data)

    async def leave(self) -> None:
        await self._subscription.unsubscribe()

    async def all(self) -> list[Any]:
        """Read up to the sentinel, check the stream, and return its events (StreamEvent)."""
        while not self.messages or self.messages[-1].data:
            await self.next()
        await self.nc.flush()
        await self.nc.flush()
        assert self._queue.empty(), "a message came after the sentinel"
        await self.leave()
        return check(self.messages)


def check(messages: list[Msg]) -> list[StreamEvent]:
    """Hold a whole reply against sections 3 and 4 of the contract; return its events."""
    *rest, sentinel = messages
    assert sentinel.data == b""
    assert sentinel.headers is None, "the sentinel carries no headers"
    events = [parse_event(message.data) for message in rest]
    assert events, "a stream has at least its final event"
    ordered = [event for event in events if (event.type, event.attempt) != ("status", 0)]  # a job's, in silence
    assert [event.seq for event in ordered] == list(range(len(ordered)))
    assert len({(event.id, event.attempt) for event in ordered}) == 1
    assert [event.type in FINAL for event in events] == [False] * (len(events) - 1) + [True]
    for message, event in zip(rest, events, strict=True):
        if event.type == "error":
            assert message.headers is not None
            assert set(message.headers) == {"Nats-Service-Error", "Nats-Service-Error-Code"}
            assert message.headers["Nats-Service-Error"].isascii()
            assert len(message.headers["Nats-Service-Error"]) <= 200
        else:
            assert message.headers is None
    final = events[-1]
    if final.type in ("done", "result"):
        assert cast("Any", final).data.last_seq == final.seq
    return events


async def ask(
    nc: Client, subject: str, body: bytes | dict[str, Any], headers: dict[str, str] | None = None
) -> list[Any]:
    """Send a request and return its events, checked."""
    return await (await Exchange(nc).send(subject, body, headers)).all()


def text_of(events: list[Any]) -> str:
    return "".join(event.data for event in events if event.type == "response")


async def until_heard(nc: Client) -> None:
    """Wait until a worker answers: one that is back has its subscriptions at the broker a moment later."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await nc.request("$SRV.PING.ai-worker", b"", timeout=1)
            except NatsError:
                await asyncio.sleep(0.02)
            else:
                return
