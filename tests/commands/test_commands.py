"""The command line as people use it: processes, pipes and exit statuses."""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aichats_schemas import __version__
from aichats_worker.app import App
from aichats_worker.commands.line import app
from aichats_worker.simulator.answers import image as simulated_image
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.processes import ROOT, NatsServer, clean_environment, free_port

RUN_TIMEOUT_SECONDS = 90.0
SCREEN_LINES = 30


@dataclass
class Ran:
    status: int
    out: bytes
    err: str


async def start(*arguments: str, cwd: Path = ROOT, **environment: str) -> asyncio.subprocess.Process:
    clean = clean_environment() | {"PYTHONPATH": str(ROOT)} | environment
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aichats_worker",
        *arguments,
        cwd=cwd,
        env=clean,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finished(process: asyncio.subprocess.Process, stdin: bytes = b"") -> Ran:
    try:
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, out, err.decode())


async def command(*arguments: str, stdin: bytes = b"", cwd: Path = ROOT, **environment: str) -> Ran:
    return await finished(await start(*arguments, cwd=cwd, **environment), stdin)


def typed(*arguments: str, **environment: str) -> Ran:
    """Run a command in this process, as test_manners.py does: for what it says, where the process is not the point.

    Nothing in this process answers meanwhile. A defect is raised, where a process would write its traceback.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ran = CliRunner().invoke(app, arguments)
    if not isinstance(ran.exception, SystemExit | None):
        raise ran.exception
    return Ran(ran.exit_code, ran.stdout_bytes, ran.stderr)


async def test_ask_prints_the_answer_and_nothing_else(worker: App, nats_server: NatsServer) -> None:
    ran = await command("ask", "[sim: words=20 pause=0] hi", "--server", nats_server.url)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.decode() == "".join(words(20)) + "\n"


async def test_ask_reads_its_prompt_from_a_pipe(worker: App, nats_server: NatsServer, simulator: Simulator) -> None:
    ran = await command("ask", stdin=b"[sim: words=1] from a pipe", NATS_URL=nats_server.url)
    assert (ran.status, ran.out) == (0, b"Hello\n")
    assert simulator.requests[-1].content == "[sim: words=1] from a pipe"


async def test_ask_prints_events_as_lines_of_json(worker: App, nats_server: NatsServer) -> None:
    ran = await command("ask", "--json", "[sim: words=2]", "--server", nats_server.url, "--tenant", "team-a")
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.status == 0
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "done"


async def test_an_error_is_one_sentence_on_standard_error(worker: App, nats_server: NatsServer) -> None:
    ran = await command("ask", "[sim: status=404]", "--server", nats_server.url)
    assert (ran.status, ran.out) == (1, b"")
    assert ran.err.startswith("misconfigured: ")
    assert ran.err.count("\n") == 1


async def test_with_nobody_there_ask_says_so_and_ends_with_3(nats_server: NatsServer) -> None:
    without_worker = await command("ask", "hi", "--server", nats_server.url)
    assert without_worker.status == 3
    assert "no worker" in without_worker.err
    without_broker = await command("ask", "hi", "--server", f"nats://127.0.0.1:{free_port()}")
    assert without_broker.status == 3
    assert "doctor" in without_broker.err
    assert "Traceback" not in without_broker.err


@pytest.mark.parametrize("arguments", [["ask", " "], ["ask", "--timeout", "0", "hi"], ["resume", "r", "--after", "x"]])
async def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    ran = await command(*arguments)
    assert ran.status == 2
    assert ran.err
    assert "Traceback" not in ran.err


async def test_ctrl_c_stops_the_request(worker: App, nats_server: NatsServer, simulator: Simulator) -> None:
    process = await start("ask", "[sim: words=500 pause=0.1]", "--server", nats_server.url)
    assert process.stdout is not None
    async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
        assert await process.stdout.read(5) == b"Hello"
        process.send_signal(signal.SIGINT)
        ran = await finished(process)
        await simulator.requests[0].ended.wait()
    assert ran.status == 130
    assert "Traceback" not in ran.err
    assert simulator.closed_early == 1


async def test_image_writes_the_file_and_prints_where(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    prompt = "[sim: bytes=1500000 type=png] a cat"
    ran = await command("image", prompt, "-o", "cat.png", "--server", nats_server.url, cwd=tmp_path)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.decode() == "cat.png (image/png, 1500000 bytes)\n"
    assert (tmp_path / "cat.png").read_bytes() == simulated_image("png", 1500000)
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]


async def test_image_names_the_file_by_what_it_is(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    ran = await command("image", "[sim: bytes=900 type=webp] a cat", "--server", nats_server.url, cwd=tmp_path)
    assert ran.status == 0
    assert (tmp_path / "image.webp").stat().st_size == 900


async def test_image_goes_into_a_pipe(worker: App, nats_server: NatsServer) -> None:
    ran = await command("image", "[sim: bytes=900 type=gif]", "-o", "-", "--server", nats_server.url)
    assert (ran.status, ran.out) == (0, simulated_image("gif", 900))


async def test_image_refuses_a_missing_directory_before_it_asks(
    worker: App, nats_server: NatsServer, simulator: Simulator, tmp_path: Path
) -> None:
    ran = await command("image", "a cat", "-o", str(tmp_path / "no" / "cat.png"), "--server", nats_server.url)
    assert ran.status == 2
    assert simulator.requests == []


async def test_doctor_says_what_answers_and_masks_secrets(
    worker: App, nats_server: NatsServer, simulator: Simulator
) -> None:
    ran = await command(
        "doctor",
        NATS_URL=nats_server.url,
        AICHATS_URL=simulator.url,
        AICHATS_COOKIE="s3cret",
        WORKER_KEEPALIVE_SECONDS="0.7",
        WORKER_JOBS="off",
        WORKER_HTTP_PORT="0",
    )
    out = ran.out.decode()
    assert ran.status == 0
    assert "FAIL " not in out
    assert "nats-server 2." in out
    assert "max_payload 1048576" in out
    assert "1 answers" in out
    assert "* WORKER_KEEPALIVE_SECONDS=0.7" in out
    assert "* AICHATS_COOKIE=***" in out
    assert "s3cret" not in out + ran.err


@pytest.mark.parametrize("credentials", ["us3r:s3cret", "nats://us3r:s3/cret"])
def test_no_command_shows_the_credentials_of_a_url(credentials: str) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    for name in ("doctor", "provision"):
        ran = typed(name, NATS_URL=f"{credentials}@{nowhere}", AICHATS_URL=f"http://{nowhere}")
        said = ran.out.decode() + ran.err
        assert ran.status != 0
        assert said
        assert not [secret for secret in ("us3r", "s3", "cret") if secret in said]
        assert "Traceback" not in said


async def test_doctor_says_what_does_not_answer_and_ends_with_1() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    ran = await command(
        "doctor", "--json", NATS_URL=f"nats://u:s3cret@{nowhere}", AICHATS_URL=f"http://{nowhere}", WORKER_HTTP_PORT="0"
    )
    report = json.loads(ran.out)
    assert ran.status == 1
    assert {finding["name"]: finding["well"] for finding in report["findings"]} == {"nats": False, "aichats": False}
    assert "s3cret" not in ran.out.decode() + ran.err


async def test_a_wrong_setting_ends_the_worker_with_2_and_its_sentence() -> None:
    ran = await command("run", WORKER_JOBS="maybe", AICHATS_URL="ftp://x")
    assert ran.status == 2
    assert [line.split()[0] for line in ran.err.splitlines()] == ["AICHATS_URL", "WORKER_JOBS"]


async def test_a_port_that_is_taken_ends_the_worker_with_a_sentence(
    start_worker: StartWorker, nats_server: NatsServer, simulator: Simulator
) -> None:
    port = free_port()
    await start_worker(worker_http_host="127.0.0.1", worker_http_port=port)
    ran = await command(
        "run",
        NATS_URL=nats_server.url,
        AICHATS_URL=simulator.url,
        WORKER_HTTP_HOST="127.0.0.1",
        WORKER_HTTP_PORT=str(port),
        WORKER_LOG_LEVEL="error",
    )
    assert ran.status == 2
    assert "in use" in ran.err
    assert "Traceback" not in ran.err


async def test_the_simulator_says_what_it_is() -> None:
    port = free_port()
    process = await start("simulator", "--port", str(port))
    assert process.stdout is not None
    async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
        line = (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGTERM)
        ran = await finished(process)
    assert line == f"A local simulator, not ai-chats.org: set AICHATS_URL=http://127.0.0.1:{port}\n"
    assert "Traceback" not in ran.err


async def test_version_and_help_are_there() -> None:
    assert (await command("--version")).out.decode() == f"{__version__}\n"
    assert (await command("version")).out.decode() == f"{__version__}\n"
    out = (await command("-h")).out.decode()
    for name in ("run", "demo", "dev", "ask", "image", "chat", "submit", "result", "jobs", "cancel", "resume", "top"):
        assert f"  {name} " in out


NAMES = [
    *("run", "demo", "dev", "doctor", "simulator", "docs", "provision", "version"),
    *("dead", "dead list", "dead show", "dead retry", "dead drop"),
    *("ask", "image", "chat", "cancel", "submit", "result", "resume", "jobs", "top"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_fits_a_screen_and_has_an_example(name: str) -> None:
    ran = CliRunner().invoke(app, [*name.split(), "-h"], terminal_width=100)
    assert ran.exit_code == 0
    if name != "simulator":  # its help is the list of all that can be asked of it
        assert len(ran.output.splitlines()) <= SCREEN_LINES
    assert f"aichats-worker {name}" in ran.output.partition("Example: ")[2]


async def test_shell_completion_can_be_shown() -> None:
    out = (await command("--show-completion", "bash")).out.decode()
    assert "_AICHATS_WORKER_COMPLETE" in out or "complete" in out
