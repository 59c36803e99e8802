"""Images: where the provider says they are, fetched from there, and what they really are."""

import asyncio
import binascii
import hashlib
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson
import pybase64
from yarl import URL

from aichats_worker.errors import BadResponse, TooLarge
from aichats_worker.provider import Picture
from aichats_worker.provider.http.addresses import check_host
from aichats_worker.provider.http.upstream import Answer, Upstream
from aichats_worker.provider.refusals import HEAD_MAX_BYTES, no_answer, refusal

IMAGE_MAX_BYTES: Final = 20 * 1024 * 1024
IMAGE_MEMORY_MAX_BYTES: Final = 256 * 1024 * 1024
REDIRECTS_MAX: Final = 5
_DATA_URL_HEAD_MAX_CHARS: Final = 256


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


class Images:
    """Gets images, checked.

    Args:
        upstream: What to fetch them with.
        origin: The provider's own; images there are always allowed.
        user_agent: To fetch them with. Cookie, origin and referer are never sent to an image's host.
        max_bytes: A larger image is too_large, and is not read to its end.
        memory_max_bytes: For all images that are being fetched at once.
        allow_private: Also from addresses that are not public.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        origin: str,
        user_agent: str,
        max_bytes: int,
        memory_max_bytes: int,
        allow_private: bool,
    ) -> None:
        self._upstream = upstream
        self._origin = URL(origin).origin()
        self._headers = {"User-Agent": user_agent, "Accept": "image/avif,image/webp,image/png,image/*;q=0.8"}
        self._max_bytes = max_bytes
        self._allow_private = allow_private
        self._room = asyncio.Semaphore(max(1, memory_max_bytes // max_bytes))

    def room(self) -> asyncio.Semaphore:
        """Wait, as a context manager, for room in memory for one image of the largest size, and keep it.

        Held from before the provider is asked: an answer that waits for room would stall.
        """
        return self._room

    async def from_answer(self, answer: Answer, proxy: str | None) -> Picture:
        """Read the provider's JSON, which holds an image or says where it is, and get the image.

        Raises:
            WorkerError: BadResponse, TooLarge, or why it could not be fetched.
        """
        # An answer may hold the image itself, in base64.
        limit = self._max_bytes * 4 // 3 + HEAD_MAX_BYTES
        body = await answer.head(HEAD_MAX_BYTES if answer.status != 200 else limit)
        answer.close()
        refused = refusal(answer.status, answer.headers, body)
        if refused is not None:
            raise refused
        if len(body) > limit:
            raise self._too_large(f"more than {self._max_bytes}")
        data = await self._located(_source(answer, body), proxy)
        digest = await asyncio.to_thread(hashlib.sha256, data)  # 20 MiB would hold up every other stream for 20 ms
        return Picture(data, mime_of(data), digest.hexdigest())

    async def _located(self, source: str | bytes, proxy: str | None) -> bytes:
        if isinstance(source, bytes):
            return self._decoded(source)
        if source[:5].lower() == "data:":
            head, _, payload = source.partition(",")
            if head[:_DATA_URL_HEAD_MAX_CHARS].lower().endswith(";base64"):
                return self._decoded(payload.encode("ascii", "replace"))
            return self._within(unquote_to_bytes(payload))
        return await self._fetch(source, proxy)

    def _decoded(self, b64: bytes) -> bytes:
        if len(b64) * 3 // 4 > self._max_bytes + 2:
            raise self._too_large(str(len(b64) * 3 // 4))
        try:
            return self._within(pybase64.b64decode(b64, validate=True))
        except binascii.Error:
            raise BadResponse("the provider sent an image that is not valid base64; try again") from None

    async def _fetch(self, source: str, proxy: str | None) -> bytes:
        url = _checked(source, None)
        for _ in range(REDIRECTS_MAX + 1):
            guarded = not self._allow_private and url.origin() != self._origin
            if guarded:
                check_host(url.raw_host or "")
            with await self._upstream.call(
                "GET", str(url), headers=self._headers, proxy=proxy, guarded=guarded
            ) as answer:
                if answer.status not in (301, 302, 303, 307, 308):
                    return await self._body(answer)
                url = _checked(answer.headers.get("Location", ""), url)
        raise BadResponse(f"the image's address redirects more than {REDIRECTS_MAX} times; try again")

    async def _body(self, answer: Answer) -> bytes:
        if answer.status != 200:
            head = await answer.head(HEAD_MAX_BYTES)
            raise refusal(answer.status, answer.headers, head) or no_answer(answer.headers, head)
        length = answer.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large(length)
        body = await answer.head(self._max_bytes)
        if not body:
            raise BadResponse("the provider named an image that is empty; try again")
        return self._within(body)

    def _within(self, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise self._too_large(f"more than {self._max_bytes}")
        return data

    def _too_large(self, size: str) -> TooLarge:
        return TooLarge(
            f"PROVIDER_IMAGE_MAX_BYTES is {self._max_bytes}, and the image has {size} bytes; ask for a smaller image"
        )


def _source(answer: Answer, body: bytes) -> str | bytes:
    """Return the image's URL, or its base64 as bytes."""
    try:
        parsed: Any = orjson.loads(body)
        first = parsed["data"][0]
        url, b64 = first.get("url"), first.get("b64_json")
    except (ValueError, TypeError, LookupError, AttributeError):
        raise no_answer(answer.headers, body[:HEAD_MAX_BYTES]) from None
    if isinstance(b64, str) and b64:
        return b64.encode("ascii", "replace")
    if isinstance(url, str) and url:
        return url
    raise BadResponse("the provider's answer holds no image; try again")


def _checked(location: str, base: URL | None) -> URL:
    try:
        url = base.join(URL(location)) if base is not None else URL(location)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise BadResponse("the provider named an image at an address that is not http or https; try again")
    return url.with_fragment(None)
