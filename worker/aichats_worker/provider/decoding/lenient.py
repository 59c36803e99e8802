r"""JSON as servers send it: what is wrong in one place costs that place and not the answer.

Bytes that are no UTF-8 become U+FFFD; control characters, `NaN` and `Infinity` are read; half a surrogate pair stays as
it is, for its other half may be in the next piece: `Halves` joins them.
"""

import json
from typing import Any

import orjson

_HIGH = ("\ud800", "\udbff")
_COUNT_MAX = 2**63 - 1


def loads(raw: bytes) -> Any:
    """Read JSON, leniently only where it has to be.

    Raises:
        ValueError: It cannot be read at all.
    """
    try:
        return orjson.loads(raw)
    except ValueError:
        pass
    try:
        return json.loads(raw.decode("utf-8", "replace"), strict=False)
    except RecursionError:
        raise ValueError("too deep") from None


def tokens(value: object) -> int | None:
    """Return a count as it may be passed on; None where it is none, or longer than the 64 bits of JSON and of OTLP."""
    return value if type(value) is int and 0 <= value <= _COUNT_MAX else None


class Halves:
    """Joins the halves of surrogate pairs over the pieces of one text; a half that stays alone becomes U+FFFD."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def are_whole(self, text: str) -> bool:
        """Whether there is nothing to join: `text` may be taken as it is."""
        return not self._half and text.isascii()

    def mend(self, text: str) -> str:
        """Return `text` as valid Unicode; half a character at its end is kept for the next piece."""
        if self.are_whole(text):
            return text
        if not text:
            return ""
        text, self._half = self._half + text, ""
        if _HIGH[0] <= text[-1] <= _HIGH[1]:
            text, self._half = text[:-1], text[-1]
        return whole(text)

    def rest(self) -> str:
        """Return what the half that is left becomes."""
        half, self._half = self._half, ""
        return whole(half)


def whole(text: str) -> str:
    """Return `text` as valid Unicode: pairs joined, lone halves as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
