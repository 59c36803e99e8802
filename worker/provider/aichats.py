"""ai-chats.org: text and images over its one endpoint."""

import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Literal

import orjson
import pybase64
from pydantic import TypeAdapter, ValidationError

from schemas.requests import Message
from worker.errors import (
    BadResponse,
    DeadlineExceeded,
    Interrupted,
    InvalidRequest,
    ModelNotFound,
    ProviderUnavailable,
    QuotaExhausted,
    WorkerError,
)
from worker.provider import Finish, Picture, Question
from worker.provider.dialect import STRAY_MAX_BYTES, Decoder, LineTooLong
from worker.provider.images import Images
from worker.provider.refusals import HEAD_MAX_BYTES, no_answer, refusal
from worker.provider.upstream import Answer, Timeouts, Upstream

URL: Final = "https://ai-chats.org"
ENDPOINT: Final = "/chat/send2/"
USER_AGENT: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
)
IMAGE_MAX_BYTES: Final = 20 * 1024 * 1024
IMAGE_MEMORY_MAX_BYTES: Final = 256 * 1024 * 1024

Messages = Sequence[Message | dict[str, str]]
_MESSAGES: Final[TypeAdapter[list[Message]]] = TypeAdapter(list[Message])
_NEVER: Final = float("inf")
_CUT: Final = "the provider stopped in the middle of its answer; try again"


@dataclass(frozen=True, slots=True)
class ImageResponse:
    """An image as `create_async_generator` yields it.

    Attributes:
        picture: The image's bytes and what they are.
        alt: The prompt.
    """

    picture: Picture
    alt: str

    @property
    def url(self) -> str:
        """The image as a `data:` URL."""
        return f"data:{self.picture.mime};base64,{pybase64.b64encode(self.picture.data).decode('ascii')}"

    def __str__(self) -> str:
        return self.url


class _OnClassToo:
    """Makes a method of `function`, which gets None for `self` when it is called on the class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: "AiChats | None", owner: type["AiChats"]) -> Callable[..., Any]:
        return partial(self._function, instance, owner)


class AiChats:
    """Asks ai-chats.org, or a site that speaks as it does.

    One instance keeps its connections for its life; close() it. It can be used without NATS:

        async for delta in AiChats.create_async_generator(model="gpt-4", messages=[{"role": "user", "content": "Hi"}]):
            print(delta)

    Args:
        url: The site's origin.
        cookie: The operator's own; sent to the site alone, never to an image's host.
        user_agent: The one that the cookie was given to.
        proxy: http(s):// or socks5(h)://, for the call and the image.
        timeouts: The phases of each call's deadline.
        image_max_bytes: A larger image is too_large.
        image_memory_max_bytes: For all images that are being fetched at once.
        image_allow_private: Images also from addresses that are not public.
        tls: A context for a private certificate authority; None for the system's.
    """

    url: str = URL
    api_endpoint: str = URL + ENDPOINT
    working: bool = True
    supports_message_history: bool = True
    default_model: ClassVar[str] = "gpt-4"
    models: ClassVar[list[str]] = ["gpt-4", "dalle"]

    def __init__(
        self,
        *,
        url: str | None = None,
        cookie: str | None = None,
        user_agent: str | None = None,
        proxy: str | None = None,
        timeouts: Timeouts | None = None,
        image_max_bytes: int = IMAGE_MAX_BYTES,
        image_memory_max_bytes: int = IMAGE_MEMORY_MAX_BYTES,
        image_allow_private: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = (url or self.url).rstrip("/")
        self.api_endpoint = self.url + ENDPOINT
        user_agent = user_agent or USER_AGENT
        self._upstream = Upstream(proxy=proxy, timeouts=timeouts, tls=tls)
        self._images = Images(
            self._upstream,
            origin=self.url,
            user_agent=user_agent,
            max_bytes=image_max_bytes,
            memory_max_bytes=image_memory_max_bytes,
            allow_private=image_allow_private,
        )
        self._headers = {
            "Accept": "application/json, text/event-stream",
            "Accept-Language": "en,en-US;q=0.9",
            "Cache-Control": "no-cache",
            "Content-Type": "application/json",
            "Origin": self.url,
            "Pragma": "no-cache",
            "Sec-Fetch-Dest": "empty",
            "Sec-Fetch-Mode": "cors",
            "Sec-Fetch-Site": "same-origin",
            "User-Agent": user_agent,
        }
        if cookie:
            self._headers["Cookie"] = cookie

    async def text(self, question: Question) -> AsyncGenerator[str | Finish, None]:
        """Yield text as it arrives, all that one read of the socket completes at once, and one Finish at the end.

        Raises:
            WorkerError: What the provider did instead. Closing the generator closes the connection.
        """
        with await self._send("chat", flattened(question.messages), question.proxy) as answer:
            if answer.status != 200:
                raise await _refused(answer)
            async for item in _decoded(answer):
                yield item

    async def image(self, question: Question) -> Picture:
        """Make one image of the last message.

        Raises:
            WorkerError: What the provider, or the image's host, did instead.
        """
        with await self._send("image", question.messages[-1].content, question.proxy) as answer:
            return await self._images.from_answer(answer, question.proxy)

    async def close(self) -> None:
        """Close all connections."""
        await self._upstream.close()

    async def _send(self, kind: Literal["chat", "image"], content: str, proxy: str | None) -> Answer:
        try:
            body = orjson.dumps({"type": kind, "messagesHistory": [{"from": "you", "content": content}]})
        except TypeError:
            raise InvalidRequest("the messages must be valid Unicode: there is half a surrogate pair") from None
        headers = {**self._headers, "Referer": f"{self.url}/{kind}/"}
        return await self._upstream.call("POST", self.api_endpoint, headers=headers, body=body, proxy=proxy)

    async def _generate(
        self: "AiChats | None",
        owner: type["AiChats"],
        model: str,
        messages: Messages,
        proxy: str | None = None,
        **_: Any,
    ) -> AsyncGenerator[str | ImageResponse, None]:
        """Yield the deltas of a text, or one ImageResponse.

        On an instance this uses the instance's connections; on the class, connections of its own for this call.

        Args:
            owner: The class.
            model: `gpt-4` or `dalle`; empty for the default.
            messages: The conversation in order, the last message last.
            proxy: For this call.

        Raises:
            WorkerError: ModelNotFound, InvalidRequest, or what the provider did. Never as text of the answer.
        """
        model = model or owner.default_model
        if model not in owner.models:
            raise ModelNotFound(f"there is no model of that name; the models are {', '.join(owner.models)}")
        question = Question(_conversation(messages), tenant="default", deadline=_NEVER, proxy=proxy)
        provider = self if self is not None else owner()
        try:
            if model == "dalle":
                yield ImageResponse(await provider.image(question), question.messages[-1].content)
                return
            async with aclosing(provider.text(question)) as items:
                async for item in items:
                    if isinstance(item, str):
                        yield item
        finally:
            if self is None:
                await provider.close()

    async def _whole(
        self: "AiChats | None",
        owner: type["AiChats"],
        model: str,
        messages: Messages,
        proxy: str | None = None,
        **_: Any,
    ) -> str:
        """Return the whole text, or the image as a `data:` URL. As `create_async_generator` otherwise."""
        target = self if self is not None else owner
        async with aclosing(target.create_async_generator(model, messages, proxy)) as items:
            return "".join([str(item) async for item in items])

    create_async_generator = _OnClassToo(_generate)
    create_async = _OnClassToo(_whole)


def flattened(messages: Sequence[Message]) -> str:
    """Return a conversation as the one prompt that the site takes: a single message as it is, several with roles."""
    if len(messages) == 1:
        return messages[0].content
    lines = [f"{message.role.capitalize()}: {message.content}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


def _conversation(messages: Messages) -> tuple[Message, ...]:
    try:
        conversation = _MESSAGES.validate_python(list(messages))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidRequest(f"messages: {wrong}") from None
    if not conversation:
        raise InvalidRequest("messages must hold at least one message")
    return tuple(conversation)


async def _decoded(answer: Answer) -> AsyncGenerator[str | Finish, None]:
    decoder = Decoder()
    started = False
    try:
        while not decoder.ended and (data := await answer.read()):
            if text := decoder.feed(data):
                started = True
                yield text
            elif not started and len(decoder.stray) >= STRAY_MAX_BYTES:
                raise no_answer(answer.headers, bytes(decoder.stray))
        if decoder.ended:
            await answer.settle()
        elif text := decoder.finish():
            started = True
            yield text
    except LineTooLong:
        raise _broken(started, BadResponse("the provider sent a line that is too long; try again")) from None
    except (ProviderUnavailable, BadResponse) as error:
        raise _broken(started, error) from None
    if not started:
        raise _nothing(answer, decoder)
    if decoder.broke_off and not decoder.ended:
        raise Interrupted(_CUT)
    yield Finish(tries_left=decoder.tries_left)


def _broken(started: bool, error: WorkerError) -> WorkerError:
    return Interrupted(_CUT) if started else error


def _nothing(answer: Answer, decoder: Decoder) -> WorkerError:
    if decoder.tries_left == 0:
        return QuotaExhausted("the provider says that no tries are left; use another account, or wait for the next day")
    return no_answer(answer.headers, bytes(decoder.stray))


async def _refused(answer: Answer) -> WorkerError:
    try:
        head = await answer.head(HEAD_MAX_BYTES)
    except (ProviderUnavailable, DeadlineExceeded):
        head = b""  # the status alone says enough
    return refusal(answer.status, answer.headers, head) or no_answer(answer.headers, head)
