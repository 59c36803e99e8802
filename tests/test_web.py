"""Probes, metrics and documentation over HTTP."""

import asyncio
import json
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml
from nats.aio.client import Client

from aichats_worker.app import App
from tests.conftest import StartWorker
from tests.processes import free_port
from tests.requester import ask


class Site:
    def __init__(self, port: int) -> None:
        self.port = port

    async def get(self, path: str) -> tuple[int, str, bytes]:
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, str, bytes]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
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
    assert json.loads(body) == {
        "ready": True,
        "nats_connected": True,
        "subscribed": True,
        "draining": False,
        "provider_working": True,
    }


async def test_metrics_hold_faststreams_counters_and_our_own_without_any_tenant(
    nc: Client, worker: App, site: Site
) -> None:
    await ask(nc, "ai.v1.req.text.a-tenants-name", b"[sim: words=1]")
    await ask(nc, "ai.v1.ask.text.a-tenants-name", b"")
    status, _, body = await site.get("/metrics")
    text = body.decode()
    assert status == 200
    assert 'aichats_requests_total{kind="text",mode="req",outcome="done"} 1.0' in text
    assert 'aichats_requests_total{kind="text",mode="ask",outcome="invalid_request"} 1.0' in text
    assert 'faststream_received_messages_total{app_name="faststream",broker="nats",handler="req.text"} 1.0' in text
    assert "a-tenants-name" not in text


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


async def test_the_asyncapi_document_shows_what_to_send_and_what_comes_back(worker: App, site: Site) -> None:
    status, content_type, body = await site.get("/docs/asyncapi.json")
    document = json.loads(body)
    assert (status, content_type) == (200, "application/json")
    assert document["asyncapi"].startswith("3.")
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert {"ai.v1.req.text.*", "ai.v1.req.image.*", "ai.v1.ask.text.*", "ai.v1.ask.image.*"} <= addresses
    schemas = document["components"]["schemas"]
    assert {"prompt", "messages", "timeout_seconds"} <= set(schemas["TextRequest"]["properties"])
    assert {"Done", "Error", "Response", "Image"} <= set(schemas)
    assert yaml.safe_load((await site.get("/docs/asyncapi.yaml"))[2]) == document


async def test_the_asyncapi_page_needs_nothing_from_elsewhere(worker: App, site: Site) -> None:
    status, content_type, body = await site.get("/docs/asyncapi")
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert b"ai.v1.req.text.*" in body
    assert b"<script" not in body
    assert b"src=" not in body


async def test_an_unknown_path_is_not_found(worker: App, site: Site) -> None:
    assert (await site.get("/nothing"))[0] == 404


async def test_a_port_that_is_taken_ends_the_start(worker: App, site: Site, start_worker: StartWorker) -> None:
    with pytest.raises(OSError, match=r"in use"):
        await start_worker(worker_http_host="127.0.0.1", worker_http_port=site.port)
