"""Fixtures: a real nats-server, a real HTTP simulator, workers in this process and as processes of their own.

`--nats=container --worker=container` puts both into containers instead: `make test-containers`.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import nats
import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from nats.aio.client import Client

from aichats_worker.app import App
from aichats_worker.settings import load_settings
from aichats_worker.simulator.server import Simulator, start_simulator
from aichats_worker.starting import begun
from tests.forked import PLACE, ForkedWorker, start_forking
from tests.processes import READ, NatsServer, WorkerProcess

# `pytest --hypothesis-profile=fuzz -m fuzz` is the long run.
hypothesis_settings.register_profile(
    "tests", max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
hypothesis_settings.register_profile(
    "fuzz", parent=hypothesis_settings.get_profile("tests"), max_examples=10_000, derandomize=False
)
hypothesis_settings.load_profile("tests")

# Else each of the hundreds of processes that are started here compiles all that it imports anew: most of its time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A shell that starts pytest in the background has it ignore Ctrl-C, or a hang-up, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.dont_write_bytecode = False

if TYPE_CHECKING:
    from tests.containers import Containers

StartWorker = Callable[..., Awaitable[App]]
SpawnWorker = Callable[..., Awaitable[WorkerProcess]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("containers")
    for name in ("nats", "worker"):
        group.addoption(f"--{name}", choices=("process", "container"), default="process", help=f"what runs {name}")
    group.addoption("--nats-image", default="nats:2.15-alpine", help="for --nats=container")
    group.addoption("--worker-image", default="aichats-worker", help="for --worker=container; `make image` builds it")


def pytest_configure(config: pytest.Config) -> None:
    """One process forks the workers of all that run side by side; else it starts where a test needs it."""
    if config.getoption("numprocesses", None) and PLACE not in os.environ:
        start_forking()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What is about containers is not even imported where there are none: it takes a second."""
    return True if collection_path.name == "test_containers.py" and config.getoption("--worker") == "process" else None


@pytest.hookimpl(trylast=True)  # after pytest-xdist's own
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A worker in a container runs the tests marked e2e; a process runs all."""
    in_containers = config.getoption("--worker") == "container"
    chosen = [item for item in items if not in_containers or item.get_closest_marker("e2e")]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    # The longest begin first: what ends last must not have begun last.
    items[:] = sorted(chosen, key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        _keep_group(item)


def _keep_group(item: pytest.Item) -> None:
    """Have the tests of an `xdist_group` run in one process.

    pytest-xdist 3.8 writes the group into `_nodeid`, which pytest 9.2 no longer reads: what a group shares was made in
    each process. tests/test_grouping.py sees it.
    """
    if (named := vars(item).get("_nodeid")) is not None:
        item._id = NodeId.parse(named)


def pytest_collection_finish() -> None:
    begun()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the tests alone."""
    for name in list(os.environ):
        if name.startswith(READ):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def containers(pytestconfig: pytest.Config) -> Iterator["Containers"]:
    """Docker, where an option asks for it."""
    from tests.containers import Containers, NoDocker  # noqa: PLC0415 - most runs need none, and it takes a second

    try:
        started = Containers(
            nats_image=pytestconfig.getoption("--nats-image"), worker_image=pytestconfig.getoption("--worker-image")
        )
    except NoDocker as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    yield started
    started.close()


@pytest.fixture(scope="session")
def make_nats_server(request: pytest.FixtureRequest) -> Callable[..., NatsServer]:
    """A server that is not started yet, as a process or in a container."""
    if request.config.getoption("--nats") == "process":
        return NatsServer
    containers: Containers = request.getfixturevalue("containers")
    return containers.nats_server


@pytest.fixture(scope="session")
def make_worker(request: pytest.FixtureRequest) -> Callable[[Path, dict[str, str]], WorkerProcess]:
    """A worker that is not started yet, as a process or in a container."""
    if request.config.getoption("--worker") == "process":
        return ForkedWorker
    containers: Containers = request.getfixturevalue("containers")
    return containers.worker


@pytest.fixture(scope="session")
def nats_server(
    tmp_path_factory: pytest.TempPathFactory, make_nats_server: Callable[..., NatsServer]
) -> Iterator[NatsServer]:
    """One server for all tests that leave it as it is."""
    server = make_nats_server(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture
def own_nats_server(tmp_path: Path, make_nats_server: Callable[..., NatsServer]) -> Iterator[Callable[..., NatsServer]]:
    """Start servers that the test may configure, stop and restart."""
    servers: list[NatsServer] = []

    def start(config: str = "", **options: Any) -> NatsServer:
        directory = tmp_path / f"nats-{len(servers)}"
        directory.mkdir()
        servers.append(make_nats_server(directory, config=config, **options).start())
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
async def start_worker(
    pytestconfig: pytest.Config, nats_server: NatsServer, own_nats_server: Any, simulator: Simulator,
    spawn_worker: SpawnWorker,
) -> AsyncIterator[StartWorker]:  # fmt: skip
    """Start workers in this process; settings by field name win over the defaults of the tests.

    It knows the test's own servers so that they stop after the workers: a drain without a broker waits for its bounds.

    With --worker=container they are containers, which a test that is marked e2e does not notice.
    """
    apps: list[App] = []
    defaults = {"worker_drain_timeout_seconds": 0, "worker_jobs": False}

    async def start(**settings: Any) -> App:
        origins = {"nats_url": nats_server.url, "aichats_url": simulator.url, "worker_http_port": 0}
        app = App(load_settings(**(origins | defaults | settings)))
        apps.append(app)
        await app.start()
        return app

    async def start_contained(**settings: Any) -> App:
        variables = {name.upper(): str(value) for name, value in (defaults | settings).items()}
        return cast("App", await spawn_worker(**variables))

    yield start if pytestconfig.getoption("--worker") == "process" else start_contained
    for app in apps:
        await app.drain()


@pytest.fixture
async def worker(start_worker: StartWorker) -> App:
    """One worker in this process."""
    return await start_worker()


@pytest.fixture
def spawn_worker(
    nats_server: NatsServer,
    own_nats_server: Any,  # as for start_worker
    simulator: Simulator,
    tmp_path: Path,
    make_worker: Callable[[Path, dict[str, str]], WorkerProcess],
) -> Iterator[SpawnWorker]:
    """Start workers as processes and wait until they are ready; settings by variable name."""
    workers: list[WorkerProcess] = []

    async def spawn(*, ready: bool = True, command: list[str] | None = None, **settings: str) -> WorkerProcess:
        defaults = {"NATS_URL": nats_server.url, "AICHATS_URL": simulator.url, "WORKER_LOG_FORMAT": "json"}
        process = make_worker(tmp_path, defaults | settings)
        process.command = command or process.command
        workers.append(process)
        process.start()
        return await process.ready() if ready else process

    yield spawn
    for process in workers:
        process.kill()
