"""The simulator as an OpenAI-compatible server: what is asked for comes, as such servers send it."""

import base64
import json
import struct
from typing import Any

import aiohttp  # noqa: TID251 - the simulator is looked at from outside
import pytest

from aichats_worker.simulator.answers import image
from aichats_worker.simulator.server import Simulator, start_simulator
from tests.simulator.calling import Caller


async def test_a_stream_begins_with_the_role_and_ends_with_the_reason_and_done(call: Caller) -> None:
    answer = await call.chat("[sim: words=2 pause=0]")
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert [chunk["choices"][0]["delta"] for chunk in answer.chunks] == [
        {"role": "assistant", "content": ""}, {"content": "Hello"}, {"content": " from"}, {},
    ]  # fmt: skip
    assert [chunk["choices"][0]["finish_reason"] for chunk in answer.chunks] == [None, None, None, "stop"]
    assert answer.body.endswith(b"\n\ndata: [DONE]\n\n")
    assert {chunk["model"] for chunk in answer.chunks} == {"m"}


async def test_the_usage_comes_last_where_it_is_asked_for(call: Caller) -> None:
    answer = await call.chat("[sim: words=3 pause=0]", stream_options={"include_usage": True})
    *others, last = answer.chunks
    assert {json.dumps(chunk["usage"]) for chunk in others} == {"null"}
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 3
    assert all("usage" not in chunk for chunk in (await call.chat("[sim: words=3 pause=0]")).chunks)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ("always", [None, None, None, None, 2]),
        ("last", [None, None, None, 2]),
        ("each", [0, 1, 2, 2]),
        ("never", [None] * 4),
    ],
)
async def test_servers_tell_the_usage_in_their_own_ways(call: Caller, usage: str, counts: list[int | None]) -> None:
    answer = await call.chat(f"[sim: words=2 pause=0 usage={usage}]")
    assert [(chunk.get("usage") or {}).get("completion_tokens") for chunk in answer.chunks] == counts


async def test_an_answer_comes_whole_where_no_stream_is_asked(call: Caller) -> None:
    answer = await call.chat("[sim: words=2]", stream=False, n=2)
    assert answer.json["object"] == "chat.completion"
    assert [choice["index"] for choice in answer.json["choices"]] == [0, 1]
    assert {choice["message"]["content"] for choice in answer.json["choices"]} == {"Hello from"}
    assert answer.json["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_is_no_longer_than_asked(call: Caller, name: str) -> None:
    more: dict[str, Any] = {name: 2}
    answer = await call.chat("[sim: words=9 pause=0]", **more)
    assert (answer.text, answer.chunks[-1]["choices"][0]["finish_reason"]) == ("Hello from", "length")


@pytest.mark.parametrize("stop", ["the", ["never", "the", "local"]])
async def test_an_answer_ends_before_a_stop(call: Caller, stop: Any) -> None:
    answer = await call.chat("[sim: words=9 pause=0]", stop=stop)
    assert (answer.text, answer.chunks[-1]["choices"][0]["finish_reason"]) == ("Hello from ", "stop")


async def test_json_is_json(call: Caller) -> None:
    answer = await call.chat("[sim: words=3 pause=0]", response_format={"type": "json_object"})
    assert json.loads(answer.text) == {"answer": "Hello from the"}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_comes_before_the_answer(call: Caller, field: str) -> None:
    prompt = f"[sim: words=1 pause=0 reasoning=2 reasoning-as={field}]"
    answer = await call.chat(prompt)
    deltas = [chunk["choices"][0]["delta"] for chunk in answer.chunks]
    assert [delta.get(field) for delta in deltas] == [None, "Hello", " from", None, None]
    assert answer.text == "Hello"
    whole = (await call.chat(prompt, stream=False)).json
    assert whole["choices"][0]["message"][field] == "Hello from"
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"), ({"messages": None}, "messages"), ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"), ({"top_p": 2}, "top_p"), ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"), ({"stop": ["a"] * 5}, "stop"), ({"n": 0}, "n"), ({"seed": 1.5}, "seed"),
        ({"stream": "yes"}, "stream"), ({"response_format": "json"}, "response_format"), ({"model": 1}, "model"),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(call: Caller, more: dict[str, Any], param: str) -> None:
    answer = await call.chat("hi", **more)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert answer.json["error"]["param"] == param


async def test_what_is_no_json_is_refused(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    for body in (b"", b"null", b"[]", b'"x"', b"{", b"[" * 100_000):
        async with http.post(f"{simulator.url}/v1/chat/completions", data=body) as answer:
            assert answer.status == 400


async def test_as_many_images_come_as_are_asked_for_of_that_size(call: Caller) -> None:
    answer = await call.images("[sim: bytes=9000]", n=2, size="64x32", response_format="b64_json")
    pictures = [base64.b64decode(entry["b64_json"]) for entry in answer.json["data"]]
    assert [len(picture) for picture in pictures] == [9000, 9000]
    assert struct.unpack(">II", pictures[0][16:24]) == (64, 32)
    answer = await call.images("[sim: bytes=9000]", size="64x32")
    assert (await call.get(answer.json["data"][0]["url"])).body == pictures[0]
    for wrong in ({"size": "64"}, {"size": "9999x1"}, {"size": "0x9"}, {"n": 11}):
        assert (await call.images("a cat", **wrong)).status == 400


async def test_the_models_are_listed(call: Caller) -> None:
    answer = await call.get("/v1/models")
    assert [model["id"] for model in answer.json["data"]] == ["gpt-4", "dall-e-3"]


async def test_a_key_is_needed_where_one_is_set(http: aiohttp.ClientSession) -> None:
    async with await start_simulator(key="right") as simulator:
        call = Caller(http, simulator)
        asked = {"messages": [{"role": "user", "content": "[sim: words=1]"}]}
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = await call.post("/v1/chat/completions", asked, **headers)
            assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
        for headers in ({"Authorization": "Bearer right"}, {"api-key": "right"}):
            assert (await call.post("/v1/chat/completions", asked, **headers)).status == 200
        assert (await call.aichats("[sim: words=1]")).status == 200


async def test_azure_has_deployments_and_wants_a_version(call: Caller) -> None:
    asked = {"messages": [{"role": "user", "content": "[sim: words=1]"}]}
    path = "/openai/deployments/mine/chat/completions"
    assert (await call.post(path, asked)).status == 404
    assert (await call.post(f"{path}?api-version=2024-10-21", asked)).status == 200


async def test_the_same_image_is_at_the_address_and_in_base64(call: Caller) -> None:
    for source in ("url", "data", "b64"):
        entry = (await call.images(f"[sim: bytes=5000 source={source}]")).json["data"][0]
        if source == "url":
            assert (await call.get(entry["url"])).body == image("png", 5000)
        else:
            b64 = entry["b64_json"] if source == "b64" else entry["url"].partition(",")[2]
            assert base64.b64decode(b64) == image("png", 5000)
