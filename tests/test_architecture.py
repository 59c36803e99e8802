"""The house rules that a machine can hold."""

import ast
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.xdist_group("architecture")  # each file is parsed once, by one process of pytest

PACKAGES = {name: ROOT / root / name for root, name in (
    ("schemas", "aichats_schemas"), ("client", "aichats_client"), ("worker", "aichats_worker"),
)}  # fmt: skip
FILES = [path for package in PACKAGES.values() for path in sorted(package.rglob("*.py"))]
LINES_MAX = 50
PARAMETERS_MAX = 5
NAMES_REFUSED = {"utils", "core", "services", "base", "helpers", "manager", "common"}

# From the ground up: a room imports what is below it, and nothing beside or above it.
FLOORS: tuple[set[str], ...] = (
    {"errors", "memory", "starting", "text", "urls"},
    {"telemetry", "health", "tasks", "tracing"},
    {"broker", "provider", "simulator"},
    {"request"},
    {"direct", "jobs"},
    {"control"},
    {"documents"},
    {"settings", "web"},  # whoever is below the settings gets values
    {"login"},
    {"wiring"},
    {"app"},
    {"service"},
    {"commands"},
    {"__main__"},
)
BELOW = list(accumulate(FLOORS, set.union, initial=set[str]()))


def room_of(module: str) -> str:
    """The file or folder at the root of aichats_worker that a module is in."""
    return module.split(".")[1] if "." in module else "__init__"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in PACKAGES}


def test_the_wire_imports_nothing_of_ours_and_the_client_the_wire_alone() -> None:
    for package, allowed in (
        ("aichats_schemas", {"aichats_schemas"}),
        ("aichats_client", {"aichats_schemas", "aichats_client"}),
    ):
        for path in PACKAGES[package].rglob("*.py"):
            assert {name.split(".")[0] for name in ours(path)} <= allowed, path


def test_every_room_has_a_floor() -> None:
    rooms = {
        path.relative_to(PACKAGES["aichats_worker"]).parts[0].removesuffix(".py")
        for path in FILES
        if "aichats_worker" in path.parts
    }
    assert rooms - {"__init__"} == set.union(*FLOORS)


@pytest.mark.parametrize("floor", range(len(FLOORS)), ids=lambda floor: "+".join(sorted(FLOORS[floor])))
def test_imports_run_one_way(floor: int) -> None:
    root = PACKAGES["aichats_worker"]
    for room in FLOORS[floor]:
        paths = sorted((root / room).rglob("*.py")) if (root / room).is_dir() else [root / f"{room}.py"]
        for path in paths:
            used = {room_of(name) for name in ours(path) if name.startswith("aichats_worker")}
            assert used <= BELOW[floor] | {room, "__init__"}, f"{path.relative_to(root)} imports {sorted(used)}"


def test_every_folder_says_what_it_knows() -> None:
    for init in PACKAGES["aichats_worker"].rglob("__init__.py"):
        assert ast.get_docstring(parsed(init)), init


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_person_can_hold(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LINES_MAX, f"{node.name} has {lines} lines"


def test_no_constructor_takes_more_than_a_person_can_check() -> None:
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                count = len(node.args.args) + len(node.args.kwonlyargs) - 1
                assert count <= PARAMETERS_MAX, f"{path.relative_to(ROOT)}:{node.lineno} takes {count}"


def test_one_name_is_one_thing() -> None:
    """No two public classes of one name, and no two files, in the worker's rooms."""
    classes: dict[str, Path] = {}
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in classes, f"{node.name} is in {path} and in {classes[node.name]}"
                classes[node.name] = path


def test_no_room_has_a_name_that_says_nothing() -> None:
    assert not [path for path in FILES if NAMES_REFUSED & {path.stem, *path.relative_to(ROOT).parts}]
