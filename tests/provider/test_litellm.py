"""A real server before the provider: LiteLLM's proxy, which asks the simulator by OpenAI's own SDK.

It runs where LiteLLM is: `pip install 'litellm[proxy]'` in an environment of its own, and its command in TEST_LITELLM.
"""

import asyncio
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from aichats_worker.errors import WorkerError
from aichats_worker.provider import Finish, Picture, Reasoning
from aichats_worker.provider.openai import OpenAI
from aichats_worker.provider.openai.site import ModelTable, Server
from aichats_worker.simulator.answers import image, words
from aichats_worker.simulator.server import Simulator, start_simulator
from tests.processes import free_port
from tests.provider.asking import ask, make

COMMAND = os.environ.get("TEST_LITELLM") or shutil.which("litellm")
START_TIMEOUT_SECONDS = 120
KEY = "sk-litellm"
CONFIG = """
model_list:
  - model_name: gpt-4
    litellm_params: {model: openai/gpt-4o, api_base: "http://127.0.0.1:UPSTREAM/v1", api_key: upstream}
  - model_name: dall-e-3
    litellm_params: {model: openai/dall-e-3, api_base: "http://127.0.0.1:UPSTREAM/v1", api_key: upstream}
  - model_name: mock
    litellm_params: {model: openai/mock, api_key: none, mock_response: "Hello from LiteLLM, which asked no model."}
litellm_settings: {telemetry: false, num_retries: 0}
router_settings: {disable_cooldowns: true, num_retries: 0}
general_settings: {master_key: KEY}
"""

pytestmark = [
    pytest.mark.timeout(START_TIMEOUT_SECONDS + 60),
    pytest.mark.skipif(COMMAND is None, reason="there is no litellm here; TEST_LITELLM may name its command"),
    pytest.mark.xdist_group("litellm"),
]


@pytest.fixture(scope="module")
def upstream_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def litellm(tmp_path_factory: pytest.TempPathFactory, upstream_port: int) -> Iterator[str]:
    """LiteLLM's proxy as a process of its own; yields its base URL."""
    directory, port = tmp_path_factory.mktemp("litellm"), free_port()
    config = directory / "config.yaml"
    config.write_text(CONFIG.replace("UPSTREAM", str(upstream_port)).replace("KEY", KEY))
    # It would fetch its list of prices otherwise.
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(COMMAND), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
            env=environment, cwd=directory, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            wait_until_alive(process, f"http://127.0.0.1:{port}/health/liveliness", directory / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def wait_until_alive(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own process
            return
        time.sleep(0.2)
    pytest.fail(f"litellm did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture
async def upstream(upstream_port: int) -> AsyncIterator[Simulator]:
    async with await start_simulator(upstream_port) as running:
        yield running


@pytest.fixture
async def provider(litellm: str, upstream: Simulator) -> AsyncIterator[OpenAI]:
    made = make("openai", litellm, server=Server(f"{litellm}/v1", KEY), image_allow_private=True)
    assert isinstance(made, OpenAI)
    yield made
    await made.close()


async def text(provider: OpenAI, prompt: str, **options: Any) -> tuple[str, str, Finish]:
    said, thought = "", ""
    async with asyncio.timeout(60):
        async for item in provider.text(ask(prompt, options=options)):
            if isinstance(item, Finish):
                return said, thought, item
            if isinstance(item, Reasoning):
                thought += item
            else:
                said += item
    raise AssertionError("there was no end")


async def test_a_stream_comes_through_whole(provider: OpenAI) -> None:
    said, _, finish = await text(provider, "[sim: pause=0]")
    assert said == "".join(words(0))
    assert finish.finish_reason == "stop"
    assert finish.usage is not None
    assert finish.usage.output_tokens == len(words(0))


async def test_options_come_through(provider: OpenAI, upstream: Simulator) -> None:
    options = {"max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["xyz"], "json": True}
    said, _, finish = await text(provider, "[sim: words=9 pause=0]", **options)
    assert (said, finish.finish_reason) == ('{"answer": "Hello', "length")
    asked = orjson.loads(upstream.requests[-1].body)
    assert {name: asked[name] for name in ("max_tokens", "temperature", "seed")} == {
        "max_tokens": 2, "temperature": 0.5, "seed": 7,
    }  # fmt: skip
    assert asked["response_format"] == {"type": "json_object"}


async def test_reasoning_comes_through(provider: OpenAI) -> None:
    said, thought, _ = await text(provider, "[sim: words=1 pause=0 reasoning=2]", reasoning=True)
    assert (said, thought) == ("Hello", "Hello from")


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("[sim: code=context_length_exceeded]", "too_large"),
        ("[sim: code=content_filter]", "content_filtered"),
        ("[sim: code=invalid_value]", "invalid_request"),
        ("[sim: code=rate_limit_exceeded]", "rate_limited"),
        ("[sim: code=insufficient_quota]", "rate_limited"),  # LiteLLM's own code for it is 429 and nothing more
        ("[sim: code=server_error]", "provider_unavailable"),
        ("[sim: code=overloaded]", "provider_unavailable"),
        ("[sim: words=3 error-after=2 code=server_error]", "interrupted"),
        ("[sim: words=3 cut-after=2]", "interrupted"),
        ("[sim: answer=none finish=content_filter]", "content_filtered"),
    ],
)
async def test_a_fault_keeps_its_identity(provider: OpenAI, prompt: str, code: str) -> None:
    with pytest.raises(WorkerError) as caught:
        await text(provider, prompt)
    assert caught.value.code.value == code, caught.value.message


async def test_what_is_wrong_here_is_the_operators(litellm: str, upstream: Simulator) -> None:
    stranger = make("openai", litellm, server=Server(f"{litellm}/nowhere", KEY))
    assert isinstance(stranger, OpenAI)
    with pytest.raises(WorkerError) as caught:
        await text(stranger, "hi")
    assert caught.value.code.value == "misconfigured"
    await stranger.close()


@pytest.mark.parametrize("source", ["b64", "url"])
async def test_images_come_through(provider: OpenAI, source: str) -> None:
    made = [item async for item in provider.images(ask(f"[sim: bytes=9000 source={source}]", options={"n": 2}))]
    assert [item.data for item in made if isinstance(item, Picture)] == [image("png", 9000)] * 2


async def test_its_mock_is_understood(litellm: str) -> None:
    one = make("openai", litellm, server=Server(f"{litellm}/v1", KEY), models=ModelTable({"gpt-4": "mock"}, {}))
    assert isinstance(one, OpenAI)
    said, _, finish = await text(one, "hi")
    assert said == "Hello from LiteLLM, which asked no model."
    assert finish.usage is not None
    assert finish.usage.output_tokens > 0
    await one.close()
