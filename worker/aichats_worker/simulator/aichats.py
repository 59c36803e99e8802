"""The stream of ai-chats.org and its sister sites. No I/O."""

from collections.abc import Sequence

from aichats_worker.simulator.answers import Part
from aichats_worker.simulator.directives import Directives
from aichats_worker.simulator.refusing import error_body


class AiChatsStream:
    """One answer in the dialect of the site."""

    def __init__(self, wanted: Directives) -> None:
        self._wanted = wanted

    def opening(self) -> Sequence[Part]:
        """What comes before the first word."""
        model = self._wanted.botmodel
        return [f"event: botmodel\ndata: {model}\n\n".encode()] if model else []

    def delta(self, word: str) -> bytes:
        """One word. Each data line is a delta, so `lines=several` leaves out the blank line between two."""
        return f"data: {word}\n".encode() + (b"" if self._wanted.lines == "several" else b"\n")

    def error(self) -> bytes:
        """An error in the middle: the site has prose for it, or the object of the code that is wanted."""
        return error_body(self._wanted) + b"\n" if self._wanted.code else b"An internal server error occurred."

    def ending(self) -> Sequence[Part]:
        """The tries that are left."""
        if self._wanted.tries == "none":
            return []
        return [f"event: trylimit\ndata: {self._wanted.tries}\n\n".encode()]
