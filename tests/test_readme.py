"""The README's own examples, run as they stand but for the server's address."""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aichats_worker.app import App
from tests.conftest import StartWorker
from tests.processes import ROOT, NatsServer

NATS_JS = "@nats-io/transport-node@3.4.0"
RUN_TIMEOUT_SECONDS = 90.0
INSTALL_TIMEOUT_SECONDS = 60.0
ANSWER = "Hello from the local simulator"


def example(language: str, holding: str) -> str:
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    (found,) = [block for block in blocks if holding in block]
    return str(found)


async def output(*command: str, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_the_python_example_prints_the_answer(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(example("python", "request_many").replace("nats://127.0.0.1:4222", nats_server.url))
    assert ANSWER in await output(sys.executable, str(script), cwd=tmp_path)


async def test_the_jobs_example_prints_the_answer(
    start_worker: StartWorker, own_nats_server: Callable[..., NatsServer], tmp_path: Path
) -> None:
    server = own_nats_server()
    app = await start_worker(nats_url=server.url, worker_jobs=True)
    async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
        while app.jobs is None:
            await asyncio.sleep(0.01)
    script = tmp_path / "example.py"
    source = example("python", "resume(nc").replace("nats://127.0.0.1:4222", server.url)
    script.write_text(source)
    assert ANSWER in await output(sys.executable, str(script), cwd=tmp_path)


async def test_the_javascript_example_prints_the_answer(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("node and npm are not installed here")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    try:
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", NATS_JS]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=tmp_path,
            timeout=INSTALL_TIMEOUT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install {NATS_JS} within {INSTALL_TIMEOUT_SECONDS:g} s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {NATS_JS} here")
    script = tmp_path / "example.js"
    script.write_text(example("js", "requestMany").replace("nats://127.0.0.1:4222", nats_server.url))
    assert ANSWER in await output(node, str(script), cwd=tmp_path)


async def test_the_library_example_runs_against_a_provider(worker: App, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    origin = worker.settings.aichats_url
    script.write_text(example("python", "AiChats").replace("AiChats()", f'AiChats(url="{origin}")'))
    assert ANSWER in await output(sys.executable, str(script), cwd=tmp_path)
