"""Images: fetched from where the provider says they are, checked, and never made again because a fetch failed."""

import asyncio
import hashlib
import math
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from yarl import URL

from aichats_worker.errors import (
    BadResponse,
    DeadlineExceeded,
    Interrupted,
    ProviderUnavailable,
    RateLimited,
    TooLarge,
    WorkerError,
    without_frames,
)
from aichats_worker.provider import Finish, Picture, Question
from aichats_worker.provider.deltas import Answering, refused
from aichats_worker.provider.http.addresses import check_host
from aichats_worker.provider.http.answer import HttpAnswer
from aichats_worker.provider.http.upstream import Request, Upstream, as_url
from aichats_worker.provider.refusals import HEAD_MAX_BYTES, Refusal, SettingNames, no_answer
from aichats_worker.provider.sources import Found, found_in, from_base64, from_data_url, mime_of

REDIRECTS_MAX: Final = 5
IMAGE_SECONDS_MAX: Final = 600.0  # for making one, where the question has no deadline
FETCH_SECONDS_MAX: Final = 120.0  # an image's host that is away for longer is not away for a moment
_FETCH_WAIT_SECONDS: Final = 0.2
_FETCH_WAIT_MAX_SECONDS: Final = 5.0
_PASSING: Final = (ProviderUnavailable, RateLimited, DeadlineExceeded)
_NO_NAMES: Final = SettingNames("the image's host", "the image's host")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is accepted of images.

    Attributes:
        max_bytes: A larger image is too_large, and is not read to its end.
        memory_max_bytes: For all images that are being fetched at once.
        allow_private: Also from addresses that are not public.
    """

    max_bytes: int = 20 * 1024 * 1024
    memory_max_bytes: int = 256 * 1024 * 1024
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Home:
    """Where a provider's own images are.

    Attributes:
        url: Images at its origin are always allowed, wherever that is.
        user_agent: To fetch images with, there and elsewhere.
        credentials: Headers that an image at this origin is asked for with where it is refused without; nowhere else.
    """

    url: str
    user_agent: str
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)


class Images:
    """Gets images, checked. Cookie, key, origin and referer are never sent to another host.

    Args:
        upstream: What to fetch them with.
        home: The provider's own.
        limits: What is accepted.
    """

    def __init__(self, upstream: Upstream, home: Home, limits: ImageLimits | None = None) -> None:
        self._upstream = upstream
        self._home = home
        self._origin = URL(home.url).origin()
        self._limits = limits or ImageLimits()
        self._headers = {"User-Agent": home.user_agent, "Accept": "image/avif,image/webp,image/png,image/*;q=0.8"}
        self._places = max(1, self._limits.memory_max_bytes // self._limits.max_bytes)
        self._free = asyncio.Semaphore(self._places)
        self._entering = asyncio.Lock()

    @asynccontextmanager
    async def room(self, count: int = 1) -> AsyncGenerator[None]:
        """Wait for room in memory for so many images of the largest size, and keep it.

        Held from before the provider is asked: an answer that waits for room would stall.
        """
        wanted, taken = min(count, self._places), 0
        try:
            async with self._entering:  # one after the other: two that hold half of theirs would wait for ever
                while taken < wanted:
                    await self._free.acquire()
                    taken += 1
            yield
        finally:
            for _ in range(taken):
                self._free.release()

    async def of_answer(
        self, answer: HttpAnswer, question: Question, who: Answering
    ) -> AsyncGenerator[Picture | Finish, None]:
        """Yield each image that the provider's JSON holds or names, as soon as it is there, and one Finish.

        Raises:
            WorkerError: What came instead. Behind the first image Interrupted where one cannot be had: this provider is
                not asked again in the same attempt.
        """
        found = await self._found(answer, question.options.get("n", 1), who.names)
        for number, source in enumerate(found.sources):
            try:
                yield await self._picture(source, question)
            except WorkerError as error:
                told = error
                if number and not isinstance(error, Interrupted):
                    told = Interrupted("one of the images could not be had; try again")
                told.usage = found.usage
                raise told from None
        yield Finish(usage=found.usage, provider=who.provider, model=who.model)

    async def _found(self, answer: HttpAnswer, count: int, names: SettingNames) -> Found:
        # An answer may hold the images themselves, in base64, which may be broken into lines.
        limit = count * self._limits.max_bytes * 7 // 5 + HEAD_MAX_BYTES
        if not answer.ok:
            raise (await refused(answer)).error(names)
        body = await answer.head(limit)
        answer.close()
        if len(body) > limit:
            raise self._too_large(f"more than {self._limits.max_bytes}")
        found = found_in(body)
        if found is None:
            raise no_answer(answer.headers, body[:HEAD_MAX_BYTES], names)
        return found

    async def _picture(self, source: str | bytes, question: Question) -> Picture:
        if isinstance(source, str) and source[:5].lower() != "data:":
            return await self._fetch_until_there(source, question)
        data = self._held(source)
        digest = await asyncio.to_thread(hashlib.sha256, data)  # 20 MiB would hold up every other stream for 20 ms
        return Picture(data, mime_of(data), digest.hexdigest())

    def _held(self, source: str | bytes) -> bytes:
        # Before decoding what is too large anyway; white space and a head make it a little longer.
        if len(source) * 5 // 7 > self._limits.max_bytes + HEAD_MAX_BYTES:
            raise self._too_large(f"about {len(source) * 3 // 4}")
        return self._within(from_base64(source) if isinstance(source, bytes) else from_data_url(source))

    async def _fetch_until_there(self, source: str, question: Question) -> Picture:
        """Fetch an image again as long as its host fails in passing: it was made, and making it again costs again."""
        loop = asyncio.get_running_loop()
        until, step = min(question.deadline, loop.time() + FETCH_SECONDS_MAX), _FETCH_WAIT_SECONDS
        while True:
            try:
                return await self._fetch(source, question.proxy)
            except _PASSING as error:
                wait = max((error.retry_after_ms or 0) / 1000, random.uniform(step / 2, step))  # noqa: S311 - jitter
                if loop.time() + wait >= until:
                    raise Interrupted(
                        "the image was made, but its host does not give it out; try again later",
                        retry_after_ms=error.retry_after_ms,
                    ) from None
                without_frames(error)
            await asyncio.sleep(wait)
            step = min(step * 2, _FETCH_WAIT_MAX_SECONDS)

    async def _fetch(self, source: str, proxy: str | None) -> Picture:
        url, credentials, redirects = _checked(source, None), False, 0
        while redirects <= REDIRECTS_MAX:
            at_home = url.origin() == self._origin
            with await self._get(url, proxy, at_home=at_home, credentials=credentials) as answer:
                if answer.status in (401, 403) and at_home and self._home.credentials and not credentials:
                    credentials = True
                    continue
                if answer.status not in (301, 302, 303, 307, 308):
                    return await self._body(answer)
                url, credentials = _checked(answer.headers.get("Location", ""), url), False
                redirects += 1
        raise BadResponse(f"the image's address redirects more than {REDIRECTS_MAX} times; try again")

    async def _get(self, url: URL, proxy: str | None, *, at_home: bool, credentials: bool) -> HttpAnswer:
        guarded = not (self._limits.allow_private or at_home)
        if guarded:
            check_host(url.raw_host or "")
        headers = {**self._headers, **self._home.credentials} if credentials else self._headers
        return await self._upstream.call(Request("GET", url, headers, proxy=proxy, guarded=guarded))

    async def _body(self, answer: HttpAnswer) -> Picture:
        if not answer.ok:
            raise _of_host(await refused(answer))
        length = answer.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self._limits.max_bytes:
            raise self._too_large(length)
        chunks, size, digest = [], 0, hashlib.sha256()
        while size <= self._limits.max_bytes and (chunk := await answer.read()):
            chunks.append(chunk)
            size += len(chunk)
            digest.update(chunk)  # as it comes: a whole image at once would hold up every other stream
        if not chunks:
            raise BadResponse("the provider named an image that is empty; try again")
        data = self._within(b"".join(chunks))
        return Picture(data, mime_of(data), digest.hexdigest())

    def _within(self, data: bytes) -> bytes:
        if len(data) > self._limits.max_bytes:
            raise self._too_large(f"more than {self._limits.max_bytes}")
        return data

    def _too_large(self, size: str) -> TooLarge:
        return TooLarge(
            f"PROVIDER_IMAGE_MAX_BYTES is {self._limits.max_bytes}, and the image has {size} bytes; "
            "ask for a smaller image"
        )


def image_seconds(setting: float, question: Question) -> float:
    """Return how long the answer to a question for images may take to begin: the setting, or as long as the request.

    A second more than that, so that the request's own deadline is the one that ends it.
    """
    left = question.deadline - asyncio.get_running_loop().time()
    return setting or (IMAGE_SECONDS_MAX if math.isinf(left) else max(left, 0) + 1)


def _of_host(refusal: Refusal) -> WorkerError:
    """An image's host is neither the provider nor anybody's setting: it fails in passing, or there is no image."""
    error = refusal.error(_NO_NAMES)
    if isinstance(error, _PASSING):
        return error
    return BadResponse("the provider named an image that its host does not give out; try again")


def _checked(location: str, base: URL | None) -> URL:
    try:
        url = as_url(location) if base is None else base.join(as_url(location))
        _ = url.origin(), url.port  # both are read late, and may be wrong
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise BadResponse("the provider named an image at an address that is not http or https; try again")
    return url.with_fragment(None)
