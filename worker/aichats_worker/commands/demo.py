"""`aichats-worker demo`: a broker, a simulated provider and a worker on this machine, and what they do."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from nats.aio.client import Client
from rich.console import Console

from aichats_client import Answer, stream
from aichats_schemas.events import Done
from aichats_schemas.requests import ImageRequest, TextRequest
from aichats_worker import login
from aichats_worker.app import App
from aichats_worker.broker.connecting import connect
from aichats_worker.commands.dev import simulated
from aichats_worker.settings import settings_without_environment
from aichats_worker.simulator.broker import embedded_nats_server
from aichats_worker.simulator.server import start_simulator

PROMPT = "[sim: pause=0.06] What is this?"
FAILOVER_PROMPT = "[sim: only=aichats status=503] [sim: words=7 pause=0.06] And when it fails?"
IMAGE_PROMPT = "[sim: bytes=1500000 type=png] a picture"
IMAGE_PATH = Path("demo-image.png")


class DemoFailed(Exception):
    """The demo did not get what it asked for."""


async def demo(console: Console) -> None:
    """Start everything, ask for texts and an image, also where a provider fails, and stop everything again.

    Raises:
        DemoFailed: An answer did not come.
        aichats_worker.simulator.broker.NoServer: There is no nats-server.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="aichats-demo-")))
        url = await stack.enter_async_context(embedded_nats_server(directory))
        console.print(f"nats-server   {url}")
        simulator = await stack.enter_async_context(await start_simulator())
        console.print(f"provider      {simulator.url}  (a local simulator, not ai-chats.org)")
        settings = settings_without_environment(nats_url=url, worker_http_port=0, **simulated(simulator.url))
        app = App(settings)
        stack.push_async_callback(app.drain)
        await app.start()
        console.print("worker        ready")
        nc = await connect(login.access(settings))
        stack.push_async_callback(nc.close)
        await _text(nc, console, PROMPT, "")
        await _text(nc, console, FAILOVER_PROMPT, ", and the first provider fails")
        await _image(nc, console)


async def _text(nc: Client, console: Console, prompt: str, what: str) -> None:
    console.print(f"\n[bold]ai.v1.req.text.default[/bold]{what}", highlight=False)
    answer = Answer()
    async for event in stream(nc, "text", TextRequest(prompt=prompt)):
        answer.add(event)
        if event.type == "response":
            sys.stdout.write(event.data)
            sys.stdout.flush()
    end = _done(answer)
    who = (end.data.provider or {}).get("name")
    says = f"{end.seq} events from {who} in {end.data.timing.total_ms} ms, then the sentinel"
    console.print(f"\n[dim]{says}[/dim]", highlight=False)


async def _image(nc: Client, console: Console) -> None:
    console.print("\n[bold]ai.v1.req.image.default[/bold]", highlight=False)
    answer, parts = Answer(), 0
    async for event in stream(nc, "image", ImageRequest(prompt=IMAGE_PROMPT)):
        answer.add(event)
        parts += event.type == "image"
    _done(answer)
    path = _written(answer.images[0])
    console.print(f"{answer.mimes[0]}, {len(answer.images[0])} bytes in {parts} parts", highlight=False)
    console.print(str(path), highlight=False, soft_wrap=True)


def _written(image: bytes) -> Path:
    IMAGE_PATH.write_bytes(image)
    return IMAGE_PATH.resolve()


def _done(answer: Answer) -> Done:
    if not isinstance(answer.end, Done):
        reason = "the stream was cut" if answer.end is None else getattr(answer.end.data, "message", "no answer")
        raise DemoFailed(reason)
    return answer.end
