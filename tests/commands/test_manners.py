"""What all commands do alike: usage first, pipes, terminals, files, contexts, and which exit status means what."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aichats_client.errors import service_error
from aichats_schemas import ErrorCode, ErrorData
from aichats_worker.app import App
from aichats_worker.commands.ending import STATUS_NOBODY, told
from aichats_worker.commands.line import app
from aichats_worker.simulator.answers import image as simulated_image
from aichats_worker.simulator.server import Simulator
from tests.commands.test_commands import RUN_TIMEOUT_SECONDS, command, finished, start
from tests.conftest import StartWorker
from tests.processes import ROOT, NatsServer, free_port

NOWHERE = "nats://127.0.0.1:1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "--tenant", "a.b", "hi"],
        ["ask", "--temperature", "3", "hi"],
        ["cancel", "a b"],
        ["result", "a.b"],
        ["submit", "--id", "a.b", "hi"],
        ["submit", "--file", "nothing.jsonl"],
        ["image", "--n", "9", "hi"],
        ["image", "--size", "wide", "hi"],
        ["ask", "--stop", "", "hi"],
        ["image", "-o", "no/cat", "hi"],
        ["image", "-o", "-", "--n", "2", "hi"],
        ["image", "-o", "-", "--json", "hi"],
        ["result", "-o", "-", "--json", "order-7"],
        ["resume", "-o", "words", "--json", "order-7"],
        ["resume", "-o", "words", "--after", "1,2", "order-7"],
        ["resume", "-o", "no/words", "order-7"],
        ["dev", "--base-url", "http://127.0.0.1:1"],
        ["chat", "--history", "no/file"],
        ["ask", "--context", "nothing", "hi"],
        ["provision", "--context", "nothing", "--dry-run"],
        ["dead", "list", "--context", "nothing"],
        ["dead", "show", "1", "--context", "nothing"],
        ["dead", "retry", "1", "--yes", "--context", "nothing"],
        ["dead", "drop", "1", "--yes", "--context", "nothing"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_found_before_anybody_is_asked(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2, though nobody would answer. In this process: what ends a real one so is in the other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NATS_URL", NOWHERE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    ran = CliRunner().invoke(app, arguments)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr
    assert isinstance(ran.exception, SystemExit)


@pytest.mark.parametrize("option", [["--kind", "image"], ["--model", "m"], ["--system", "Be short."]], ids=" ".join)
def test_an_option_beside_a_file_of_jobs_is_wrong_usage_and_never_ignored(
    option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", NOWHERE)
    (tmp_path / "jobs.jsonl").write_text('"one"\n')
    ran = CliRunner().invoke(app, ["submit", "--file", str(tmp_path / "jobs.jsonl"), *option])
    assert ran.exit_code == 2
    assert "each line has its own kind and options" in ran.stderr


async def test_a_prompt_that_no_message_can_hold_is_wrong_usage(
    worker: App, nats_server: NatsServer, simulator: Simulator
) -> None:
    ran = await command("ask", "-s", nats_server.url, stdin=b"x" * 1_100_000)
    assert ran.status == 2
    assert "max_payload" in ran.err
    assert simulator.requests == []


async def test_a_closed_pipe_ends_quietly(worker: App, nats_server: NatsServer, simulator: Simulator) -> None:
    process = await start("ask", "[sim: words=500 pause=0.02]", "-s", nats_server.url)
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
        assert await process.stdout.read(5) == b"Hello"
        process.stdout._transport.close()  # type: ignore[attr-defined]
        err = await process.stderr.read()
        assert await process.wait() == 141
        await simulator.requests[0].ended.wait()
    assert err == b""
    assert simulator.closed_early == 1


async def test_an_image_does_not_flood_a_terminal(worker: App, nats_server: NatsServer, simulator: Simulator) -> None:
    main, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aichats_worker", "image", "a cat", "-o", "-", "-s", nats_server.url),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=terminal,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(terminal)
    ran = await finished(process)
    os.close(main)
    assert ran.status == 2
    assert "terminal" in ran.err
    assert simulator.requests == []


async def test_nothing_is_overwritten_unasked(
    worker: App, nats_server: NatsServer, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(b"mine")
    prompt = ("image", "[sim: bytes=900 type=png] a cat", "-s", nats_server.url)
    for name in ("cat", "cat.png"):
        ran = await command(*prompt, "-o", name, cwd=tmp_path)
        assert ran.status == 2
        assert "--force" in ran.err
    assert simulator.requests == []
    assert (tmp_path / "cat.png").read_bytes() == b"mine"
    assert (await command(*prompt, "-o", "cat", "--force", cwd=tmp_path)).status == 0
    assert (tmp_path / "cat.png").read_bytes() == simulated_image("png", 900)


async def test_several_images_are_numbered(
    start_worker: StartWorker, nats_server: NatsServer, simulator: Simulator, tmp_path: Path
) -> None:
    await start_worker(worker_providers="aichats,openai", openai_base_url=f"{simulator.url}/v1")
    prompt = ("image", "--n", "2", "[sim: bytes=3000 type=png] a cat", "-s", nats_server.url)
    ran = await command(*prompt, "-o", "cat", cwd=tmp_path)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.decode().splitlines() == [f"cat-{number}.png (image/png, 3000 bytes)" for number in (1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat-1.png", "cat-2.png"]


def test_a_wait_is_said_once() -> None:
    def said(message: str, milliseconds: int | None) -> str:
        data = ErrorData(
            code=ErrorCode.PROVIDER_UNAVAILABLE, message=message, retryable=True, retry_after_ms=milliseconds
        )
        return told(service_error(data, "r1"))[0]

    assert said("it is not asked; try again later", 23_688).endswith("it is not asked; try again later (in 24 s)")
    assert said("it is not asked; try again later", None).endswith("it is not asked; try again later")
    assert said("wait", 1500).endswith("wait; try again in 2 s")
    assert said("wait", None).endswith("wait; try again later")


async def test_without_a_name_images_take_one_that_is_free(
    worker: App, nats_server: NatsServer, tmp_path: Path
) -> None:
    for _ in range(2):
        assert (await command("image", "[sim: type=gif]", "-s", nats_server.url, cwd=tmp_path)).status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image-2.gif", "image.gif"]


async def test_a_context_says_where_the_broker_is(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    (folder / "lab.json").write_text(json.dumps({"url": nats_server.url}))
    here, asked = str(tmp_path), ("ask", "[sim: words=1]")
    assert (await command(*asked, "--context", "lab", XDG_CONFIG_HOME=here)).out == b"Hello\n"
    assert (await command(*asked, NATS_CONTEXT="lab", XDG_CONFIG_HOME=here)).out == b"Hello\n"
    nowhere = f"nats://127.0.0.1:{free_port()}"
    over = await command(*asked, NATS_CONTEXT="lab", NATS_URL=nowhere, XDG_CONFIG_HOME=here)
    assert over.status == 3, "a variable comes before a context that is named by one"


async def test_options_and_a_system_prompt_reach_the_worker(
    worker: App, nats_server: NatsServer, simulator: Simulator
) -> None:
    ran = await command("ask", "--system", "be brief", "[sim: words=1]", "--timeout", "20", "-s", nats_server.url)
    assert (ran.status, ran.out) == (0, b"Hello\n")
    assert "be brief" in simulator.requests[-1].content


@pytest.mark.parametrize("name", ["ask", "image"])
async def test_an_error_is_a_line_of_json_too(worker: App, nats_server: NatsServer, name: str) -> None:
    ran = await command(name, "--json", "[sim: status=404]", "-s", nats_server.url)
    last = json.loads(ran.out.splitlines()[-1])
    assert ran.status == 1
    assert last["type"] == "error"
    assert last["data"]["code"] in ran.err


def test_an_exit_status_needs_no_standard_error() -> None:
    command = f"exec {sys.executable} -m aichats_worker ask hi --server nats://127.0.0.1:1 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False, timeout=60).returncode == STATUS_NOBODY
