"""What an answer uses, where the provider does not count it: 4 characters a token."""

from typing import Final

from aichats_schemas.events import Usage
from aichats_worker.provider import Finish, Question

CHARS_PER_TOKEN: Final = 4


class Meter:
    """Counts the characters of one answer.

    Args:
        question: What was asked.
    """

    __slots__ = ("_counted", "_made", "_output", "_question")

    def __init__(self, question: Question) -> None:
        self._question = question
        self._output = 0
        self._made = False
        self._counted: Usage | None = None

    def count(self, text: str = "") -> None:
        """Take note of a piece of the answer; an image has no text."""
        self._made = True
        self._output += len(text)

    def finished(self, finish: Finish) -> Finish:
        """Return how the provider ended, and see that its usage is there: the provider's own, else an estimate."""
        self._counted = finish.usage = finish.usage or self._estimate()
        return finish

    def spent(self) -> Usage | None:
        """Return what was used until now; None where nothing was made."""
        return self._counted or (self._estimate() if self._made else None)

    def _estimate(self) -> Usage:
        asked = sum([len(message.content) for message in self._question.messages])
        return Usage(input_tokens=_tokens(asked), output_tokens=_tokens(self._output), estimated=True)


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)
