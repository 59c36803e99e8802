"""How a worker's cost grows: `python -m benchmarks.scaling` (`make scale`) writes the curves into docs/scaling.md.

CPU time of the workers for each unit, and memory for each open stream. With two cores there is none left for the
broker and the requester, so what two workers can do is reckoned from their CPU time: twice one's, where a delta costs
the same.
"""

import argparse
import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nats
from nats.aio.client import Client

from benchmarks.asking import ask, until_ready
from benchmarks.comparing import PEERS, process, surroundings
from tests.processes import cpu_seconds, resident_bytes

PAGE: Final = Path(__file__).parents[1] / "docs" / "scaling.md"
BEGIN: Final = "<!-- curves -->"
END: Final = "<!-- end of curves -->"
OPEN: Final = 3000
BEGUN_A_SECOND: Final = 300
OPENED_SECONDS: Final = 20.0
AT_ONCE: Final = 50


@dataclass(frozen=True)
class Workers:
    """Workers that run, and who asks them."""

    nc: Client
    pids: Sequence[int]

    async def cpu(self, work: Callable[[], Awaitable[object]], units: int) -> float:
        """Return the microseconds of CPU that all of them take for each unit of some work."""
        before = sum(map(cpu_seconds, self.pids))
        await work()
        return (sum(map(cpu_seconds, self.pids)) - before) / units * 1e6


@asynccontextmanager
async def workers(count: int) -> AsyncIterator[Workers]:
    """So many, warm, on a broker and a provider of their own."""
    async with surroundings("aichats") as env, AsyncExitStack() as stack:
        pids = [await stack.enter_async_context(process(PEERS["worker"], env)) for _ in range(count)]
        nc = await nats.connect(env["NATS_URL"])
        stack.push_async_callback(nc.close)
        await until_ready(nc)
        await asyncio.sleep(2)  # for those that were not the first
        await many(nc, ["burst 20"] * 50)
        yield Workers(nc, pids)


async def many(nc: Client, prompts: Sequence[str], *, kind: str = "text", tenants: int = 1) -> None:
    """Ask all of it, AT_ONCE at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, prompt: str) -> None:
        async with places:
            await ask(nc, prompt, kind, tenant=f"t{number % tenants}")

    await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))


async def of_streams(counts: Sequence[int]) -> list[float]:
    """CPU for a delta at 10 a second, by open streams."""
    found = []
    async with workers(1) as running:
        for count in counts:
            each = max(20, 6000 // count)

            async def work(count: int = count, each: int = each) -> None:
                await asyncio.gather(*(ask(running.nc, f"paced {each} 100") for _ in range(count)))

            found.append(await running.cpu(work, count * each))
    return found


async def of_history(sizes: Sequence[int]) -> list[float]:
    """CPU for a request, by characters of its prompt."""
    async with workers(1) as running:
        return [await running.cpu(lambda p=["x" * n + "\nburst 1"] * 200: many(running.nc, p), 200) for n in sizes]  # type: ignore[misc]


async def of_images(sizes: Sequence[int]) -> list[float]:
    """CPU for an image, by its bytes."""
    async with workers(1) as running:
        return [await running.cpu(lambda p=[f"image {n}"] * 16: many(running.nc, p, kind="image"), 16) for n in sizes]  # type: ignore[misc]


async def of_workers(counts: Sequence[int]) -> list[float]:
    """CPU for a delta at 50 a second, all workers together, each with 100 streams."""
    found = []
    for count in counts:
        async with workers(count) as running:

            async def work(running: Workers = running) -> None:
                await asyncio.gather(*(ask(running.nc, "paced 150 20") for _ in range(100 * len(running.pids))))

            found.append(await running.cpu(work, 100 * count * 150))
    return found


async def of_tenants(counts: Sequence[int]) -> list[float]:
    """CPU for a request, by how many tenants they come from."""
    async with workers(1) as running:
        prompts = ["burst 1"] * 1000
        return [await running.cpu(lambda n=n: many(running.nc, prompts, tenants=n), 1000) for n in counts]  # type: ignore[misc]


async def memory(begun_a_second: float) -> float:
    """KB of resident memory for each of OPEN streams at once, in a worker that has not had as many before."""
    async with workers(1) as running:
        (pid,) = running.pids
        before = resident_bytes(pid)
        asked = []
        for _ in range(OPEN):
            asked.append(asyncio.create_task(ask(running.nc, "paced 40 1000")))
            await asyncio.sleep(1 / begun_a_second)
        async with asyncio.timeout(OPENED_SECONDS):
            while _descriptors(pid) < OPEN:  # one connection to the provider for each, and a few of the worker's own
                await asyncio.sleep(0.1)
        grown = resident_bytes(pid) - before
        if any(task.done() for task in asked):
            raise SystemExit(f"they were not {OPEN} at once: the machine is too busy")
        await asyncio.gather(*asked)
        return grown / OPEN / 1000


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


CURVES: Final[tuple[tuple[str, Sequence[int], Callable[[Sequence[int]], Awaitable[list[float]]]], ...]] = (
    ("open streams: µs for a delta at 10 a second", (50, 200, 800, 1600), of_streams),
    ("characters of history: µs for a request", (100, 1000, 10_000, 100_000), of_history),
    ("bytes of an image: µs for it", (500_000, 1_000_000, 2_000_000, 8_000_000), of_images),
    ("workers, each with 100 streams: µs for a delta", (1, 2, 4), of_workers),
    ("tenants: µs for a request", (1, 10, 100, 1000), of_tenants),
)


def page(found: Sequence[Sequence[float]], kilobytes: float, at_once: float) -> str:
    """Return the curves as Markdown."""
    rows = []
    for (name, points, _), values in zip(CURVES, found, strict=True):
        rows.append(f"| {name} | {', '.join(f'{at:,}: **{v:,.0f}**' for at, v in zip(points, values, strict=True))} |")
    one, two = found[3][:2]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    when = f"{time.strftime('%Y-%m-%d')}; {machine}, load average {os.getloadavg()[1]:.1f}. By `make scale`."
    ends = (
        f"{OPEN:,} streams open in one worker, begun {BEGUN_A_SECOND} a second: {kilobytes:.1f} KB of resident memory "
        f"each; begun all at once: {at_once:.1f} KB, with what beginning so many takes for a moment. Two workers do "
        f"{2 * one / two:.2f} times what one does: a delta costs the two of them {two:.0f} µs, and one alone {one:.0f}."
    )
    return "\n".join([when, "", "| Grows with | from: CPU of the workers |", "| --- | --- |", *rows, "", ends])


async def run() -> None:
    """Measure everything and write it."""
    found = []
    for name, points, curve in CURVES:
        found.append(await curve(points))
        print(name, [round(value) for value in found[-1]], flush=True)
    text = page(found, await memory(BEGUN_A_SECOND), await memory(float("inf")))
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", "utf-8")
    print(text)


def main() -> None:
    """Run."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(run())


if __name__ == "__main__":
    main()
