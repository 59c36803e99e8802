"""A forked worker is to a test what one is that was started from nothing."""

import json
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SpawnWorker
from tests.direct.test_corridor import until
from tests.forked import Forked
from tests.processes import RUN, WorkerProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the system knows of a process is read in /proc")


def told(worker: WorkerProcess) -> list[dict[str, Any]]:
    """What it says of its settings and of itself; without the clock and what is each worker's own."""
    text = re.sub(rf"\b{worker.http_port}\b", "PORT", worker.log)
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: line[name] for name in line.keys() - {"timestamp", "instance"}} for line in lines]


def known(worker: WorkerProcess) -> tuple[object, ...]:
    """Its signals, its directory, and where it reads from."""
    assert worker.process is not None
    process = Path(f"/proc/{worker.process.pid}")
    masks = re.findall(r"Sig(?:Blk|Ign|Cgt):\s+(\w+)", (process / "status").read_text())
    signals = [int(mask, 16) % 2**31 for mask in masks]  # those above are the C library's own
    return (signals, (process / "cwd").readlink(), (process / "fd" / "0").readlink())


async def test_it_says_the_same_and_is_the_same_to_the_system(spawn_worker: SpawnWorker) -> None:
    """And it has nothing of the one before it, whose environment named more."""
    other = await spawn_worker(
        WORKER_JOBS="off", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", WORKER_LOG_FORMAT="console"
    )
    assert "traces are on" in other.log
    forked, started = [await spawn_worker(command=command, WORKER_JOBS="off") for command in (None, RUN)]
    assert known(forked) == known(started)
    for worker in (forked, started):
        worker.send(signal.SIGINT)
        assert await worker.wait() == 0
    assert told(forked) == told(started)


async def test_its_status_is_told(spawn_worker: SpawnWorker) -> None:
    killed = await spawn_worker(ready=False)
    killed.send(signal.SIGKILL)
    assert await killed.wait() == -signal.SIGKILL
    wrong = await spawn_worker(ready=False, WORKER_CONCURRENCY_MAX="none", PROVIDER_LONG="x" * 100_000)
    assert await wrong.wait() == 2
    assert "WORKER_CONCURRENCY_MAX" in wrong.log


async def test_it_ends_with_whoever_has_asked_for_it(spawn_worker: SpawnWorker) -> None:
    worker = await spawn_worker(WORKER_JOBS="off")
    assert isinstance(worker.process, Forked)
    worker.process._asked.shutdown(socket.SHUT_RDWR)
    assert await worker.wait() == -signal.SIGKILL
    gone = Path(f"/proc/{worker.process.pid}")
    await until(lambda: not gone.exists())
