"""Fixtures: a real nats-server, a real HTTP simulator, workers in this process and as processes of their own."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from nats.aio.client import Client

from tests.processes import NatsServer, WorkerProcess
from worker.app import App
from worker.settings import load_settings
from worker.simulator import Simulator, start_simulator

# `pytest --hypothesis-profile=fuzz -m fuzz` is the long run.
hypothesis_settings.register_profile(
    "tests", max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
hypothesis_settings.register_profile(
    "fuzz", parent=hypothesis_settings.get_profile("tests"), max_examples=10_000, derandomize=False
)
hypothesis_settings.load_profile("tests")

StartWorker = Callable[..., Awaitable[App]]
SpawnWorker = Callable[..., Awaitable[WorkerProcess]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the tests alone."""
    for name in list(os.environ):
        if name.startswith(("NATS_", "AICHATS_", "WORKER_", "OPENAI_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for all tests that leave it as it is."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Start servers that the test may configure, stop and restart."""
    servers: list[NatsServer] = []

    def start(config: str = "", **options: Any) -> NatsServer:
        directory = tmp_path / f"nats-{len(servers)}"
        directory.mkdir()
        servers.append(NatsServer(directory, config=config, **options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Client]:
    """A requester's connection."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """The local ai-chats.org."""
    async with await start_simulator() as running:
        yield running


@pytest.fixture
async def start_worker(nats_server: NatsServer, simulator: Simulator) -> AsyncIterator[StartWorker]:
    """Start workers in this process; settings by field name win over the defaults of the tests."""
    apps: list[App] = []

    async def start(**settings: Any) -> App:
        defaults = {
            "nats_url": nats_server.url,
            "aichats_url": simulator.url,
            "worker_http_port": 0,
            "worker_drain_timeout_seconds": 0,
            "worker_jobs": False,
        }
        app = App(load_settings(**(defaults | settings)))
        apps.append(app)
        await app.start()
        return app

    yield start
    for app in apps:
        await app.drain()


@pytest.fixture
async def worker(start_worker: StartWorker) -> App:
    """One worker in this process."""
    return await start_worker()


@pytest.fixture
def spawn_worker(nats_server: NatsServer, simulator: Simulator, tmp_path: Path) -> Iterator[SpawnWorker]:
    """Start workers as processes and wait until they are ready; settings by variable name."""
    workers: list[WorkerProcess] = []

    async def spawn(*, ready: bool = True, command: list[str] | None = None, **settings: str) -> WorkerProcess:
        defaults = {"NATS_URL": nats_server.url, "AICHATS_URL": simulator.url, "WORKER_LOG_FORMAT": "json"}
        process = WorkerProcess(tmp_path, defaults | settings)
        process.command = command or process.command
        process.start()
        workers.append(process)
        return await process.ready() if ready else process

    yield spawn
    for process in workers:
        process.kill()
