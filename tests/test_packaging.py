"""What somebody gets who installs the package, in environments of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

BUILD_TIMEOUT_SECONDS = 60
INSTALL_TIMEOUT_SECONDS = 240
pytestmark = pytest.mark.timeout(300)  # an environment is made, and packages are fetched
LIGHT = {"aichats-worker", "nats-py", "pydantic", "pydantic_core", "annotated-types", "typing-inspection"}
LIGHT |= {"typing_extensions"}
in_the_light_one = pytest.mark.xdist_group("light")  # made once, by one process of pytest


def run(*command: str | Path, cwd: Path, timeout: float = INSTALL_TIMEOUT_SECONDS) -> subprocess.CompletedProcess[str]:
    ours = ("PYTHON", "COV", "COVERAGE", "SSL_CERT_FILE")  # pip needs the system's authorities
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(command, cwd=cwd, env=clean, timeout=timeout, check=False, capture_output=True, text=True)


def pip(*arguments: str | Path, cwd: Path) -> str:
    """Run pip; without a registry to ask, a person's run is skipped, and CI's fails."""
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)
    if done.returncode and "No matching distribution" in done.stderr and "CI" not in os.environ:
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (path,) = directory.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment into which the package was installed without extras."""
    environment = tmp_path_factory.mktemp("light")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin" / "python"
    pip("--python", python, "install", "--quiet", "--no-compile", wheel, cwd=environment)
    return python


def test_an_image_needs_buildkit_and_says_so_where_there_is_none(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'ERROR: BuildKit is enabled but the buildx component is missing.' >&2\nexit 1\n")
    docker.chmod(0o755)
    done = run("make", "image", f"DOCKER={docker}", cwd=ROOT, timeout=BUILD_TIMEOUT_SECONDS)
    assert done.returncode != 0
    assert f'make image needs Docker with BuildKit, and "{docker} build" says it has none' in done.stdout
    assert "install its buildx plugin" in done.stdout


@in_the_light_one
def test_the_package_alone_brings_the_client_and_what_that_needs(light: Path, tmp_path: Path) -> None:
    listed = pip("--python", light, "list", "--format=freeze", cwd=tmp_path)
    assert {line.partition("==")[0] for line in listed.splitlines()} == LIGHT
    done = run(light, "-c", "import aichats_client, aichats_schemas", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@in_the_light_one
def test_a_command_whose_extra_is_missing_says_which_one(light: Path, tmp_path: Path) -> None:
    done = run(light.parent / "aichats-worker", "run", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("pip install 'aichats-worker[worker]'")
    module = run(light, "-m", "aichats_worker", "run", cwd=tmp_path)
    assert (module.returncode, module.stderr) == (1, done.stderr)


@in_the_light_one
def test_a_project_with_modules_of_the_same_names_can_use_both(light: Path, tmp_path: Path) -> None:
    (tmp_path / "schemas.py").write_text("mine = 'schemas'\n")
    (tmp_path / "worker.py").write_text("mine = 'worker'\n")
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "__init__.py").write_text("mine = 'client'\n")
    (tmp_path / "main.py").write_text(
        "import client, schemas, worker\n"
        "from aichats_client import stream\n"
        "from aichats_schemas import Subjects\n"
        "import aichats_worker\n"
        "print(client.mine, schemas.mine, worker.mine, Subjects().request('req', 'text', 't'))\n"
    )
    done = run(light, "main.py", cwd=tmp_path)
    assert done.stdout == "client schemas worker ai.v1.req.text.t\n", done.stderr


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "zipfile", "-l", wheel, cwd=tmp_path)
    names = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"aichats_client", "aichats_schemas", "aichats_worker"}
    for name in ("aichats_client/py.typed", "aichats_worker/py.typed", "aichats_schemas/json/stream_event.json"):
        assert name in names


@pytest.mark.slow("pip resolves two sets of packages")
def test_it_can_be_installed_beside_faststreams_own_command_line(wheel: Path, tmp_path: Path) -> None:
    """From what is installed here, so that pip asks for what FastStream's needs otherwise and for nothing else."""
    report = tmp_path / "report.json"
    wanted = ["install", "--dry-run", "--quiet", "--report", str(report), "--only-binary", ":all:"]
    pip(*wanted, f"{wheel}[worker]", "faststream[cli]", cwd=tmp_path)
    chosen = {each["metadata"]["name"] for each in json.loads(report.read_text())["install"]}
    assert {"aichats-worker", "watchfiles"} <= chosen, "of both"


@pytest.mark.slow("the type checker reads all of it")
def test_an_editable_install_is_seen_by_a_type_checker(tmp_path: Path) -> None:
    (tmp_path / "uses.py").write_text(
        "from aichats_client import Answer\nfrom aichats_schemas import Subjects\n"
        "from aichats_worker.errors import WorkerError\nx: int = Subjects().prefix\n"
    )
    kept = ROOT / ".mypy_cache" / "editable"  # of what others wrote; what is found where, it looks for each time
    done = run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", kept, "uses.py", cwd=tmp_path)
    first, last = done.stdout.splitlines()
    assert first.startswith("uses.py:4: error: Incompatible types in assignment")
    assert last == "Found 1 error in 1 file (checked 1 source file)"
