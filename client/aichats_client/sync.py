"""For scripts without an event loop: one request, with a connection of its own."""

import asyncio
from collections.abc import Sequence
from typing import Unpack

from aichats_client.client import Client
from aichats_client.completion import GeneratedImage
from aichats_client.options import ImageOptions, TextOptions

Servers = str | Sequence[str] | None


def ask(
    prompt: str | None = None,
    /,
    *,
    servers: Servers = None,
    tenant: str = "default",
    context: str | None = None,
    **options: Unpack[TextOptions],
) -> str:
    """Ask for a text, and return the whole of it. The rest is `Client`'s and `Client.ask`'s.

    Raises:
        ClientError: There is no answer.
        RuntimeError: An event loop runs here already: use `Client`.
    """

    async def work() -> str:
        async with Client(servers, tenant=tenant, context=context) as client:
            return await client.ask(prompt, **options)

    return asyncio.run(work())


def image(
    prompt: str | None = None,
    /,
    *,
    servers: Servers = None,
    tenant: str = "default",
    context: str | None = None,
    **options: Unpack[ImageOptions],
) -> GeneratedImage:
    """Ask for an image. The rest is `Client`'s and `Client.image`'s.

    Raises:
        ClientError: There is no answer.
        RuntimeError: An event loop runs here already: use `Client`.
    """

    async def work() -> GeneratedImage:
        async with Client(servers, tenant=tenant, context=context) as client:
            return await client.image(prompt, **options)

    return asyncio.run(work())
