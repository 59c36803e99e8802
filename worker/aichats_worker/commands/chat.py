"""`aichats-worker chat`: a conversation, and the file that it is kept in."""

import asyncio
import importlib
import json
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aichats_client import ClientError
from aichats_worker.commands.asking import Asker, Options
from aichats_worker.commands.ending import Unusable, finish, told
from aichats_worker.commands.manners import out
from aichats_worker.commands.naming import as_typed
from aichats_worker.commands.output import print_pieces
from aichats_worker.starting import begun

Said = dict[str, str]
ROLES = ("system", "user", "assistant")


@dataclass
class History:
    """What was said, in memory and in a file of JSON lines, if there is one.

    Attributes:
        path: The file; None for none.
        said: The messages in their order.
    """

    path: Path | None
    said: list[Said] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path | None, system: str | None) -> Self:
        """Read what was said before; `system` begins a conversation, or a new chapter of one.

        Raises:
            Unusable: The file is not such a file, or cannot be written to.
        """
        history = cls(path)
        if path is not None and path.exists():
            history.said = [_message(path, number, line) for number, line in _lines(path)]
        elif path is not None and not path.parent.is_dir():
            raise Unusable(f"there is no directory {path.parent}")
        if system:
            history.add({"role": "system", "content": system})
        return history

    def add(self, *messages: Said) -> None:
        """Keep what was said now."""
        self.said += messages
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(message, ensure_ascii=False) + "\n" for message in messages)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        return [(number, line) for number, line in enumerate(path.read_text("utf-8").splitlines(), 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} cannot be read as text: {type(error).__name__}") from None


def _message(path: Path, number: int, line: str) -> Said:
    try:
        found: Any = json.loads(line)
        if found["role"] in ROLES and isinstance(found["content"], str):
            return {"role": found["role"], "content": found["content"]}
    except (ValueError, LookupError, TypeError):
        pass
    raise Unusable(f'{path}:{number}: is no message such as {{"role": "user", "content": "Hi"}}')


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation with a person.

    Attributes:
        asker: Who asks. Each answer has a connection of its own: between them nothing runs but the person.
        history: What was said.
        options: What goes with every question.
    """

    asker: Asker
    history: History
    options: Options

    def run(self) -> None:
        """Read questions and print answers until there are no more questions."""
        begun()  # it may run for hours
        people = sys.stdin.isatty()
        if people:
            _with_line_editing()
        while True:
            try:
                question = input("you> " if people else "")
            except EOFError:
                break
            if question.strip():
                self._turn(question, people=people)
        if people:
            out("\n")

    def _turn(self, question: str, *, people: bool) -> None:
        """Get one answer. What fails, or is stopped, leaves the conversation as it was."""
        asked = {"role": "user", "content": question}
        if not people:
            answer = finish(self._answer(asked))
        else:
            try:
                answer = asyncio.run(self._answer(asked))
            except KeyboardInterrupt:
                out("\n")
                return
            except ClientError as error:
                out(f"({as_typed(told(error)[0])})\n")
                return
        self.history.add(asked, {"role": "assistant", "content": answer})

    async def _answer(self, asked: Said) -> str:
        async with self.asker.client() as ai:
            stream = ai.text(messages=[*self.history.said, asked], **self.options)
            return await print_pieces(stream, "waiting for the first word")


def _with_line_editing() -> None:
    with suppress(ImportError):
        importlib.import_module("readline")  # arrows and history in input(), where Python has it
