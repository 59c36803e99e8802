"""Hand-written workers with none of our guarantees: `python -m benchmarks.peers raw`, `joined` or `faststream`.

No limits, no keep-alive, no deadline, no errors, no drain. `raw` takes aiohttp's lines and publishes each delta; the
other two publish what one read of the socket brought as one event; `faststream` takes requests through FastStream's
subscribers, with its validation. All run on uvloop where it is installed, as the worker does.
"""

import asyncio
import base64
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

URL = os.environ.get("AICHATS_URL", "")
OPENAI = os.environ.get("WORKER_PROVIDERS") == "openai"
TEXT_URL = f"{URL}/v1/chat/completions" if OPENAI else f"{URL}/chat/send2/"
IMAGE_URL = f"{URL}/v1/images/generations" if OPENAI else f"{URL}/chat/send2/"

Publish = Callable[[bytes], Awaitable[None]]


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0))


def _event(kind: str, data: Any, seq: int) -> bytes:
    return orjson.dumps({"type": kind, "data": data, "id": "r", "attempt": 1, "seq": seq})


def _body(kind: str, prompt: str) -> dict[str, Any]:
    if OPENAI and kind == "image":
        return {"model": "m", "prompt": prompt}
    if OPENAI:
        return {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    return {"type": "chat" if kind == "text" else kind, "messagesHistory": [{"from": "you", "content": prompt}]}


def _delta(line: bytes) -> str:
    if not line.startswith(b"data: "):
        return ""
    if not OPENAI:
        return line[6:].rstrip(b"\r\n").decode()
    if line[6:7] != b"{":
        return ""
    return str(orjson.loads(line[6:])["choices"][0]["delta"].get("content") or "")


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in response.content:
        if delta := _delta(line):
            yield delta


async def _reads(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    tail = b""
    async for data in response.content.iter_any():
        *lines, tail = (tail + data).split(b"\n")
        if joined := "".join(map(_delta, lines)):
            yield joined


async def answer(session: aiohttp.ClientSession, publish: Publish, kind: str, prompt: str, *, joined: bool) -> None:
    """Serve one request."""
    seq = 0
    if kind == "image":
        async for part in _image_parts(session, prompt):
            await publish(_event("image", part, seq))
            seq += 1
    else:
        async with session.post(TEXT_URL, json=_body(kind, prompt)) as response:
            async for delta in _reads(response) if joined else _lines(response):
                await publish(_event("response", delta, seq))
                seq += 1
    await publish(_event("done", {"finish_reason": "stop", "last_seq": seq}, seq))
    await publish(b"")


async def _image_parts(session: aiohttp.ClientSession, prompt: str, max_bytes: int = 2**20) -> AsyncIterator[Any]:
    async with session.post(IMAGE_URL, json=_body("image", prompt)) as response:
        url = (await response.json())["data"][0]["url"]
    async with session.get(url) as response:
        image = await response.read()
    step = (max_bytes - 1024) // 4 * 3
    parts, digest = -(-len(image) // step), hashlib.sha256(image).hexdigest()
    for part in range(parts):
        b64 = base64.b64encode(image[part * step : (part + 1) * step]).decode()
        place = {"index": 0, "part": part, "parts": parts}
        yield place | {"mime": "image/png", "bytes": len(image), "sha256": digest, "b64": b64}


async def on_nats(*, joined: bool) -> None:
    """Serve with nats-py alone, until killed."""
    nc, session, tasks = await nats.connect(os.environ["NATS_URL"]), _session(), set[asyncio.Task[None]]()

    def on(kind: str) -> Callable[[Msg], Awaitable[None]]:
        async def start(message: Msg) -> None:
            reply, prompt = message.reply, message.data.decode()
            serve = answer(session, lambda data: nc.publish(reply, data), kind, prompt, joined=joined)
            task = asyncio.create_task(serve)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        return start

    for kind in ("text", "image"):
        await nc.subscribe(f"ai.v1.req.{kind}.*", queue="ai-workers", cb=on(kind))
    await asyncio.Event().wait()


async def on_faststream() -> None:
    """Serve with FastStream's subscribers, publishing on its connection, until killed."""
    # Here, so that the other two are as small as a worker by hand is.
    from faststream import FastStream  # noqa: PLC0415
    from faststream.nats import NatsBroker, NatsMessage  # noqa: PLC0415
    from pydantic import BaseModel  # noqa: PLC0415

    class Request(BaseModel):
        prompt: str

    broker, session = NatsBroker(os.environ["NATS_URL"], logger=None), _session()

    async def decode(message: NatsMessage) -> Any:
        return {"prompt": message.body.decode()}

    def subscribe(kind: str) -> None:
        @broker.subscriber(f"ai.v1.req.{kind}.*", "ai-workers", max_workers=20000, no_reply=True, decoder=decode)
        async def serve(request: Request, message: NatsMessage) -> None:
            nc, reply = broker.connection, message.raw_message.reply
            assert isinstance(nc, Client)  # noqa: S101
            await answer(session, lambda data: nc.publish(reply, data), kind, request.prompt, joined=True)

    for kind in ("text", "image"):
        subscribe(kind)
    async with session:
        await FastStream(broker, logger=None).run()


def main() -> None:
    """Run the one that is named."""
    name = sys.argv[1]
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        loop = None
    else:
        loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(on_faststream() if name == "faststream" else on_nats(joined=name == "joined"))


if __name__ == "__main__":
    main()
