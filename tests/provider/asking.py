"""Asking a provider in tests."""

import math
from typing import Any

from aichats_schemas.requests import Message
from aichats_worker.provider import Finish, Provider, Question
from aichats_worker.provider.aichats.site import AiChats
from aichats_worker.provider.openai.site import OpenAI


def ask(prompt: str, *, tenant: str = "default", proxy: str | None = None, deadline: float = math.inf) -> Question:
    return Question((Message(role="user", content=prompt),), tenant=tenant, deadline=deadline, proxy=proxy)


async def collect(provider: Provider, question: Question) -> tuple[str, Finish]:
    """The whole text and how it ended. Every piece but the last is text, and none is empty."""
    *pieces, finish = [item async for item in provider.text(question)]
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert isinstance(finish, Finish)
    return "".join(map(str, pieces)), finish


def make(kind: str, origin: str, **options: Any) -> AiChats | OpenAI:
    """A provider of that kind, pointed at a simulator."""
    if kind == "openai":
        return OpenAI(base_url=f"{origin}/v1", api_key="key", **options)
    return AiChats(url=origin, cookie="session=secret", **options)
