"""What /metrics shows: by Prometheus' conventions, from zero on, each counted once."""

import asyncio
import shutil
import subprocess
from typing import Any

import pytest
from nats.aio.client import Client
from prometheus_client import generate_latest

from aichats_worker.app import App
from aichats_worker.telemetry.account import Sent
from aichats_worker.telemetry.counting import Telemetry
from tests.conftest import StartWorker
from tests.direct.test_corridor import until
from tests.requester import ask


def samples(app: App) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every value that is shown, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in app.telemetry.registry.collect()
        for sample in metric.samples
    }


def value(app: App, name: str, **labels: str) -> float | None:
    return app.telemetry.registry.get_sample_value(name, labels)


async def test_promtool_finds_nothing_against_the_conventions(nc: Client, worker: App) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: on Debian, apt-get install prometheus brings it")
    await ask(nc, "ai.v1.req.text.default", b"[sim: words=2]")
    shown = generate_latest(worker.telemetry.registry)
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=shown, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


async def test_what_can_be_counted_is_zero_before_it_happens(start_worker: StartWorker) -> None:
    app = await start_worker(worker_providers="aichats,openai")
    counted = {key: each for key, each in samples(app).items() if key[0].startswith("aichats_") and "_total" in key[0]}
    assert set(counted.values()) == {0}
    for name, labels in (
        ("aichats_requests_total", {"mode": "req", "kind": "image", "outcome": "gone"}),
        ("aichats_requests_failed_total", {"mode": "job", "kind": "text", "fault": "operator"}),
        ("aichats_requests_dropped_total", {"reason": "no_reply"}),
        ("aichats_provider_calls_total", {"provider": "openai", "kind": "text", "outcome": "misconfigured"}),
        ("aichats_provider_circuit_changes_total", {"provider": "aichats", "kind": "image", "state": "open"}),
        ("aichats_provider_failovers_total", {"provider": "aichats", "kind": "text"}),
        ("aichats_tasks_ended_total", {"task": "loop-watch"}),
        ("aichats_job_dead_letters_total", {"kind": "image"}),
        ("aichats_job_attempts_total", {"kind": "text", "result": "lost"}),
        ("aichats_broker_reconnects_total", {}),
    ):
        assert value(app, name, **labels) == 0, name


def test_a_metric_can_be_asked_for_by_its_name_and_has_it_alone() -> None:
    telemetry = Telemetry()
    for name in ("aichats_requests_total", "aichats_request_duration_seconds_bucket"):
        (family,) = telemetry.registry.restricted_registry([name]).collect()
        assert {sample.name for sample in family.samples} == {name}
    with pytest.raises(ValueError, match="aichats_requests"):
        telemetry.reads("requests_total", "The same once more.", float)


async def test_a_request_is_counted_with_its_times_events_bytes_and_tokens(nc: Client, worker: App) -> None:
    events = await ask(nc, "ai.v1.req.text.default", b"[sim: words=5 pause=0.02]")
    await until(lambda: value(worker, "aichats_requests_total", mode="req", kind="text", outcome="done") == 1)
    both = {"mode": "req", "kind": "text"}
    assert value(worker, "aichats_events_total", **both) == len(events)
    assert 80 * len(events) < (value(worker, "aichats_event_bytes_total", **both) or 0) < 500 * len(events)
    for name in ("duration_seconds", "first_event_seconds"):
        assert value(worker, f"aichats_request_{name}_count", **both) == 1
    assert value(worker, "aichats_request_event_gap_seconds_count", kind="text") == 1
    gap = value(worker, "aichats_request_event_gap_seconds_sum", kind="text") or 0
    assert 0 < gap <= (value(worker, "aichats_request_duration_seconds_sum", **both) or 0)
    assert (value(worker, "aichats_tokens_total", kind="text", direction="output", estimated="true") or 0) > 0
    assert value(worker, "aichats_requests_running", kind="text") == 0
    assert {each for _, labels in samples(worker) for each in labels if each[0] in ("tenant", "id", "subject")} == set()


async def test_a_failure_is_counted_by_whose_fault_it_was(nc: Client, worker: App) -> None:
    await ask(nc, "ai.v1.req.text.default", b"[sim: answer=challenge]")
    await ask(nc, "ai.v1.req.text.default", b"{")
    await ask(nc, "ai.v1.req.text.default", b"the circuit is open")

    def failed() -> dict[str, float | None]:
        faults = ("requester", "operator", "provider", "worker")
        return {
            each: value(worker, "aichats_requests_failed_total", mode="req", kind="text", fault=each) for each in faults
        }

    await until(lambda: failed() == {"requester": 1, "operator": 1, "provider": 1, "worker": 0})
    of = {"provider": "aichats", "kind": "text"}
    assert value(worker, "aichats_provider_circuit_changes_total", **of, state="open") == 1
    assert value(worker, "aichats_provider_circuit_closed", **of) == 0


async def test_a_second_try_and_a_failover_are_counted(nc: Client, start_worker: StartWorker, simulator: Any) -> None:
    app = await start_worker(
        worker_providers="openai,aichats", openai_base_url=f"{simulator.url}/v1", worker_retry_base_seconds=0.01
    )
    await ask(nc, "ai.v1.req.text.default", b"[sim: status=503]")
    await until(lambda: value(app, "aichats_provider_failovers_total", provider="openai", kind="text") == 1)
    assert value(app, "aichats_provider_retries_total", provider="openai", kind="text") == 0
    assert value(app, "aichats_provider_retries_total", provider="aichats", kind="text") == 2


async def test_slots_show_how_full_the_worker_is(nc: Client, start_worker: StartWorker, simulator: Any) -> None:
    app = await start_worker(worker_concurrency_max=2)
    asking = asyncio.create_task(ask(nc, "ai.v1.req.text.default", b"[sim: words=2 pause=0.5]"))
    await until(lambda: value(app, "aichats_slots_used", kind="text") == 1)
    assert value(app, "aichats_slots", kind="text") == 2
    assert value(app, "aichats_slots_used", kind="image") == 0
    await asking
    await until(lambda: value(app, "aichats_slots_used", kind="text") == 0)


@pytest.mark.parametrize(
    ("sent", "gap"),
    [
        (Sent(12, 1, 10.0, 20.0), 1.0),
        (Sent(2, 1, 10.0, 10.0), None),
        (Sent(12, 1, None, 20.0), None),
        (Sent(12, 1, 10.0, None), None),
    ],
)
def test_the_mean_gap_is_between_the_events_before_the_end(sent: Sent, gap: float | None) -> None:
    assert sent.gap_seconds == gap
