"""A worker under many streams, with faults of all kinds among them: nothing may grow, nothing may end wrongly.

`python -m benchmarks.soak --seconds 300 --streams 200 --seed 7` prints a report and ends with status 1 and a sentence
for each rule that was broken. The same seed makes the same plan; when each thing happens is up to the machine.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from aichats_worker.simulator.server import Simulator, start_simulator
from benchmarks.chaos.cluster import connected
from benchmarks.load import JOB_SECONDS, Load, Weather
from tests.link import Link, linked
from tests.processes import NatsServer, WorkerProcess, resident_bytes
from tests.provider.http.proxies import Proxy, running

JUDGED_SECONDS: Final = 120.0  # a shorter run has no steady state to compare
EARLY: Final = (55.0, 65.0)
LATE_SECONDS: Final = 10.0
GROWTH_MAX: Final = 0.1
IDLE_SECONDS: Final = 15.0
KEPT_SECONDS: Final = 40.0  # the provider's idle connections are closed by then
RECOVERY_SECONDS: Final = 30.0
TROUBLE_EVERY_SECONDS: Final = 20.0
FROZEN_SECONDS: Final = 3.0
WRONG_LINES: Final = ("was destroyed", "never retrieved", "never awaited", '"event": "defect"')
SETTINGS: Final = {
    "WORKER_CONCURRENCY_MAX": "512",
    "WORKER_IMAGE_CONCURRENCY_MAX": "64",
    "WORKER_ACK_WAIT_SECONDS": "10",
    "WORKER_ATTEMPTS_MAX": "4",
    "WORKER_RETRY_BASE_SECONDS": "0.1",
    "WORKER_RETRY_MAX_SECONDS": "1",
    "WORKER_ALLOW_REQUEST_PROXY": "on",
    "WORKER_DRAIN_TIMEOUT_SECONDS": "5",
    "WORKER_LOG_LEVEL": "warning",
    "PROVIDER_STALL_TIMEOUT_SECONDS": "3",
    "PROVIDER_CIRCUIT_OPEN_SECONDS": "0.3",
}


@dataclass(frozen=True)
class Sample:
    """The worker at one moment.

    Attributes:
        rss: Resident memory in MiB.
        tasks: Of its event loop.
        fds: Open file descriptors.
        subscriptions: Of its connection, as the broker counts them.
        running: Requests at work.
    """

    rss: float
    tasks: float
    fds: float
    subscriptions: float
    running: float


@dataclass
class Soak:
    """One run: its processes, what was done to them, and what was measured."""

    dice: random.Random
    seconds: float
    server: NatsServer
    link: Link
    worker: WorkerProcess
    weather: Weather = field(default_factory=Weather)
    done: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, Sample]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    async def trouble(self) -> None:
        """Reset the worker's connection, freeze the broker, kill it, in turn; never where it is measured."""
        gap = TROUBLE_EVERY_SECONDS if self.seconds >= JUDGED_SECONDS else self.seconds / 5
        started, turn = time.monotonic(), 0
        for number in range(1, int(self.seconds / gap)):
            await asyncio.sleep(max(0.0, started + number * gap + self.dice.random() - time.monotonic()))
            at = time.monotonic() - started
            if self.seconds >= JUDGED_SECONDS and (40 < at < EARLY[1] or at > self.seconds - 25):
                continue
            await (self._freeze, self._reset, self._restart, self._reset)[turn % 4]()
            turn += 1

    async def _freeze(self) -> None:
        self.server.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_SECONDS)
        finally:
            self.server.send(signal.SIGCONT)
        self.done["broker frozen"] += 1

    async def _reset(self) -> None:
        self.weather.ongoing = True
        self.link.cut()
        await self._recovered("the worker's connection was reset")

    async def _restart(self) -> None:
        self.weather.ongoing = True
        self.server.kill()
        await asyncio.sleep(self.dice.uniform(0.5, 2))
        await asyncio.to_thread(self.server.start)
        await self._recovered("the broker was killed and started")

    async def _recovered(self, what: str) -> None:
        """Wait until the worker serves again; what was on its way meanwhile may be lost."""
        try:
            async with asyncio.timeout(RECOVERY_SECONDS):
                await asyncio.sleep(0.3)
                while not await asyncio.to_thread(self._subscribed):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            self.broken.append(f"The worker was not back {RECOVERY_SECONDS:g} s after {what}.")
        await asyncio.sleep(0.7)
        self.weather.breaks += 1
        self.weather.ongoing = False
        self.done[what] += 1

    def _subscribed(self) -> bool:
        return self._subscriptions() >= self.samples[0][1].subscriptions

    async def measure(self) -> None:
        """Take a sample each second, until cancelled."""
        started = time.monotonic()
        while True:
            with suppress(OSError):  # the broker is down or frozen
                self.samples.append((time.monotonic() - started, await asyncio.to_thread(self.sample)))
            await asyncio.sleep(1)

    def sample(self) -> Sample:
        """Look at the worker now."""
        assert self.worker.process is not None  # noqa: S101 - it was started
        pid = self.worker.process.pid
        metrics = _got(f"http://127.0.0.1:{self.worker.http_port}/metrics").decode()
        return Sample(
            rss=resident_bytes(pid) / 2**20,
            tasks=_value(metrics, "aichats_event_loop_tasks"),
            fds=len(list(Path(f"/proc/{pid}/fd").iterdir())),
            subscriptions=self._subscriptions(),
            running=_value(metrics, "aichats_requests_running"),
        )

    def _subscriptions(self) -> float:
        connections = json.loads(_got(f"http://127.0.0.1:{self.server.monitor_port}/connz"))["connections"]
        return float(sum(each["subscriptions"] for each in connections if each.get("name") == "ai-worker"))

    async def idle(self, quiet: Sample) -> Sample:
        """Wait until nothing runs and no more is held than before the load; IDLE_SECONDS at most."""
        sample = await self._until(IDLE_SECONDS, lambda sample: not sample.running and _same_idle(quiet, sample))
        if self.seconds < JUDGED_SECONDS:
            return sample
        return await self._until(KEPT_SECONDS, lambda sample: sample.fds <= quiet.fds * (1 + GROWTH_MAX))

    async def _until(self, seconds: float, calm: Callable[[Sample], bool]) -> Sample:
        deadline = time.monotonic() + seconds
        while True:
            sample = await asyncio.to_thread(self.sample)
            if calm(sample) or time.monotonic() > deadline:
                return sample
            await asyncio.sleep(0.5)

    def median(self, start: float, end: float) -> Sample:
        """Return the median of each figure between two times of the run, in seconds."""
        rows = [astuple(sample) for at, sample in self.samples if start <= at <= end]
        return Sample(*(statistics.median(column) for column in zip(*rows, strict=True)))

    def stop(self) -> None:
        """End every process by its id."""
        self.worker.kill()
        self.server.stop()


def _got(url: str) -> bytes:
    with urlopen(url, timeout=2) as answer:  # noqa: S310 - our own, on loopback
        return bytes(answer.read())


def _value(metrics: str, name: str) -> float:
    lines = [line for line in metrics.splitlines() if re.match(rf"{name}[ {{]", line)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _same_idle(before: Sample, after: Sample) -> bool:
    return after.subscriptions == before.subscriptions and after.tasks <= before.tasks + 1


def judge(soak: Soak, load: Load, quiet: Sample, idle: Sample) -> list[str]:
    """Return a sentence for each rule that was broken, and print the figures."""
    window = EARLY if soak.seconds >= JUDGED_SECONDS else (soak.seconds / 4, soak.seconds / 2)
    early, late = soak.median(*window), soak.median(soak.seconds - LATE_SECONDS, soak.seconds)
    broken = [*soak.broken, *load.violations]
    minutes = [soak.median(at, at + LATE_SECONDS).rss for at in range(0, int(soak.seconds - LATE_SECONDS), 30)]
    print("  resident MiB, each half minute: " + " ".join(f"{rss:.1f}" for rss in minutes))
    print(f"{'':16}{'before':>10}{f'{window[0]:g}-{window[1]:g} s':>12}{'last 10 s':>12}{'change':>10}{'after':>10}")
    for name in Sample.__dataclass_fields__:
        rows = [float(getattr(sample, name)) for sample in (quiet, early, late, idle)]
        change = rows[2] / rows[1] - 1 if rows[1] else 0.0
        print(f"{name:16}{rows[0]:10.1f}{rows[1]:12.1f}{rows[2]:12.1f}{change:+10.1%}{rows[3]:10.1f}")
        too_far = change > GROWTH_MAX  # a fall is no leak: a break closes idle connections
        # How many run is the load itself: shown, so that the others can be read against it.
        if too_far and name != "running" and soak.seconds >= JUDGED_SECONDS:
            broken.append(f"{name} went from {rows[1]:g} to {rows[2]:g} under the same load, more than 10 %.")
    if idle.running:
        broken.append(f"{idle.running:g} requests are still at work {IDLE_SECONDS:g} s after the last one ended.")
    if not _same_idle(quiet, idle):
        broken.append(
            f"Without load there were {quiet.subscriptions:g} subscriptions and {quiet.tasks:g} tasks before, "
            f"{idle.subscriptions:g} and {idle.tasks:g} after."
        )
    if soak.seconds >= JUDGED_SECONDS and idle.fds > quiet.fds * (1 + GROWTH_MAX):
        broken.append(f"Without load {quiet.fds:g} file descriptors were open before, {idle.fds:g} after.")
    broken += [
        f"The worker logged: {line[:200]} ... {line[-400:]}" for line in soak.worker.log.splitlines() if _is_wrong(line)
    ]
    broken += [f"No stream of the kind {name!r} came to an end that could be judged." for name in load.unseen()]
    return broken


def _is_wrong(line: str) -> bool:
    return any(words in line for words in WRONG_LINES)


def report(soak: Soak, load: Load) -> None:
    """Print what was done, and how the streams ended."""
    print("  " + ", ".join(f"{what}: {count}" for what, count in sorted(soak.done.items())))
    ends: dict[str, list[str]] = {}
    for (name, end), count in sorted(load.ends.items()):
        ends.setdefault(name, []).append(f"{end} {count}")
    for name, counts in ends.items():
        print(f"  {name:26}{', '.join(counts)}")


async def loaded(soak: Soak, load: Load, streams: int) -> None:
    """Keep the streams going for the run's time, in trouble, and then let the last ones end."""
    measuring = asyncio.create_task(soak.measure())
    seats = [asyncio.create_task(load.sit(seat)) for seat in range(streams)]
    troubling = asyncio.create_task(soak.trouble())
    try:
        await asyncio.wait({measuring, troubling, *seats}, timeout=soak.seconds, return_when=asyncio.FIRST_EXCEPTION)
        measuring.cancel()
        load.stopping = True
        async with asyncio.timeout(JOB_SECONDS * 2):
            await asyncio.gather(*seats, troubling)
    finally:
        for task in (measuring, troubling, *seats):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await measuring


async def run(seed: int, streams: int = 200, seconds: float = 300.0) -> bool:
    """Run once, and print the report. True where no rule was broken."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        provider: Simulator = await stack.enter_async_context(await start_simulator())
        proxies = {
            "http": (await stack.enter_async_context(running(Proxy(), "http"))).port,
            "socks5": (await stack.enter_async_context(running(Proxy(), "socks"))).port,
        }
        server = NatsServer(directory)
        link = await stack.enter_async_context(linked(server.port))
        urls = {"NATS_URL": link.url, "AICHATS_URL": provider.url}
        soak = Soak(random.Random(seed), seconds, server, link, WorkerProcess(directory, SETTINGS | urls))  # noqa: S311
        stack.callback(soak.stop)
        server.start()
        await soak.worker.start().ready()
        nc = await connected(server.url)
        stack.push_async_callback(nc.close)
        await asyncio.sleep(3)  # the streams are made, jobs are served
        quiet = await asyncio.to_thread(soak.sample)
        soak.samples.append((0.0, quiet))
        load = Load(nc, provider, proxies, soak.weather, seed, words_max=50 if seconds >= JUDGED_SECONDS else 15)
        await loaded(soak, load, streams)
        idle = await soak.idle(quiet)
        soak.worker.send(signal.SIGTERM)
        try:
            status = await soak.worker.wait()
        except subprocess.TimeoutExpired:
            status = -1
        print(f"seed {seed}: {load.started} streams, {streams} at once for {seconds:g} s")
        report(soak, load)
        broken = judge(soak, load, quiet, idle)
    if status:
        broken.append(f"The worker ended with status {status}." if status > 0 else "The worker did not stop.")
    for sentence in broken:
        print(sentence)
    return not broken


async def until_told(seed: int, streams: int, seconds: float) -> bool:
    """Run; SIGTERM ends it, and with it every process that it started."""
    running_task = asyncio.ensure_future(run(seed, streams, seconds))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running_task.cancel)
    return await running_task


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))  # noqa: S311
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    sys.exit(0 if asyncio.run(until_told(options.seed, options.streams, options.seconds)) else 1)


if __name__ == "__main__":
    main()
