"""Contexts of the `nats` command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from aichats_client import ContextError, read_context


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    return folder


def write(folder: Path, name: str, **fields: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(fields))


def test_a_context_is_read_as_the_command_line_writes_it(contexts: Path) -> None:
    write(contexts, "lab", description="", url="nats://a:1,nats://b:2", user="u", password="p", creds="~/c", nsc="",
          token="", color_scheme="", jetstream_domain="hub", tls_first=True)  # fmt: skip
    found = read_context("lab")
    assert (found.url, found.user, found.password) == ("nats://a:1,nats://b:2", "u", "p")
    assert (found.creds, found.jetstream_domain, found.tls_first) == (str(Path.home() / "c"), "hub", True)
    assert "nats://a" not in repr(found)


def test_a_name_that_is_none_says_which_there_are(contexts: Path) -> None:
    write(contexts, "lab", url="nats://a:1")
    write(contexts, "live", url="nats://a:1")
    with pytest.raises(ContextError, match="lab, live"):
        read_context("prod")
    with pytest.raises(ContextError, match="no name"):
        read_context("../lab")


def test_what_cannot_be_used_is_refused_and_not_left_out(contexts: Path) -> None:
    write(contexts, "lab", url="nats://a:1", nsc="nsc://o/a/u")
    with pytest.raises(ContextError, match="nsc"):
        read_context("lab")
    (contexts / "torn.json").write_text("{")
    with pytest.raises(ContextError, match="cannot be read"):
        read_context("torn")
