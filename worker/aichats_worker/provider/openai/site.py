"""Any server that speaks the OpenAI-compatible HTTP API: vLLM, Ollama, LiteLLM and the like."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final

import orjson

from aichats_worker.errors import InvalidRequest, ModelNotFound
from aichats_worker.provider import Finish, Offers, Picture, Question, Reasoning
from aichats_worker.provider.circuit import Circuit
from aichats_worker.provider.deltas import Answering, deltas, refused
from aichats_worker.provider.http.answer import HttpAnswer
from aichats_worker.provider.http.route import Route
from aichats_worker.provider.http.upstream import REDIRECTS_MAX, Request, Upstream, as_url, named
from aichats_worker.provider.images import Home, ImageLimits, Images, image_seconds
from aichats_worker.provider.openai.asking import IMAGE_OPTIONS, TEXT_OPTIONS, Dialects, chat, picture
from aichats_worker.provider.openai.dialect import OpenAIDecoder
from aichats_worker.provider.refusals import SettingNames

USER_AGENT: Final = "aichats-worker"
NAME: Final = "openai"


@dataclass(frozen=True)
class Server:
    """A server and how it is let in.

    Attributes:
        base_url: Up to and with the version, e.g. http://127.0.0.1:11434/v1; a query is kept.
        api_key: Sent as a bearer token; never to another host.
        headers: More of them, as secret as the key.
        url_setting: The name of the setting that `base_url` is from, for messages.
        key_setting: That of the key.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    url_setting: str = "OPENAI_BASE_URL"
    key_setting: str = "OPENAI_API_KEY"

    @property
    def credentials(self) -> dict[str, str]:
        """The headers that let in."""
        bearer = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return bearer | dict(self.headers)

    @cached_property
    def sent(self) -> Mapping[str, str]:
        """The headers of each call."""
        return named({"Content-Type": "application/json", "User-Agent": USER_AGENT} | self.credentials)

    def at(self, path: str) -> str:
        """Return the address of a path below the base."""
        base, mark, query = self.base_url.partition("?")
        return f"{base.rstrip('/')}{path}{mark}{query}"


@dataclass(frozen=True, slots=True)
class ModelTable:
    """The names that requests may give, and what the server calls each. The first is the default."""

    text: Mapping[str, str]
    image: Mapping[str, str]


DEFAULT_MODELS: Final = ModelTable({"gpt-4": "gpt-4"}, {"dalle": "dall-e-3"})


class OpenAI:
    """Asks an OpenAI-compatible server.

    Args:
        server: For text, and for images where `image_server` is None.
        image_server: Where images come from another one.
        models: What may be asked for.
        route: How calls go out.
        limits: What is accepted of images.
    """

    name = NAME

    def __init__(
        self,
        server: Server,
        *,
        image_server: Server | None = None,
        models: ModelTable = DEFAULT_MODELS,
        route: Route | None = None,
        limits: ImageLimits | None = None,
    ) -> None:
        self.circuit = Circuit()
        self._server = server
        self._image_server = image_server or server
        self._models = models
        self._route = route or Route()
        self._upstream = Upstream(self._route)
        home = Home(self._image_server.base_url, USER_AGENT, self._image_server.credentials)
        self._images = Images(self._upstream, home, limits)
        self._dialects = Dialects()

    @property
    def working(self) -> bool:
        """False while the circuit is open."""
        return self.circuit.working

    @cached_property
    def offers(self) -> Offers:
        """The models of the tables; the server says itself which options it honours for each."""
        return {
            "text": dict.fromkeys(self._models.text, (TEXT_OPTIONS,)),
            "image": dict.fromkeys(self._models.image, (IMAGE_OPTIONS,)),
        }

    def text(self, question: Question) -> AsyncGenerator[str | Reasoning | Finish, None]:
        """Yield text as it arrives, all that one read of the socket completes at once, and one Finish at the end."""
        model = _called(self._models.text, question.model)
        names = SettingNames(self._server.url_setting, self._server.key_setting, "OPENAI_TEXT_MODELS")
        who = Answering(NAME, model, names, reasoning="reasoning" in question.options)
        return deltas(partial(self._complete, chat(question, model), question.proxy, names), OpenAIDecoder(), who)

    async def images(self, question: Question) -> AsyncGenerator[Picture | Finish, None]:
        """Yield each image of the last message as soon as it is there, and one Finish at the end."""
        model = _called(self._models.image, question.model)
        names = SettingNames(self._image_server.url_setting, self._image_server.key_setting, "OPENAI_IMAGE_MODELS")
        asked, seconds = picture(question, model), image_seconds(self._route.timeouts.image, question)
        async with self._images.room(asked["n"]):
            answer = await self._send(self._image_server, "/images/generations", asked, question.proxy, seconds)
            with answer:
                pictures = self._images.of_answer(answer, question, Answering(NAME, model, names))
                async with aclosing(pictures) as items:
                    async for item in items:
                        yield item

    async def close(self) -> None:
        """Close all connections."""
        await self._upstream.close()

    async def _complete(self, asked: dict[str, Any], proxy: str | None, names: SettingNames) -> HttpAnswer:
        """Ask for a text; again where the server refuses a field that it can be asked without."""
        while True:
            body = self._dialects.translated(asked)
            answer = await self._send(self._server, "/chat/completions", body, proxy)
            if answer.ok:
                return answer
            with answer:
                refusal = await refused(answer)
            if answer.status not in (400, 422) or not self._dialects.learns(body, refusal.message):
                raise refusal.error(names)

    async def _send(
        self, server: Server, path: str, asked: dict[str, Any], proxy: str | None, first_byte: float | None = None
    ) -> HttpAnswer:
        try:
            body = orjson.dumps(asked)
        except TypeError:
            raise InvalidRequest("the messages must be valid Unicode: there is half a surrogate pair") from None
        url = as_url(server.at(path))
        return await self._upstream.call(
            Request("POST", url, server.sent, body, proxy, first_byte=first_byte), redirects_max=REDIRECTS_MAX
        )


def _called(models: Mapping[str, str], asked: str | None) -> str:
    """Return what the server calls a model."""
    name = next(iter(models), "") if asked is None else asked
    if name not in models:
        raise ModelNotFound(f"there is no model of that name; the models are {', '.join(models) or 'none'}")
    return models[name]
