"""What is asked of an OpenAI-compatible server, and what is learnt from its refusals."""

import asyncio
import base64
import json
from typing import Any

import pytest

from aichats_schemas.events import Usage
from aichats_worker.errors import BadResponse, ContentFiltered, Interrupted, InvalidRequest, ModelNotFound, RateLimited
from aichats_worker.provider import Finish, Picture, Reasoning
from aichats_worker.provider.http.upstream import Upstream
from aichats_worker.provider.images import Home, ImageLimits, Images
from aichats_worker.provider.openai import OpenAI
from aichats_worker.provider.openai.site import ModelTable, Server
from aichats_worker.simulator.answers import image
from tests.provider.asking import ask, collect, draw, make, pictures
from tests.provider.wire import HELLO, HOLD, Asked, delta, http, refused, sse, wire


async def test_every_option_is_passed_on_by_its_name_there() -> None:
    options = {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["x"],
        "seed": 0,
        "json": True,
        "reasoning": True,
    }
    async with wire(lambda _: [HELLO]) as server:
        provider = make("openai", server.url)
        await collect(provider, ask("hi", options=options))
        await provider.close()
    asked = server.asked[0].json
    assert asked.pop("messages") == [{"role": "user", "content": "hi"}]
    assert asked == {
        "model": "gpt-4", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "top_p": 0.9,
        "max_tokens": 7, "stop": ["x"], "seed": 0, "response_format": {"type": "json_object"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "message", "kept"),
    [
        (
            "max_tokens",
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "max_completion_tokens",
        ),
        ("stream_options", "Unrecognized request argument supplied: stream_options", ""),
    ],
)
async def test_a_field_that_a_server_does_not_take_is_asked_in_vain_once(field: str, message: str, kept: str) -> None:
    def answer(asked: Asked) -> list[bytes]:
        return [refused("400 Bad Request", message=message)] if field in asked.json else [HELLO]

    async with wire(answer) as server:
        provider = make("openai", server.url)
        for _ in range(2):
            assert (await collect(provider, ask("hi", options={"max_tokens": 7})))[0] == "Hello"
        await provider.close()
    assert [field in asked.json for asked in server.asked] == [True, False, False]
    assert not kept or server.asked[-1].json[kept] == 7


async def test_calls_that_are_refused_at_the_same_time_all_learn_from_it() -> None:
    def answer(asked: Asked) -> list[bytes]:
        message = "Unrecognized request argument supplied: stream_options"
        return [refused("400 Bad Request", message=message)] if "stream_options" in asked.json else [HELLO]

    async with wire(answer) as server:
        provider = make("openai", server.url)
        answers = await asyncio.gather(*(collect(provider, ask("hi")) for _ in range(5)))
        await provider.close()
    assert [text for text, _ in answers] == ["Hello"] * 5


async def test_a_refusal_that_teaches_nothing_is_told_at_once() -> None:
    async with wire(lambda _: [refused("400 Bad Request", message="no", param="stop")]) as server:
        provider = make("openai", server.url)
        with pytest.raises(InvalidRequest, match=r"^stop: "):
            await collect(provider, ask("hi", options={"stop": ["x"]}))
        await provider.close()
    assert len(server.asked) == 1


async def test_models_have_their_own_names_there_and_headers_and_query_are_kept() -> None:
    server_options = Server("", None, {"api-key": "k", "X-Title": "t"})
    async with wire(lambda _: [HELLO]) as server:
        there = Server(f"{server.url}/openai/?api-version=2024-10-21", None, server_options.headers)
        provider = OpenAI(there, models=ModelTable({"gpt-4": "gpt-4o", "fast": "mini"}, {}))
        finish = (await collect(provider, ask("hi", model="fast")))[1]
        await collect(provider, ask("hi"))
        with pytest.raises(ModelNotFound, match="gpt-4, fast"):
            await collect(provider, ask("hi", model="slow"))
        with pytest.raises(ModelNotFound, match="none"):
            await draw(provider, ask("hi"))
        await provider.close()
    assert (finish.provider, finish.model) == ("openai", "mini")
    assert [asked.json["model"] for asked in server.asked] == ["mini", "gpt-4o"]
    assert server.asked[0].path == "/openai/chat/completions?api-version=2024-10-21"
    assert server.asked[0].headers["api-key"] == "k"
    assert "authorization" not in server.asked[0].headers


async def test_reasoning_comes_only_where_it_was_asked_for_and_usage_always() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
    answer = sse(delta(None, reasoning_content="Hmm"), delta("Hello"), delta(None, "stop"), usage)
    async with wire(lambda _: [answer]) as server:
        provider = make("openai", server.url)
        asked_for = [item async for item in provider.text(ask("hi", options={"reasoning": True}))]
        not_asked_for = [item async for item in provider.text(ask("hi"))]
        await provider.close()
    counted = Usage(input_tokens=3, output_tokens=5, estimated=False)
    finish = Finish(usage=counted, provider="openai", model="gpt-4")
    assert asked_for == [Reasoning("Hmm"), "Hello", finish]
    assert isinstance(asked_for[0], Reasoning)
    assert not_asked_for == ["Hello", finish]


async def test_the_usage_is_read_though_no_line_end_follows_it() -> None:
    *said, used = [
        b"data: " + json.dumps(chunk).encode() + b"\n\n"
        for chunk in (delta("Hello"), delta(None, "stop"), {"choices": [], "usage": {"prompt_tokens": 3}})
    ]
    async with wire(lambda _: [http(b"".join(said) + used.rstrip())]) as server:
        provider = make("openai", server.url)
        assert (await collect(provider, ask("hi")))[1].usage == Usage(input_tokens=3, output_tokens=0, estimated=False)
        await provider.close()


async def test_after_the_finish_reason_silence_changes_nothing() -> None:
    head, _, body = sse(delta("Hello"), delta(None, "stop")).partition(b"\r\n\r\n")
    unfinished = (
        head.replace(b"Content-Length: ", b"Content-Length: 9") + b"\r\n\r\n" + body.replace(b"data: [DONE]\n\n", b"")
    )
    async with wire(lambda _: [unfinished, HOLD]) as server:
        provider = make("openai", server.url)
        assert (await collect(provider, ask("hi")))[0] == "Hello"
        await provider.close()


@pytest.mark.parametrize("said", ["Hello", None])
async def test_an_error_behind_the_finish_reason_is_told_only_where_there_was_no_answer(said: str | None) -> None:
    behind: dict[str, Any] = {"error": {"code": 429, "message": "slow down"}}
    async with wire(lambda _: [sse(delta(said), delta(None, "stop"), behind)]) as server:
        provider = make("openai", server.url)
        if said:
            text, finish = await collect(provider, ask("hi"))
            assert (text, finish.finish_reason) == ("Hello", "stop")
        else:
            with pytest.raises(RateLimited):
                await collect(provider, ask("hi"))
        await provider.close()


async def test_an_error_carries_the_usage_that_the_provider_counted() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}}
    for last, error in ((delta(None, "content_filter"), ContentFiltered), ({"error": {"code": 502}}, Interrupted)):
        said = [delta("Hel")] if error is Interrupted else []
        async with wire(lambda _: [sse(*said, usage, last)]) as server:  # noqa: B023 - called in this round
            provider = make("openai", server.url)
            with pytest.raises(error) as told:
                await collect(provider, ask("hi"))
            await provider.close()
        assert told.value.usage == Usage(input_tokens=3, output_tokens=0, estimated=False)


async def test_several_images_come_one_by_one_in_their_order_with_the_usage() -> None:
    first, second = image("png", 0), image("gif", 500)
    data = [{"b64_json": base64.b64encode(one).decode()} for one in (first, second)]
    answer = http(json.dumps({"data": data, "usage": {"input_tokens": 4, "output_tokens": 9}}).encode())
    async with wire(lambda _: [answer]) as server:
        provider = make("openai", server.url)
        items: list[Picture | Finish] = [
            item async for item in provider.images(ask("x", options={"n": 2, "size": "64x64", "quality": "hd"}))
        ]
        await provider.close()
    assert [item.data for item in items if isinstance(item, Picture)] == [first, second]
    assert items[-1] == Finish(
        usage=Usage(input_tokens=4, output_tokens=9, estimated=False), provider="openai", model="dall-e-3"
    )
    assert server.asked[0].json == {"model": "dall-e-3", "prompt": "x", "n": 2, "size": "64x64", "quality": "hd"}


async def test_a_usage_of_nothing_is_none() -> None:
    data = [{"b64_json": base64.b64encode(image("png", 0)).decode()}]
    used = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}  # LiteLLM's proxy for dall-e
    async with wire(lambda _: [http(json.dumps({"data": data, "usage": used}).encode())]) as server:
        provider = make("openai", server.url)
        *_, finish = [item async for item in provider.images(ask("x"))]
        await provider.close()
    assert isinstance(finish, Finish)
    assert finish.usage is None


async def test_images_that_were_made_are_charged_though_one_of_them_cannot_be_had() -> None:
    data = [{"b64_json": base64.b64encode(image("png", 0)).decode()}, {"b64_json": "AAAA"}]
    answer = http(json.dumps({"data": data, "usage": {"input_tokens": 4, "output_tokens": 9}}).encode())
    async with wire(lambda _: [answer]) as server:
        provider = make("openai", server.url)
        with pytest.raises(Interrupted) as told:
            await pictures(provider, ask("x", options={"n": 2}))
        await provider.close()
    assert told.value.usage == Usage(input_tokens=4, output_tokens=9, estimated=False)


PNG = image("png", 0)
B64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "value",
    [
        B64, f"data:image/png;base64,{B64}", "\n".join(B64[at : at + 76] for at in range(0, len(B64), 76)) + "\n",
        B64.rstrip("="), B64.replace("+", "-").replace("/", "_"),
    ],
)  # fmt: skip
async def test_base64_is_read_in_every_form_that_servers_use(value: str) -> None:
    async with wire(lambda _: [http(json.dumps({"data": [{"b64_json": value}]}).encode())]) as server:
        provider = make("openai", server.url)
        assert (await draw(provider, ask("x"))).data == PNG
        await provider.close()


async def test_an_image_at_the_providers_own_origin_gets_the_key_where_it_needs_one_and_nobody_else_does() -> None:
    def answer(asked: Asked) -> list[bytes]:
        if asked.method == "POST":
            return [http(json.dumps({"data": [{"url": f"{server.url}/files/1?sig=a%2Bb"}]}).encode())]
        return [http(PNG) if "authorization" in asked.headers else http(status="401 Unauthorized")]

    async with wire(answer) as server:
        provider = make("openai", server.url)
        assert (await draw(provider, ask("x"))).data == PNG
        await provider.close()
    assert [asked.headers.get("authorization") for asked in server.asked[1:]] == [None, "Bearer key"]
    assert server.asked[-1].path == "/files/1?sig=a%2Bb"


async def test_images_may_come_from_another_server_with_its_own_key() -> None:
    body: Any = {"data": [{"b64_json": B64}]}
    async with wire(lambda _: [HELLO]) as text, wire(lambda _: [http(json.dumps(body).encode())]) as images:
        provider = make("openai", text.url, image_server=Server(f"{images.url}/v1", "other"))
        await collect(provider, ask("hi"))
        await pictures(provider, ask("x"))
        await provider.close()
    assert [asked.headers["authorization"] for asked in text.asked + images.asked] == ["Bearer key", "Bearer other"]


async def test_another_host_that_refuses_an_image_does_not_get_the_key() -> None:
    async with wire(lambda _: [http(status="401 Unauthorized")]) as other:
        body = json.dumps({"data": [{"url": f"{other.url}/i.png"}]}).encode()
        async with wire(lambda _: [http(body)]) as server:
            provider = make("openai", server.url, image_allow_private=True)
            with pytest.raises(BadResponse):
                await draw(provider, ask("x"))
            await provider.close()
    assert [asked.headers.get("authorization") for asked in other.asked] == [None]


async def test_requests_for_several_images_wait_for_room_one_after_the_other() -> None:
    images = Images(Upstream(), Home("http://x", "t"), ImageLimits(max_bytes=10, memory_max_bytes=30))
    most = now = 0

    async def drawing() -> None:
        nonlocal most, now
        async with images.room(2):
            now += 2
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 2

    async with asyncio.timeout(5):  # two that held half of their room each would wait for ever
        await asyncio.gather(*[drawing() for _ in range(6)])
        async with images.room(4):  # more than there ever is: all of it
            pass
    assert most == 2


async def test_half_of_a_room_that_is_waited_for_is_given_back() -> None:
    images = Images(Upstream(), Home("http://x", "t"), ImageLimits(max_bytes=10, memory_max_bytes=30))
    async with images.room(2):
        waiting = asyncio.create_task(images.room(3).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(5), images.room(1):
            pass
