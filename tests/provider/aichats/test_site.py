import asyncio
import base64
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from aichats_worker.errors import InvalidRequest, ModelNotFound
from aichats_worker.provider import ChatMessage, Finish, Question, Reasoning
from aichats_worker.provider.aichats.site import AiChats
from aichats_worker.provider.generator import ImageResponse
from aichats_worker.simulator.answers import image, words
from aichats_worker.simulator.server import HOLD, Simulator
from tests.provider.asking import ask, draw


async def first(items: AsyncGenerator[str | Reasoning | Finish, None]) -> str | Finish:
    """The first of all items, which are read to their end."""
    return [item async for item in items][0]  # noqa: RUF015 - next() would leave the rest unread


@pytest.fixture
async def aichats(simulator: Simulator) -> AsyncIterator[AiChats]:
    provider = AiChats(url=simulator.url, cookie="session=secret", user_agent="Tester/1")
    yield provider
    await provider.close()


@pytest.fixture
def here(simulator: Simulator) -> type[AiChats]:
    """The class as a library user has it, pointed at the simulator."""

    class Here(AiChats):
        url = simulator.url

    return Here


def said(*contents: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content} for content in contents]


async def test_text_ends_with_the_tries_left(aichats: AiChats) -> None:
    items = [item async for item in aichats.text(ask("[sim: words=3 pause=0]"))]
    assert "".join(item for item in items if isinstance(item, str)) == "".join(words(3))
    assert items[-1] == Finish(tries_left=29, provider="aichats", model="gpt-4")


async def test_the_first_delta_is_there_while_the_provider_still_writes(aichats: AiChats, simulator: Simulator) -> None:
    async with aclosing(aichats.text(ask("[sim: words=9 stall-after=1]"))) as items:
        assert await anext(items) == "Hello"
        assert not simulator.requests[0].ended.is_set()


async def test_closing_the_generator_closes_the_providers_connection(aichats: AiChats, simulator: Simulator) -> None:
    async with aclosing(aichats.text(ask("[sim: stall-after=1]"))) as items:
        await anext(items)
    await simulator.requests[0].ended.wait()
    assert simulator.requests[0].closed_early


async def test_cancelling_a_call_that_waits_closes_the_providers_connection(
    aichats: AiChats, simulator: Simulator
) -> None:
    simulator.script(b"data: Hi\n\n", HOLD)
    seen = asyncio.Event()

    async def consume() -> None:
        async for _ in aichats.text(ask("hi")):
            seen.set()

    task = asyncio.create_task(consume())
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await simulator.requests[0].ended.wait()
    assert simulator.requests[0].closed_early


async def test_one_connection_serves_one_call_after_the_other(aichats: AiChats, simulator: Simulator) -> None:
    for _ in range(3):
        assert await first(aichats.text(ask("[sim: words=1]"))) == "Hello"
    assert len({request.peer for request in simulator.requests}) == 1


async def test_a_connection_is_used_again_although_the_end_of_http_comes_after_the_answers(
    aichats: AiChats, simulator: Simulator
) -> None:
    simulator.script(b"data: Hi\nevent: trylimit\ndata: 3\n", 0.01)
    for _ in range(2):
        assert await first(aichats.text(ask("[sim: words=1]"))) in ("Hi", "Hello")
    assert len({request.peer for request in simulator.requests}) == 1


async def test_the_request_is_what_the_site_expects(aichats: AiChats, simulator: Simulator) -> None:
    question = Question(
        (
            ChatMessage(role="system", content="Be brief"),
            ChatMessage(role="user", content="Hi"),
            ChatMessage(role="assistant", content="Hello"),
            ChatMessage(role="user", content="Weather?"),
        ),
        tenant="default",
        deadline=math.inf,
    )
    simulator.script(b"data: Sunny\n")
    assert [item async for item in aichats.text(question)] == ["Sunny", Finish(provider="aichats", model="gpt-4")]
    request = simulator.requests[0]
    assert (request.method, request.path) == ("POST", "/chat/send2/")
    assert request.content == "System: Be brief\nUser: Hi\nAssistant: Hello\nUser: Weather?\nAssistant:"
    assert request.headers["origin"] == simulator.url
    assert request.headers["referer"] == f"{simulator.url}/chat/"
    assert request.headers["cookie"] == "session=secret"
    assert request.headers["user-agent"] == "Tester/1"
    assert request.headers["accept-encoding"] == "identity"


async def test_a_single_message_is_sent_as_it_is(aichats: AiChats, simulator: Simulator) -> None:
    simulator.script(b"data: Hi\n")
    assert await first(aichats.text(ask("  raw \n"))) == "Hi"
    assert simulator.requests[0].content == "  raw \n"


async def test_an_image_is_asked_for_with_the_last_message_and_fetched_without_cookie_origin_and_referer(
    aichats: AiChats, simulator: Simulator
) -> None:
    question = Question(
        (ChatMessage(role="user", content="A dog"), ChatMessage(role="user", content="A cat [sim: bytes=3000]")),
        tenant="default",
        deadline=math.inf,
    )
    picture = await draw(aichats, question)
    assert (picture.data, picture.mime) == (image("png", 3000), "image/png")
    post, get = simulator.requests
    assert post.content == "A cat [sim: bytes=3000]"
    assert b'"type":"image"' in post.body
    assert post.headers["referer"] == f"{simulator.url}/image/"
    assert get.method == "GET"
    assert not {"cookie", "origin", "referer"} & get.headers.keys()


async def test_the_class_can_be_used_as_the_seed_document_shows(here: type[AiChats], simulator: Simulator) -> None:
    deltas = [
        delta async for delta in here.create_async_generator(model="gpt-4", messages=said("[sim: words=4 pause=0]"))
    ]
    assert "".join(deltas) == "".join(words(4))
    assert await here.create_async(model="gpt-4", messages=said("[sim: words=4 pause=0]")) == "".join(words(4))
    assert simulator.connections_open == 0 or simulator.requests[-1].ended.is_set()


async def test_the_class_gives_one_image_response_and_a_data_url(here: type[AiChats]) -> None:
    (response,) = [item async for item in here.create_async_generator(model="dalle", messages=said("a cat"))]
    assert isinstance(response, ImageResponse)
    assert response.picture.data == image("png", 0)
    url = await here.create_async(model="dalle", messages=said("a cat"))
    assert url == f"data:image/png;base64,{base64.b64encode(image('png', 0)).decode()}"
    assert str(response) == url


async def test_an_instance_can_be_used_as_the_class_and_keeps_its_connection(
    aichats: AiChats, simulator: Simulator
) -> None:
    for _ in range(2):
        assert await aichats.create_async("gpt-4", said("[sim: words=1]")) == "Hello"
    assert len({request.peer for request in simulator.requests}) == 1


def test_the_class_and_an_instance_say_what_they_are() -> None:
    assert AiChats.url == "https://ai-chats.org"
    assert AiChats.api_endpoint == "https://ai-chats.org/chat/send2/"
    assert AiChats.working is True
    assert AiChats.supports_message_history is True
    assert (AiChats.default_model, AiChats.models) == ("gpt-4", ["gpt-4", "dalle"])
    other = AiChats(url="http://127.0.0.1:1/")
    assert (other.url, other.api_endpoint) == ("http://127.0.0.1:1", "http://127.0.0.1:1/chat/send2/")


async def test_an_unknown_model_is_named_with_the_ones_there_are(aichats: AiChats) -> None:
    with pytest.raises(ModelNotFound, match="gpt-4, dalle"):
        await aichats.create_async("gpt-5", said("hi"))


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"role": "robot", "content": "x"}]])
async def test_messages_that_are_none_are_refused(aichats: AiChats, messages: list[dict[str, str]]) -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        await aichats.create_async("gpt-4", messages)


async def test_half_a_surrogate_pair_is_refused(aichats: AiChats) -> None:
    with pytest.raises(InvalidRequest, match="Unicode"):
        await draw(aichats, Question((ChatMessage("user", "\ud800"),), "default", math.inf))
