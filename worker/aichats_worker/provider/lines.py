"""Lines out of a stream of bytes that is cut anywhere."""

from typing import Final

LINE_MAX_BYTES: Final = 1024 * 1024
STRAY_MAX_BYTES: Final = 64 * 1024  # of lines that a dialect does not know


class LineTooLong(Exception):
    """A line passed LINE_MAX_BYTES: this is no stream of lines."""


class Lines:
    """Joins what the network cut. Lines end with LF or CR LF and come without that end."""

    def __init__(self) -> None:
        self._tail = bytearray()  # the beginning of a line whose end has not arrived

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes.

        Raises:
            LineTooLong: A line passed the limit.
        """
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._tail:
            lines[0] = bytes(self._tail) + lines[0]
            self._tail.clear()
        self._tail += last
        if len(self._tail) > LINE_MAX_BYTES:
            raise LineTooLong
        return [line.removesuffix(b"\r") for line in lines]

    def rest(self) -> bytes:
        """Return the last line, which has no end."""
        rest = bytes(self._tail).removesuffix(b"\r")
        self._tail.clear()
        return rest
