"""Dashboard, alerts, runbook: each query at a real Prometheus, each rule tested, each alert with its paragraph."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import nats
import pytest
import yaml
from nats.aio.client import Client

from aichats_schemas.events import ErrorCode
from tests.conftest import SpawnWorker
from tests.jobs.test_jobs import Broker
from tests.processes import ROOT, NatsServer, WorkerProcess, free_port
from tests.requester import ask

FILES = ROOT / "helm" / "files"
RULES = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in RULES for rule in group["rules"]}
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "10s", "$namespace": ".*", "$job": ".*"}
SCRAPES = 6


def found(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not here: on Debian, apt-get install prometheus brings it")
    return path


def queries() -> list[tuple[str, str]]:
    """Every query of the dashboard, and every alert's without its bound, by name."""
    shown = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    return shown + [(name, rule["expr"]) for name, rule in ALERTS.items()]


class Prometheus:
    """A real one, over a worker."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def query(self, expression: str) -> list[dict[str, Any]]:
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        said = await asyncio.to_thread(self._get, f"/api/v1/query?{urlencode({'query': expression})}")
        assert said["status"] == "success", said
        result: list[dict[str, Any]] = said["data"]["result"]
        return result

    def _get(self, path: str) -> dict[str, Any]:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
            return said

    async def scraped(self, times: int) -> None:
        """Wait until the worker was scraped so often, from now on."""
        before = await self._count()
        async with asyncio.timeout(60):
            while await self._count() < before + times:
                await asyncio.sleep(0.2)

    async def _count(self) -> float:
        try:
            (value,) = await self.query("count_over_time(aichats_ready[10m])")
        except (OSError, ValueError):
            return 0.0  # it is not up yet, or has not looked yet
        return float(value["value"][1])


@pytest.fixture
async def worker(own_nats_server: Callable[..., NatsServer], spawn_worker: SpawnWorker) -> WorkerProcess:
    """A worker with jobs, on a server of its own."""
    process = await spawn_worker(NATS_URL=own_nats_server().url, PROVIDER_CALLS_MAX="1")
    return await process.serving_jobs()


def started(command: list[str], log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@pytest.fixture
async def prometheus(worker: WorkerProcess, tmp_path: Path) -> AsyncIterator[Prometheus]:
    binary, port = found("prometheus"), free_port()
    config = tmp_path / "prometheus.yml"
    static = [{"targets": [f"127.0.0.1:{worker.http_port}"], "labels": {"namespace": "ai"}}]
    jobs = [{"job_name": "ai/chat", "scrape_interval": "1s", "static_configs": static}]
    config.write_text(yaml.safe_dump({"scrape_configs": jobs, "rule_files": [str(FILES / "alerts.yaml")]}))
    with tempfile.TemporaryDirectory() as store, (tmp_path / "prometheus.log").open("wb") as log:
        options = [f"--config.file={config}", f"--storage.tsdb.path={store}", f"--web.listen-address=127.0.0.1:{port}"]
        process = started([binary, *options], log)
        yield Prometheus(port)
        process.send_signal(signal.SIGTERM)
        process.wait(20)


async def load(nc: Client, ended: asyncio.Event) -> None:
    """Requests of each mode and kind, good ones and failing ones, until it is ended."""
    broker, number = Broker.__new__(Broker), 0
    broker.js = nc.jetstream()
    while not ended.is_set():
        number += 1
        await ask(nc, "ai.v1.req.text.t", b"[sim: words=5 pause=0.02]")
        await ask(nc, "ai.v1.req.image.t", b"a cat")
        await ask(nc, "ai.v1.ask.text.t", b"{")
        await ask(nc, "ai.v1.ask.image.t", b"[sim: status=503]")
        await broker.submit("[sim: words=2]", f"r{number}")


async def test_every_query_of_the_dashboard_finds_something_at_a_worker_under_load(
    worker: WorkerProcess, prometheus: Prometheus
) -> None:
    ended = asyncio.Event()
    nc = await nats.connect(worker._settings["NATS_URL"])
    loading = asyncio.create_task(load(nc, ended))
    try:
        await prometheus.scraped(SCRAPES)
        empty = [(name, each) for name, each in queries() if name not in ALERTS and not await prometheus.query(each)]
        broken = [
            name for name, each in queries() if name in ALERTS and not isinstance(await prometheus.query(each), list)
        ]
        requests = await prometheus.query("sum(rate(aichats_requests_total[10s]))")
    finally:
        ended.set()
        await asyncio.wait({loading}, timeout=20)
        await nc.close()
    assert loading.exception() is None
    assert empty == []
    assert broken == []
    assert float(requests[0]["value"][1]) > 0


def test_every_alert_fires_and_stays_quiet_in_a_test_of_the_rules() -> None:
    tested = yaml.safe_load((ROOT / "tests" / "telemetry" / "alerts_test.yaml").read_text())["tests"]
    names = {test["name"] for test in tested}
    assert names == {f"{alert} {what}" for alert in ALERTS for what in ("fires", "stays quiet")}
    for test in tested:
        (case,) = test["alert_rule_test"]
        assert bool(case["exp_alerts"]) == test["name"].endswith("fires"), test["name"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "--lint-fatal", "helm/files/alerts.yaml"),
        ("test", "rules", "tests/telemetry/alerts_test.yaml"),
    ],
)
def test_promtool_agrees_with_the_rules(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([found("promtool"), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def paragraph(heading: str) -> str:
    """What stands below a heading of the runbook."""
    match = re.search(rf"^##+ {re.escape(heading)}\n\n(.*?)(?=\n##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert match, f"docs/runbook.md says nothing of {heading}"
    return match[1]


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_paragraph_of_the_runbook_and_leads_to_it(alert: str) -> None:
    assert len(paragraph(alert)) > 150
    assert ALERTS[alert]["annotations"]["runbook"] == f"docs/runbook.md#{alert.lower()}"
    assert ALERTS[alert]["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize("code", ErrorCode)
def test_each_error_code_has_a_paragraph_of_the_runbook(code: ErrorCode) -> None:
    assert len(paragraph(f"`{code}`")) > 80


def test_the_runbook_names_no_alert_and_no_metric_that_is_not_there() -> None:
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^## (Aichats\w+)$", RUNBOOK, re.MULTILINE)) == set(ALERTS)
    everything = RUNBOOK + json.dumps(DASHBOARD) + (FILES / "alerts.yaml").read_text()
    for name in set(re.findall(r"\b(aichats_[a-z_]+)", everything)):
        assert f"`{re.sub(r'_(bucket|sum|count)$', '', name)}`" in metrics or name == "aichats_worker", name


def test_no_alert_shows_more_than_labels_that_hold_no_text_of_a_requester() -> None:
    shown = {label for rule in ALERTS.values() for label in re.findall(r"labels\.(\w+)", json.dumps(rule))}
    assert shown <= {"namespace", "job", "instance", "kind", "provider", "outcome", "task"}


def test_each_panel_has_a_place_of_its_own_and_says_what_it_shows() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all("$namespace" in target["expr"] and "$job" in target["expr"] for target in panel["targets"])
