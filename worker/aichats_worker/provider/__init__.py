"""The upstream door: what the executor needs of a provider, and the providers there are."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from aichats_schemas.requests import Message


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a provider.

    Attributes:
        messages: The conversation in order, at least one message.
        tenant: Whose request it is, for fairness between tenants.
        deadline: When the whole request must have ended, in the event loop's time (seconds).
        proxy: A proxy for this request alone, http(s):// or socks5(h)://; None for the operator's.
    """

    messages: tuple[Message, ...] = field(repr=False)
    tenant: str
    deadline: float
    proxy: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Finish:
    """How the provider ended its answer.

    Attributes:
        finish_reason: `stop` where the provider names none.
        tries_left: What the provider said of the remaining quota; None where it said nothing.
    """

    finish_reason: str = "stop"
    tries_left: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A whole image, checked.

    Attributes:
        data: The image's own bytes.
        mime: Read from the bytes, e.g. `image/png`.
        sha256: Of `data`, in hexadecimal.
        finish: How the provider ended.
    """

    data: bytes = field(repr=False)
    mime: str
    sha256: str
    finish: Finish = Finish()


class Provider(Protocol):
    """What the executor needs. Every failure is a WorkerError; cancelling closes the provider's connection."""

    @property
    def working(self) -> bool:
        """False while the circuit is open."""

    def text(self, question: Question) -> AsyncGenerator[str | Finish, None]:
        """Yield text as it arrives, never empty, and one Finish as the last item."""

    async def image(self, question: Question) -> Picture:
        """Make one image of the last message."""

    async def close(self) -> None:
        """Close all connections."""
