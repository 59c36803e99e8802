"""Where the images of an answer are, in every form that providers use, and what their bytes are. Pure."""

import binascii
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import pybase64

from aichats_schemas.events import Usage
from aichats_worker.errors import BadResponse
from aichats_worker.provider.decoding.lenient import loads, tokens

_DATA_URL_HEAD_MAX_CHARS: Final = 256
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Found:
    """What an answer holds.

    Attributes:
        sources: Of each image its URL, or its base64 as bytes, in the provider's order.
        usage: What the provider counted, or None.
    """

    sources: tuple[str | bytes, ...] = field(repr=False)
    usage: Usage | None


def found_in(body: bytes) -> Found | None:
    """Read the provider's JSON; None where there is no image in it."""
    try:
        parsed: Any = loads(body)
    except ValueError:
        return None
    entries = parsed.get("data") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        return None
    sources = [source for entry in entries if isinstance(entry, dict) and (source := _source(entry))]
    return Found(tuple(sources), _usage(parsed.get("usage"))) if sources else None


def _source(entry: dict[str, Any]) -> str | bytes | None:
    b64, url = entry.get("b64_json"), entry.get("url")
    if isinstance(b64, str) and b64:
        return b64 if b64[:5].lower() == "data:" else b64.encode("ascii", "replace")
    return url if isinstance(url, str) and url else None


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    asked, made = tokens(usage.get("input_tokens")), tokens(usage.get("output_tokens"))
    if asked is None or made is None or not asked + made:
        return None  # LiteLLM says twice 0 where it knows nothing
    return Usage(input_tokens=asked, output_tokens=made, estimated=False)


def from_data_url(url: str) -> bytes:
    """Return the bytes of a `data:` URL.

    Raises:
        BadResponse: They are no base64.
    """
    head, _, payload = url.partition(",")
    if head[:_DATA_URL_HEAD_MAX_CHARS].rstrip().lower().endswith(";base64"):
        return from_base64(payload.encode("ascii", "replace"))
    return unquote_to_bytes(payload)


def from_base64(b64: bytes) -> bytes:
    """Decode base64 in either alphabet, with or without padding, white space and percent signs.

    Raises:
        BadResponse: It is none.
    """
    try:
        return pybase64.b64decode(b64, validate=True)
    except binascii.Error:
        pass
    plain = unquote_to_bytes(b64).translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
    try:
        return pybase64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        raise BadResponse("the provider sent an image that is not valid base64; try again") from None


def mime_of(data: bytes) -> str:
    """Return the media type that an image's first bytes say.

    Raises:
        BadResponse: It is no png, jpeg, webp, gif or avif.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "image/avif"
    raise BadResponse("the provider sent something that is no png, jpeg, webp, gif or avif image; try again")
