"""What `helm install` says at its end: commands that work from outside the cluster, with the credentials there are."""

import json
import shlex
from typing import Any

import pytest
import yaml
from typer.main import get_command

from aichats_worker.commands.line import app
from tests.chart.conftest import Render, deployment, helm
from tests.chart.written import CHART

SECRET = {"NATS_NKEY": {"name": "nats", "key": "teama"}}


def install(values: dict[str, Any]) -> str:
    said = helm("install", "chat", str(CHART), "-n", "ai", "--dry-run=client", "-f", "-", given=json.dumps(values))
    return said.partition("\nNOTES:\n")[2]


def commands(notes: str) -> list[list[str]]:
    """The lines to copy, as a shell reads them."""
    return [shlex.split(line) for line in notes.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize("values", [{}, {"scaling": {"mode": "keda"}, "simulator": {"enabled": True}}])
def test_the_commands_run_in_a_workers_pod_where_the_credentials_are(render: Render, values: dict[str, Any]) -> None:
    ask, test, doctor = commands(install(values))
    worker = deployment(render(values))
    target = f"deploy/{worker['metadata']['name']}"
    for command in (ask, doctor):
        at = command.index("--")
        assert command[:at] == ["kubectl", "exec", "--namespace", "ai", target, "-c", "worker"]
        assert command[at + 1] == "aichats-worker"
        assert command[at + 2] in get_command(app).commands  # type: ignore[attr-defined]
    assert ask[-1] == "Say hi"
    assert test[:3] == ["helm", "test", "chat"]


def test_where_a_tenant_asks_the_workers_are_not_made_to() -> None:
    said = commands(install({"test": {"tenant": "teama", "secrets": SECRET}}))
    assert [command[:2] for command in said] == [["helm", "test"], ["kubectl", "exec"]]
    assert said[1][-1] == "doctor"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"simulator": {"enabled": True}}, "The simulator answers, not ai-chats.org"),
        ({"provision": {"mode": "none"}}, "The chart makes no streams"),
        ({"scaling": {"mode": "keda", "minReplicas": 0}}, "nobody answers core requests"),
    ],
)
def test_what_may_surprise_is_said(values: dict[str, Any], words: str) -> None:
    assert words in install(values)
    assert words not in install({})


def test_a_password_in_a_url_is_not_said() -> None:
    said = install({"settings": {"NATS_URL": "nats://user:word@a.nats:4222, tls://token@b.nats"}})
    assert "on nats://a.nats:4222, tls://b.nats." in said
    assert "word" not in said
    assert "token" not in said


def test_the_readmes_example_of_least_rights_is_taken(render: Render) -> None:
    text = (CHART / "README.md").read_text()
    examples = [yaml.safe_load(block.partition("```")[0]) for block in text.split("```yaml\n")[1:]]
    assert len(examples) == 2
    for example in examples:
        assert render(example)
