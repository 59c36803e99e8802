from dataclasses import fields

from aichats_worker.simulator.directives import Directives
from aichats_worker.simulator.manual import as_page, as_text
from aichats_worker.simulator.refusing import CODES
from tests.commands.test_commands import command
from tests.processes import ROOT

PAGE = ROOT / "docs" / "simulator.md"


def test_the_page_is_made_of_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_page(), (
        f"run `python -m aichats_worker.simulator.manual > {PAGE.relative_to(ROOT)}`"
    )


async def test_the_help_names_every_directive() -> None:
    out = (await command("simulator", "--help")).out.decode()
    assert as_text() in out
    for one in fields(Directives):
        assert f"  {one.name.replace('_', '-')}" in out


def test_the_longest_name_in_the_help_is_apart_from_what_it_does() -> None:
    rows = as_text().splitlines()
    for name, fault in CODES.items():
        assert any(row.split() == [name, str(fault.status)] for row in rows), name
