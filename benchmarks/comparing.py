"""The worker beside its peers, in one interleaved run: `python -m benchmarks.comparing` (`make bench`).

All are processes of their own on the same broker, the same provider and the same requester, in turn, over several
rounds. What counts are ratios of CPU time to `raw` within a round: absolute times are the machine's.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nats
from nats.aio.client import Client

from benchmarks import jobs, page
from benchmarks.asking import ask, until_ready
from benchmarks.provider import provider
from tests.processes import NatsServer, clean_environment, cpu_seconds, resident_bytes
from tests.tracing.receiver import Receiver, receiving

PEERS: Final = {
    "raw": ["benchmarks.peers", "raw"],
    "raw, joined": ["benchmarks.peers", "joined"],
    "FastStream, joined": ["benchmarks.peers", "faststream"],
    "worker": ["aichats_worker", "run"],
}
IMAGE_BYTES: Final = 2_000_000


@dataclass(frozen=True)
class Load:
    """So many requests, so many at once, and what is told of them.

    Attributes:
        name: In the table.
        prompt: What each asks for.
        requests: How many.
        at_once: Of them.
        units: In each: deltas or images; 1 for the request itself.
        kind: Text or image.
    """

    name: str
    prompt: str
    requests: int
    at_once: int
    units: int
    kind: str = "text"


LOADS: Final = (
    Load("deltas in bursts", "burst 200", 300, 50, 200),
    Load("deltas at 50 a second", "paced 150 20", 200, 200, 150),
    Load("short requests", "burst 1", 2000, 8, 1),
    Load("first delta, one at a time", "paced 20 2", 100, 1, 20),  # alone: not with the end of its answer behind it
    Load("images of 2 MB", f"image {IMAGE_BYTES}", 16, 4, 1, "image"),
)


PACED, SHORT = LOADS[1], LOADS[2]
# What something costs is the worker beside itself with it switched off, under a load where that shows.
WITHOUT: Final = {
    "keep-alive and the watch for who left": (PACED, {"WORKER_KEEPALIVE_SECONDS": "30"}),
    "jobs served beside it": (PACED, {"WORKER_JOBS": "off"}),
    "the probes' and metrics' server": (PACED, {"WORKER_HTTP_PORT": "0"}),
    "limits of calls, fair between tenants": (PACED, {"PROVIDER_CONCURRENT_CALLS_MAX": "0"}),
    "a line in the log for each request": (PACED, {"WORKER_LOG_LEVEL": "warning"}),
    "a line in the log, short requests": (SHORT, {"WORKER_LOG_LEVEL": "warning"}),
}
# A batch of 512 spans is two for each of 256 requests: each block of as many sends what it has made.
TRACED: Final = {
    Load("traces of all requests, answers of 150 deltas", "paced 150 20", 256, 256, 150): 3,
    Load("traces of all requests, answers of 20 deltas", "paced 20 20", 512, 64, 20): 5,
    Load("traces of all requests, answers of one delta", "burst 1", 256, 8, 1): 20,
}
WITH: Final = {
    "WORKER_JOBS": "on",
    "WORKER_HTTP_PORT": "18461",
    "WORKER_HTTP_HOST": "127.0.0.1",
    "WORKER_LOG_LEVEL": "info",
    "PROVIDER_CONCURRENT_CALLS_MAX": "10000",
}


@dataclass(frozen=True)
class Found:
    """Of one peer under one load: CPU seconds for each unit, units in a second, and the median first event."""

    cpu: float
    rate: float
    first: float


async def measured(nc: Client, pid: int, load: Load, headers: dict[str, str] | None = None) -> Found:
    """Put a load on what runs as `pid`; its requests may have headers."""
    places, firsts = asyncio.Semaphore(load.at_once), list[float]()

    async def one() -> None:
        async with places:
            came = await ask(nc, load.prompt, load.kind, headers=headers)
            firsts.append(came.first)
            if load.kind == "text" and came.deltas != load.units:
                raise RuntimeError(f"{came.deltas} deltas came of {load.units}")

    loop = asyncio.get_running_loop()
    before, began = cpu_seconds(pid), loop.time()
    await asyncio.gather(*(one() for _ in range(load.requests)))
    units, seconds = load.requests * load.units, loop.time() - began
    return Found((cpu_seconds(pid) - before) / units, units / seconds, statistics.median(firsts))


@asynccontextmanager
async def process(command: list[str], settings: dict[str, str]) -> AsyncIterator[int]:
    """Run a worker or a peer, and end it by its id. Whoever takes its last spans goes on meanwhile."""
    told = subprocess.DEVNULL if settings.get("WORKER_LOG_LEVEL") == "info" else None  # a line for each request
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *command,
        env=clean_environment() | settings,
        stdin=subprocess.DEVNULL,
        stderr=told,
    )
    try:
        yield child.pid
    finally:
        child.terminate()
        async with asyncio.timeout(20):
            await child.wait()


def settings(nats_url: str, provider_url: str, dialect: str) -> dict[str, str]:
    """Return the environment of all of them."""
    return {
        "NATS_URL": nats_url,
        "AICHATS_URL": provider_url,
        "OPENAI_BASE_URL": f"{provider_url}/v1",
        "WORKER_PROVIDERS": dialect,
        "WORKER_HTTP_PORT": "0",
        "WORKER_JOBS": "off",
        "WORKER_LOG_LEVEL": "warning",
        "WORKER_CONCURRENCY_MAX": "10000",
        "WORKER_IMAGE_CONCURRENCY_MAX": "100",
        "PROVIDER_IMAGE_ALLOW_PRIVATE": "on",
    }


@asynccontextmanager
async def surroundings(dialect: str) -> AsyncIterator[dict[str, str]]:
    """A broker and a provider; gives the environment of whoever uses them."""
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory)).start()
        try:
            async with provider() as one:
                yield settings(server.url, one.url, dialect)
        finally:
            server.stop()


async def one_round(env: dict[str, str], command: list[str], loads: tuple[Load, ...]) -> tuple[list[Found], float]:
    """Start one, warm it and put each load on it. Returns what was found, and its resident MB when idle."""
    async with process(command, env) as pid:
        nc = await nats.connect(env["NATS_URL"])
        try:
            await until_ready(nc)
            idle = resident_bytes(pid) / 1e6
            await asyncio.gather(*(ask(nc, "burst 20") for _ in range(20)))
            return [await measured(nc, pid, load) for load in loads], idle
        finally:
            await nc.close()


async def compare(dialect: str, rounds: int, tell: Callable[[str], object]) -> page.Comparison:
    """All peers in turn, each round beginning with another one."""
    found: dict[str, list[list[Found]]] = {name: [] for name in PEERS}
    idle: dict[str, list[float]] = {name: [] for name in PEERS}
    names = list(PEERS)
    async with surroundings(dialect) as env:
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                rows, resident = await one_round(env, PEERS[name], LOADS)
                found[name].append(rows)
                idle[name].append(resident)
                tell(f"{dialect}, round {number + 1}, {name}")
    return page.compared(dialect, [load.name for load in LOADS], found, idle)


async def guarantees(rounds: int, tell: Callable[[str], object]) -> dict[str, float]:
    """What each guarantee costs: CPU for a delta, or a request, with it, over that without it."""
    ratios: dict[str, list[float]] = {name: [] for name in WITHOUT}
    async with surroundings("aichats") as bare:
        env = bare | WITH
        for number in range(rounds):
            for name, (load, off) in WITHOUT.items():
                (whole,), _ = await one_round(env, PEERS["worker"], (load,))
                (without,), _ = await one_round(env | off, PEERS["worker"], (load,))
                ratios[name].append(whole.cpu / without.cpu)
            tell(f"guarantees, round {number + 1}")
    return {name: statistics.median(values) for name, values in ratios.items()}


async def traces(rounds: int, tell: Callable[[str], object]) -> dict[str, float]:
    """What traces cost: CPU of requests whose sender has them kept, over that of others, in turn in the same worker.

    Two workers differ by more than that, by where their memory happens to be.
    """
    ratios: dict[str, list[float]] = {load.name: [] for load in TRACED}
    async with surroundings("aichats") as bare, receiving() as receiver:
        env = bare | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        for number in range(rounds):
            async with process(PEERS["worker"], env) as pid:
                nc = await nats.connect(env["NATS_URL"])
                try:
                    await until_ready(nc)
                    for load, pairs in TRACED.items():
                        await _with_and_without(nc, pid, load, receiver)  # once to warm it
                        ratios[load.name] += [await _with_and_without(nc, pid, load, receiver) for _ in range(pairs)]
                finally:
                    await nc.close()
            tell(f"traces, round {number + 1}")
    return {name: statistics.median(values) for name, values in ratios.items()}


async def _with_and_without(nc: Client, pid: int, load: Load, receiver: Receiver) -> float:
    cpu, spans_wanted = {True: 0.0, False: 0.0}, 2 * load.requests
    for kept in random.sample([True, False], 2):
        receiver.spans.clear()
        before = cpu_seconds(pid)
        await measured(nc, pid, load, {"traceparent": f"00-{1:032x}-{1:016x}-{kept:02x}"})
        if kept:
            await receiver.until(lambda spans: len(spans) >= spans_wanted)
        cpu[kept] = cpu_seconds(pid) - before
    return cpu[True] / cpu[False]


async def run(rounds: int) -> None:
    """Measure everything and write the page."""
    tables = [await compare(dialect, rounds, print) for dialect in ("aichats", "openai")]
    costs = await guarantees(rounds, print) | await traces(rounds, print)
    page.write(tables, costs, await jobs.run(1000), rounds)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(run(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
