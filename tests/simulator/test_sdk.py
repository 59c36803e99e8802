"""OpenAI's own SDK as a client: the simulator's dialect is the one that it knows."""

import base64
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from aichats_worker.simulator.answers import image, words
from aichats_worker.simulator.refusing import CODES
from aichats_worker.simulator.server import Simulator, start_simulator

if TYPE_CHECKING:
    from openai import AsyncOpenAI

pytestmark = pytest.mark.xdist_group("sdk")

KEY = "sk-simulated"
# Which error the SDK makes of a status; the others are its APIStatusError.
ERRORS = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
    409: "ConflictError", 422: "UnprocessableEntityError", 429: "RateLimitError",
    **dict.fromkeys((500, 502, 503, 504), "InternalServerError"),
}  # fmt: skip


@pytest.fixture(scope="module")
def openai() -> Iterator[Any]:
    """The SDK, in the one process of pytest that needs it: its import takes longer than all of this."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("SSL_CERT_FILE")  # an empty one is an error to it
        import openai  # noqa: PLC0415

        yield openai


@pytest.fixture
async def site() -> AsyncIterator[Simulator]:
    async with await start_simulator(key=KEY) as running:
        yield running


@pytest.fixture
async def sdk(openai: Any, site: Simulator) -> "AsyncIterator[AsyncOpenAI]":
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{site.url}/v1", max_retries=0, timeout=10) as client:
        yield client


def said(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


async def test_it_reads_a_stream_with_its_usage(sdk: "AsyncOpenAI") -> None:
    stream = await sdk.chat.completions.create(
        model="gpt-4",
        messages=said("[sim: pause=0]"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "".join(words(0))
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(words(0))


async def test_it_reads_a_whole_answer(sdk: "AsyncOpenAI") -> None:
    answer = await sdk.chat.completions.create(model="gpt-4", messages=said("[sim: words=3]"), n=2, max_tokens=2)
    assert [choice.message.content for choice in answer.choices] == ["Hello from", "Hello from"]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4


async def test_its_stream_helper_gathers_the_answer(sdk: "AsyncOpenAI") -> None:
    async with sdk.chat.completions.stream(model="gpt-4", messages=said("[sim: words=3 pause=0]")) as stream:
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == "Hello from the"


async def test_it_reads_a_refusal(sdk: "AsyncOpenAI") -> None:
    answer = await sdk.chat.completions.create(model="gpt-4", messages=said("[sim: answer=refusal]"))
    assert answer.choices[0].message.content is None
    assert answer.choices[0].message.refusal


async def test_it_lists_the_models(sdk: "AsyncOpenAI") -> None:
    assert [model.id async for model in sdk.models.list()] == ["gpt-4", "dall-e-3"]


async def test_it_reads_images(sdk: "AsyncOpenAI") -> None:
    answer = await sdk.images.generate(prompt="[sim: bytes=9000]", n=2, response_format="b64_json")
    assert answer.data is not None
    assert [base64.b64decode(one.b64_json or "") for one in answer.data] == [image("png", 9000)] * 2
    answer = await sdk.images.generate(prompt="[sim: bytes=9000]", size="1024x1024")
    assert answer.data is not None
    assert answer.data[0].url is not None
    assert answer.data[0].url.startswith("http://127.0.0.1")


@pytest.mark.parametrize("code", CODES)
async def test_it_knows_every_code_as_the_error_it_is(
    openai: Any, sdk: "AsyncOpenAI", site: Simulator, code: str
) -> None:
    with pytest.raises(getattr(openai, ERRORS.get(CODES[code].status, "APIStatusError"))) as caught:
        await sdk.chat.completions.create(model="gpt-4", messages=said(f"[sim: code={code}]"))
    assert (caught.value.status_code, caught.value.code) == (CODES[code].status, code)
    assert len(site.requests) == 1, "its retries are off"


async def test_it_sees_an_error_in_the_middle_of_a_stream(openai: Any, sdk: "AsyncOpenAI") -> None:
    prompt = "[sim: words=3 pause=0 error-after=2 code=server_error]"
    stream = await sdk.chat.completions.create(model="gpt-4", messages=said(prompt), stream=True)
    seen = ""
    with pytest.raises(openai.APIError, match="server had an error"):  # noqa: PT012 - what came before it counts as well
        async for chunk in stream:
            seen += chunk.choices[0].delta.content or ""
    assert seen == "Hello from"


async def test_a_wrong_key_is_an_authentication_error(openai: Any, site: Simulator) -> None:
    async with openai.AsyncOpenAI(api_key="wrong", base_url=f"{site.url}/v1", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()


async def test_it_tries_again_as_the_header_says(openai: Any, site: Simulator) -> None:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{site.url}/v1", max_retries=2) as patient:
        prompt = "[sim: times=2 status=429 retry-after=0.01] [sim: words=1]"
        answer = await patient.chat.completions.create(model="gpt-4", messages=said(prompt))
    assert answer.choices[0].message.content == "Hello"
    assert len(site.requests) == 3


async def test_its_azure_client_is_at_home_too(openai: Any, site: Simulator) -> None:
    async with openai.AsyncAzureOpenAI(
        api_key=KEY, azure_endpoint=site.url, api_version="2024-10-21", azure_deployment="mine", max_retries=0
    ) as azure:
        answer = await azure.chat.completions.create(model="mine", messages=said("[sim: words=1]"))
    assert answer.choices[0].message.content == "Hello"
    assert site.requests[0].path == "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    assert site.requests[0].headers["api-key"] == KEY
