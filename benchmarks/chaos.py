"""Workers killed and frozen, the broker killed, the provider failing: no job may be lost or answered wrongly.

`python -m benchmarks.chaos --seed 7 --jobs 2000` prints a report and ends with status 1 on any violation. The same seed
makes the same plan; when each thing happens to a job is up to the machine.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from aiohttp import web
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from aichats_client import submit
from aichats_schemas import StreamEvent, parse_event
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.processes import NatsServer, WorkerProcess

WORKERS = 3
FAILING = 0.1
SUBMIT_SECONDS = 60.0
QUIET_SECONDS = 180.0
READ_SECONDS = 60.0
SETTINGS = {
    "WORKER_ACK_WAIT_SECONDS": "2",
    "WORKER_MAX_DELIVER": "20",
    "WORKER_RETRY_BASE_SECONDS": "0.1",
    "WORKER_RETRY_MAX_SECONDS": "1",
    "WORKER_CONCURRENCY_MAX": "64",
    "PROVIDER_CALLS_MAX": "1",
    "PROVIDER_CIRCUIT_FAILURES": "100000",
    "WORKER_LOG_LEVEL": "warning",
}


class Flaky(Simulator):
    """A provider that fails one call in ten: half of those before the answer, half in the middle."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self.calls = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer, or fail."""
        self.calls += 1
        roll = self._dice.random()
        if roll < FAILING / 2:
            return web.Response(status=503)
        if roll < FAILING:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"data: half\n")
            assert request.transport is not None  # noqa: S101 - the request is being answered
            request.transport.abort()
            return response
        return await super().answer(request)


@dataclass
class Chaos:
    """One run: its processes, and what was done to them."""

    dice: random.Random
    directory: Path
    server: NatsServer
    provider: Flaky
    seconds: float
    workers: list[WorkerProcess] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def start_worker(self) -> None:
        """Start one more worker."""
        settings = SETTINGS | {"NATS_URL": self.server.url, "AICHATS_URL": self.provider.url}
        self.workers.append(WorkerProcess(self.directory, settings).start())

    async def disturb(self) -> None:
        """Kill or freeze a worker every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(self.dice.uniform(2, 5))
            worker = self.dice.choice(self.workers)
            if self.dice.random() < 0.5:
                self.workers.remove(worker)
                worker.kill()
                self.start_worker()
                self.done["workers killed"] += 1
            else:
                worker.send(signal.SIGSTOP)
                try:
                    await asyncio.sleep(self.dice.uniform(1, 5))
                finally:
                    worker.send(signal.SIGCONT)
                self.done["workers frozen"] += 1

    async def restart_broker(self) -> None:
        """Kill the broker and start it again on the same store, twice."""
        for _ in range(2):
            await asyncio.sleep(self.seconds / 3)
            self.server.kill()
            await asyncio.sleep(self.dice.uniform(0.5, 2))
            self.server.start()
            self.done["broker killed"] += 1

    def stop(self) -> None:
        """End every process by its id."""
        for worker in self.workers:
            worker.kill()
        self.server.stop()


async def connected(server: NatsServer) -> Client:
    """Connect, and come back after every kill."""

    async def quiet(_: Exception) -> None:
        """The broker is killed on purpose."""

    return await nats.connect(
        server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=quiet, allow_reconnect=True
    )


async def submitted(nc: Client, dice: random.Random, jobs: int, seconds: float) -> dict[str, str]:
    """Submit all jobs over `seconds`, each until it is confirmed. Returns the expected text by id."""
    js = nc.jetstream()
    expected: dict[str, str] = {}
    for number in range(jobs):
        request_id, count = f"j{number}", dice.randint(1, 20)
        prompt = f"[sim: words={count} pause={dice.choice(('0', '0.01', '0.05', '0.1'))}]"
        expected[request_id] = "".join(words(count))
        while True:
            try:
                await submit(js, "text", prompt, request_id=request_id, tenant="chaos")
                break
            except (NatsError, TimeoutError):
                await asyncio.sleep(0.1)
        await asyncio.sleep(seconds / jobs * 0.8)
    return expected


async def quiet(nc: Client) -> int:
    """Wait until the queue is empty. Returns how many jobs are left after QUIET_SECONDS."""
    js, deadline = nc.jetstream(), time.monotonic() + QUIET_SECONDS
    left = -1
    while time.monotonic() < deadline:
        try:
            left = (await js.stream_info("AIJOBS")).state.messages
        except (NatsError, TimeoutError):
            left = -1
        if left == 0:
            return 0
        await asyncio.sleep(0.5)
    return left


async def stored(nc: Client) -> dict[str, list[StreamEvent | None]]:
    """Read all events by id, in order; None is the sentinel."""
    found: dict[str, list[StreamEvent | None]] = {}
    js = nc.jetstream()
    total = (await js.stream_info("AIOUT")).state.messages
    subscription: Any = await js.subscribe("ai.v1.out.chaos.*", ordered_consumer=True)
    async with asyncio.timeout(READ_SECONDS):
        for _ in range(total):
            message = await subscription.next_msg(timeout=READ_SECONDS)
            event = parse_event(message.data) if message.data else None
            found.setdefault(message.subject.rpartition(".")[2], []).append(event)
    await subscription.unsubscribe()
    return found


async def dead(nc: Client) -> Counter[str]:
    """Count the dead letters by id."""
    js, seq, found = nc.jetstream(), 1, Counter[str]()
    while True:
        try:
            message = await js.get_msg("AIDEAD", seq=seq, subject="ai.v1.dead.>", next=True)
        except NotFoundError:
            return found
        found[str(message.subject).rpartition(".")[2]] += 1
        seq = int(message.seq or 0) + 1


def by_the_clients_rule(events: list[StreamEvent | None]) -> tuple[list[StreamEvent], bool]:
    """Return what a client has collected when its stream ends, and whether it ended."""
    collected: list[StreamEvent] = []
    for event in events:
        if event is None:
            return collected, True
        if collected and event.attempt > collected[-1].attempt:
            collected = []
        if not collected or event.attempt == collected[-1].attempt:
            collected.append(event)
    return collected, False


def judged(expected: dict[str, str], found: dict[str, list[StreamEvent | None]], letters: Counter[str]) -> Counter[str]:
    """Hold every job against the rule: one completed answer, or one dead letter."""
    verdict: Counter[str] = Counter()
    for request_id, text in expected.items():
        events, ended = by_the_clients_rule(found.get(request_id, []))
        verdict["attempts"] += max((event.attempt for event in events), default=0)
        if not ended:
            verdict["VIOLATION lost"] += 1
            print(f"lost: {request_id} {events[-3:]} dead letters: {letters[request_id]}")
        elif events[-1].type == "done":
            said = "".join(event.data for event in events if event.type == "response")
            whole = [event.seq for event in events] == list(range(len(events))) and said == text
            verdict["answered" if whole else "VIOLATION wrong answer"] += 1
            verdict["VIOLATION answered and dead"] += bool(letters[request_id])
            if not whole:
                print(f"wrong: {request_id} {events}")
        else:
            verdict["dead letters" if letters[request_id] == 1 else "VIOLATION error without a dead letter"] += 1
    return verdict


async def run(seed: int, jobs: int, seconds: float = SUBMIT_SECONDS) -> bool:
    """Run once, and print the report. True where nothing was violated."""
    dice = random.Random(seed)  # noqa: S311 - a plan that can be made again
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        provider = Flaky(random.Random(seed + 1))  # noqa: S311
        await provider.start(0, "127.0.0.1", None)
        chaos = Chaos(dice, Path(name), NatsServer(Path(name)).start(), provider, seconds)
        try:
            for _ in range(WORKERS):
                chaos.start_worker()
            for worker in chaos.workers:
                await worker.ready()
            nc = await connected(chaos.server)
            await asyncio.sleep(2)  # the streams are made
            tasks = [asyncio.create_task(chaos.disturb()), asyncio.create_task(chaos.restart_broker())]
            expected = await submitted(nc, random.Random(seed + 2), jobs, seconds)  # noqa: S311
            await tasks[1]
            tasks[0].cancel()
            await asyncio.wait(tasks)
            left = await quiet(nc)
            verdict = judged(expected, await stored(nc), await dead(nc))
            verdict["VIOLATION left in the queue"] += left
            await nc.close()
        finally:
            chaos.stop()
            await provider.close()
    verdict = +verdict
    print(f"seed {seed}: {jobs} jobs in {time.monotonic() - started:.0f} s, {provider.calls} provider calls")
    print("  " + ", ".join(f"{name}: {count}" for name, count in sorted((chaos.done + verdict).items())))
    return not any(name.startswith("VIOLATION") for name in verdict)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))  # noqa: S311
    parser.add_argument("--jobs", type=int, default=2000)
    options = parser.parse_args()
    sys.exit(0 if asyncio.run(run(options.seed, options.jobs)) else 1)


if __name__ == "__main__":
    main()
