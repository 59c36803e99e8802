"""The NATS services API, as the `nats micro` commands use it."""

import orjson
import pytest
from jsonschema import Draft202012Validator
from nats.aio.client import Client

from aichats_schemas import __version__, parse_event
from aichats_worker.app import App
from tests.requester import Exchange, ask


async def request(nc: Client, subject: str) -> dict[str, object]:
    answer: dict[str, object] = orjson.loads((await nc.request(subject, b"", timeout=5)).data)
    return answer


@pytest.mark.parametrize("scope", ["", ".ai-worker"])
async def test_ping_finds_the_worker(nc: Client, worker: App, scope: str) -> None:
    answer = await request(nc, f"$SRV.PING{scope}")
    assert answer["type"] == "io.nats.micro.v1.ping_response"
    assert answer["name"] == "ai-worker"
    assert (await request(nc, f"$SRV.PING.ai-worker.{answer['id']}"))["id"] == answer["id"]


async def test_info_announces_concrete_subjects_and_the_protocol(nc: Client, worker: App) -> None:
    info = await request(nc, "$SRV.INFO.ai-worker")
    assert info["version"] == __version__
    assert info["metadata"] == {
        "protocol": "ai.v1",
        "revision": "2",
        "keepalive_ms": "800",
        "max_payload": str(nc.max_payload),
        "prefix": "ai.v1",
        "models_text": "gpt-4",
        "models_image": "dalle",
        "provider_working": "true",
        "capacity_text": "256",
        "capacity_image": "8",
        "in_flight_text": "0",
        "in_flight_image": "0",
    }
    endpoints = info["endpoints"]
    assert isinstance(endpoints, list)
    by_name = {endpoint["name"]: endpoint for endpoint in endpoints}
    assert sorted(by_name) == ["ask-image", "ask-text", "req-image", "req-text"]
    assert all(endpoint["queue_group"] == "ai-workers" for endpoint in endpoints)
    (result,) = await ask(nc, by_name["ask-text"]["subject"], b"[sim: words=1]")
    assert result.type == "result", "`nats service req` publishes to the announced subject"


async def test_info_says_what_to_send_and_what_comes_back(nc: Client, worker: App) -> None:
    endpoints = (await request(nc, "$SRV.INFO.ai-worker"))["endpoints"]
    assert isinstance(endpoints, list)
    for endpoint in endpoints:
        mode, kind = endpoint["name"].split("-")
        schemas = {name: orjson.loads(endpoint["metadata"][name]) for name in ("request_schema", "event_schema")}
        for schema in schemas.values():
            Draft202012Validator.check_schema(schema)
        Draft202012Validator(schemas["request_schema"]).validate({"prompt": "[sim: words=1]"})
        exchange = await Exchange(nc).send(endpoint["subject"], {"prompt": "[sim: words=1]"})
        await exchange.all()
        for message in exchange.messages[:-1]:
            Draft202012Validator(schemas["event_schema"]).validate(orjson.loads(message.data))
        assert schemas["event_schema"]["title"] == ("AskEvent" if mode == "ask" else f"{kind.title()}Event")


async def test_info_counts_what_is_in_flight(nc: Client, worker: App) -> None:
    exchange = await Exchange(nc).send("ai.v1.req.text.default", b"[sim: words=3 pause=60]")
    await exchange.event()
    metadata = (await request(nc, "$SRV.INFO.ai-worker"))["metadata"]
    assert isinstance(metadata, dict)
    assert (metadata["in_flight_text"], metadata["in_flight_image"]) == ("1", "0")
    await nc.request(f"ai.v1.ctl.cancel.default.{parse_event(exchange.messages[0].data).id}", b"", timeout=5)
    await exchange.all()
    metadata = (await request(nc, "$SRV.INFO.ai-worker"))["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["in_flight_text"] == "0"


async def test_an_open_circuit_is_seen_in_info_and_metrics(nc: Client, worker: App) -> None:
    value = worker.telemetry.registry.get_sample_value
    assert value("aichats_provider_working") == 1
    (error,) = await ask(nc, "ai.v1.ask.text.default", b"[sim: answer=challenge]")
    assert error.data.code == "challenge"
    assert value("aichats_provider_working") == 0
    assert value("aichats_check", {"check": "provider"}) == 0
    ready, body = worker.health.ready()
    assert ready, "its own requests alone suffer, and only for a while"
    assert body["checks"]["provider"] == "not asked for a while, since it fails: aichats text"
    metadata = (await request(nc, "$SRV.INFO.ai-worker"))["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["provider_working"] == "false"


async def test_stats_count_requests_and_errors(nc: Client, worker: App) -> None:
    await ask(nc, "ai.v1.ask.text.default", b"[sim: words=1]")
    await ask(nc, "ai.v1.ask.text.default", b"")
    stats = await request(nc, "$SRV.STATS.ai-worker")
    endpoints = stats["endpoints"]
    assert isinstance(endpoints, list)
    (text,) = [endpoint for endpoint in endpoints if endpoint["name"] == "ask-text"]
    assert (text["num_requests"], text["num_errors"]) == (2, 1)
    assert text["last_error"].startswith("400:")
    assert text["processing_time"] > 0
    assert "metadata" not in text, "ADR-32 has it in INFO alone, and the schemas are long"
    assert text["average_processing_time"] == text["processing_time"] // 2
    assert text["data"]["num_first_events"] == 1, "the other one had no answer"
    assert 0 < text["data"]["average_first_event_time"] <= text["processing_time"]
