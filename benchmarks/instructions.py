"""Instructions that a worker takes for each delta, request (also with traces), image and job.

`python -m benchmarks.instructions` counts them.

The worker runs under valgrind's callgrind, which counts and does not time. What ticks in the worker by the clock is
counted by itself first, and taken off for the seconds that each round took: a busy machine shows nearly the same. The
figures are compared with benchmarks/instructions.json: what is more than 5 % worse three times ends with status 1 and
both numbers. `--write` keeps what was counted there instead. They hold for one version of Python and one kind of
event loop; where none are kept for those, or there is no valgrind, it says so and compares nothing.
"""

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import nats
from nats.aio.client import Client

from aichats_client import submit
from aichats_worker.service import fastest_loop
from benchmarks.asking import ask, until_ready
from benchmarks.provider import Provider, provider
from tests.processes import NatsServer, clean_environment
from tests.tracing.receiver import Receiver, receiving

KEPT: Final = Path(__file__).with_suffix(".json")
WORSE_MAX: Final = 0.05
AGAIN_MAX: Final = 2
TIMES: Final = 8  # the smallest count is kept: how much comes at once is chance, and what else runs only adds
IDLE_SECONDS: Final = 2.0
IDLE_TIMES: Final = 3
SETTLED_SECONDS: Final = 60.0
TRACED: Final = 256  # requests, whose spans are one batch of OpenTelemetry's own size: to send it is a part of each
TRACED_TIMES: Final = 2  # a round of them is as long as a dozen of the others
Round = Callable[[], Awaitable[object]]
Rounds = Iterator[tuple[str, int, Round]]


class Callgrind:
    """A worker that is counted while `counted` says so.

    Args:
        directory: For what callgrind writes.
        settings: Of the worker.
    """

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        self._out = directory / "callgrind"
        tool = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self._out}"]
        command = [*tool, sys.executable, "-m", "aichats_worker", "run"]
        env = clean_environment() | settings | {"PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)
        self._dumps = 0
        self._ticking = 0.0  # instructions a second

    async def counted(self, work: Round) -> float:
        """Return how many instructions `work` takes, beside what ticks."""
        counted, seconds = await self._counted(work)
        return counted - self._ticking * seconds

    async def settle(self) -> None:
        """Count what ticks while nothing is asked."""
        rates = []
        for _ in range(IDLE_TIMES):
            counted, seconds = await self._counted(lambda: asyncio.sleep(IDLE_SECONDS))
            rates.append(counted / seconds)
        self._ticking = min(rates)

    async def _counted(self, work: Round) -> tuple[int, float]:
        await self._control("-i", "on")
        await self._control("-z")
        began = time.monotonic()
        await work()
        seconds = time.monotonic() - began
        await self._control("-d")
        await self._control("-i", "off")
        self._dumps += 1
        return _sum(Path(f"{self._out}.{self._dumps}")), seconds

    async def _control(self, *order: str) -> None:
        command = ["callgrind_control", *order, str(self.process.pid)]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await process.wait()


def _sum(dump: Path) -> int:
    found = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
    assert found is not None, "callgrind wrote no sum"  # noqa: S101
    return int(found[1])


async def job(nc: Client, number: int) -> None:
    """Submit a job and wait until its queue has let it go."""
    js = nc.jetstream()
    await submit(js, "text", "burst 1", request_id=f"j{number}", tenant="bench")
    async with asyncio.timeout(SETTLED_SECONDS):
        while (await js.stream_info("AIJOBS")).state.messages:
            await asyncio.sleep(0.02)


def rounds(nc: Client, *, one: Provider) -> Rounds:
    """Give the name, how many there are in a round, and the round."""
    numbers = iter(range(1, 1000))

    async def requests() -> None:
        for _ in range(20):
            await ask(nc, "burst 1")

    async def jobs() -> None:
        for _ in range(8):
            await job(nc, next(numbers))

    yield "delta alone", 100, lambda: ask(nc, "step 100", provider=one)
    yield "delta of many", 1000, lambda: ask(nc, "burst 1000")
    yield "request", 20, requests
    yield "image of 500 kB", 1, lambda: ask(nc, "image 500000", "image")
    yield "job", 8, jobs


def traced_rounds(nc: Client, *, receiver: Receiver) -> Rounds:
    """The same of a worker with traces: two spans a request, sent in one batch a round."""
    wanted = len(receiver.spans)

    async def requests() -> None:
        nonlocal wanted
        wanted += 2 * TRACED
        for _ in range(TRACED):
            await ask(nc, "burst 1")
        await receiver.until(lambda spans: len(spans) >= wanted)  # else the next round would pay for it

    yield "request, traced", TRACED, requests


@asynccontextmanager
async def running(settings: dict[str, str], directory: Path) -> AsyncIterator[Callgrind]:
    """Run a worker and end it by its id. Whoever takes its last spans goes on meanwhile."""
    worker = Callgrind(directory, settings)
    try:
        yield worker
    finally:
        worker.process.terminate()
        await asyncio.to_thread(worker.process.wait, 60)


async def count(dialect: str) -> dict[str, int]:
    """Count everything once."""
    with tempfile.TemporaryDirectory() as name:
        server = NatsServer(Path(name)).start()
        try:
            async with provider() as one, receiving() as receiver:
                settings = {
                    "NATS_URL": server.url,
                    "AICHATS_URL": one.url,
                    "OPENAI_BASE_URL": f"{one.url}/v1",
                    "WORKER_PROVIDERS": dialect,
                    "WORKER_HTTP_PORT": "0",
                    "WORKER_LOG_LEVEL": "warning",
                    "WORKER_KEEPALIVE_SECONDS": "30",
                    "PROVIDER_IMAGE_ALLOW_PRIVATE": "on",
                }
                found = await _count(settings, Path(name), partial(rounds, one=one), TIMES)
                settings |= {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
                    "OTEL_BSP_SCHEDULE_DELAY": "3600000",  # a batch is sent once it is full
                }
                asked = partial(traced_rounds, receiver=receiver)
                return found | await _count(settings, Path(name), asked, TRACED_TIMES)
        finally:
            server.stop()


async def _count(
    settings: dict[str, str], directory: Path, asked: Callable[[Client], Rounds], times: int
) -> dict[str, int]:
    found = {}
    async with running(settings, directory) as worker:
        nc = await nats.connect(settings["NATS_URL"])
        try:
            await until_ready(nc)
            await worker.settle()
            for what, each, work in asked(nc):
                await work()  # once for what is made when it is first needed
                found[what] = round(min([await worker.counted(work) for _ in range(times)]) / each)
                print(f"{what:16} {found[what]:12,}", flush=True)
        finally:
            await nc.close()
    return found


def compared(found: dict[str, int], kept: dict[str, int]) -> list[str]:
    """Say what is worse than what is kept."""
    return [
        f"{what}: {now:,} instructions, {kept[what]:,} are kept: {now / kept[what] - 1:+.1%}"
        for what, now in found.items()
        if what in kept and now > kept[what] * (1 + WORSE_MAX)
    ]


def main() -> None:
    """Count, and compare or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep what was counted")
    parser.add_argument("--dialect", default="aichats")
    options = parser.parse_args()
    loop = "uvloop" if fastest_loop() is not None else "asyncio"
    key = f"{options.dialect}, Python {sys.version_info.major}.{sys.version_info.minor}, {loop}"
    if shutil.which("valgrind") is None:
        print("instructions are not counted: there is no valgrind here")
        return
    kept: dict[str, dict[str, int]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if key not in kept and not options.write:
        print(f"instructions are not counted: none are kept for {key}; --write keeps some")
        return
    found = asyncio.run(count(options.dialect))
    if options.write:
        KEPT.write_text(json.dumps(dict(sorted((kept | {key: found}).items())), indent=2) + "\n")
        return
    for _ in range(AGAIN_MAX):
        if not compared(found, kept[key]):
            break
        print("once more:")
        again = asyncio.run(count(options.dialect))
        found = {what: min(instructions, again[what]) for what, instructions in found.items()}
    worse = compared(found, kept[key])
    sys.exit("\n".join(worse) if worse else 0)


if __name__ == "__main__":
    main()
