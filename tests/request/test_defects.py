"""A defect of ours ends one request, told truthfully, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from nats.aio.client import Client

from aichats_schemas import Usage
from aichats_worker.app import App
from aichats_worker.provider import Begun, Finish, Offers, Picture, Question, Reasoning
from aichats_worker.settings import load_settings
from tests.processes import NatsServer
from tests.requester import ask


class Defective:
    """A provider with a bug: it raises what no provider may raise."""

    working = True
    not_asked: ClassVar[list[str]] = []
    offers: ClassVar[Offers] = {"text": {"gpt-4": (frozenset(),)}, "image": {"dalle": (frozenset(),)}}

    @asynccontextmanager
    async def text(self, question: Question) -> AsyncIterator[Begun[str | Reasoning | Finish]]:
        yield Begun("one", self._rest())

    @asynccontextmanager
    async def images(self, question: Question) -> AsyncIterator[Begun[Picture | Finish]]:
        yield Begun(Picture(b"", "image/png", ""), self._rest())

    async def _rest(self) -> AsyncIterator[Any]:
        if self.working:
            raise KeyError("a secret from the inside")
        yield

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
