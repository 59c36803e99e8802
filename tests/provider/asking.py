"""Asking a provider in tests."""

import math
from collections.abc import AsyncIterator
from typing import Any

from aichats_worker.provider import ChatMessage, Finish, Picture, Provider, Question
from aichats_worker.provider.aichats import AiChats
from aichats_worker.provider.door import Guarded
from aichats_worker.provider.http.route import Route
from aichats_worker.provider.images import ImageLimits
from aichats_worker.provider.openai import OpenAI
from aichats_worker.provider.openai.site import Server

Asked = Provider | Guarded


def ask(
    prompt: str,
    *,
    tenant: str = "default",
    proxy: str | None = None,
    deadline: float = math.inf,
    model: str | None = None,
    options: dict[str, Any] | None = None,
) -> Question:
    return Question((ChatMessage(role="user", content=prompt),), tenant, deadline, proxy, model, options or {})


async def items(provider: Asked, question: Question, kind: str = "text") -> AsyncIterator[Any]:
    """All that comes: straight from a site, or through a door, which waits for the first of it."""
    answer: Any = provider.text(question) if kind == "text" else provider.images(question)
    if not hasattr(answer, "__aenter__"):
        async for item in answer:
            yield item
        return
    async with answer as begun:
        async for item in begun:
            yield item


async def collect(provider: Asked, question: Question) -> tuple[str, Finish]:
    """The whole text and how it ended. Every piece but the last is text, and none is empty."""
    *pieces, finish = [item async for item in items(provider, question)]
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert isinstance(finish, Finish)
    return "".join(map(str, pieces)), finish


async def pictures(provider: Asked, question: Question) -> list[Picture]:
    """All images; how they ended comes behind them."""
    *made, finish = [item async for item in items(provider, question, "image")]
    assert isinstance(finish, Finish)
    return [picture for picture in made if isinstance(picture, Picture)]


async def draw(provider: Asked, question: Question) -> Picture:
    """The one image."""
    (one,) = await pictures(provider, question)
    return one


def make(kind: str, origin: str, **options: Any) -> AiChats | OpenAI:
    """A provider of that kind, pointed at a simulator. Options are those of Route, ImageLimits and the provider."""
    bounds = ("image_max_bytes", "image_memory_max_bytes", "image_allow_private")
    limits = {name.removeprefix("image_"): options.pop(name) for name in bounds if name in options}
    route = {name: options.pop(name) for name in ("proxy", "timeouts", "tls", "environment") if name in options}
    if "tls" in route:
        tls = route["tls"]
        route["tls"] = tls if callable(tls) else lambda: tls
    shared: dict[str, Any] = {"route": Route(**route), "limits": ImageLimits(**limits)}
    if kind == "openai":
        return OpenAI(options.pop("server", Server(f"{origin}/v1", "key")), **shared, **options)
    return AiChats(url=origin, cookie="session=secret", **shared, **options)
