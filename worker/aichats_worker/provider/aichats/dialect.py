r"""The stream dialect of ai-chats.org, decoded: bytes in, deltas out, no I/O.

The stream looks like server-sent events and is not quite:

- each `data:` line is a delta of its own, however many of them stand in one event;
- one space after the colon is the separator, further spaces belong to the delta;
- a newline inside a delta arrives as the two characters backslash and n, and becomes a newline here. A backslash and
  an n that the model really wrote (`print("\n")`) arrive the same way, so they are lost: no reader can tell;
- `event: trylimit` ends the answer, and the next data line is the number of tries left;
- the data of any other event (`botmodel`) is not answer text, and neither is a line without a known field.
"""

import codecs
from typing import Final

from aichats_schemas.events import Usage
from aichats_worker.errors import QuotaExhausted
from aichats_worker.provider import Finish
from aichats_worker.provider.decoding.lines import LF, STRAY_MAX_BYTES, Lines, lines_of
from aichats_worker.provider.refusals import Refusal

_TRYLIMIT: Final = b"trylimit"
_DATA: Final = b"data: "
_BETWEEN: Final = b"\n\n" + _DATA  # two deltas
_EVENT: Final = b"\nevent:"
_BACKSLASH: Final = ord("\\")


class AiChatsDecoder:
    """Decodes one answer; deltas.Decoder says what it is used for.

    Attributes:
        tries_left: The number after `trylimit`; None where there was none.
        ended: The answer's end was read, or too much that is no answer.
        stray: The lines that are not in the dialect, at most STRAY_MAX_BYTES of them: what came instead of an answer.
        broke_off: The last line that said anything was not in the dialect, so the answer did not end as it should.
    """

    complete: bool = False  # there is no finish reason: `trylimit` is the very end, and so is the body's
    silent: bool = False
    failure: Refusal | None = None
    usage: Usage | None = None

    def __init__(self) -> None:
        self.tries_left: int | None = None
        self.ended = False
        self.stray = bytearray()
        self.broke_off = False
        self.thoughts = ""
        self._lines = Lines()
        self._event = b""
        # One character may be cut over two deltas; what is joined after decoding would hold two broken halves.
        self._halves: codecs.IncrementalDecoder | None = None  # made when first needed, as it hardly ever is

    def feed(self, data: bytes) -> str:
        """Return the text of all lines that `data` completes, joined; empty where it completes none.

        Raises:
            LineTooLong: A line passed the limit.
        """
        whole = self._lines.whole(data)
        if self._event or self.ended or self.stray:
            return self._decode(lines_of(whole))
        # The usual read is deltas, each on a line with a blank line behind it: they are taken apart in one go.
        usual = whole.find(_EVENT) + 1 or len(whole)
        if (said := _deltas_of(whole[:usual])) is None:
            return self._decode(lines_of(whole))
        if usual < len(whole):
            said += self._said(lines_of(whole[usual:]))
        return self._text(said) if said else ""

    def finish(self) -> str:
        """Complete the last line: the body ended as HTTP says it should. After a cut, do not call it.

        A half line at a cut could be half a delta, and is never text.
        """
        return self._decode([self._lines.rest()], final=True)

    def end(self) -> Finish:
        """Return the tries left."""
        return Finish(tries_left=self.tries_left)

    def nothing(self) -> QuotaExhausted | None:
        """Return QuotaExhausted where no tries are left."""
        if self.tries_left != 0:
            return None
        return QuotaExhausted("the provider says that no tries are left; change AICHATS_COOKIE, or try tomorrow")

    def _decode(self, lines: list[bytes], *, final: bool = False) -> str:
        return self._text(self._said(lines), final=final)

    def _said(self, lines: list[bytes]) -> bytes:
        return b"".join([self._delta(line) for line in lines])

    def _text(self, said: bytes, *, final: bool = False) -> str:
        if self._halves is None:
            try:
                return said.decode()  # at a third of the other one's cost
            except UnicodeDecodeError:
                self._halves = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._halves.decode(said, final)
        if not self._halves.getstate()[0]:
            self._halves = None
        return text

    def _delta(self, line: bytes) -> bytes:
        if self.ended:
            return b""
        if not line.startswith(b"data:") or self.stray[:1] == b"<":  # in a web page, nothing is an answer
            self._field(line)
            return b""
        self.broke_off = False
        value = line[6:] if line[5:6] == b" " else line[5:]
        if self._event:
            self._data_of_event(value)
            return b""
        # Delta by delta: a backslash at the end of one and an n at the beginning of the next are no newline.
        return value.replace(b"\\n", b"\n")

    def _field(self, line: bytes) -> None:
        if not line:
            # A blank line ends an event; but the number of `trylimit` is waited for.
            if self._event != _TRYLIMIT:
                self._event = b""
            return
        name, colon, value = line.partition(b":")
        if colon and name == b"event":
            event = value.strip()
            self._event = b"" if event == b"message" else event
        elif not (colon and name in (b"", b"id", b"retry")) and line.strip():
            self.broke_off = True
            self.stray += (line + b"\n")[: STRAY_MAX_BYTES - len(self.stray)]
            self.ended = len(self.stray) == STRAY_MAX_BYTES

    def _data_of_event(self, value: bytes) -> None:
        event, self._event = self._event, b""
        if event == _TRYLIMIT:
            self.ended = True
            # Long digits are no number of tries, and int() would refuse the longest.
            if value.strip().isdigit() and len(value) <= 12:
                self.tries_left = int(value)


def _deltas_of(whole: bytes) -> bytes | None:
    """Join the deltas of whole lines; None where other lines stand among them."""
    body = whole.strip(b"\n")
    if not body.startswith(_DATA):
        return None if body else b""
    deltas = body[len(_DATA) :]
    said = deltas.replace(_BETWEEN, b"")
    if LF in said:  # other lines, or no blank one between two
        return None
    if _BACKSLASH in said:
        return b"".join([delta.replace(b"\\n", b"\n") for delta in deltas.split(_BETWEEN)])
    return said
