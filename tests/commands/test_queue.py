"""submit, result, resume, jobs, top: a queue from its command line."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aichats_client import submit
from aichats_worker.commands.top import Seen
from aichats_worker.simulator.answers import image as simulated_image
from aichats_worker.simulator.answers import words
from tests.commands.test_commands import Ran, command
from tests.jobs.test_jobs import Broker, StartJobs, broker, start_jobs

__all__ = ["broker", "start_jobs"]
pytestmark = pytest.mark.timeout(180)  # each command is a process of its own


class Queue:
    """Commands against one broker."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._broker = broker
        self._folder = folder

    async def run(self, *arguments: str, **more: Any) -> Ran:
        return await command(*arguments, cwd=self._folder, NATS_URL=self._broker.server.url, **more)


@pytest.fixture
def queue(broker: Broker, tmp_path: Path) -> Queue:
    return Queue(broker, tmp_path)


async def test_a_job_is_submitted_and_its_result_read(queue: Queue, start_jobs: StartJobs) -> None:
    await start_jobs()
    assert (await queue.run("submit", "--id", "order-7", "[sim: words=3 pause=0]")).out == b"order-7\n"
    text = "".join(words(3)) + "\n"
    assert (await queue.run("result", "order-7")).out.decode() == text
    whole = json.loads((await queue.run("result", "order-7", "--json")).out)
    assert (whole["text"] + "\n", whole["finish_reason"]) == (text, "stop")


async def test_a_job_is_read_from_its_beginning_or_from_a_point_on(
    queue: Queue, start_jobs: StartJobs, broker: Broker
) -> None:
    await start_jobs()
    await submit(broker.js, "text", "[sim: words=3 pause=0]", request_id="order-7")
    assert (await queue.run("resume", "order-7")).out.decode() == "".join(words(3)) + "\n"
    events = [json.loads(line) for line in (await queue.run("resume", "order-7", "--json")).out.splitlines()]
    assert events[-1]["type"] == "done"
    rest = await queue.run("resume", "order-7", "--after", f"1,{events[-1]['seq'] - 2}")
    assert rest.out.decode() == events[-2]["data"] + "\n"


async def test_an_image_job_is_saved_by_result_and_by_resume(
    queue: Queue, start_jobs: StartJobs, tmp_path: Path
) -> None:
    await start_jobs()
    submitted = await queue.run("submit", "--kind", "image", "--id", "cat", "[sim: bytes=900 type=webp]")
    assert submitted.status == 0, submitted.err
    for name in ("result", "resume"):
        ran = await queue.run(name, "cat", "-o", name)
        assert ran.out.decode() == f"{name}.webp (image/webp, 900 bytes)\n"
        assert (tmp_path / f"{name}.webp").read_bytes() == simulated_image("webp", 900)


async def test_a_text_job_is_saved_by_result_and_by_resume_and_replaces_nothing_unasked(
    queue: Queue, start_jobs: StartJobs, tmp_path: Path
) -> None:
    await start_jobs()
    await queue.run("submit", "--id", "order-7", "[sim: words=3 pause=0]")
    text = "".join(words(3)) + "\n"
    for name in ("result", "resume"):
        ran = await queue.run(name, "order-7", "-o", f"{name}.txt")
        assert ran.out.decode() == f"{name}.txt (text/plain, {len(text)} bytes)\n"
        assert (tmp_path / f"{name}.txt").read_text() == text
        (tmp_path / f"{name}.txt").write_text("mine")
        again = await queue.run(name, "order-7", "-o", f"{name}.txt")
        assert (again.status, again.out) == (2, b"")
        assert "--force" in again.err
        assert (tmp_path / f"{name}.txt").read_text() == "mine"
        assert (await queue.run(name, "order-7", "-o", f"{name}.txt", "--force")).status == 0
        assert (tmp_path / f"{name}.txt").read_text() == text
    whole = json.loads((await queue.run("result", "order-7", "-o", "third.txt", "--json")).out)
    assert whole["written"] == [f"third.txt (text/plain, {len(text)} bytes)"]


async def test_a_job_that_fails_is_a_line_of_json_too(queue: Queue, start_jobs: StartJobs) -> None:
    await start_jobs()
    await queue.run("submit", "--id", "order-7", "[sim: status=404]")
    ran = await queue.run("result", "order-7", "--json")
    said = json.loads(ran.out)
    assert (ran.status, said["type"], said["id"]) == (1, "error", "order-7")
    assert said["data"]["code"] in ran.err


async def test_a_file_of_jobs_is_submitted(queue: Queue, start_jobs: StartJobs, tmp_path: Path, broker: Broker) -> None:
    await (await start_jobs()).drain()
    lines = ['"a prompt"', "", '{"kind": "image", "prompt": "a cat", "id": "cat"}', '{"messages": [], "prompt": "hi"}']
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    ran = await queue.run("submit", "-f", "jobs.jsonl")
    assert ran.status == 2
    assert ran.err.startswith("jobs.jsonl:4: ")
    assert await broker.jobs_left() == 0, "all or nothing"
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines[:3]))
    ran = await queue.run("submit", "-f", "jobs.jsonl")
    assert (ran.status, len(ran.out.splitlines())) == (0, 2)
    assert b"cat\n" in ran.out
    assert await broker.jobs_left() == 2
    again = await queue.run("submit", "-f", "jobs.jsonl")
    assert again.status == 1
    assert "cat: a job cat is queued or running already; `aichats-worker result cat` waits for it" in again.err
    assert "1 of 2 jobs were not taken" in again.err


async def test_jobs_shows_what_waits_and_what_runs(queue: Queue, start_jobs: StartJobs, broker: Broker) -> None:
    worker = await start_jobs(worker_concurrency_max=1)
    await broker.submit("[sim: words=500 pause=1]", "runs")
    async with asyncio.timeout(20):
        while (await broker.events(1))[0].type != "response":
            pass
    await broker.submit("[sim: words=1]", "waits")
    listed = [json.loads(line) for line in (await queue.run("jobs", "--json")).out.splitlines()]
    assert [(job["id"], job["state"], job["attempt"]) for job in listed] == [("runs", "runs", 1), ("waits", "waits", 0)]
    shown = (await queue.run("jobs", "--limit", "1")).out.decode()
    assert "2 jobs in the queue, of which 1 are shown" in shown
    top = json.loads((await queue.run("top", "--once", "--json")).out)
    (seen,) = top["workers"]
    assert (seen["in_flight"], seen["capacity"]["text"]) == ({"text": 1, "image": 0}, 1)
    assert top["queue"][0] == {"kind": "text", "waits": 1, "taken": 1, "retried": 0}
    table = (await queue.run("top")).out.decode()
    assert "1 worker" in table, "in a pipe it is shown once"
    assert " 1 of 1 " in table
    assert (await queue.run("cancel", "runs", "--tenant", "t")).out == b"cancelled\n"
    assert worker is not None


def test_top_weighs_first_events_by_how_many_there_were_and_reads_a_worker_that_says_less() -> None:
    endpoints = [
        {"num_requests": 4, "data": {"num_first_events": 3, "average_first_event_time": 100_000_000}},
        {"num_requests": 1, "data": {"num_first_events": 1, "average_first_event_time": 500_000_000}},
    ]
    seen = Seen.read({"id": "a", "endpoints": endpoints, "metadata": {"in_flight_text": "2"}}, None, 1)
    assert (seen.requests, seen.first_event_ms, seen.in_flight, seen.capacity) == (5, 200, {"text": 2}, {})
    assert Seen.read({"id": "a", "endpoints": [{"num_requests": 4}]}, None, 1).first_event_ms is None


async def test_jobs_without_a_queue_says_so(queue: Queue) -> None:
    ran = await queue.run("jobs")
    assert ran.status == 1
    assert "provision" in ran.err
