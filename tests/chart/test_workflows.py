"""The GitHub workflows: linted by the tools that know them, and every action pinned."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aichats_schemas import __version__
from tests.processes import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINT_TIMEOUT_SECONDS = 60.0
USES = re.compile(r"^\s*(?:- )?uses:\s*(\S+)(.*)$", re.MULTILINE)
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}\Z")


@pytest.mark.parametrize("command", [["zizmor", "--offline", "--persona=pedantic"], ["actionlint"]], ids=lambda c: c[0])
def test_the_linters_find_nothing(command: list[str]) -> None:
    tool, *options = command
    found = Path(sys.executable).parent / tool
    done = subprocess.run(
        [found, *options, *WORKFLOWS], capture_output=True, text=True, timeout=LINT_TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_hash_and_says_its_version(path: Path) -> None:
    used = USES.findall(path.read_text())
    assert used
    for action, comment in used:
        if not action.startswith(("./", "$/")):
            assert PINNED.match(action), f"{action} is not pinned"
            assert re.match(r" # v\d+\.\d+\.\d+\Z", comment), f"{action} does not say its version"


def test_every_job_has_a_time_limit_and_no_more_rights_than_it_names() -> None:
    for path in WORKFLOWS:
        text = path.read_text()
        assert "\npermissions: {}\n" in text, f"{path.name} gives rights to all its jobs"
        jobs = text.split("\njobs:\n")[1]
        for job in re.split(r"\n(?=  [\w-]+:\n)", jobs):
            assert "permissions:" in job, job
            assert "timeout-minutes:" in job or re.search(r"uses: \S+\.yml", job), job


def test_what_is_pushed_or_released_is_attested_by_its_digest() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    pushes = len(re.findall(r"push: true|helm push|gh release create", text))
    assert pushes == text.count("actions/attest-build-provenance@") == 3
    # What a registry holds is named by what it is, never by a tag that moves.
    assert text.count("subject-digest: ${{ steps.") == text.count("push-to-registry: true") == 2


def test_the_version_that_a_release_reads_is_the_packages() -> None:
    make = shutil.which("make")
    assert make, "these tests are run by make"
    done = subprocess.run(
        [make, "--silent", "version"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
    )
    assert done.stdout.strip() == __version__
