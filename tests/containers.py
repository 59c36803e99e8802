"""The servers and workers of tests/processes.py, each in a container of its own.

They are on the host's network: what a process reaches on loopback, such as the simulator inside pytest, a container
reaches too, so that every mix of processes and containers works. That is Linux's way; tests/test_containers.py has a
network of their own.
"""

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from docker import from_env
from docker.errors import DockerException
from docker.models.containers import Container as DockersContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.processes import STOP_TIMEOUT_SECONDS, NatsServer, Running, WorkerProcess

testcontainers_config.ryuk_disabled = True  # one more image to pull; `Containers` removes what it started

# As the chart and compose.yaml run it.
HARDENED: dict[str, Any] = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


class NoDocker(Exception):
    """No Docker daemon answers."""


class Contained:
    """A running container, with the manners of subprocess.Popen."""

    def __init__(self, docker: DockersContainer) -> None:
        self.docker = docker
        self.returncode: int | None = None

    @property
    def log(self) -> str:
        return str(self.docker.logs().decode())

    @property
    def pid(self) -> int:
        """The host's number of it."""
        self.docker.reload()
        return int(self.docker.attrs["State"]["Pid"])

    def poll(self) -> int | None:
        if self.returncode is None:
            self.docker.reload()
            if self.docker.status == "exited":
                self.returncode = int(self.docker.attrs["State"]["ExitCode"])
        return self.returncode

    def send_signal(self, sig: int) -> None:
        self.docker.kill(signal=signal.Signals(sig).name)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = STOP_TIMEOUT_SECONDS) -> int:
        self.returncode = int(self.docker.wait(timeout=timeout)["StatusCode"])
        return self.returncode


class Containers:
    """Starts containers, and removes each of them at its end.

    Raises:
        NoDocker: No Docker daemon answers.
    """

    def __init__(self, *, nats_image: str, worker_image: str) -> None:
        try:
            from_env().close()
        except DockerException as error:
            raise NoDocker(
                "containers need Docker, and no Docker daemon answers: start it, or set DOCKER_HOST"
            ) from error
        self.nats_image = nats_image
        self.worker_image = worker_image
        self._started = ExitStack()

    def run(self, container: DockerContainer) -> Contained:
        self._started.callback(container.stop)  # by force, whatever state it is in
        return Contained(container.start().get_wrapped_container())

    def nats_server(self, store: Path, **options: Any) -> "NatsContainer":
        return NatsContainer(self, store, **options)

    def worker(self, directory: Path, settings: dict[str, str]) -> "WorkerContainer":
        return WorkerContainer(self, directory, settings)

    def close(self) -> None:
        self._started.close()


class NatsContainer(NatsServer):
    """A nats-server in a container; its configuration, store and log are the host's files."""

    def __init__(self, containers: Containers, store: Path, **options: Any) -> None:
        super().__init__(store, **options)
        self._containers = containers

    def _launch(self, options: list[str]) -> Running:
        server = DockerContainer(self._containers.nats_image).with_command(options)
        server.with_volume_mapping(self._store, str(self._store), "rw")
        return self._containers.run(server.with_kwargs(network_mode="host", user=f"{os.getuid()}:{os.getgid()}"))


class WorkerContainer(WorkerProcess):
    """The worker's image, run as it comes: no user, no command and no path is named."""

    process: Contained

    def __init__(self, containers: Containers, directory: Path, settings: dict[str, str]) -> None:
        super().__init__(directory, settings)
        self._containers = containers

    @property
    def log(self) -> str:
        return self.process.log

    def _launch(self, settings: dict[str, str]) -> Running:
        worker = DockerContainer(self._containers.worker_image).with_envs(**settings).with_tmpfs_mount("/tmp")  # noqa: S108 - the container's
        return self._containers.run(worker.with_kwargs(network_mode="host", **HARDENED))
