"""Carries out the plan's faults: those of workers side by side, those of brokers one after the other."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from nats.aio.client import Client

from benchmarks.chaos.cluster import CONSUMERS, ApiError, Broker, Cluster, api, update
from benchmarks.chaos.fleet import Fleet, Worker
from benchmarks.chaos.plan import Blow, Plan
from tests.link import Link

# The broker gives a reader up, and a reader the broker, some time after the fault.
AFTERMATH_SECONDS: Final = 5.0


class Faults:
    """What befalls workers and brokers.

    Attributes:
        done: How often, by kind.
        story: What happened: from when to when, and what.
    """

    def __init__(self, plan: Plan, cluster: Cluster, fleet: Fleet, nc: Client) -> None:
        self.done: Counter[str] = Counter()
        self.story: list[tuple[float, float, str]] = []
        self._plan = plan
        self._cluster = cluster
        self._fleet = fleet
        self._nc = nc
        self._rough: list[tuple[float, float]] = []

    def calm(self, begin: float, end: float) -> bool:
        """Say whether core NATS lost nothing between two times: then nothing excuses a gap."""
        return not any(first <= end and begin <= last + AFTERMATH_SECONDS for first, last in self._rough)

    async def run(self, started: float) -> None:
        """Do all, each at its time after `started` or later."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._brokers(started))
            for blow in self._plan.workers:
                await _until(started + blow.at)
                group.create_task(self._on_worker(blow, await self._fleet.chosen(blow.pick)))

    async def _brokers(self, started: float) -> None:
        for blow in self._plan.brokers:
            await _until(started + blow.at)
            with self._told(blow, blow.stream):
                await self._on_broker(blow)

    async def _on_worker(self, blow: Blow, worker: Worker) -> None:
        with self._fleet.held(worker), self._told(blow, f"{worker.process.http_port}"):
            match blow.what:
                case "worker killed":
                    with self._roughly():
                        await self._fleet.end(worker)
                    await self._fleet.more()
                case "worker rolled":
                    await self._roll(worker)
                case "all workers rolled":
                    await self._roll(worker)
                    for each in self._fleet.free():
                        if each in self._fleet.free():  # still
                            await self._roll(each)  # no fewer are there meanwhile
                case "worker frozen":
                    await self._freeze(worker, blow.seconds)
                case _:
                    await self._cut_off(worker, blow)

    async def _roll(self, worker: Worker) -> None:
        begin = time.time()
        if not await self._fleet.roll(worker) and self.calm(begin, time.time()):
            self._fleet.wrong.append("a worker did not stop in time, though no fault was near")

    async def _freeze(self, worker: Worker, seconds: float) -> None:
        with self._roughly():
            worker.process.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                worker.process.send(signal.SIGCONT)

    async def _cut_off(self, worker: Worker, blow: Blow) -> None:
        with self._roughly():
            await _held(worker.links, blow)

    async def _on_broker(self, blow: Blow) -> None:
        match blow.what:
            case "leader moved":
                await self._move(blow)
            case "stream full":
                await self._fill(blow)
            case "quorum away":
                await self._away(blow)
            case _:
                with self._roughly():
                    await self._fail(await self._cluster.leader(self._nc, blow.stream), blow)
                    await self._cluster.settled(self._nc)

    async def _fail(self, broker: Broker, blow: Blow) -> None:
        if blow.what == "broker cut off":
            await _held(broker.links, blow)
            return
        if blow.what == "broker frozen":
            broker.send(signal.SIGSTOP)
        else:
            await broker.kill()
        try:
            await asyncio.sleep(blow.seconds)
        finally:
            broker.send(signal.SIGCONT)
            if blow.what != "broker frozen":
                broker.start()

    async def _away(self, blow: Blow) -> None:
        """Take away two of the three, killed or frozen: no stream has a majority."""
        victims = self._cluster.brokers[:]
        victims.pop(int(blow.pick * len(victims)))
        one = Blow(blow.at, "broker killed" if blow.pick < 0.5 else "broker frozen", blow.pick, blow.seconds)
        with self._roughly():
            await asyncio.gather(*(self._fail(broker, one) for broker in victims))
            await self._cluster.settled(self._nc)

    async def _fill(self, blow: Blow) -> None:
        """Let a stream refuse whatever comes, and lose nothing of what it has."""
        was = await update(self._nc, blow.stream, max_msgs=1, discard="new")
        await asyncio.sleep(blow.seconds)
        await update(self._nc, blow.stream, max_msgs=was["max_msgs"], discard=was["discard"])

    async def _move(self, blow: Blow) -> None:
        """Let a leader step down: a stream's, or now and then a consumer's."""
        subject = f"STREAM.LEADER.STEPDOWN.{blow.stream}"
        if blow.pick < 0.3:
            subject = f"CONSUMER.LEADER.STEPDOWN.AIJOBS.{CONSUMERS[0]}"
        with suppress(ApiError):  # there is none
            await api(self._nc, subject)

    @contextmanager
    def _told(self, blow: Blow, whom: str) -> Iterator[None]:
        begin = time.time()
        yield
        self.done[blow.what] += 1
        self.story.append((begin, time.time(), f"{blow.what} ({whom}, {blow.seconds:.1f} s, {blow.way})"))

    @contextmanager
    def _roughly(self) -> Iterator[None]:
        begin = time.time()
        self._rough.append((begin, float("inf")))
        try:
            yield
        finally:
            self._rough.remove((begin, float("inf")))
            self._rough.append((begin, time.time()))


async def _held(links: Sequence[Link], blow: Blow) -> None:
    """Let nothing through for a while; then cut the connections, or deliver what was held."""
    held = [way for link in links for way in {"up": [link.up], "down": [link.down]}.get(blow.way, [link.flowing])]
    for way in held:
        way.clear()
    await asyncio.sleep(blow.seconds)
    for link in links:
        if blow.cut:
            link.cut()
    for way in held:
        way.set()


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
