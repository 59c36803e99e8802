"""The events of one request as bytes: their numbers and their sizes. Pure, no I/O."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson
import pybase64

from aichats_schemas.subjects import SERVICE_ERROR, SERVICE_ERROR_CODE
from aichats_worker.errors import TooLarge, WorkerError
from aichats_worker.provider import Picture
from aichats_worker.text import ascii_line

HEADER_MAX_CHARS: Final = 200
# nats-py does not count headers against max_payload and then closes for good: an error stays far below any limit.
ERROR_MESSAGE_MAX_CHARS: Final = 1000
# What the envelope of an image part may grow to beyond its base64: numbers, id, mime type, hash.
IMAGE_ENVELOPE_BYTES: Final = 1024
_NUMBER_MAX_BYTES: Final = 20


class Envelope:
    """What stands around the data of each event, and the number of the next one.

    Args:
        request_id: The request's id.
        attempt: 1 in core, counted from 1 in a job; 0 for events that stand outside the order.
        seq: The number of the first event.
    """

    __slots__ = ("_tail", "attempt", "overhead", "seq")

    def __init__(self, request_id: str, attempt: int, seq: int = 0) -> None:
        self._tail = f',"id":"{request_id}","attempt":{attempt},"seq":'.encode()
        self.overhead = len(self._tail) + len(b'{"type":"reasoning","data":}') + _NUMBER_MAX_BYTES
        self.attempt = attempt
        self.seq = seq

    def event(self, kind: bytes, data: bytes) -> bytes:
        """Return the event that the next number belongs to. Whoever publishes it counts."""
        return b'{"type":"%b","data":%b%b%d}' % (kind, data, self._tail, self.seq)

    def image(self, data: Iterable[bytes]) -> bytes:
        """Return the event of an image's part, whose data is in pieces: what is large is copied once."""
        return b"".join((b'{"type":"image","data":', *data, b"%b%d}" % (self._tail, self.seq)))


def status_outside(request_id: str) -> bytes:
    """Return the `status` that says in silence that something is still alive, outside the order."""
    return Envelope(request_id, 0).event(b"status", b'"working"')


def text_pieces(text: str, room: int) -> Iterator[bytes]:
    """Yield JSON strings that join to `text`, none longer than `room` bytes.

    Raises:
        TooLarge: Not even one character fits.
    """
    data = orjson.dumps(text)
    if len(data) <= room:
        yield data
    elif len(text) > 1:
        middle = len(text) // 2
        yield from text_pieces(text[:middle], room)
        yield from text_pieces(text[middle:], room)
    else:
        raise TooLarge(f"max_payload: the broker's limit leaves {max(room, 0)} bytes, which fit no event")


def image_parts(index: int, picture: Picture, max_bytes: int) -> Iterator[tuple[bytes, ...]]:
    """Yield the data of an image's events in pieces that join to it; each fits `max_bytes` with its envelope.

    Raises:
        TooLarge: No part fits.
    """
    size = (max_bytes - IMAGE_ENVELOPE_BYTES) // 4 * 3
    if size <= 0:
        raise TooLarge(f"max_payload: the broker's limit of {max_bytes} bytes fits no image")
    parts, whole = -(-len(picture.data) // size), memoryview(picture.data)
    for part in range(parts):
        about = orjson.dumps({"index": index, "part": part, "parts": parts} | _about(picture))
        # Base64 needs no escape: it goes between the quotes as it is.
        yield about[:-1], b',"b64":"', pybase64.b64encode(whole[part * size : (part + 1) * size]), b'"}'


def whole_image(picture: Picture) -> dict[str, Any]:
    """Return what a `result` says of an image, with all of it."""
    return _about(picture) | {"b64": pybase64.b64encode_as_string(picture.data)}


def _about(picture: Picture) -> dict[str, Any]:
    return {"mime": picture.mime, "bytes": len(picture.data), "sha256": picture.sha256}


def error_data(error: WorkerError) -> bytes:
    """Return the data of an `error` event."""
    message = error.message[:ERROR_MESSAGE_MAX_CHARS]
    data: dict[str, Any] = {"code": error.code, "message": message, "retryable": error.retryable}
    if error.retry_after_ms is not None:
        data["retry_after_ms"] = error.retry_after_ms
    if error.usage is not None:
        data["usage"] = error.usage.model_dump()
    return orjson.dumps(data)


def error_headers(error: WorkerError) -> dict[str, str]:
    """Return the headers of an `error` event."""
    return {SERVICE_ERROR: ascii_line(error.message, HEADER_MAX_CHARS), SERVICE_ERROR_CODE: str(error.number)}
