"""The ceiling: a hand-written worker on nats-py and aiohttp, one publish for each line, with none of our guarantees.

No validation, no limits, no keep-alive, no deadline, no errors, no drain.
"""

import asyncio
import os

import aiohttp
import nats
import orjson
from nats.aio.msg import Msg


async def main() -> None:
    """Serve until killed."""
    nc = await nats.connect(os.environ["NATS_URL"])
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0))
    url = f"{os.environ['AICHATS_URL']}/chat/send2/"
    tasks: set[asyncio.Task[None]] = set()

    async def answer(message: Msg) -> None:
        body = {"type": "chat", "messagesHistory": [{"from": "you", "content": message.data.decode()}]}
        seq = 0
        async with session.post(url, json=body) as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    event = {"type": "response", "data": line[6:-1].decode(), "id": "r", "attempt": 1, "seq": seq}
                    await nc.publish(message.reply, orjson.dumps(event))
                    seq += 1
        await nc.publish(message.reply, orjson.dumps({"type": "done", "data": {}, "id": "r", "attempt": 1, "seq": seq}))
        await nc.publish(message.reply, b"")

    async def start(message: Msg) -> None:
        task = asyncio.create_task(answer(message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await nc.subscribe("ai.v1.req.text.*", queue="ai-workers", cb=start)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
