"""A requester that costs little: what is measured is the worker."""

import asyncio
import time
from dataclasses import dataclass

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from benchmarks.provider import Provider

READY_SECONDS = 120.0
ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Came:
    """What came of one request: events, deltas among them, and the seconds to the first of it."""

    events: int
    deltas: int
    first: float


async def ask(
    nc: Client,
    prompt: str,
    kind: str = "text",
    *,
    provider: Provider | None = None,
    tenant: str = "bench",
    headers: dict[str, str] | None = None,
) -> Came:
    """Ask once and wait for the sentinel; tell `provider` of each delta that came.

    Raises:
        RuntimeError: It ended in an error.
    """
    inbox, ended = nc.new_inbox(), asyncio.Event()
    events, deltas, first, failed = 0, 0, 0.0, b""
    began = time.perf_counter()

    async def on_message(message: Msg) -> None:
        nonlocal events, deltas, first, failed
        first = first or time.perf_counter() - began
        data = message.data
        if not data:
            ended.set()
            return
        events += 1
        if data.startswith(b'{"type":"response"'):
            deltas += data.count(b"word")
            if provider is not None:
                provider.seen.release()
        elif data.startswith(b'{"type":"error"'):
            failed = data

    subscription = await nc.subscribe(inbox, cb=on_message)
    await nc.publish(f"ai.v1.req.{kind}.{tenant}", prompt.encode(), reply=inbox, headers=headers)
    async with asyncio.timeout(ANSWER_SECONDS):
        await ended.wait()
    await subscription.unsubscribe()
    if failed or not events:
        raise RuntimeError(f"{prompt}: {failed.decode() or 'no worker'}")
    return Came(events, deltas, first)


async def until_ready(nc: Client) -> None:
    """Wait until a worker answers: NATS says at once that there is none."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            try:
                await nc.request("ai.v1.req.text.bench", b"burst 1", timeout=READY_SECONDS)
            except NoRespondersError:
                await asyncio.sleep(0.1)
            else:
                return
