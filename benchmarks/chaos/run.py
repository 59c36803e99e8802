"""One run: everything is started, shaken, left to settle, read and judged."""

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

from nats.aio.client import Client

from benchmarks.chaos.cluster import Cluster, connected, persist
from benchmarks.chaos.evidence import Evidence, read_letters, read_records
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.judge import Violation, cases, figures, violations
from benchmarks.chaos.plan import ACK_WAIT_SECONDS, Job, Plan, Scale, planned
from benchmarks.chaos.provider import Provider
from benchmarks.chaos.report import report, show
from benchmarks.chaos.requesters import Requesters

SETTLE_SECONDS: Final = 180.0  # beyond the plan's own time, until the queue must be empty
REPLAY_SECONDS: Final = 20.0
REPLAYS_SECONDS: Final = 60.0
REPLAYS_SECONDS_PER_JOB: Final = 0.1  # a machine that is busy besides; a free one needs a tenth of it
REPLAYS_AT_ONCE: Final = 32


async def run(seed: int, scale: Scale) -> bool:
    """Run once, and print the report. True where nothing was violated."""
    plan, began = planned(seed, scale), time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        evidence, done = await _shaken(plan, directory)
    except BaseException:
        _tidy(directory, logs_too=True)
        raise
    found, counted = [Violation("-", rule) for rule in evidence.wrong], Counter[str]()
    found += [Violation(job, "left in the queue") for job in evidence.left]
    known = {job.id for job in plan.jobs}
    found += [Violation(job, "nobody submitted it") for job in {*evidence.records, *evidence.letters} - known]
    for case in cases(plan, evidence):
        found += violations(case)
        counted += figures(case)
    report(plan, found, counted + done, time.monotonic() - began)
    if found:
        show(found, {case.job.id: case for case in cases(plan, evidence)}, evidence.story)
        print(f"  the logs are in {directory}")
    _tidy(directory, logs_too=not found)
    return not found


def _tidy(directory: Path, *, logs_too: bool) -> None:
    for path in [directory] if logs_too else directory.glob("b?"):  # what the brokers stored is large
        shutil.rmtree(path)


async def _shaken(plan: Plan, directory: Path) -> tuple[Evidence, Counter[str]]:
    evidence, provider = Evidence(), Provider(plan.jobs, plan.scale.silence_seconds)
    async with AsyncExitStack() as stack:
        await provider.start()
        stack.push_async_callback(provider.close)
        cluster = await stack.enter_async_context(Cluster(directory))
        await cluster.provision()
        clients = await _clients(cluster, stack)
        settings = {"AICHATS_URL": provider.url, "WORKER_ATTEMPTS_MAX": str(plan.scale.attempts_max)}
        fleet = Fleet(directory, settings, cluster.brokers, plan.clocks)
        stack.push_async_callback(fleet.close)
        await fleet.start()
        faults = Faults(plan, cluster, fleet, clients[0])
        requesters = Requesters(clients, faults.calm, evidence)
        await requesters.open()
        await _shake(plan, faults, requesters, evidence)
        evidence.left = await _queued(clients[0])
        await _read(plan.jobs, clients[0], requesters, evidence)
    evidence.calls = provider.calls
    evidence.calm = {job for job in evidence.sent if faults.calm(*evidence.span(job))}
    evidence.wrong += fleet.wrong
    evidence.story = sorted(faults.story)
    return evidence, faults.done + fleet.done + evidence.bursts


async def _clients(cluster: Cluster, stack: AsyncExitStack) -> Sequence[Client]:
    """Connect to each broker, with the others to go to when it is away."""
    clients = []
    for broker in cluster.brokers:
        others = [other.url for other in cluster.brokers if other is not broker]
        clients.append(await connected(",".join([broker.url, *others])))
        stack.push_async_callback(clients[-1].close)
    return clients


async def _shake(plan: Plan, faults: Faults, requesters: Requesters, evidence: Evidence) -> None:
    """Let it all happen, until every reader has its end and the queue is empty; or too long."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(3 * plan.scale.seconds + SETTLE_SECONDS):
            async with asyncio.TaskGroup() as group:
                group.create_task(faults.run(started))
                group.create_task(requesters.run(plan.jobs, started))
                group.create_task(requesters.fill(plan.bursts, started))
            while await _queued(requesters.client):
                await asyncio.sleep(0.5)
            await asyncio.sleep(ACK_WAIT_SECONDS + 1)  # whoever was away and is back says what he has to say
    except TimeoutError:
        evidence.wrong.append("not all jobs and readers came to their end in time")


async def _queued(nc: Client) -> list[str]:
    info = await persist(nc, "STREAM.INFO.AIJOBS", {"subjects_filter": ">"})
    return [subject.rpartition(".")[2] for subject in info["state"].get("subjects") or ()]


async def _read(jobs: Sequence[Job], nc: Client, requesters: Requesters, evidence: Evidence) -> None:
    """Read everything twice: through `resume`, and out of the streams."""
    places = asyncio.Semaphore(REPLAYS_AT_ONCE)

    async def replayed(job: Job) -> None:
        with suppress(TimeoutError):  # of a job without an end there is nothing to wait for
            async with places, asyncio.timeout(REPLAY_SECONDS):
                await requesters.replay(job)

    bound = REPLAYS_SECONDS + REPLAYS_SECONDS_PER_JOB * len(jobs)
    try:
        async with asyncio.timeout(bound), asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(replayed(job))
    except TimeoutError:
        evidence.wrong.append(f"not all records could be resumed within {bound:g} s")
    evidence.records, evidence.letters = await read_records(nc), await read_letters(nc)
    if late := requesters.answered_twice():
        evidence.wrong.append(f"{late} messages came after the last one of a reply")
