"""docs/contract.md, where it repeats what the code has."""

import re

from aichats_worker.errors import WorkerError
from aichats_worker.settings import Settings
from tests.processes import ROOT

CONTRACT = (ROOT / "docs" / "contract.md").read_text("utf-8")


def section(number: int) -> str:
    return CONTRACT.split(f"\n## {number}. ")[1].split("\n## ")[0]


def test_it_names_every_error_with_its_number() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (yes|no)", section(4), flags=re.MULTILINE)
    assert sorted(rows) == sorted(
        (str(leaf.code), str(leaf.number), "yes" if leaf.retryable else "no") for leaf in WorkerError.__subclasses__()
    )


def test_it_names_every_setting_and_no_other() -> None:
    named = set(re.findall(r"`((?:NATS|WORKER|PROVIDER|AICHATS|OPENAI)_[A-Z_]*[A-Z])`", section(11)))
    assert named == {name.upper() for name in Settings.model_fields}


def test_its_defaults_of_numbers_are_the_codes() -> None:
    defaults = Settings.model_construct().masked()
    rows = re.findall(r"^\| (`[^|]+`) \| ([\d., ]+) \|", section(11), flags=re.MULTILINE)
    assert len(rows) > 10
    for names, values in rows:
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(", "), strict=True):
            assert float(value) == float(defaults[name]), name
