"""Lines out of a stream of bytes that is cut anywhere, as the standard of server-sent events has them."""

import codecs
from typing import Final

LINE_MAX_BYTES: Final = 16 * 1024 * 1024  # one delta, or a whole answer in one piece
STRAY_MAX_BYTES: Final = 64 * 1024  # of lines that a dialect does not know
_BOM: Final = codecs.BOM_UTF8
# Looked for as numbers: for bytes in bytes, CPython first makes an error of their not being one, and drops it.
CR: Final = ord("\r")
LF: Final = ord("\n")


class LineTooLong(Exception):
    """A line passed LINE_MAX_BYTES: this is no stream of lines."""


class Lines:
    """Joins what the network cut. Lines end with LF, CR or CR LF and come without that end; a first BOM is dropped."""

    def __init__(self) -> None:
        self._tail = bytearray()  # the beginning of a line whose end has not arrived
        self._begun = False
        self._after_cr = False

    def whole(self, data: bytes) -> bytes:
        """Return the lines that `data` completes as one piece, each with its LF; empty where it completes none.

        Raises:
            LineTooLong: A line passed the limit.
        """
        if not self._begun:
            data = self._beginning(data)
        if self._after_cr or CR in data:
            data = self._with_lf(data)
        end = data.rfind(b"\n") + 1
        if end == len(data) and not self._tail:  # the usual read, and one of nothing
            return data
        whole = bytes(self._tail) + data[:end] if end else b""
        if end:
            self._tail.clear()
        self._tail += data[end:]
        if len(self._tail) > LINE_MAX_BYTES:
            raise LineTooLong
        return whole

    def rest(self) -> bytes:
        """Return the last line, which has no end."""
        rest = bytes(self._tail)
        self._tail.clear()
        return rest

    def _beginning(self, data: bytes) -> bytes:
        """Drop the mark; as long as it may still be one, hold the bytes back."""
        head = bytes(self._tail) + data
        self._tail.clear()
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._tail += head
            return b""
        self._begun = True
        return head.removeprefix(_BOM)

    def _with_lf(self, data: bytes) -> bytes:
        """A CR ends its line at once, so a LF that follows it, in the next read too, ends nothing."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def lines_of(whole: bytes) -> list[bytes]:
    """Take whole lines apart; each comes without its LF."""
    lines = whole.split(b"\n")
    lines.pop()
    return lines
