"""`aichats-worker doctor`: it looks at what is configured, and says what to do."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest

from aichats_worker.commands.doctor import examine
from aichats_worker.commands.manners import settings_of
from aichats_worker.settings import settings_without_environment
from aichats_worker.simulator.server import Simulator
from tests.commands.test_commands import command
from tests.conftest import SpawnWorker
from tests.processes import NatsServer, free_port

Findings = dict[str, tuple[bool, str]]


def told(report: Any) -> Findings:
    found = {finding["name"]: (finding["well"], finding["says"]) for finding in report["findings"]}
    assert report["well"] == all(well for well, _ in found.values())
    return found


async def printed(**environment: str) -> Findings:
    """What the command prints, and that it ends as it says: once where all is well, and once where it is not."""
    ran = await command("doctor", "--json", **environment)  # type: ignore[arg-type]
    report = json.loads(ran.out)
    assert ran.status == (0 if report["well"] else 1)
    return told(report)


async def findings(**environment: str) -> Findings:
    """What it finds, in this process: what is looked at is the same, and a process would be most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings = settings_of()
    report = await examine(settings, settings_without_environment())
    return told(json.loads(json.dumps(report.as_dict())))


@pytest.fixture
async def models() -> AsyncIterator[str]:
    """A server that lists its models to whoever has the key."""

    async def listed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        right = b"authorization: bearer right" in asked.lower()
        body = b'{"data":[{"id":"gpt-4"},{"id":"llama"}]}' if right else b'{"error":{"message":"no"}}'
        status = b"200 OK" if right else b"401 Unauthorized"
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(listed, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


async def test_all_is_well_where_a_worker_serves(
    own_nats_server: Any, spawn_worker: SpawnWorker, simulator: Simulator
) -> None:
    server: NatsServer = own_nats_server()
    worker = await (await spawn_worker(NATS_URL=server.url)).serving_jobs()
    port = str(worker.http_port)
    found = await printed(NATS_URL=server.url, AICHATS_URL=simulator.url, WORKER_HTTP_PORT=port)
    assert [name for name, (well, _) in found.items() if not well] == []
    assert found["streams"][1] == ("AIOUT, AIDEAD, AIJOBS, AIJOBS/ai-workers-text, AIJOBS/ai-workers-image are there")
    assert found["jobs"][1] == "0 wait or run, 0 dead letters"
    assert found["workers"][1] == "1 answers"
    assert found["port"][1] == f"{port} has a worker: it is ready, and all is well"


async def test_what_is_missing_is_named_with_what_makes_it(own_nats_server: Any, simulator: Simulator) -> None:
    server: NatsServer = own_nats_server()
    found = await printed(NATS_URL=server.url, AICHATS_URL=simulator.url, WORKER_HTTP_PORT=str(free_port()))
    assert {name for name, (well, _) in found.items() if not well} == {"streams", "workers"}
    assert "AIJOBS/ai-workers-text" in found["streams"][1]
    assert "`aichats-worker provision` makes them" in found["streams"][1]
    assert found["workers"][1] == "none answers: `aichats-worker run` starts one"
    assert found["port"][1].endswith("is free on 127.0.0.1")


async def test_what_waits_and_what_was_given_up_is_counted(own_nats_server: Any, simulator: Simulator) -> None:
    server: NatsServer = own_nats_server()
    await command("provision", NATS_URL=server.url)
    nc = await nats.connect(server.url)
    for n in range(2):
        await nc.jetstream().publish(f"ai.v1.job.text.t.j{n}", b"hi")
    await nc.jetstream().publish("ai.v1.dead.text.t.j9", b"hi")
    found = await findings(NATS_URL=server.url, AICHATS_URL=simulator.url)
    assert found["jobs"][1] == "2 wait or run, 1 dead letters; `aichats-worker dead list` shows them"
    await nc.close()


@pytest.mark.parametrize(
    ("key", "table", "finding"),
    [
        ("right", "gpt-4=llama", (True, "takes the key, and has llama")),
        ("wrong", "gpt-4=llama", (False, "refuses the key (status 401): set OPENAI_API_KEY")),
        ("right", "gpt-4=other", (False, "takes the key, and has no model other: OPENAI_TEXT_MODELS names it")),
    ],
)
async def test_each_provider_is_asked_with_its_key_and_for_its_models(
    nats_server: NatsServer, models: str, key: str, table: str, finding: tuple[bool, str]
) -> None:
    found = await findings(
        NATS_URL=nats_server.url,
        WORKER_PROVIDERS="openai",
        OPENAI_BASE_URL=models,
        OPENAI_API_KEY=key,
        OPENAI_TEXT_MODELS=table,
        WORKER_JOBS="off",
    )
    assert found["openai"] == (finding[0], f"{models} {finding[1]}")
    assert "aichats" not in found, "who is not in WORKER_PROVIDERS is not looked at"


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        ({}, None),
        (
            {"OPENAI_IMAGE_MODELS": "dalle=other"},
            (False, "takes the key, and has no model other: OPENAI_IMAGE_MODELS names it"),
        ),
        ({"OPENAI_IMAGE_API_KEY": "wrong"}, (False, "refuses the key (status 401): set OPENAI_IMAGE_API_KEY")),
        (
            {"OPENAI_IMAGE_API_KEY": "right", "OPENAI_IMAGE_MODELS": "dalle=llama"},
            (True, "takes the key, and has llama"),
        ),
    ],
    ids=["nothing is said of images", "model", "key", "well"],
)
async def test_where_images_come_from_is_looked_at_where_it_is_named(
    nats_server: NatsServer, models: str, settings: dict[str, str], finding: tuple[bool, str] | None
) -> None:
    found = await findings(
        NATS_URL=nats_server.url,
        WORKER_PROVIDERS="openai",
        OPENAI_BASE_URL=models,
        OPENAI_API_KEY="right",
        OPENAI_TEXT_MODELS="gpt-4=llama",
        WORKER_JOBS="off",
        **settings,
    )
    assert found.get("images") == (finding and (finding[0], f"{models} {finding[1]}"))


async def test_a_port_that_somebody_else_has_is_named(nats_server: NatsServer, simulator: Simulator) -> None:
    port = simulator.url.rpartition(":")[2]
    found = await findings(NATS_URL=nats_server.url, AICHATS_URL=simulator.url, WORKER_HTTP_PORT=port)
    assert found["port"] == (False, f"{port} on 127.0.0.1 has somebody else: set WORKER_HTTP_PORT")
