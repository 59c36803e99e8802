"""What the log says: one line for a request's end, one for each thing that goes or comes, and no more."""

import asyncio
import json
import signal
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from structlog.testing import capture_logs

from aichats_worker.app import App
from aichats_worker.errors import Challenge, Misconfigured
from aichats_worker.provider.circuit_log import CircuitLog
from aichats_worker.request.saturation import LOOKS_UNTIL_TOLD, Saturation
from aichats_worker.request.slots import Slots
from aichats_worker.telemetry.logs import REASONS_MAX, Said
from tests.conftest import SpawnWorker
from tests.direct.test_corridor import until
from tests.jobs.broker import Broker, StartJobs, broker, start_jobs
from tests.processes import NatsServer, WorkerProcess
from tests.requester import ask

__all__ = ["broker", "start_jobs"]


def lines(worker: WorkerProcess, event: str = "") -> list[dict[str, Any]]:
    """The log's lines; those of one event where it is named."""
    found = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    return [line for line in found if event in ("", line["event"])]


async def test_a_request_that_ends_well_is_one_line_with_all_that_matters(
    nc: Client, spawn_worker: SpawnWorker
) -> None:
    worker = await spawn_worker(WORKER_JOBS="off")
    headers = {"Nats-Msg-Id": "r9", "correlation_id": "order-7"}
    events = await ask(nc, "ai.v1.req.text.a-tenant", b"[sim: words=5 pause=0.02]", headers)
    await until(lambda: lines(worker, "request ended"))
    (line,) = lines(worker, "request ended")
    assert {name: line[name] for name in ("level", "mode", "kind", "tenant", "id", "attempt", "outcome")} == {
        "level": "info", "mode": "req", "kind": "text", "tenant": "a-tenant", "id": "r9", "attempt": 1,
        "outcome": "done",
    }  # fmt: skip
    assert (line["model"], line["provider"], line["correlation_id"]) == ("gpt-4", "aichats", "order-7")
    assert line["events"] == len(events)
    assert line["bytes"] > 80 * len(events)
    assert 0 < line["first_seconds"] <= line["seconds"]
    assert line["input_tokens"] > 0 < line["output_tokens"]
    assert not {"message", "queued_seconds", "trace_id"} & set(line)


async def test_whose_fault_an_end_was_is_the_level_of_its_line(nc: Client, spawn_worker: SpawnWorker) -> None:
    worker = await spawn_worker(WORKER_JOBS="off")
    await ask(nc, "ai.v1.req.text.t", b"[sim: answer=challenge]")
    await ask(nc, "ai.v1.req.text.t", b'{"prompt": "x", "metadata": {"theirs": 5}}')
    await ask(nc, "ai.v1.req.text.t", {"prompt": "x", "metadata": {"theirs": "x" * 1000}})
    await until(lambda: len(lines(worker, "request ended")) == 3)
    captcha, wrong, large = lines(worker, "request ended")
    assert (captcha["level"], captcha["outcome"], captcha["provider"]) == ("warning", "challenge", "aichats")
    assert "AICHATS_COOKIE" in captcha["message"]
    assert (wrong["level"], wrong["outcome"]) == ("info", "invalid_request")
    assert wrong["message"] == "metadata: Input should be a valid string"
    assert (large["level"], large["message"]) == ("info", "metadata: a value is too long")
    assert "theirs" not in worker.log
    (opened,) = lines(worker, "circuit opened")
    assert (opened["level"], opened["code"], opened["kind"]) == ("warning", "challenge", "text")
    assert "AICHATS_COOKIE" in opened["reason"]


async def test_the_start_says_what_this_worker_is(nats_server: NatsServer, spawn_worker: SpawnWorker) -> None:
    worker = await spawn_worker(WORKER_CONCURRENCY_MAX="7", NATS_URL=nats_server.url.replace("//", "//u:secret@"))
    (start,), (ready,) = lines(worker, "starting"), lines(worker, "ready")
    assert start["broker"] == nats_server.url
    assert (start["providers"], start["models_text"], start["models_image"]) == ("aichats", "gpt-4", "dalle")
    assert (start["slots_text"], start["slots_image"], start["prefix"], start["jobs"]) == (7, 8, "ai.v1", "on")
    assert start["http"] == f"127.0.0.1:{worker.http_port}"
    assert start["version"]
    assert ready["broker"] == nats_server.url.removeprefix("nats://")
    assert "secret" not in worker.log


async def test_no_line_has_a_field_that_says_nothing_or_an_event_called_nats(
    own_nats_server: Callable[..., NatsServer], spawn_worker: SpawnWorker
) -> None:
    server = own_nats_server()
    worker = await spawn_worker(NATS_URL=server.url, WORKER_LOG_LEVEL="debug", WORKER_JOBS="off")
    server.stop()
    await until(lambda: lines(worker, "broker not reached"))
    server.start()
    await until(lambda: lines(worker, "broker connected again"))
    worker.send(signal.SIGTERM)
    await worker.wait()
    assert [(line["event"], line["level"]) for line in lines(worker) if line["event"].startswith("broker")][:3] == [
        ("broker disconnected", "warning"), ("broker not reached", "warning"), ("broker connected again", "info"),
    ]  # fmt: skip
    for line in lines(worker):
        assert None not in line.values(), line
        assert line["event"] not in ("nats", "")


async def test_a_terminal_gets_one_readable_line(nc: Client, spawn_worker: SpawnWorker) -> None:
    worker = await spawn_worker(WORKER_JOBS="off", WORKER_LOG_FORMAT="console")
    await ask(nc, "ai.v1.req.text.t", b"[sim: words=1]", {"Nats-Msg-Id": "r9"})
    await until(lambda: "request ended" in worker.log)
    (line,) = (line for line in worker.log.splitlines() if "request ended" in line)
    assert (
        "request ended    mode=req kind=text tenant=t id=r9 attempt=1 outcome=done model=gpt-4 provider=aichats" in line
    )
    assert "None" not in worker.log


def test_a_circuit_is_told_of_once_for_each_reason() -> None:
    told = CircuitLog("aichats", "text")
    with capture_logs() as said:
        for error in (Challenge("captcha"), Challenge("captcha"), Misconfigured("key"), Misconfigured("key")):
            told.opens(error, 30)
        told.closes()
        told.opens(Challenge("captcha"), 30)
    assert [(line["event"], line["log_level"], line.get("code")) for line in said] == [
        ("circuit opened", "warning", "challenge"),
        ("circuit stays open", "warning", "misconfigured"),
        ("circuit closed", "info", None),
        ("circuit opened", "warning", "challenge"),
    ]
    assert (told.opened, told.closed) == (2, 1)


def test_slots_that_are_full_for_long_are_told_of_once_and_again_when_they_are_not() -> None:
    slots = Slots(1)
    saturation = Saturation({"text": slots})

    def look(times: int) -> None:
        for _ in range(times):
            saturation.look()

    with capture_logs() as said:
        slots.take()
        look(LOOKS_UNTIL_TOLD - 1)
        slots.give_back()
        look(1)  # not in a row
        slots.take()
        look(LOOKS_UNTIL_TOLD - 1)
        assert said == []
        look(30)
        slots.give_back()
        look(LOOKS_UNTIL_TOLD - 1)
        slots.take()
        look(1)
        assert len(said) == 1  # a moment of room is not the end of it
        slots.give_back()
        look(30)
    assert [(line["event"], line["log_level"]) for line in said] == [
        ("slots are full", "warning"),
        ("slots are free again", "info"),
    ]


def test_a_reason_is_new_once_and_the_memory_of_reasons_is_bounded() -> None:
    said = Said()
    assert [said.is_new("a"), said.is_new("a"), said.is_new("b")] == [True, False, True]
    assert said.forget()
    assert not said.forget()
    assert said.is_new("a")
    for number in range(2 * REASONS_MAX):
        assert said.is_new(f"reason {number}")
    assert len(said._when) <= REASONS_MAX


async def test_the_line_of_a_job_has_the_number_of_its_attempt(broker: Broker, start_jobs: StartJobs) -> None:
    await start_jobs()
    with capture_logs() as said:
        await broker.submit("[sim: status=503 times=1 words=1]")
        await broker.removed()
        await until(lambda: len([line for line in said if line["event"] == "request ended"]) == 2)
    assert [line["attempt"] for line in said if line["event"] == "request ended"] == [1, 2]


async def test_a_stream_that_refuses_is_told_of_once_for_all_jobs_and_when_it_takes_events_again(
    broker: Broker, start_jobs: StartJobs
) -> None:
    app: App = await start_jobs()
    with capture_logs() as said:
        for number in range(3):
            await broker.submit("[sim: words=100 pause=0.05]", f"r{number}")
        await until(lambda: len(app.runs._runs) == 3)
        await broker.js.update_stream(name="AIOUT", subjects=["ai.v1.elsewhere"])
        await until(lambda: any("not stored yet" in line["event"] for line in said))
        await asyncio.sleep(2)  # some tries of each
        await broker.js.update_stream(name="AIOUT", subjects=["ai.v1.out.*.*"])
        await until(lambda: any("stored again" in line["event"] for line in said))
    told = [line["event"] for line in said if "stored" in line["event"]]
    assert told.count("jobs' events are not stored yet") == 1, said
    assert told[-1] == "jobs' events are stored again"
