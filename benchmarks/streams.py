"""CPU time of a worker for each delta, next to a hand-written one in the same run: `python -m benchmarks.streams`.

Both are processes of their own on the same broker, the same upstream and the same load, in turn, over several rounds.
Ratios are what counts: absolute times are the machine's.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import nats
from aiohttp import web
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from tests.processes import NatsServer, cpu_seconds

ROUND_TIMEOUT_SECONDS = 120.0
READY_TIMEOUT_SECONDS = 15.0
WORKERS = {"raw": ["-m", "benchmarks.raw"], "worker": ["-m", "aichats_worker", "run"]}


async def upstream(words: int, pause: float) -> web.AppRunner:
    """An endless-word provider: `words` lines for each request, `pause` seconds apart, all at once where that is 0."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        line = b"data:  twenty-two characters\n\n"
        for _ in range(words):
            await response.write(line)
            await asyncio.sleep(pause)
        await response.write(b"event: trylimit\ndata: 9\n\n")
        return response

    app = web.Application()
    app.router.add_post("/chat/send2/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


@contextmanager
def process(name: str, nats_url: str, provider_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of WORKERS and end it by its id."""
    env = os.environ | {
        "NATS_URL": nats_url,
        "AICHATS_URL": provider_url,
        "WORKER_HTTP_PORT": "0",
        "WORKER_JOBS": "off",
        "WORKER_LOG_LEVEL": "warning",
        "WORKER_CONCURRENCY_MAX": "10000",
    }
    child = subprocess.Popen([sys.executable, *WORKERS[name]], env=env, stdin=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(10)


async def stream(nc: Client) -> tuple[float, int]:
    """Ask once. Returns the seconds to the first event and how many bytes of events came."""
    inbox, ended = nc.new_inbox(), asyncio.Event()
    first, size = 0.0, 0
    started = time.perf_counter()

    async def on_message(message: Msg) -> None:
        nonlocal first, size
        first = first or time.perf_counter() - started
        size += len(message.data)
        if not message.data:
            ended.set()

    subscription = await nc.subscribe(inbox, cb=on_message)
    await nc.publish("ai.v1.req.text.bench", b"go", reply=inbox)
    await ended.wait()
    await subscription.unsubscribe()
    return first, size


async def until_ready(nc: Client) -> None:
    """Wait until a worker answers: NATS says at once that there is none."""
    async with asyncio.timeout(READY_TIMEOUT_SECONDS):
        while True:
            try:
                await nc.request("ai.v1.req.text.bench", b"go", timeout=5)
            except NoRespondersError:
                await asyncio.sleep(0.1)
            else:
                return


async def measure(name: str, nats_url: str, provider_url: str, streams: int) -> tuple[float, float, float]:
    """One round. Returns CPU seconds, seconds on the clock, and the median seconds to the first event."""
    async with AsyncExitStack() as stack:
        child = stack.enter_context(process(name, nats_url, provider_url))
        nc = await nats.connect(nats_url)
        stack.push_async_callback(nc.close)
        await until_ready(nc)
        await stream(nc)  # warm; and what until_ready asked for has ended by then
        before, started = cpu_seconds(child.pid), time.perf_counter()
        async with asyncio.timeout(ROUND_TIMEOUT_SECONDS):
            answers = await asyncio.gather(*(stream(nc) for _ in range(streams)))
        seconds = time.perf_counter() - started
        return cpu_seconds(child.pid) - before, seconds, statistics.median(first for first, _ in answers)


async def run(streams: int, words: int, pause: float, rounds: int) -> None:
    """Measure both in turn and print the table."""
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory), jetstream=False).start()
        provider = await upstream(words, pause)
        url = f"http://127.0.0.1:{provider.addresses[0][1]}"
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WORKERS}
        try:
            for _ in range(rounds):
                for name in WORKERS:
                    found[name].append(await measure(name, server.url, url, streams))
        finally:
            await provider.cleanup()
            server.stop()
    deltas = streams * words
    print(f"{streams} streams x {words} deltas, {pause:g} s apart, {rounds} rounds, medians")
    print(f"{'':8}{'us CPU/delta':>14}{'deltas/s':>12}{'first, ms':>12}{'CPU/raw':>10}")
    raw = statistics.median(cpu for cpu, _, _ in found["raw"])
    for name, rows in found.items():
        cpu, seconds, first = (statistics.median(row[column] for row in rows) for column in range(3))
        print(f"{name:8}{cpu / deltas * 1e6:14.1f}{deltas / seconds:12.0f}{first * 1000:12.1f}{cpu / raw:10.2f}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(run(options.streams, options.words, options.pause, options.rounds))


if __name__ == "__main__":
    main()
