"""Contexts of the `nats` command line: what no variable says, for commands."""

import json
from pathlib import Path
from typing import Any

import pytest

from aichats_worker.commands import line
from aichats_worker.commands.context import from_context
from aichats_worker.errors import SetupError
from tests.commands.test_commands import command
from tests.processes import NatsServer


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "nats" / "context").mkdir(parents=True)
    return tmp_path / "nats" / "context"


def write(contexts: Path, **content: Any) -> None:
    (contexts / "prod.json").write_text(json.dumps({"description": "", "creds": "", "nsc": ""} | content))


def test_a_context_says_what_no_variable_does(contexts: Path) -> None:
    write(contexts, url="nats://a:1", ca="~/ca.pem", tls_first=True, jetstream_domain="hub", inbox_prefix="_INBOX.me")
    assert from_context("prod", {"nats_inbox_prefix"}) == {
        "nats_url": "nats://a:1",
        "nats_ca": str(Path("~/ca.pem").expanduser()),
        "nats_tls_first": True,
        "nats_js_domain": "hub",
    }


def test_who_one_is_comes_whole_from_one_place(contexts: Path) -> None:
    write(contexts, url="nats://a:1", user="u", password="p")
    assert from_context("prod", {"nats_token"}) == {"nats_url": "nats://a:1"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("other", "{}", "there is no context of this name"),
        ("../prod", "{}", "is no name of a context"),
        ("prod", "nothing", "holds no JSON"),
        ("prod", "[]", "holds no context"),
    ],
)
def test_a_context_that_cannot_be_used_is_a_sentence(contexts: Path, name: str, content: str, sentence: str) -> None:
    (contexts / "prod.json").write_text(content)
    with pytest.raises(SetupError, match=f"NATS_CONTEXT .*{sentence}"):
        from_context(name, set())


async def test_a_command_goes_where_its_context_says_and_a_variable_wins(
    contexts: Path, nats_server: NatsServer
) -> None:
    write(contexts, url=nats_server.url)
    home: dict[str, Any] = {"XDG_CONFIG_HOME": str(contexts.parent.parent), "NATS_CONTEXT": "prod"}
    there = await command("provision", "--dry-run", **home)
    assert there.status == 0, there.err
    elsewhere = await command("provision", "--dry-run", NATS_URL="nats://127.0.0.1:1", **home)
    assert elsewhere.status == 3


def test_a_worker_goes_by_its_variables_alone(contexts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(contexts, url="nats://a:1")
    monkeypatch.setenv("NATS_CONTEXT", "prod")
    assert line._settings().nats_servers == ["nats://a:1"]
    assert line._settings(context=False).nats_servers == ["nats://127.0.0.1:4222"]
