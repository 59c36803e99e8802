"""The code blocks of the documents, and what a comment right above one says of it.

prints: WORDS       it is run, and these words are in what it prints
part of: FILE       it stands in that file word for word, which tests/examples runs
tested by: FILE     that test reads this page
not run: REASON     nobody runs it
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from tests.processes import ROOT

Fate = Literal["prints", "part of", "tested by", "not run"]

PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN: Final = ("python", "sh")
_BLOCK: Final = re.compile(r"(?:^<!-- ([a-z ]+): (.+?) -->\n+)?^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it stands.
        line: Of its first line in there.
        language: After the fence; may be empty.
        code: Between the fences.
        fate: What is said of it, or None.
        words: The rest of what is said.
    """

    page: Path
    line: int
    language: str
    code: str
    fate: Fate | None
    words: str

    def __str__(self) -> str:
        return f"{named(self.page)}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Whether a test runs it: its language is one that runs, and nothing else is said of it."""
        return self.language in RUN and self.fate in (None, "prints")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start(3)) + 2,
            language=found[3],
            code=found[4],
            fate=cast("Fate | None", found[1]),
            words=found[2] or "",
        )
        for found in _BLOCK.finditer(text)
    ]
