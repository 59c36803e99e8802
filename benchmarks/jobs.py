"""Jobs a second of one worker, next to a bare pull loop on the same stream: `python -m benchmarks.jobs`.

The provider answers at once. The bare loop only fetches and acknowledges: no HTTP, no events, no lease.
"""

import argparse
import asyncio
import signal
import tempfile
import time
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError

from aichats_client import submit
from benchmarks.provider import provider
from tests.processes import NatsServer, WorkerProcess, cpu_seconds

SLOTS = 64
TIMEOUT_SECONDS = 120.0


async def filled(nc: Client, jobs: int, name: str) -> None:
    """Submit the jobs, many at once."""
    js = nc.jetstream()
    for start in range(0, jobs, 200):
        ids = range(start, min(start + 200, jobs))
        await asyncio.gather(*(submit(js, "text", "burst 1", request_id=f"{name}{n}", tenant="bench") for n in ids))


async def emptied(nc: Client) -> None:
    """Wait until the queue is empty."""
    js = nc.jetstream()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (await js.stream_info("AIJOBS")).state.messages:
            await asyncio.sleep(0.02)


async def fetching(nc: Client) -> None:
    """Wait until the worker asks for jobs."""
    js = nc.jetstream()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not (await js.consumer_info("AIJOBS", "ai-workers-text")).num_waiting:
            await asyncio.sleep(0.05)


async def bare(nc: Client) -> None:
    """Fetch and acknowledge until nothing comes."""
    subscription = await nc.jetstream().pull_subscribe_bind("ai-workers-text", "AIJOBS")
    while True:
        try:
            messages = await subscription.fetch(SLOTS, timeout=0.5)
        except NatsTimeoutError:
            return
        await asyncio.gather(*(message.ack_sync() for message in messages))


async def run(jobs: int) -> str:
    """Measure both. Returns a sentence."""
    with tempfile.TemporaryDirectory() as name:
        server = NatsServer(Path(name)).start()
        try:
            async with provider() as one:
                settings = {"NATS_URL": server.url, "AICHATS_URL": one.url, "WORKER_CONCURRENCY_MAX": str(SLOTS)}
                worker = WorkerProcess(Path(name), settings | {"WORKER_LOG_LEVEL": "warning"}).start()
                try:
                    return await _measured(worker, server.url, jobs)
                finally:
                    worker.kill()
        finally:
            server.stop()


async def _measured(worker: WorkerProcess, nats_url: str, jobs: int) -> str:
    await worker.ready()
    nc = await nats.connect(nats_url)
    await fetching(nc)  # then the streams are made
    worker.kill()
    await filled(nc, jobs, "bare")
    began, started = time.process_time(), time.perf_counter()
    await bare(nc)
    raw = jobs / (time.perf_counter() - started - 0.5)  # its last fetch waited for nothing
    raw_cpu = (time.process_time() - began) / jobs * 1000
    worker.start()
    await worker.ready()
    assert worker.process is not None  # noqa: S101 - it is ready
    await fetching(nc)
    worker.send(signal.SIGSTOP)
    await filled(nc, jobs, "worker")
    busy, started = cpu_seconds(worker.process.pid), time.perf_counter()
    worker.send(signal.SIGCONT)
    await emptied(nc)
    ours = jobs / (time.perf_counter() - started)
    cpu = (cpu_seconds(worker.process.pid) - busy) / jobs * 1000
    await nc.close()
    return (
        f"{jobs} jobs, {SLOTS} slots: a bare pull loop, which fetches and acknowledges and no more, {raw:.0f} jobs/s "
        f"at {raw_cpu:.2f} ms of CPU each; the worker {ours:.0f} jobs/s at {cpu:.2f} ms."
    )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000)
    print(asyncio.run(run(parser.parse_args().jobs)))


if __name__ == "__main__":
    main()
