"""One reader of one job: asks `resume`, and again after what it has, until it has the end."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from benchmarks.chaos.evidence import NOTHING, TENANT, Reading, follows, is_end, place

STALL_SECONDS: Final = 5.0  # a worker is never silent for longer than 0.8 s
SENTINEL_SECONDS: Final = 3.0
AGAIN_SECONDS: Final = 0.3

Calm = Callable[[float, float], bool]
Inbox = asyncio.Queue[Msg]


class Mailbox:
    """Replies to any number of requests, over one subscription.

    Attributes:
        nc: The connection.
        late: Messages that came after what was said to be the last one.
    """

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.late = 0
        self._prefix = nc.new_inbox()
        self._open: dict[str, Inbox] = {}
        self._ended: set[str] = set()

    async def open(self) -> None:
        """Subscribe."""
        await self.nc.subscribe(f"{self._prefix}.*", cb=self._came)
        await self.nc.flush()

    @contextmanager
    def address(self) -> Iterator[tuple[str, Inbox]]:
        """Give a reply subject, and what comes there while this is open."""
        reply = f"{self._prefix}.{len(self._open)}-{time.monotonic_ns()}"
        self._open[reply] = came = Inbox()
        try:
            yield reply, came
        finally:
            del self._open[reply]
            if reply in self._ended:
                self.late += came.qsize()

    def ended(self, reply: str) -> None:
        """Say that nothing may come there any more."""
        self._ended.add(reply)

    async def _came(self, message: Msg) -> None:
        if inbox := self._open.get(message.subject):
            inbox.put_nowait(message)
        else:
            self.late += message.subject in self._ended


async def read(mailbox: Mailbox, reading: Reading, calm: Calm) -> None:
    """Read until the job's end is there, or something came that nothing excuses."""
    while not (reading.ended or reading.wrong):
        begin = time.time()
        reading.asked += 1
        with mailbox.address() as (reply, came):
            try:
                excuse = await _ask(mailbox, reply, came, reading)
            except (NatsError, TimeoutError):
                excuse = "silence"
        # What core NATS may lose in a fault, nothing loses without one.
        if excuse and calm(begin, time.time()):
            reading.wrong.append(f"{excuse}, though no fault was near")
        if not reading.ended:
            await asyncio.sleep(AGAIN_SECONDS)


async def _ask(mailbox: Mailbox, reply: str, came: Inbox, reading: Reading) -> str:
    """Ask once. Returns what a fault has to excuse; empty where it ended with the job's end, or with a reason."""
    body: dict[str, Any] = {"id": reading.id}
    if reading.point != NOTHING:
        body["after"] = dict(zip(("attempt", "seq"), reading.point, strict=True))
    await mailbox.nc.publish(f"ai.v1.ctl.resume.{TENANT}", orjson.dumps(body), reply=reply)
    refusal: dict[str, Any] = {}
    while (message := await asyncio.wait_for(came.get(), STALL_SECONDS)).data:
        event = orjson.loads(message.data)
        if place(event) == (0, 0):
            refusal = event["data"] if event["type"] == "error" else refusal
            continue
        if not follows(event, reading.point):
            return f"after {reading.point} came {place(event)}"
        reading.events.append(event)
        reading.point = place(event)
        if is_end(event):
            reading.ended = True
            await _sentinel(mailbox, reply, came, reading)
            return ""
    if (message.headers or {}).get("Status") == "503":
        return "nobody serves resumes"
    if not refusal:
        return "a sentinel without an end"
    if not refusal["retryable"]:
        reading.refused = time.time()
        reading.wrong.append(f"refused: {refusal}")
    return ""  # it may ask again


async def _sentinel(mailbox: Mailbox, reply: str, came: Inbox, reading: Reading) -> None:
    message = await asyncio.wait_for(came.get(), SENTINEL_SECONDS)
    if message.data:
        reading.wrong.append(f"something came after the end: {message.data[:200]!r}")
    mailbox.ended(reply)
