"""ai-chats.org: text and images over its one endpoint."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import ClassVar, Final, Literal

import orjson

from aichats_worker.errors import InvalidRequest
from aichats_worker.provider import ChatMessage, Finish, Offers, Picture, Question, Reasoning
from aichats_worker.provider.aichats.dialect import AiChatsDecoder
from aichats_worker.provider.circuit import Circuit
from aichats_worker.provider.deltas import Answering, deltas
from aichats_worker.provider.generator import OnClassToo, Working, generate, whole
from aichats_worker.provider.http.answer import HttpAnswer
from aichats_worker.provider.http.route import Route
from aichats_worker.provider.http.upstream import REDIRECTS_MAX, Request, Upstream, as_url, named
from aichats_worker.provider.images import Home, ImageLimits, Images, image_seconds
from aichats_worker.provider.refusals import SettingNames

NAME: Final = "aichats"
URL: Final = "https://ai-chats.org"
ENDPOINT: Final = "/chat/send2/"
USER_AGENT: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
)
NAMES: Final = SettingNames("AICHATS_URL", "AICHATS_COOKIE and AICHATS_USER_AGENT")
_TEXT: Final = Answering(NAME, "gpt-4", NAMES)
_IMAGES: Final = Answering(NAME, "dalle", NAMES)


class AiChats:
    """Asks ai-chats.org, or a site that speaks as it does.

    One instance keeps its connections for its life; close() it. It can be used without NATS:

        async for delta in AiChats.create_async_generator(model="gpt-4", messages=[{"role": "user", "content": "Hi"}]):
            print(delta)

    Args:
        url: The site's origin.
        cookie: The operator's own; sent to the site alone, never to an image's host.
        user_agent: The one that the cookie was given to.
        route: How calls go out: proxy, timeouts, TLS.
        limits: What is accepted of images.

    Attributes:
        url: The site's origin.
        api_endpoint: Where calls go.
        working: False while the circuit is open; the Door that makes calls through this instance opens it.
        supports_message_history: Several messages are flattened into one prompt.
        default_model: `gpt-4`.
        models: `gpt-4` for text and `dalle` for images.
    """

    name = NAME
    url: str = URL
    api_endpoint: str = URL + ENDPOINT
    working = Working()
    supports_message_history: bool = True
    default_model: ClassVar[str] = "gpt-4"
    models: ClassVar[list[str]] = ["gpt-4", "dalle"]
    # The site takes a prompt and nothing else.
    offers: ClassVar[Offers] = {"text": {"gpt-4": (frozenset(),)}, "image": {"dalle": (frozenset(),)}}

    def __init__(
        self,
        *,
        url: str | None = None,
        cookie: str | None = None,
        user_agent: str | None = None,
        route: Route | None = None,
        limits: ImageLimits | None = None,
    ) -> None:
        self.url = (url or self.url).rstrip("/")
        self.api_endpoint = self.url + ENDPOINT
        self.circuit = Circuit()
        self._endpoint = as_url(self.api_endpoint)
        user_agent = user_agent or USER_AGENT
        self._route = route or Route()
        self._upstream = Upstream(self._route)
        self._images = Images(self._upstream, Home(self.url, user_agent, {"Cookie": cookie} if cookie else {}), limits)
        headers = {
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
            headers["Cookie"] = cookie
        self._headers = {kind: named({**headers, "Referer": f"{self.url}/{kind}/"}) for kind in ("chat", "image")}

    def text(self, question: Question) -> AsyncGenerator[str | Reasoning | Finish, None]:
        """Yield text as it arrives, all that one read of the socket completes at once, and one Finish at the end.

        Raises:
            WorkerError: What the provider did instead. Closing the generator closes the connection.
        """
        # Flattened by the call itself: the whole conversation once more would be held for as long as the answer takes.
        return deltas(lambda: self._send("chat", flattened(question.messages), question), AiChatsDecoder(), _TEXT)

    async def images(self, question: Question) -> AsyncGenerator[Picture | Finish, None]:
        """Yield the image of the last message, and one Finish at the end.

        Raises:
            WorkerError: What the provider, or the image's host, did instead.
        """
        async with self._images.room():
            with await self._send("image", question.messages[-1].content, question) as answer:
                pictures = self._images.of_answer(answer, question, _IMAGES)
                async with aclosing(pictures) as items:
                    async for item in items:
                        yield item

    async def close(self) -> None:
        """Close all connections."""
        await self._upstream.close()

    async def _send(self, kind: Literal["chat", "image"], content: str, question: Question) -> HttpAnswer:
        try:
            body = orjson.dumps({"type": kind, "messagesHistory": [{"from": "you", "content": content}]})
        except TypeError:
            raise InvalidRequest("the messages must be valid Unicode: there is half a surrogate pair") from None
        seconds = image_seconds(self._route.timeouts.image, question) if kind == "image" else None
        request = Request("POST", self._endpoint, self._headers[kind], body, question.proxy, first_byte=seconds)
        return await self._upstream.call(request, redirects_max=REDIRECTS_MAX)

    create_async_generator = OnClassToo(generate)
    create_async = OnClassToo(whole)


def flattened(messages: Sequence[ChatMessage]) -> str:
    """Return a conversation as the one prompt that the site takes: a single message as it is, several with roles."""
    if len(messages) == 1:
        return messages[0].content
    lines = [f"{message.role.capitalize()}: {message.content}" for message in messages]
    return "\n".join([*lines, "Assistant:"])
