"""Content encodings, taken off. Nobody asks for one; a relay in between packs all the same. Pure."""

import zlib
from typing import Any, Final

# What one step unpacks at most: a thousandth of it, packed. Of blank lines it takes the decoder 20 ms.
STEP_MAX_BYTES: Final = 64 * 1024
_GZIP: Final = 0x1F
_ANY_HEADER: Final = zlib.MAX_WBITS | 32  # zlib finds out itself whether it is gzip's or its own
_NO_HEADER: Final = -zlib.MAX_WBITS
_KNOWN: Final = frozenset({"gzip", "x-gzip", "deflate"})


def is_packed(encoding: str) -> bool:
    """Say whether a Content-Encoding is one at all."""
    return encoding.strip().lower() not in ("", "identity")


class Unpacking:
    """Unpacks one body, which comes in pieces.

    Args:
        encoding: As the header says it.
    """

    def __init__(self, encoding: str) -> None:
        self._known = encoding.strip().lower() in _KNOWN
        self._unpack: Any = None  # of the part that is being read: zlib's classes have no public name
        self._packed = b""
        self._parts = 0
        self._is_full = False

    @property
    def is_cut(self) -> bool:
        """Whether a part was begun and its end has not come."""
        return self._unpack is not None

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._packed += data

    def more(self) -> bytes:
        """Return the next bytes that can be had, at most STEP_MAX_BYTES; empty where another piece is needed.

        Raises:
            ValueError: It is packed in a way that nobody here knows, or not in the one that its header says.
        """
        if not self._known:
            raise ValueError("unknown encoding")
        while self._packed or self._is_full:
            if self._unpack is None and not self._begin(self._packed[0]):
                self._packed = b""
                break
            if plain := self._step():
                return plain
        return b""

    def _begin(self, first: int) -> bool:
        """Begin a part. Many servers leave out the header of `deflate`; behind one part only gzip has another."""
        is_gzip = first == _GZIP
        if self._parts and not is_gzip:
            return False
        self._parts += 1
        self._unpack = zlib.decompressobj(_ANY_HEADER if is_gzip or first & 0x0F == zlib.DEFLATED else _NO_HEADER)
        return True

    def _step(self) -> bytes:
        try:
            plain: bytes = self._unpack.decompress(self._packed, STEP_MAX_BYTES)
        except zlib.error as error:
            raise ValueError("cannot be unpacked") from error
        self._is_full = len(plain) == STEP_MAX_BYTES  # then zlib may hold more, though it has taken all
        self._packed = self._unpack.unconsumed_tail
        if self._unpack.eof:
            self._packed, self._unpack, self._is_full = self._unpack.unused_data, None, False
        return plain
