"""A FastStream service that asks the worker, over the connection that it has anyway.

nats req summaries 'a long text'
"""

import asyncio
import os

from faststream import FastStream
from faststream.nats import NatsBroker

from aichats_client import Client, ClientError

broker = NatsBroker(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
app = FastStream(broker)
ai = Client(broker, tenant="summaries")


@broker.subscriber("summaries", queue="summaries")
async def summarise(text: str) -> dict[str, str]:
    """Answer a text with its summary."""
    try:
        return {"summary": await ai.ask(f"Summarise in one sentence: {text}", timeout=60)}
    except ClientError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    asyncio.run(app.run())
