"""What answers are made of: the parts of a script, words, and images of a chosen size and type. No I/O."""

import base64
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

_ANSWER: Final = (
    "Hello from the local simulator of ai-chats.org. No model wrote this: it streams a fixed text, word by word, so "
    "that you can try a worker without the real provider. Directives in the prompt change what it does; "
    "`aichats-worker simulator --help` lists them."
)


class Cut:
    """In a script: the connection is cut here."""


class Hold:
    """In a script: silence from here on, until the client goes."""


CUT: Final = Cut()
HOLD: Final = Hold()
Part = bytes | float | Cut | Hold


def words(count: int) -> list[str]:
    """Return the answer in pieces that join to it: the whole of it for 0, else `count` words."""
    parts = [part if i == 0 else f" {part}" for i, part in enumerate(_ANSWER.split(" "))]
    if not count:
        return parts
    return [parts[i % len(parts)] if i else parts[0] for i in range(count)]


# One pixel each, from the formats' own minimal encoders; avif is the head alone, which is what a worker looks at.
_GIF: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_WEBP: Final = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
_JPEG: Final = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9"
_AVIF: Final = b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf"
SIDE: Final = 256


@lru_cache(maxsize=4)
def image(kind: str, size: int, width: int = SIDE, height: int = SIDE) -> bytes:
    """Return an image of type `kind` and exactly `size` bytes; 0, or too few for the type, for its natural size.

    A png is `width` by `height` pixels and padded with a chunk that viewers skip, so it stays valid; the others are of
    one pixel and padded with zeros after their end. An unknown type gives bytes that are no image.
    """
    if kind == "png":
        return _png(size, width, height)
    data = {"gif": _GIF, "webp": _WEBP, "jpeg": _JPEG, "jpg": _JPEG, "avif": _AVIF}.get(kind, b"this is no image")
    return data + bytes(max(0, size - len(data)))


def _png(size: int, width: int, height: int) -> bytes:
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    tail = _chunk(b"IDAT", zlib.compress(b"".join(_rows(width, height)))) + _chunk(b"IEND", b"")
    padding = size - len(head) - len(tail) - 12
    return head + (_chunk(b"paDd", bytes(padding)) if padding >= 0 else b"") + tail


def _rows(width: int, height: int) -> Iterator[bytes]:
    """Give a gradient as differences from pixel to pixel (the filter Sub), which compresses to nearly nothing."""
    for y in range(height):
        yield b"\x01" + bytes((0, y % 256, 255 - y % 256)) + bytes((1, 0, 255)) * (width - 1)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
