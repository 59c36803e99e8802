"""The gate of instructions: what it calls worse, and what it says where it cannot count."""

import os
import subprocess
import sys

import pytest

from benchmarks.instructions import compared
from tests.processes import ROOT

KEPT = {"request": 1_000_000, "job": 2_000_000}


def test_what_is_more_than_five_percent_worse_is_named_with_both_numbers() -> None:
    found = {"request": 1_049_000, "job": 2_120_000, "image": 5}
    assert compared(found, KEPT) == ["job: 2,120,000 instructions, 2,000,000 are kept: +6.0%"]


def test_where_there_is_no_valgrind_it_says_so_and_nothing_is_worse(tmp_path: pytest.TempPathFactory) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.instructions"],
        cwd=ROOT,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "instructions are not counted: there is no valgrind here\n")
