"""What a failed request held goes with it: an error keeps the frames that it has passed, and they keep the answer."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client

from aichats_worker.app import App
from aichats_worker.request.runs import Run
from tests.direct.test_corridor import until
from tests.jobs.broker import Broker, StartJobs, broker, start_jobs
from tests.requester import ask

__all__ = ["broker", "start_jobs"]


@asynccontextmanager
async def nothing_is_left() -> AsyncIterator[None]:
    """Whatever ends within the block is gone at once, with nobody collecting garbage."""
    gc.collect()
    gc.disable()
    try:
        yield
        await until(lambda: not any(isinstance(each, Run) for each in gc.get_objects()), seconds=5)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("subject", "prompt", "code"),
    [
        ("ai.v1.ask.image.default", b"[sim: bytes=2000000] cat", "too_large"),
        ("ai.v1.req.image.default", b"[sim: type=text] cat", "bad_response"),
        ("ai.v1.req.text.default", b"[sim: status=400] hi", "invalid_request"),
        ("ai.v1.req.text.default", b"[sim: cut_after=3 words=9 pause=0] hi", "interrupted"),
        ("ai.v1.req.text.default", b'{"timeout_seconds":0.1,"prompt":"[sim: stall_after=1]"}', "deadline_exceeded"),
        ("ai.v1.req.text.default", b" ", "invalid_request"),
    ],
)
async def test_a_failed_request_leaves_nothing_to_the_garbage_collector(
    nc: Client, worker: App, subject: str, prompt: bytes, code: str
) -> None:
    async with nothing_is_left():
        end = (await ask(nc, subject, prompt))[-1]
        assert end.data.code == code


@pytest.mark.parametrize("prompt", [b"[sim: words=3 pause=0]", b"[sim: status=400] hi"])
async def test_a_job_that_has_ended_leaves_nothing_either(broker: Broker, start_jobs: StartJobs, prompt: bytes) -> None:
    await start_jobs()
    async with nothing_is_left():
        await broker.submit(prompt.decode())
        await broker.end()
        await broker.removed()
