"""Workers that are forked by tests/forking.py, for all tests to which a worker's start is not the point."""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tests.forking import NUMBER_BYTES
from tests.processes import (
    READ,
    ROOT,
    RUN,
    START_TIMEOUT_SECONDS,
    STOP_TIMEOUT_SECONDS,
    Running,
    WorkerProcess,
    clean_environment,
)

PLACE = "TESTS_FORKING_AT"  # in the environment: where one of pytest's processes has started it, it serves all of them


def start_forking() -> None:
    """Start the process that forks, to the end of this one."""
    directory = tempfile.mkdtemp()
    os.environ[PLACE] = f"{directory}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ[PLACE])
        listener.listen()  # from now on, whoever comes is served once all is imported
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", str(listener.fileno())],
            cwd=ROOT, env=clean_environment(), pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def stop() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(STOP_TIMEOUT_SECONDS)
        shutil.rmtree(directory)

    atexit.register(stop)


class Forked:
    """What subprocess.Popen is to a process that it has started."""

    def __init__(self, environment: dict[str, str], log: int) -> None:
        if PLACE not in os.environ:
            start_forking()
        self.returncode: int | None = None
        self._asked = socket.socket(socket.AF_UNIX)
        self._asked.settimeout(START_TIMEOUT_SECONDS)
        self._asked.connect(os.environ[PLACE])
        sent = json.dumps(environment).encode()
        socket.send_fds(self._asked, [len(sent).to_bytes(NUMBER_BYTES)], [log])
        self._asked.sendall(sent)
        self.pid = int.from_bytes(self._asked.recv(NUMBER_BYTES))
        assert self.pid, "nothing was forked"
        self._asked.settimeout(None)  # how long it runs is the test's
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        with self._asked:
            status = self._asked.recv(NUMBER_BYTES)
        if not status:  # whoever would tell it has died
            self.kill()
        self.returncode = int.from_bytes(status, signed=True) if status else -signal.SIGKILL

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float, /) -> int:
        self._waiting.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked worker", timeout)
        return self.returncode

    def send_signal(self, sig: int, /) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedWorker(WorkerProcess):
    """A worker whose imports are made already, unless it is given a command."""

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        super().__init__(directory, settings)
        self.command = []

    def _launch(self, settings: dict[str, str]) -> Running:
        others = not all(name.startswith(READ) for name in settings)  # which may be read as something is imported
        if self.command or others or sys.platform != "linux":
            self.command = self.command or RUN
            return super()._launch(settings)
        with self.log_path.open("ab") as log:
            return Forked(clean_environment() | settings, log.fileno())
