"""The house rules that a machine can hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT

ROOMS = ("schemas", "client", "worker")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
LINES_MAX = 50
NAMES_REFUSED = {"utils", "core", "services", "base", "helpers", "manager", "common"}
# What each room may import of ours; whoever is not named may import all.
ALLOWED = {
    "schemas": {"schemas"},
    "client": {"schemas", "client"},
    "worker/errors.py": {"schemas"},
    "worker/text.py": set[str](),
    "worker/settings.py": {"worker.text"},
    "worker/call.py": {"schemas", "worker.errors", "worker.settings"},
    "worker/reply.py": {"schemas", "worker.errors", "worker.call", "worker.provider", "worker.text"},
    "worker/executor.py": {"schemas", "worker.errors", "worker.call", "worker.provider", "worker.reply"}
    | {"worker.slots", "worker.telemetry"},
    "worker/slots.py": set[str](),
    "worker/provider": {"schemas", "worker.errors", "worker.provider", "worker.settings", "worker.text"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_run_one_way(room: str) -> None:
    paths = [path for path in FILES if str(path.relative_to(ROOT)).startswith(room)]
    assert paths
    for path in paths:
        for name in imports(path):
            if name.split(".")[0] in ROOMS:
                allowed = any(name == good or name.startswith(f"{good}.") for good in ALLOWED[room])
                assert allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_person_can_hold(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LINES_MAX, f"{node.name} has {lines} lines"


def test_no_room_has_a_name_that_says_nothing() -> None:
    assert not [path for path in FILES if NAMES_REFUSED & {path.stem, *path.relative_to(ROOT).parts}]
