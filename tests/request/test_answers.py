"""What a request's end says: who answered, as what, and what it used."""

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from nats.aio.client import Client

from aichats_schemas import Usage
from aichats_worker.app import App
from aichats_worker.simulator.answers import image
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.provider.wire import CLOSE, HELLO, Asked, Wire, delta, http, sse, wire
from tests.requester import Exchange, ask

REQ, ASK = "ai.v1.req.{}.default", "ai.v1.ask.{}.default"


@pytest.fixture
async def start(start_worker: StartWorker) -> Callable[..., Any]:
    async def one(server: Wire, **settings: Any) -> App:
        options = {"worker_providers": "openai", "openai_base_url": f"{server.url}/v1", "provider_calls_max": 1}
        return await start_worker(**(options | settings))

    return one


def tokens(app: App, direction: str, *, estimated: bool) -> float | None:
    """What the metrics say of all texts until now."""
    labels = {"kind": "text", "direction": direction, "estimated": str(estimated).lower()}
    return app.telemetry.registry.get_sample_value("aichats_tokens_total", labels)


async def test_done_says_who_answered_as_what_and_what_it_used(nc: Client, start: Callable[..., Any]) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
    answer = sse(delta(None, reasoning="Hmm"), delta("Hello"), delta(None, "length"), usage)
    body = {"prompt": "hi", "model": "fast", "reasoning": True, "foo": 1, "metadata": {"a": "b"}}
    async with wire(lambda _: [answer]) as server:
        await start(server, openai_text_models="gpt-4=gpt-4o,fast=mini")
        thought, text, done = await ask(nc, REQ.format("text"), body)
        (result,) = await ask(nc, ASK.format("text"), body)
    assert (thought.type, thought.data, text.type, text.data) == ("reasoning", "Hmm", "response", "Hello")
    for data in (done.data, result.data):
        assert (data.model, data.finish_reason) == ("fast", "length")
        assert data.provider == {"name": "openai", "model": "mini"}
        assert data.usage == Usage(input_tokens=3, output_tokens=5, estimated=False)
        assert data.ignored == ["foo"]
        assert data.metadata == {"a": "b"}
    assert (result.data.text, result.data.reasoning) == ("Hello", "Hmm")


async def test_usage_is_estimated_where_the_provider_names_none(nc: Client, worker: App) -> None:
    done = (await ask(nc, REQ.format("text"), {"prompt": "[sim: words=1]"}))[-1]
    assert done.data.usage == Usage(input_tokens=4, output_tokens=2, estimated=True)
    assert done.data.provider["name"] == "aichats"
    assert done.data.provider["model"] == "gpt-4"
    assert tokens(worker, "output", estimated=True) == 2


async def test_an_answer_that_was_cut_says_what_it_used(nc: Client, start: Callable[..., Any]) -> None:
    head, _, body = sse(delta("Hello there")).partition(b"\r\n\r\n")
    cut = head.replace(b"Content-Length: ", b"Content-Length: 9") + b"\r\n\r\n" + body.replace(b"data: [DONE]\n\n", b"")
    async with wire(lambda _: [cut, 0.05, CLOSE]) as server:
        await start(server)
        *_, error = await ask(nc, REQ.format("text"), {"prompt": "hi"})
    assert error.data.code == "interrupted"
    assert error.data.usage == Usage(input_tokens=1, output_tokens=3, estimated=True)


async def test_an_answer_that_was_cancelled_says_what_it_used(nc: Client, worker: App, simulator: Simulator) -> None:
    body, headers = {"prompt": "[sim: words=9 stall-after=1]"}, {"Nats-Msg-Id": "c1"}
    asking = asyncio.create_task(ask(nc, REQ.format("text"), body, headers))
    await simulator.received(1)
    await asyncio.sleep(0.2)
    await nc.request("ai.v1.ctl.cancel.default.c1", timeout=5)
    *_, error = await asking
    assert error.data.code == "cancelled"
    assert error.data.usage == Usage(input_tokens=7, output_tokens=2, estimated=True)


async def test_an_ask_whose_answer_does_not_fit_says_what_it_used(nc: Client, start: Callable[..., Any]) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
    answer = sse(delta("x" * 1_100_000), delta(None, "stop"), usage)
    async with wire(lambda _: [answer]) as server:
        app = await start(server)
        (error,) = await ask(nc, ASK.format("text"), {"prompt": "hi"})
    assert error.data.code == "too_large"
    assert error.data.usage == Usage(input_tokens=3, output_tokens=5, estimated=False)
    assert tokens(app, "output", estimated=False) == 5


async def test_what_was_made_for_a_requester_that_went_away_is_counted(nc: Client, worker: App) -> None:
    leaving = await Exchange(nc).send(REQ.format("text"), {"prompt": "[sim: words=9 stall-after=1]"})
    assert (await leaving.event()).type == "response"
    await leaving.leave()
    gone = {"mode": "req", "kind": "text", "outcome": "gone"}
    async with asyncio.timeout(10):
        while worker.telemetry.registry.get_sample_value("aichats_requests_total", gone) != 1:
            await asyncio.sleep(0.02)
    assert tokens(worker, "output", estimated=True) == 2


async def test_several_images_have_an_index_each(nc: Client, start: Callable[..., Any]) -> None:
    made: Sequence[bytes] = (image("png", 0), image("gif", 0))
    data = [{"b64_json": base64.b64encode(one).decode()} for one in made]

    def answer(asked: Asked) -> list[bytes]:
        return [http(json.dumps({"data": data[: asked.json["n"]]}).encode())]

    async with wire(answer) as server:
        await start(server)
        first, second, done = await ask(nc, REQ.format("image"), {"prompt": "cats", "n": 2})
        (result,) = await ask(nc, ASK.format("image"), {"prompt": "cats", "n": 2})
    assert [(event.data.index, event.data.mime) for event in (first, second)] == [(0, "image/png"), (1, "image/gif")]
    assert (done.type, done.data.provider) == ("done", {"name": "openai", "model": "dall-e-3"})
    assert [base64.b64decode(one.b64) for one in result.data.images] == list(made)


async def test_a_worker_without_image_models_makes_no_images(nc: Client, start: Callable[..., Any]) -> None:
    async with wire(lambda _: [HELLO]) as server:
        await start(server, openai_image_models="none")
        (error,) = await ask(nc, REQ.format("image"), {"prompt": "a cat"})
        assert error.data.code == "model_not_found"
        assert (await ask(nc, REQ.format("text"), {"prompt": "hi"}))[-1].type == "done"


async def test_where_the_first_provider_fails_the_second_one_answers(
    nc: Client, start_worker: StartWorker, simulator: Simulator
) -> None:
    simulator.script(b"no", status=503)
    async with wire(lambda _: [HELLO]) as server:
        await start_worker(worker_providers="aichats,openai", openai_base_url=f"{server.url}/v1")
        done = (await ask(nc, REQ.format("text"), {"prompt": "hi"}))[-1]
        assert (done.type, done.attempt, done.data.provider["name"]) == ("done", 1, "openai")
        done = (await ask(nc, REQ.format("text"), {"prompt": "hi", "temperature": 0.5}))[-1]
        assert done.data.provider["name"] == "openai"
        done = (await ask(nc, REQ.format("text"), {"prompt": "[sim: words=1]"}))[-1]
        assert done.data.provider["name"] == "aichats"
    posts = [request for request in simulator.requests if request.method == "POST"]
    assert len(posts) == 2


async def test_a_requesters_fault_opens_no_circuit_and_text_outlives_images(
    nc: Client, start: Callable[..., Any]
) -> None:
    def answer(asked: Asked) -> list[bytes]:
        if "images" in asked.path:
            return [http(b"404 page not found", status="404 Not Found")]
        return [http(status="400 Bad Request") if b"BAD" in asked.body else HELLO]

    async with wire(answer) as server:
        await start(server, provider_circuit_failures=2)
        for _ in range(3):
            (error,) = await ask(nc, REQ.format("text"), {"prompt": "BAD"})
            assert (error.data.code, error.data.retryable) == ("invalid_request", False)
            (error,) = await ask(nc, REQ.format("image"), {"prompt": "a cat"})
        assert (await ask(nc, REQ.format("text"), {"prompt": "hi"}))[-1].type == "done"
        assert sum("images" in asked.path for asked in server.asked) == 1  # a wrong URL is asked once
