"""The upstream door: what the executor needs of a provider, and the providers there are."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from aichats_schemas.events import Usage
from aichats_schemas.requests import Role
from aichats_schemas.subjects import Kind
from aichats_worker.tracing.trace import UNTRACED, CallTrace

FinishReason = Literal["stop", "length", "content_filter"]
Offers = Mapping[Kind, Mapping[str, tuple[frozenset[str], ...]]]
"""By kind: each model's name, in order, the first is the default; and for each provider behind it, in order, the
options that it can honour."""


@dataclass(slots=True)  # not frozen: one for each request
class ChatMessage:
    """One message of a conversation, checked.

    Attributes:
        role: Whose it is.
        content: Its text, not blank.
    """

    role: Role
    content: str = field(repr=False)


@dataclass(slots=True)  # not frozen: one for each request
class Question:
    """What is asked of a provider.

    Attributes:
        messages: The conversation in order, at least one message.
        tenant: Whose request it is, for fairness between tenants.
        deadline: When the whole request must have ended, in the event loop's time (seconds).
        proxy: A proxy for this request alone, http(s):// or socks5(h)://; None for the operator's.
        model: The name that the request gave, one that is offered; None for the provider's first.
        options: What the request asks for beside the prompt, by the names on the wire.
    """

    messages: tuple[ChatMessage, ...] = field(repr=False)
    tenant: str
    deadline: float
    proxy: str | None = field(default=None, repr=False)
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(slots=True)  # not frozen: one for each request, and what is known of it comes from three floors
class Finish:
    """How the provider ended its answer.

    Attributes:
        finish_reason: `stop` where the provider names none.
        tries_left: What the provider said of the remaining quota; None where it said nothing.
        usage: In tokens, as the provider counted; None where it said nothing.
        provider: Who answered, `aichats` or `openai`.
        model: What that one calls the model.
    """

    finish_reason: FinishReason = "stop"
    tries_left: int | None = None
    usage: Usage | None = None
    provider: str = ""
    model: str = ""


class Reasoning(str):
    """A piece of the model's reasoning: no part of the answer."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A whole image, checked.

    Attributes:
        data: The image's own bytes.
        mime: Read from the bytes, e.g. `image/png`.
        sha256: Of `data`, in hexadecimal.
    """

    data: bytes = field(repr=False)
    mime: str
    sha256: str


Item = TypeVar("Item")


@dataclass(slots=True)  # not frozen: one for each request
class Begun(Generic[Item]):
    """An answer whose first item has arrived: what is done once for a call is done, the rest has one way to go.

    Attributes:
        first: That item.
        rest: What comes behind it, straight from where the answer is decoded.
        traced: Is told the Finish.
    """

    first: Item
    rest: AsyncIterator[Item]
    traced: CallTrace = UNTRACED

    async def __aiter__(self) -> AsyncIterator[Item]:
        yield self.first
        async for item in self.rest:
            yield item


Texts = AbstractAsyncContextManager[Begun[str | Reasoning | Finish]]
Pictures = AbstractAsyncContextManager[Begun[Picture | Finish]]


class Provider(Protocol):
    """What the executor needs. Every failure is a WorkerError; leaving a block closes the provider's connection."""

    @property
    def working(self) -> bool:
        """False while the circuit is open."""

    @property
    def offers(self) -> Offers:
        """Which models there are, and what they can honour."""

    def text(self, question: Question) -> Texts:
        """Wait until an answer has begun: text as it arrives, never empty, and one Finish as the last item.

        Reasoning where it was asked for.
        """

    def images(self, question: Question) -> Pictures:
        """Wait until an answer has begun: each image of the last message as soon as it is there, and one Finish."""

    async def close(self) -> None:
        """Close all connections."""


class OpenedProvider(Provider, Protocol):
    """What the worker needs: a provider that can be looked at as well, with its circuits."""

    @property
    def not_asked(self) -> list[str]:
        """What is not asked for a while, since its circuit is open: `openai image`."""
