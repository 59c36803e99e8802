"""Contexts of the `nats` command line: what no variable says, for commands. tests/client tries how they are read."""

import json
from pathlib import Path
from typing import Any

import pytest

from aichats_worker.commands.manners import settings_of
from aichats_worker.settings import load_settings
from tests.commands.test_commands import typed
from tests.processes import NatsServer


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("NATS_CONTEXT", "prod")
    (tmp_path / "nats" / "context").mkdir(parents=True)
    return tmp_path / "nats" / "context"


def write(contexts: Path, **content: Any) -> None:
    (contexts / "prod.json").write_text(json.dumps({"description": "", "creds": ""} | content))


def test_a_context_says_what_no_variable_does(contexts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(contexts, url="nats://a:1", ca="~/ca.pem", tls_first=True, jetstream_domain="hub", inbox_prefix="_INBOX.me")
    monkeypatch.setenv("NATS_INBOX_PREFIX", "_INBOX.mine")
    settings = settings_of()
    assert settings.nats_servers == ["nats://a:1"]
    assert settings.nats_ca == str(Path("~/ca.pem").expanduser())
    assert (settings.nats_tls_first, settings.nats_js_domain) == (True, "hub")
    assert settings.nats_inbox_prefix == "_INBOX.mine"


def test_who_one_is_comes_whole_from_one_place(contexts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(contexts, url="nats://a:1", user="u", password="p")
    monkeypatch.setenv("NATS_TOKEN", "t")
    settings = settings_of()
    assert settings.nats_servers == ["nats://a:1"]
    assert (settings.nats_user, settings.nats_password) == (None, None)


def test_a_context_that_cannot_be_used_is_a_sentence_and_status_2(contexts: Path) -> None:
    (contexts / "prod.json").write_text("nothing")
    ran = typed("provision", "--dry-run", XDG_CONFIG_HOME=str(contexts.parent.parent), NATS_CONTEXT="prod")
    assert ran.status == 2
    assert "cannot be read" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_command_goes_where_its_context_says_and_a_variable_wins(contexts: Path, nats_server: NatsServer) -> None:
    write(contexts, url=nats_server.url)
    home: dict[str, Any] = {"XDG_CONFIG_HOME": str(contexts.parent.parent), "NATS_CONTEXT": "prod"}
    there = typed("provision", "--dry-run", **home)
    assert there.status == 0, there.err
    elsewhere = typed("provision", "--dry-run", NATS_URL="nats://127.0.0.1:1", **home)
    assert elsewhere.status == 3


def test_a_worker_goes_by_its_variables_alone(contexts: Path) -> None:
    write(contexts, url="nats://a:1")
    assert settings_of().nats_servers == ["nats://a:1"]
    assert load_settings().nats_servers == ["nats://127.0.0.1:4222"]
