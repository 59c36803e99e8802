"""Probes, metrics and documentation over HTTP."""

import asyncio
import contextlib
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from nats.aio.client import Client

from aichats_schemas import __version__
from aichats_worker.app import App
from aichats_worker.broker.stopping import Stopping
from aichats_worker.documents.html import HEADERS
from tests.conftest import SpawnWorker, StartWorker
from tests.processes import free_port
from tests.requester import ask


class Site:
    def __init__(self, port: int) -> None:
        self.port = port

        self.headers: dict[str, str] = {}

    async def get(self, path: str, accept: str = "*/*") -> tuple[int, str, bytes]:
        return await asyncio.to_thread(self._get, path, accept)

    def _get(self, path: str, accept: str) -> tuple[int, str, bytes]:
        request = Request(f"http://127.0.0.1:{self.port}{path}", headers={"accept": accept})
        try:
            with urlopen(request, timeout=5) as answer:  # noqa: S310
                self.headers = dict(answer.headers)
                return answer.status, answer.headers["content-type"], answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.headers["content-type"], error.read()


@pytest.fixture
def site() -> Site:
    return Site(free_port())


@pytest.fixture
async def worker(start_worker: StartWorker, site: Site) -> App:
    return await start_worker(worker_http_host="127.0.0.1", worker_http_port=site.port)


async def test_a_worker_that_serves_is_live_and_ready(worker: App, site: Site) -> None:
    assert (await site.get("/livez"))[0] == 200
    status, _, body = await site.get("/readyz")
    assert status == 200
    assert set(json.loads(body)["checks"].values()) == {"ok"}
    assert json.loads(body)["ready"] is True


async def test_metrics_count_requests_by_their_end_without_any_tenant(nc: Client, worker: App, site: Site) -> None:
    await ask(nc, "ai.v1.req.text.a-tenants-name", b"[sim: words=1]")
    await ask(nc, "ai.v1.ask.text.a-tenants-name", b"")
    status, _, body = await site.get("/metrics")
    text = body.decode()
    assert status == 200
    assert 'aichats_requests_total{kind="text",mode="req",outcome="done"} 1.0' in text
    assert 'aichats_requests_total{kind="text",mode="ask",outcome="invalid_request"} 1.0' in text
    assert "a-tenants-name" not in text


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/metrics", "/docs/asyncapi.json"])
async def test_a_header_that_is_no_text_is_no_error(worker: App, site: Site, path: str) -> None:
    assert (await site.get(path, accept="application/openmetrics-text; version=\xff"))[0] == 200


async def test_metrics_say_how_many_tasks_the_event_loop_has(worker: App, site: Site) -> None:
    async def shown() -> float:
        lines = (await site.get("/metrics"))[2].decode().splitlines()
        return float(next(line for line in lines if line.startswith("aichats_event_loop_tasks ")).split()[1])

    before = await shown()
    more = [asyncio.create_task(asyncio.sleep(60)) for _ in range(50)]
    during = await shown()
    for task in more:
        task.cancel()
    await asyncio.wait(more)
    assert during >= before + 40  # others come and go meanwhile
    assert await shown() <= during - 40


async def test_the_asyncapi_document_is_served_as_json_and_yaml(worker: App, site: Site) -> None:
    status, content_type, body = await site.get("/docs/asyncapi.json")
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == worker.contract.document()
    status, content_type, body = await site.get("/docs/asyncapi.yaml")
    assert (status, content_type) == (200, "application/yaml")
    assert yaml.safe_load(body) == worker.contract.document()


@pytest.mark.parametrize("path", ["/", "/docs/asyncapi"])
async def test_a_page_comes_with_a_policy_that_lets_it_do_nothing(worker: App, site: Site, path: str) -> None:
    status, content_type, body = await site.get(path, accept="text/html,*/*;q=0.8")
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert body.startswith(b"<!doctype html>")
    assert {name: site.headers[name] for name in HEADERS} == HEADERS


async def test_the_front_page_says_what_this_is_and_whether_it_is_ready(worker: App, site: Site) -> None:
    status, content_type, body = await site.get("/")
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    text = body.decode()
    assert text.startswith(f"ai-worker {__version__}: ready\n")
    assert worker.discovery.id in text
    assert "gpt-4" in text
    await worker._disconnect(Stopping(0))
    _, _, body = await site.get("/")
    assert body.startswith(f"ai-worker {__version__}: not ready: ".encode())


async def test_the_front_page_is_there_before_the_broker_is(start_worker: StartWorker, site: Site) -> None:
    where = {"nats_url": f"nats://127.0.0.1:{free_port()}"}
    starting = asyncio.ensure_future(start_worker(worker_http_host="127.0.0.1", worker_http_port=site.port, **where))
    async with asyncio.timeout(30):
        while not starting.done():
            with contextlib.suppress(OSError):
                _, _, body = await site.get("/")
                assert b": not ready: " in body
                break
            await asyncio.sleep(0.05)
    starting.cancel()


async def test_an_unknown_path_is_not_found(worker: App, site: Site) -> None:
    assert (await site.get("/nothing"))[0] == 404


async def test_a_port_that_is_taken_ends_the_start_with_a_sentence_and_status_2(
    worker: App, site: Site, spawn_worker: SpawnWorker
) -> None:
    second = await spawn_worker(ready=False, WORKER_HTTP_PORT=str(site.port))
    assert await second.wait() == 2
    (line,) = (line for line in second.log.splitlines() if not line.startswith("{"))
    assert line == f"WORKER_HTTP_PORT {site.port} on 127.0.0.1: address already in use; another worker may have it"


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "::1"])  # noqa: S104
async def test_probes_answer_on_the_families_that_the_host_names(
    start_worker: StartWorker, site: Site, host: str
) -> None:
    await start_worker(worker_http_host=host, worker_http_port=site.port)
    answers: dict[str, bool] = {}
    for address in ("127.0.0.1", "::1"):
        try:
            _, writer = await asyncio.open_connection(address, site.port)
        except OSError:
            answers[address] = False
        else:
            answers[address] = True
            writer.close()
            await writer.wait_closed()
    assert answers == {"127.0.0.1": host != "::1", "::1": host != "0.0.0.0"}  # noqa: S104


async def test_no_probe_answers_500_while_the_worker_closes(worker: App, site: Site) -> None:
    await worker._disconnect(Stopping(0))
    assert (await site.get("/readyz"))[0] == 503
    assert (await site.get("/livez"))[0] in (200, 503)
    assert (await site.get("/metrics"))[0] == 200


async def test_each_check_is_a_metric(worker: App) -> None:
    value = worker.telemetry.registry.get_sample_value
    assert value("aichats_check", {"check": "broker"}) == 1
    worker.connection.refused["ai.v1.req.text.*"] = "refused"
    assert value("aichats_check", {"check": "subscriptions"}) == 0
