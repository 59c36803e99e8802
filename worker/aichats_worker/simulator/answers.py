"""What the simulator answers: directives in a prompt, words, and images of a chosen size and type. No I/O."""

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import Any, Final, Literal

_DIRECTIVE: Final = re.compile(r"\[sim:([^\]]*)\]")
_ANSWER: Final = (
    "Hello from the local simulator of ai-chats.org. No model wrote this: it streams a fixed text, word by word, so "
    "that you can try a worker without the real provider. Directives in the prompt change what it does; the docstring "
    "of worker/simulator.py lists them."
)


Dialect = Literal["aichats", "openai"]


class Cut:
    """In a script: the connection is cut here."""


class Hold:
    """In a script: silence from here on, until the client goes."""


CUT: Final = Cut()
HOLD: Final = Hold()
Part = bytes | float | Cut | Hold


@dataclass(frozen=True, slots=True)
class Directives:
    """What `[sim: …]` in a prompt can say; the simulator's docstring explains each."""

    status: int = 200
    retry_after: str = ""
    answer: str = ""
    delay: float = 0.0  # the default's type is what is read
    words: int = 0
    pause: float = 0.05
    tries: str = "29"
    cut_after: int = -1
    stall_after: int = -1
    sized: bool = False
    bytes: int = 0
    type: str = "png"
    source: str = "url"
    image_url: str = ""
    image_status: int = 200
    image_redirects: int = 0
    image_stall_after: int = -1
    image_cut_after: int = -1


def directives(prompt: str) -> Directives:
    """Read all directives of a prompt. What is unknown or no number is ignored: a prompt is not ours to refuse."""
    found = Directives()
    kinds: dict[str, type] = {field.name: type(field.default) for field in fields(Directives)}
    for body in _DIRECTIVE.findall(prompt):
        for word in body.split():
            name, _, value = word.partition("=")
            name = name.replace("-", "_")
            if name not in kinds:
                continue
            try:
                found = replace(found, **{name: value != "off" if kinds[name] is bool else kinds[name](value)})
            except ValueError:
                continue
    return found


def words(count: int) -> list[str]:
    """Return the answer in pieces that join to it: the whole of it for 0, else `count` words."""
    parts = [part if i == 0 else f" {part}" for i, part in enumerate(_ANSWER.split(" "))]
    if not count:
        return parts
    return [parts[i % len(parts)] if i else parts[0] for i in range(count)]


def told(wanted: Directives, dialect: Dialect) -> list[Part]:
    """Return the parts of a streamed answer in the dialect of ai-chats.org, or of an OpenAI-compatible server."""
    said = [] if wanted.answer == "none" else words(wanted.words)
    parts: list[Part] = []
    for i, word in enumerate(said):
        parts += [wanted.pause] if i else []
        parts += [*_faults(wanted, i), _delta(word, dialect)]
    return [*parts, *_faults(wanted, len(said)), _end(wanted, dialect)]


def _faults(wanted: Directives, here: int) -> tuple[Part, ...]:
    return ((CUT,) if wanted.cut_after == here else ()) + ((HOLD,) if wanted.stall_after == here else ())


def _delta(word: str, dialect: Dialect) -> bytes:
    return f"data: {word}\n\n".encode() if dialect == "aichats" else _openai_chunk({"content": word}, None)


def _end(wanted: Directives, dialect: Dialect) -> bytes:
    if wanted.tries == "none":
        return b""
    if dialect == "aichats":
        return f"event: trylimit\ndata: {wanted.tries}\n\n".encode()
    return _openai_chunk({}, "stop") + b"data: [DONE]\n\n"


def _openai_chunk(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "simulated", "object": "chat.completion.chunk", "model": "simulated", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


def page(kind: str) -> tuple[str, bytes]:
    """Return the content type and the body of an answer that is none: challenge, html, json-error, prose, empty."""
    pages = {
        "challenge": (
            "text/html; charset=utf-8",
            "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Solve the captcha.</body></html>",
        ),
        "html": ("text/html; charset=utf-8", "<!DOCTYPE html><html><body><h1>Down for maintenance</h1></body></html>"),
        "json-error": ("application/json", '{"error":{"message":"Something went wrong","code":500}}'),
        "prose": ("text/event-stream", "An internal server error occurred."),
        "empty": ("text/event-stream", ""),
    }
    content_type, body = pages.get(kind, ("text/plain", f"The simulator knows no answer={kind}."))
    return content_type, body.encode()


def refused(wanted: Directives) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an answer that is none."""
    content_type, body = page(wanted.answer) if wanted.answer else ("application/json", b'{"error":"refused"}')
    headers = {"Content-Type": content_type}
    if wanted.retry_after == "body":
        body = b'{"error":{"message":"too many requests","retry_after":7}}'
    elif wanted.retry_after == "date":
        headers["Retry-After"] = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    elif wanted.retry_after:
        headers["Retry-After"] = wanted.retry_after
    return headers, body


def located(wanted: Directives, origin: str) -> dict[str, Any]:
    """Return the JSON that says where an image is, or holds it."""
    entries = []
    if wanted.source in ("data", "b64"):
        b64 = base64.b64encode(image(wanted.type, wanted.bytes)).decode()
        entries = [{"b64_json": b64} if wanted.source == "b64" else {"url": f"data:image/png;base64,{b64}"}]
    elif wanted.source != "none":
        faults = ("status", "redirects", "stall_after", "cut_after")
        query = "&".join(f"{name}={getattr(wanted, f'image_{name}')}" for name in faults)
        url = wanted.image_url or f"{origin}/images/{wanted.bytes}.{wanted.type}?{query}"
        entries = [{"url": url, "revised_prompt": "a picture from the simulator"}]
    return {"created": int(datetime.now(UTC).timestamp()), "data": entries}


# One pixel each, from the formats' own minimal encoders; avif is the head alone, which is what a worker looks at.
_GIF: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_WEBP: Final = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
_JPEG: Final = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9"
_AVIF: Final = b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf"
_SIDE: Final = 256


@lru_cache(maxsize=4)
def image(kind: str, size: int) -> bytes:
    """Return an image of type `kind` and exactly `size` bytes; 0, or too few for the type, for its natural size.

    A png is padded with a chunk that viewers skip, so it stays valid; the others with zeros after their end. An unknown
    type gives bytes that are no image.
    """
    if kind == "png":
        return _png(size)
    data = {"gif": _GIF, "webp": _WEBP, "jpeg": _JPEG, "jpg": _JPEG, "avif": _AVIF}.get(kind, b"this is no image")
    return data + bytes(max(0, size - len(data)))


def _png(size: int) -> bytes:
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0))
    tail = _chunk(b"IDAT", zlib.compress(b"".join(_rows()))) + _chunk(b"IEND", b"")
    padding = size - len(head) - len(tail) - 12
    return head + (_chunk(b"paDd", bytes(padding)) if padding >= 0 else b"") + tail


def _rows() -> Iterator[bytes]:
    """Give a gradient as differences from pixel to pixel (the filter Sub), which compresses to nearly nothing."""
    for y in range(_SIDE):
        yield b"\x01" + bytes((0, y, 255 - y)) + bytes((1, 0, 255)) * (_SIDE - 1)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
