"""Clients that other people wrote, as they are."""

from typing import Any

import natsext
import orjson
import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client
from synadia_ai.agents import Agent, AgentInfo, EndpointInfo, ProtocolError, ResponseChunk, StatusChunk

from aichats_worker.app import App
from tests.processes import NatsServer

REQ = "ai.v1.req.text.default"
ASK = "ai.v1.ask.text.default"


@pytest.mark.parametrize("options", [{}, {"timeout": 300}], ids=["its default wait of 1 s", "a timeout"])
async def test_natsext_request_many_reads_a_whole_stream(nc: Client, worker: App, options: dict[str, Any]) -> None:
    text, statuses = "", 0
    async for message in natsext.request_many(
        nc, REQ, b"[sim: delay=3 words=4 pause=0.1]", sentinel=natsext.default_sentinel, **options
    ):
        event = orjson.loads(message.data)
        text += event["data"] if event["type"] == "response" else ""
        statuses += event["type"] == "status"
    assert event["type"] == "done"
    assert len(text.split()) == 4
    assert statuses >= 3, "3 s of silence would have ended it"


async def test_plain_request_gets_the_whole_answer(nc: Client, worker: App) -> None:
    message = await nc.request(ASK, b"[sim: words=4]", timeout=10)
    event = orjson.loads(message.data)
    assert event["type"] == "result"
    assert len(event["data"]["text"].split()) == 4


async def test_plain_request_gets_an_error_by_the_services_headers(nc: Client, worker: App) -> None:
    message = await nc.request(ASK, b"", timeout=10)
    assert message.headers is not None
    assert message.headers["Nats-Service-Error-Code"] == "400"


@pytest.mark.parametrize("body", [{"prompt": "[sim: words=2]"}, "[sim: words=2]"], ids=["JSON", "plain text"])
async def test_faststreams_own_request_gets_the_whole_answer(
    nats_server: NatsServer, worker: App, body: dict[str, str] | str
) -> None:
    async with NatsBroker(nats_server.url) as broker:
        message = await broker.request(body, ASK, timeout=10)
        decoded: Any = await message.decode()
    event = decoded if isinstance(decoded, dict) else orjson.loads(message.body)
    assert len(event["data"]["text"].split()) == 2


def agent(nc: Client) -> Agent:
    """A handle to the worker's streamed endpoint, as Synadia's client makes one from an explicit description."""
    endpoint = EndpointInfo(name="prompt", subject=REQ, queue_group="ai-workers", attachments_ok=False)
    return Agent(nc, AgentInfo("1", "ai-worker", "team", "default", "0.3", "", "0", {}, (endpoint,), endpoint))


async def test_synadias_agent_client_reads_a_whole_stream(nc: Client, worker: App) -> None:
    chunks = [chunk async for chunk in agent(nc).prompt("[sim: delay=1 words=4 pause=0.1]")]
    text = "".join(chunk.text for chunk in chunks if isinstance(chunk, ResponseChunk))
    assert len(text.split()) == 4
    assert [chunk.status for chunk in chunks if isinstance(chunk, StatusChunk)] == ["working"]


async def test_synadias_agent_client_raises_the_workers_error(nc: Client, worker: App) -> None:
    with pytest.raises(ProtocolError) as caught:
        async for _ in agent(nc).prompt("[sim: status=404]"):
            pass
    assert "502" in str(caught.value.__dict__) + str(caught.value)
