"""The commands that a sentence names can be copied: they have the options that this one was typed with."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aichats_worker.commands.line import app
from aichats_worker.commands.naming import ELSEWHERE, OF_A_TENANT
from tests.commands.test_commands import command
from tests.jobs.test_jobs import Broker, StartJobs, broker, start_jobs
from tests.processes import NatsServer, free_port

__all__ = ["broker", "start_jobs"]


async def test_a_job_that_is_there_already_is_told_with_the_line_that_waits_for_it(
    broker: Broker, start_jobs: StartJobs, tmp_path: Path
) -> None:
    await start_jobs()
    asked = ("--tenant", "t", "-s", broker.server.url)
    (tmp_path / "jobs.jsonl").write_text('{"id": "r1", "prompt": "[sim: words=500 pause=0.1]"}\n')
    file = ("submit", "-f", str(tmp_path / "jobs.jsonl"), *asked)
    assert (await command(*file)).status == 0
    line = f"aichats-worker result r1 -s {broker.server.url} --tenant t"
    assert f"`{line}` waits for it" in (await command(*file)).err
    await broker.content()
    assert (await command("cancel", "r1", *asked)).status == 0
    assert (await command(*line.split()[1:])).err.startswith("cancelled: "), "as it was printed"


def test_without_a_broker_or_a_worker_it_is_told_where_to_look(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    assert f"`aichats-worker doctor -s {url}`" in CliRunner().invoke(app, ["ask", "hi", "--server", url]).stderr
    monkeypatch.setenv("NATS_URL", url)
    assert "`aichats-worker doctor`" in CliRunner().invoke(app, ["ask", "hi"]).stderr, "the variable is there still"
    here = nats_server.url
    said = CliRunner().invoke(app, ["ask", "hi", "-s", here, "--tenant", "t"]).stderr
    assert f"`NATS_URL={here} aichats-worker run`" in said
    assert f"`aichats-worker doctor -s {here}`" in said
    assert f"`nats -s {here} micro ls`" in said
    assert f"`NATS_URL={here} aichats-worker run`" in CliRunner().invoke(app, ["doctor", "-s", here]).stdout


def test_no_password_is_named() -> None:
    url = f"nats://me:secret@127.0.0.1:{free_port()}"
    said = CliRunner().invoke(app, ["ask", "hi", "-s", url]).stderr
    assert "`aichats-worker doctor -s 'nats://***@127.0.0.1" in said
    assert "secret" not in said


def test_what_each_command_takes_is_known() -> None:
    def options(of: Any) -> set[str]:
        return {parameter.name for parameter in of.params}

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    commands["dead"] = commands["dead"].commands["list"]
    assert {name for name, each in commands.items() if "tenant" in options(each)} == OF_A_TENANT
    assert {name for name, each in commands.items() if not {"server", "context"} <= options(each)} == ELSEWHERE
