"""A defect of ours ends one request, told truthfully, and nothing else."""

import asyncio
from collections.abc import AsyncGenerator
from typing import ClassVar

import pytest
from nats.aio.client import Client

from aichats_schemas import Usage
from aichats_worker.app import App
from aichats_worker.provider import Finish, Offers, Picture, Pictures, Question, Reasoning, Texts, begun
from aichats_worker.settings import load_settings
from tests.processes import NatsServer
from tests.requester import ask


class Defective:
    """A provider with a bug: it raises what no provider may raise."""

    working = True
    not_asked: ClassVar[list[str]] = []
    offers: ClassVar[Offers] = {"text": {"gpt-4": (frozenset(),)}, "image": {"dalle": (frozenset(),)}}

    def text(self, question: Question) -> Texts:
        return begun(self._text())

    def images(self, question: Question) -> Pictures:
        return begun(self._images())

    async def _text(self) -> AsyncGenerator[str | Reasoning | Finish, None]:
        yield "one"
        raise KeyError("a secret from the inside")

    async def _images(self) -> AsyncGenerator[Picture | Finish, None]:
        yield Picture(b"", "image/png", "")
        raise ZeroDivisionError

    async def close(self) -> None:
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["text", "image"])
async def test_a_defect_is_internal_and_its_cause_stays_inside(nats_server: NatsServer, nc: Client, kind: str) -> None:
    settings = load_settings(nats_url=nats_server.url, worker_http_port=0, worker_jobs=False)
    app = App(settings, provider=Defective())
    await app.start()
    try:
        for _ in range(2):
            *_, error = await ask(nc, f"ai.v1.req.{kind}.default", b"hi")
            assert (error.data.code, error.data.retryable) == ("internal", True)
            assert "secret" not in error.data.message
            assert error.data.usage == Usage(input_tokens=1, output_tokens=int(kind == "text"), estimated=True)
    finally:
        await app.drain()
