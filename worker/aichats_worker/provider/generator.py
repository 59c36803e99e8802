"""The interface of the original module, for use without NATS: `create_async_generator` and `create_async`."""

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Final, Protocol

import pybase64
from pydantic import TypeAdapter, ValidationError

from aichats_schemas.requests import Message
from aichats_worker.errors import InvalidRequest, ModelNotFound
from aichats_worker.provider import ChatMessage, Picture, Question
from aichats_worker.provider.door import Guarded

Messages = Sequence[Message | dict[str, str]]
_MESSAGES: Final[TypeAdapter[list[Message]]] = TypeAdapter(list[Message])


@dataclass(frozen=True, slots=True)
class ImageResponse:
    """An image as `create_async_generator` yields it.

    Attributes:
        picture: The image's bytes and what they are.
        alt: The prompt.
    """

    picture: Picture
    alt: str = field(repr=False)

    @property
    def url(self) -> str:
        """The image as a `data:` URL."""
        return f"data:{self.picture.mime};base64,{pybase64.b64encode(self.picture.data).decode('ascii')}"

    def __str__(self) -> str:
        return self.url


class Modelled(Guarded, Protocol):
    """A provider with the names of its models."""

    default_model: ClassVar[str]
    models: ClassVar[list[str]]


class OnClassToo:
    """Makes a method of `function`, which gets None for its first argument when it is called on the class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Modelled | None, owner: Callable[[], Modelled]) -> Callable[..., Any]:
        return partial(self._function, instance, owner)


class Working:
    """The attribute `working`: False on an instance whose circuit is open."""

    def __get__(self, instance: Modelled | None, owner: object) -> bool:
        return instance is None or instance.circuit.working


async def generate(
    instance: Modelled | None,
    owner: Callable[[], Modelled],
    model: str,
    messages: Messages,
    proxy: str | None = None,
    **_: Any,
) -> AsyncGenerator[str | ImageResponse, None]:
    """Yield the deltas of a text, or one ImageResponse.

    On an instance this uses the instance's connections; on the class, connections of its own for this call.

    Args:
        instance: Given by the attribute access.
        owner: Given by the attribute access.
        model: One of `models`; empty for the default.
        messages: The conversation in order, the last message last; dicts with `role` and `content`, or Messages.
        proxy: For this call.

    Raises:
        WorkerError: ModelNotFound, InvalidRequest, or what the provider did. Never as text of the answer.
    """
    provider = instance if instance is not None else owner()
    try:
        model = model or provider.default_model
        if model not in provider.models:
            raise ModelNotFound(f"there is no model of that name; the models are {', '.join(provider.models)}")
        question = Question(_conversation(messages), tenant="default", deadline=math.inf, proxy=proxy)
        if model != provider.default_model:
            async with aclosing(provider.images(question)) as images:
                async for image in images:
                    if isinstance(image, Picture):
                        yield ImageResponse(image, question.messages[-1].content)
            return
        async with aclosing(provider.text(question)) as items:
            async for item in items:
                if isinstance(item, str):
                    yield item
    finally:
        if instance is None:
            await provider.close()


async def whole(
    instance: Modelled | None,
    owner: Callable[[], Modelled],
    model: str,
    messages: Messages,
    proxy: str | None = None,
    **_: Any,
) -> str:
    """Return the whole text, or the image as a `data:` URL. As `create_async_generator` otherwise."""
    async with aclosing(generate(instance, owner, model, messages, proxy)) as items:
        return "".join([str(item) async for item in items])


def _conversation(messages: Messages) -> tuple[ChatMessage, ...]:
    try:
        conversation = _MESSAGES.validate_python(list(messages))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidRequest(f"messages: {wrong}") from None
    if not conversation:
        raise InvalidRequest("messages must hold at least one message")
    return tuple([ChatMessage(message.role, message.content) for message in conversation])
