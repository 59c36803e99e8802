"""What only a container has: its rights, its first process, and a network of its own."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

import nats
import pytest
import yaml
from nats.aio.client import Client
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from aichats_client import resume, submit
from aichats_schemas import __version__
from aichats_worker.simulator.answers import words
from tests.conftest import SpawnWorker
from tests.containers import Contained, Containers, WorkerContainer
from tests.processes import ROOT
from tests.requester import Exchange, ask

pytestmark = pytest.mark.e2e

REQ = "ai.v1.req.text.default"
WAIT_SECONDS = 15.0
UP_WAIT_SECONDS = 60.0  # until all of compose is up: checks every two seconds, on a machine that does other things

# Tries to write where nothing may be written, and where something may.
WRITE = """
for path in ("/x", "/opt/worker/x", "/tmp/x"):
    try:
        open(path, "a").close()
        print(path, "written")
    except OSError as error:
        print(path, error.strerror)
"""


@pytest.fixture
async def contained(containers: Containers, spawn_worker: SpawnWorker) -> Contained:
    """One worker's container."""
    worker = await spawn_worker(WORKER_JOBS="off")
    assert isinstance(worker, WorkerContainer)
    return worker.process


def inside(contained: Contained, *command: str) -> str:
    ran = contained.docker.exec_run(list(command))
    assert ran.exit_code == 0, ran.output
    return str(ran.output.decode())


async def test_the_first_process_is_the_worker_without_root_and_without_rights(contained: Contained) -> None:
    said = dict(line.split(":", 1) for line in inside(contained, "cat", "/proc/1/status").splitlines())
    assert said["Uid"].split() == said["Gid"].split() == ["65532"] * 4
    assert said["Groups"].split() in ([], ["65532"])
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(said[kind], 16) == 0, kind
    assert said["NoNewPrivs"].strip() == "1"
    assert "/aichats-worker\0run\0" in inside(contained, "cat", "/proc/1/cmdline")


async def test_nothing_can_be_written_but_below_tmp(contained: Contained) -> None:
    said = inside(contained, "python", "-c", WRITE).splitlines()
    assert said == ["/x Read-only file system", "/opt/worker/x Read-only file system", "/tmp/x written"]  # noqa: S108 - the container's


async def test_the_image_has_what_the_charts_prestop_hook_calls(contained: Contained) -> None:
    assert inside(contained, "sleep", "0") == ""


async def test_the_image_names_its_user_by_number_and_its_version(contained: Contained) -> None:
    image = contained.docker.image.attrs["Config"]
    assert image["User"] == "65532:65532"
    assert image["Labels"]["org.opencontainers.image.version"] == __version__


async def test_docker_stop_lets_a_running_request_end_well(nc: Client, contained: Contained) -> None:
    exchange = await Exchange(nc).send(REQ, b"[sim: words=30 pause=0.1]")
    await exchange.event()
    stopping = asyncio.create_task(asyncio.to_thread(contained.docker.stop, timeout=30))
    assert (await exchange.all())[-1].type == "done"
    await stopping
    assert contained.poll() == 0


async def test_docker_kill_takes_the_answer_away_and_another_worker_serves_the_next(
    nc: Client, contained: Contained, spawn_worker: SpawnWorker
) -> None:
    exchange = await Exchange(nc).send(REQ, b"[sim: words=200 pause=0.1]")
    await exchange.event()
    contained.kill()
    assert await asyncio.to_thread(contained.wait) == 128 + signal.SIGKILL
    await exchange.leave()
    await spawn_worker(WORKER_JOBS="off")
    assert (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done"


async def said(contained: Contained, words: str) -> None:
    async with asyncio.timeout(UP_WAIT_SECONDS):
        while words not in contained.log:
            assert contained.poll() is None, contained.log
            await asyncio.sleep(0.05)


def nanoseconds(seconds: str) -> int:
    return int(seconds.removesuffix("s")) * 1_000_000_000


def from_compose(image: str, service: dict[str, Any]) -> DockerContainer:
    """A service as compose.yaml has it, but for its volume, and with any free ports."""
    container = DockerContainer(image).with_envs(**service.get("environment", {}))
    if "command" in service:
        container.with_command(service["command"])
    for path in service.get("tmpfs", ()):
        container.with_tmpfs_mount(path)
    for port in service.get("ports", ()):
        container.with_exposed_ports(int(port.rpartition(":")[2]))
    check = {
        key: value if key in ("test", "retries") else nanoseconds(value)
        for key, value in service["healthcheck"].items()
    }
    return container.with_kwargs(
        healthcheck=check,
        **{name: service[name] for name in ("read_only", "cap_drop", "security_opt") if name in service},
    )


async def healthy(contained: Contained) -> None:
    """Wait until its health check says so."""
    async with asyncio.timeout(UP_WAIT_SECONDS):
        while True:
            assert contained.poll() is None, contained.log  # looks at it anew
            if contained.docker.attrs["State"]["Health"]["Status"] == "healthy":
                return
            await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Composed:
    """The services of compose.yaml.

    Attributes:
        nats_url: The broker's, on this host.
        pages: The workers', on this host.
        ran: What `docker compose run --rm -T worker …` prints, of these words; it fails as that does.
    """

    nats_url: str
    pages: list[str]
    ran: Callable[..., str]


@pytest.fixture
async def composed(containers: Containers) -> AsyncIterator[Composed]:
    """They run on a network of their own, as many workers as compose starts."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]
    nats_image, worker_image = containers.nats_image, containers.worker_image
    with Network() as network, closing(Containers(nats_image=nats_image, worker_image=worker_image)) as own:

        def start(name: str, image: str) -> tuple[DockerContainer, Contained]:
            container = from_compose(image, services[name]).with_network(network).with_network_aliases(name)
            return container, own.run(container)

        # The worker comes first: in compose, nobody waits for anybody.
        workers = [start("worker", worker_image) for _ in range(services["worker"]["deploy"]["replicas"])]
        server, contained = start("nats", nats_image)
        _, simulated = start("simulator", worker_image)
        await said(contained, "Server is ready")  # an image of NATS need not have what its health check calls
        for each in (simulated, *(worker for _, worker in workers)):
            await healthy(each)
        for _, worker in workers:
            await said(worker, '"event": "jobs are served"')
        pages = [f"http://127.0.0.1:{container.get_exposed_port(8080)}" for container, _ in workers]

        def ran(*words: str) -> str:
            once = services["worker"] | {"command": list(words), "ports": []}
            container = from_compose(worker_image, once).with_network(network)
            command = own.run(container)
            status, printed = command.wait(WAIT_SECONDS), str(command.docker.logs(stderr=False).decode())
            assert status == 0, command.log
            return printed

        yield Composed(f"nats://127.0.0.1:{server.get_exposed_port(4222)}", pages, ran)


async def everything(nc: Client) -> None:
    answers = await asyncio.gather(*(ask(nc, REQ, b"[sim: words=2]") for _ in range(20)))
    assert {events[-1].type for events in answers} == {"done"}
    image = await ask(nc, "ai.v1.req.image.default", b"[sim: bytes=3000000 type=png] a cat")
    assert image[-1].type == "done"
    await submit(nc.jetstream(), "text", "[sim: words=2]", request_id="r1", tenant="t")
    async with asyncio.timeout(WAIT_SECONDS):
        assert [event async for event in resume(nc, "r1", tenant="t")][-1].type == "done"


async def test_the_services_of_compose_are_healthy_and_find_each_other_by_name(composed: Composed) -> None:
    nc = await nats.connect(composed.nats_url)
    try:
        await everything(nc)
    finally:
        await nc.close()


def status(url: str) -> int:
    with urlopen(url, timeout=WAIT_SECONDS) as answer:  # noqa: S310 - a container of ours
        return int(answer.status)


async def test_each_worker_of_compose_shows_its_page(composed: Composed) -> None:
    assert len(composed.pages) == 2
    for page in composed.pages:
        assert await asyncio.to_thread(status, f"{page}/docs/asyncapi") == 200


async def test_a_command_that_compose_runs_prints_the_answer_alone(composed: Composed) -> None:
    assert await asyncio.to_thread(composed.ran, "ask", "[sim: words=3] Say hello") == "".join(words(3)) + "\n"


async def test_a_job_of_this_host_is_read_by_a_command_that_compose_runs(composed: Composed) -> None:
    nc = await nats.connect(composed.nats_url)
    try:
        await submit(nc.jetstream(), "text", "[sim: words=2]", request_id="r2", tenant="default")
    finally:
        await nc.close()
    assert await asyncio.to_thread(composed.ran, "result", "r2") == "".join(words(2)) + "\n"
