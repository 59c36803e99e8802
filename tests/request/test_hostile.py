"""Hostile input: each bad request gets one error or is dropped by rule, and the worker is afterwards what it was."""

import asyncio
import os
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any
from urllib.request import urlopen

import nats
import pytest
from hypothesis import settings as hypothesis_settings
from nats.aio.client import Client
from nats.aio.msg import Msg

from aichats_schemas import parse_event
from aichats_schemas.subjects import is_token
from aichats_worker.broker.bus import Bus
from aichats_worker.jobs.letters import DeadLetters, RetryRefused
from aichats_worker.simulator.server import Simulator
from tests.conftest import SpawnWorker
from tests.jobs.test_jobs import Broker, provisioned
from tests.processes import RUN, NatsServer, WorkerProcess, resident_bytes
from tests.request.hostile import BLOCKS, INBOX, INVALID, MAX_PAYLOAD, Bad, Wire, generate, headers
from tests.requester import ask

PIPELINED = 50
WARM_UP = 100
WAIT_SECONDS = 60.0
GOOD = "ai.v1.ask.text.default"
MIB = 1024 * 1024


class Scene:
    """A broker, a worker process, a requester that sends anything, and all that is answered to it."""

    def __init__(self, server: NatsServer, worker: WorkerProcess, nc: Client, wire: Wire) -> None:
        self.server, self.worker, self.nc, self.wire = server, worker, nc, wire
        self.js = nc.jetstream()
        self.heard: dict[str, list[Msg]] = {}
        self.refused: list[bytes] = []

    async def listen(self) -> None:
        async def hear(message: Msg) -> None:
            self.heard.setdefault(message.subject, []).append(message)

        async def stored(message: Msg) -> None:
            if b'"error"' in message.data:
                self.refused.append(message.data)

        await self.nc.subscribe(f"{INBOX}.*", cb=hear)
        await self.nc.subscribe("ai.v1.out.*.*", cb=hear)
        await self.nc.subscribe("_INBOX.stored", cb=stored)
        await self.nc.flush()

    async def send(self, requests: list[Bad]) -> None:
        """Publish, and wait for the end of each that is to have one."""
        for start in range(0, len(requests), PIPELINED):
            batch = requests[start : start + PIPELINED]
            for bad in batch:
                reply = b"_INBOX.stored" if bad.mode == "job" else bad.reply
                self.wire.publish(bad.subject, bad.body, reply=reply, block=bad.block)
            await self.wire.flush()
            await self.until(partial(self.all_ended, batch), batch)

    async def until(self, condition: Callable[[], bool], requests: list[Bad]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError([str(bad)[:500] for bad in requests if bad.code and not self.ended(bad)])
            await asyncio.sleep(0.005)

    def answers(self, bad: Bad) -> list[Msg]:
        if bad.reply:
            return self.heard.get(bad.reply.decode(errors="replace"), [])
        return self.heard.get(f"ai.v1.out.{bad.subject.decode(errors='replace').split('.', 4)[4]}", [])

    def ended(self, bad: Bad) -> bool:
        found = self.answers(bad)
        # A job's record has no sentinel: its end is its last event.
        return bool(found) and (b'"type":"error"' in found[-1].data if in_record(bad) else not found[-1].data)

    def all_ended(self, requests: list[Bad]) -> bool:
        return all(self.ended(bad) for bad in requests if bad.code)

    async def latency(self) -> float:
        """The median of twenty good requests, in seconds."""
        taken = []
        for _ in range(20):
            started = time.perf_counter()
            (result,) = await ask(self.nc, GOOD, b"[sim: words=1]")
            taken.append(time.perf_counter() - started)
            assert result.type == "result"
        return statistics.median(taken)

    async def metrics(self, name: str, label: str) -> Counter[str]:
        """A counter of the worker's, by one of its labels; zeros left out."""
        url = f"http://127.0.0.1:{self.worker.http_port}/metrics"
        text = await asyncio.to_thread(lambda: urlopen(url, timeout=5).read().decode())
        found: Counter[str] = Counter()
        for line in re.findall(rf"^{name}_total{{(.*)}} (\S+)$", text, re.MULTILINE):
            found[dict(re.findall(r'(\w+)="([^"]*)"', line[0]))[label]] += int(float(line[1]))
        return +found

    def memory(self) -> int:
        """Resident bytes of the worker's process."""
        assert self.worker.process is not None
        return resident_bytes(self.worker.process.pid)

    async def letters(self) -> list[dict[str, str]]:
        letters = DeadLetters(Bus(self.nc, self.js))
        return [letter.headers | {"id": letter.id} async for letter in letters.all()]


@pytest.fixture
async def scene(own_nats_server: Callable[..., NatsServer], spawn_worker: SpawnWorker) -> AsyncIterator[Scene]:
    server = own_nats_server()
    # A job holds its slot while its record is begun: none of these is to be refused for that.
    settings = {"WORKER_IMAGE_CONCURRENCY_MAX": "256", "WORKER_LOG_LEVEL": "warning"}
    worker = await spawn_worker(command=RUN, NATS_URL=server.url, **settings)
    nc = await nats.connect(server.url)
    await provisioned(Broker(server, nc))
    wire = await Wire.open(server.port)
    made = Scene(server, worker, nc, wire)
    await made.listen()
    yield made
    await wire.close()
    await nc.close()


def in_record(bad: Bad) -> bool:
    """Whether its answer is heard where it is stored alone."""
    return bad.mode == "job" and not bad.reply


def check(scene: Scene, bad: Bad) -> None:
    """Exactly one error and the sentinel; or nothing."""
    # Where the worker is slow, a copy of a job may say that it is worked at.
    found = [message for message in scene.answers(bad) if b'"data":"working"' not in message.data]
    if in_record(bad):  # what is published again since nobody confirmed it is heard twice, and stored once
        found = list({(message.headers or {}).get("Ai-Job"): message for message in found}.values())
    if not bad.code:
        assert not found, bad
        return
    job = bad.mode == "job" and b'"started"' in found[0].data  # without a tenant or an id there is no record
    if job:
        found = found[1:]
    assert [bool(message.data) for message in found] == ([True] if in_record(bad) else [True, False]), (bad, found)
    error: Any = parse_event(found[0].data)
    assert (error.type, error.data.code, error.seq, error.attempt) == ("error", bad.code, int(job), 1), (bad, found)
    assert is_token(error.id)
    assert bad.own_id in ("", error.id)
    if not in_record(bad):
        assert set(found[0].headers or {}) == {"Nats-Service-Error", "Nats-Service-Error-Code"}
        assert found[1].headers is None


async def check_jobs(scene: Scene, requests: list[Bad]) -> None:
    """Each job has left the queue and is a dead letter with its code."""
    jobs = [bad for bad in requests if bad.mode == "job"]
    assert scene.refused == []
    async with asyncio.timeout(WAIT_SECONDS):
        while (await scene.js.stream_info("AIJOBS")).state.messages:
            await asyncio.sleep(0.05)
    letters = await scene.letters()
    assert Counter(letter["Ai-Dead-Code"] for letter in letters) == Counter(bad.code or INVALID for bad in jobs)
    ids = Counter(letter["id"] for letter in letters)
    assert set(ids.values()) <= {1}
    assert all(is_token(one) for one in ids)
    assert {bad.own_id for bad in jobs if bad.own_id} <= set(ids)


@pytest.mark.slow("hundreds of requests, and the keep-alive has to pass")
@pytest.mark.fuzz
@pytest.mark.timeout(1800)
async def test_bad_requests_get_one_error_or_are_dropped_and_leave_nothing_behind(
    scene: Scene, simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    long = hypothesis_settings().max_examples >= 10_000
    count = 10_000 if long else 300
    seed = int(os.environ.get("FUZZ_SEED") or (random.randrange(2**32) if long else 1))  # noqa: S311
    print(f"FUZZ_SEED={seed} runs the same again")  # noqa: T201 - shown where the test fails
    # The warm-up makes the process grow to what large messages together need once; its highest is what counts, since
    # the allocator gives back what it likes.
    warm_up = []
    memory = 0
    for round_ in range(3):
        large = [Bad(n, "req", b"ai.v1.req.text.t", b"%b.%d" % (INBOX.encode(), n), b"", b"{" * MAX_PAYLOAD, INVALID)
                 for n in range(round_ * 1000, round_ * 1000 + PIPELINED)]  # fmt: skip
        warm_up += large + generate(seed + round_ + 1, WARM_UP, first=round_ * 1000 + PIPELINED)
        await scene.send(warm_up[-PIPELINED - WARM_UP :])
        memory = max(memory, scene.memory())
    latency = await scene.latency()

    requests = generate(seed, count, first=10_000)
    started = time.perf_counter()
    await scene.send(requests)
    seconds = time.perf_counter() - started
    await asyncio.sleep(1)  # longer than the keep-alive: nothing may follow an end

    memory_after, latency_after = scene.memory(), await scene.latency()
    everything = warm_up + requests
    for bad in everything:
        check(scene, bad)
    await check_jobs(scene, everything)
    expected = Counter(bad.code for bad in everything if bad.code) + Counter({"done": 40})
    assert await scene.metrics("aichats_requests", "outcome") == expected
    dropped = Counter(bad.dropped for bad in everything if bad.dropped)
    assert await scene.metrics("aichats_requests_dropped", "reason") == dropped
    assert len(simulator.requests) == 40, "a bad request reached the provider"
    assert "Traceback" not in scene.worker.log
    with capsys.disabled():
        print(  # noqa: T201 - the figures of the long run
            f"\nseed {seed}: {count} bad requests in {seconds:.1f} s; resident {memory / MIB:.1f} -> "
            f"{memory_after / MIB:.1f} MiB; median of a good request {latency * 1000:.1f} -> "
            f"{latency_after * 1000:.1f} ms; {dict(expected)}; dropped {dict(dropped)}"
        )
    assert memory_after - memory <= max(memory // 10, 20 * MIB)
    if long:
        assert latency_after <= max(5 * latency, 0.25)


async def test_no_header_block_ends_the_connection(scene: Scene) -> None:
    for number, block in enumerate(BLOCKS):
        inbox = f"{INBOX}.{number}".encode()
        scene.wire.publish(b"ai.v1.ask.text.t", b"[sim: words=1]", reply=inbox, block=block)
        await scene.wire.flush()
        bad = Bad(number, "ask", b"", inbox, block, b"", "result")
        await scene.until(partial(scene.ended, bad), [bad])
        assert parse_event(scene.answers(bad)[0].data).type == "result"


async def test_the_worker_publishes_no_answer_where_the_requester_has_no_rights(scene: Scene) -> None:
    subjects = (b"ai.v1.ctl.cancel.t.x", b"ai.v1.ctl.resume.t", b"$SRV.PING", b"$SRV.STATS.ai-worker")
    for subject in subjects:
        scene.wire.publish(subject, b"", reply=b"ai.v1.dead.text.t.forged")
    await scene.wire.flush()
    answer = await scene.nc.request("ai.v1.ctl.cancel.t.x", b"", timeout=5)  # those before it have been handled
    assert answer.data == b'{"cancelled":false}'
    await scene.nc.request("$SRV.PING.ai-worker", b"", timeout=5)
    assert (await scene.js.stream_info("AIDEAD")).state.messages == 0


@pytest.mark.parametrize(
    "line", [b"Nats-Expected-Stream: AIJOBS", b"Status: 408", b"A(b): c", b"X: " + b"\xff" * 30_000]
)
async def test_no_header_of_a_job_keeps_its_dead_letter_from_being_written(scene: Scene, line: bytes) -> None:
    block = headers(b"correlation_id: \xc3\xbc", line)
    scene.wire.publish(b"ai.v1.job.text.t.j1", b"", reply=b"_INBOX.stored", block=block)
    await scene.wire.flush()
    bad = Bad(1, "job", b"ai.v1.job.text.t.j1", b"", block, b"", INVALID)
    await scene.until(partial(scene.ended, bad), [bad])
    await check_jobs(scene, [bad])
    letters = DeadLetters(Bus(scene.nc, scene.js))
    (letter,) = [letter async for letter in letters.all()]
    if letter.left_out:
        with pytest.raises(RetryRefused):
            await letters.retry(letter)
    else:
        await letters.retry(letter)  # also with a value that is not ASCII
    assert (letter.attempts, letter.id) == (1, "j1")
