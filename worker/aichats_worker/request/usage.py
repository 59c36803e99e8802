"""What an answer uses, where the provider does not count it: 4 characters a token."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from aichats_schemas.events import Usage
from aichats_worker.errors import WorkerError
from aichats_worker.provider import Finish, Question

CHARS_PER_TOKEN: Final = 4


class Meter:
    """Counts the characters of one answer.

    Args:
        question: What was asked.
    """

    __slots__ = ("_input", "_made", "_output")

    def __init__(self, question: Question) -> None:
        self._input = sum(len(message.content) for message in question.messages)
        self._output = 0
        self._made = False

    def count(self, text: str = "") -> None:
        """Take note of a piece of the answer; an image has no text."""
        self._made = True
        self._output += len(text)

    def finished(self, finish: Finish) -> Finish:
        """Return how the provider ended, with its usage: the provider's own, else an estimate."""
        return finish if finish.usage is not None else replace(finish, usage=self._estimate())

    @contextmanager
    def charging(self, check: Callable[[], None]) -> Iterator[None]:
        """Write the usage on what ends the answer early, where a part of it was made.

        Args:
            check: Raises why the request was stopped, where it was: a cancellation does not say it.
        """
        try:
            yield
        except asyncio.CancelledError:
            with self.charging(check):
                check()
            raise
        except WorkerError as error:
            if error.usage is None and self._made:
                error.usage = self._estimate()
            raise

    def _estimate(self) -> Usage:
        return Usage(input_tokens=_tokens(self._input), output_tokens=_tokens(self._output), estimated=True)


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)
