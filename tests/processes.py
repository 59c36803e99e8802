"""Real processes for the tests: nats-server, and workers that can be killed."""

import asyncio
import atexit
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self
from urllib.request import urlopen

from aichats_worker.simulator.broker import binary

ROOT = Path(__file__).parent.parent
READ = ("NATS_", "AICHATS_", "WORKER_", "OPENAI_", "PROVIDER_", "OTEL_")  # of the environment, by a worker
RUN = [sys.executable, "-m", "aichats_worker", "run"]
START_TIMEOUT_SECONDS = 60.0  # on a machine that is busy with other tests
STOP_TIMEOUT_SECONDS = 10.0
CPU_OF_PROCESS = 2  # of Linux: with the id of a process it is a clock, as clock_getcpuclockid(3) gives it
PORTS = range(10_000, 32_000)  # below those that the system gives to outgoing connections and to whoever asks for any
PORTS_OF_A_PROCESS = 500  # more than a long run takes: one whose server is down for a moment is free to look at


def _own_ports() -> Iterator[int]:
    """The ports of this process, over and over: it holds the first of its block, and nobody draws from a block held.

    Else two processes of tests draw one port, each before the server of the other has taken it.
    """
    starts = list(PORTS[::PORTS_OF_A_PROCESS])
    random.SystemRandom().shuffle(starts)  # not by the `random` that Hypothesis seeds
    for start in starts:
        with contextlib.suppress(OSError):
            _HELD.bind(("127.0.0.1", start))
            return itertools.cycle(range(start + 1, start + PORTS_OF_A_PROCESS))
    raise AssertionError("the first port of each block is taken")


_HELD = socket.socket()  # until the process ends
atexit.register(_HELD.close)
_PORTS = _own_ports()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, and that no other process of tests comes to."""
    for port in itertools.islice(_PORTS, PORTS_OF_A_PROCESS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("all ports of this process are taken")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, to the nanosecond: /proc has it in steps of 10 ms."""
    return time.clock_gettime(~pid << 3 | CPU_OF_PROCESS)


def resident_bytes(pid: int) -> int:
    """Memory that a process has now; 0 where it has ended and nobody has asked for its status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


async def output_of(process: asyncio.subprocess.Process, timeout_seconds: float) -> tuple[bytes, bytes]:
    """What a process writes until it ends; one that takes longer is killed.

    Raises:
        TimeoutError: It took longer.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            return await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Running(Protocol):
    """What is used of subprocess.Popen; tests/containers.py has another that does the same."""

    returncode: int | None

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float, /) -> int: ...


def wait_for_port(port: int, process: Running) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"process ended with status {process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port} after {START_TIMEOUT_SECONDS} s")


class NatsServer:
    """A nats-server of its own, on a port that stays the same over restarts, with JetStream in `store`."""

    def __init__(self, store: Path, *, config: str = "", jetstream: bool = True) -> None:
        self.port = free_port()
        self.monitor_port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._store = store
        self.log_path = store / "nats-server.log"
        self._config = store / "nats-server.conf"
        self._config.write_text(config or "server_name: test\n")  # an empty file is a warning on stderr
        self._jetstream = jetstream
        self.process: Running | None = None

    def start(self) -> Self:
        options = ["-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.monitor_port)]
        options += ["-c", str(self._config), "-l", str(self.log_path)]
        if self._jetstream:
            options += ["-js", "-sd", str(self._store / "jetstream")]
        self.process = self._launch(options)
        wait_for_port(self.port, self.process)
        return self

    def _launch(self, options: list[str]) -> Running:
        return subprocess.Popen([binary(), *options], stdin=subprocess.DEVNULL)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def configure(self, config: str) -> None:
        """Write another configuration: for the next start, or for a reload (SIGHUP)."""
        self._config.write_text(config)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.send(signal.SIGCONT)
        self.process.terminate()
        self.wait()

    def wipe(self) -> None:
        """Lose the disk."""
        shutil.rmtree(self._store / "jetstream", ignore_errors=True)

    def wait(self) -> None:
        assert self.process is not None
        self.process.wait(STOP_TIMEOUT_SECONDS)


def clean_environment() -> dict[str, str]:
    """What this process has, without what a worker reads: only what is named is set for it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(READ)}


class WorkerProcess:
    """`aichats-worker run` as a process of its own; what it wrote is in `log`."""

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        self.http_port = free_port()
        self.log_path = directory / f"worker-{self.http_port}.log"
        self._settings = {"WORKER_HTTP_PORT": str(self.http_port), "WORKER_HTTP_HOST": "127.0.0.1"} | settings
        self.process: Running | None = None
        self.command = RUN

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def start(self) -> Self:
        self.process = self._launch(self._settings)
        return self

    def _launch(self, settings: dict[str, str]) -> Running:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=clean_environment() | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> Self:
        """Wait until /readyz says 200."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"worker ended with {self.process.returncode}:\n{self.log}"
            if await self.status("/readyz") == 200:
                return self
            await asyncio.sleep(0.05)
        raise AssertionError(f"worker is not ready after {START_TIMEOUT_SECONDS} s:\n{self.log}")

    async def serving_jobs(self) -> Self:
        """Wait until it says that jobs are served: core requests, and so /readyz, do not wait for that."""
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            while 'jobs are served"' not in self.log:
                await asyncio.sleep(0.05)
        return self

    async def status(self, path: str) -> int:
        """The status of a GET, or 0 where nothing answers."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> int:
        try:
            with urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=2) as answer:
                return int(answer.status)
        except OSError as error:
            return int(getattr(error, "code", 0) or 0)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait for the end; the exit status."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, START_TIMEOUT_SECONDS * 2)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_SECONDS)
