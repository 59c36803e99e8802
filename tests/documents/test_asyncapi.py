"""The AsyncAPI document: valid, current, and what goes over the wire is what it says."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from nats.aio.client import Client
from nats.js.api import RawStreamMsg

from aichats_schemas import ErrorCode, Subjects
from aichats_schemas.subjects import KINDS
from aichats_worker.app import App
from aichats_worker.settings import load_settings
from tests.jobs.broker import Broker, StartJobs, broker, start_jobs
from tests.processes import ROOT
from tests.requester import WAIT_SECONDS, Exchange

__all__ = ["broker", "start_jobs"]

# schemas/3.0.0-without-$id.json of the npm package @asyncapi/specs 6.11.1, without its white space.
# Copyright AsyncAPI Initiative, Apache-2.0.
OFFICIAL = Path(__file__).parent / "asyncapi-3.0.0.json"
TOKENS = {"{tenant}": "*", "{id}": "*", "{verb}": "*"}


def made(**settings: Any) -> dict[str, Any]:
    return App(load_settings(**settings)).contract.document()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return made()


def at(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        yield from (found for value in node.values() for found in references(value))
    elif isinstance(node, list):
        yield from (found for value in node for found in references(value))


def patterns(document: dict[str, Any]) -> set[str]:
    found = set()
    for channel in document["channels"].values():
        address = channel["address"] or ""
        for token, wildcard in TOKENS.items():
            address = address.replace(token, wildcard)
        found.add(address)
    return found


def message_of(document: dict[str, Any], name: str) -> Any:
    """The one message of a channel."""
    (message,) = (at(document, each["$ref"]) for each in document["channels"][name]["messages"].values())
    return message


def headers_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    described: dict[str, Any] = message_of(document, name)["headers"]["properties"]
    return described


def assert_valid(document: dict[str, Any], name: str, body: bytes) -> None:
    """Hold a message against the schema that the document has for a channel."""
    message = message_of(document, name)
    # A discriminator is a name in AsyncAPI, and an object in OpenAPI: JSON Schema looks at oneOf alone.
    schema = message["payload"] | {"components": document["components"]}
    Draft202012Validator(schema).validate(json.loads(body) if body else None)


@pytest.mark.parametrize("settings", [{}, {"worker_jobs": False}, {"worker_subject_prefix": "team.a"}], ids=str)
def test_it_is_valid_by_the_official_schema(settings: dict[str, Any]) -> None:
    document = made(**settings)
    official = json.loads(OFFICIAL.read_text("utf-8"))
    assert [error.message for error in Draft7Validator(official).iter_errors(document)] == []
    assert all(at(document, reference) is not None for reference in references(document))


def test_the_committed_document_is_current(document: dict[str, Any]) -> None:
    committed = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text("utf-8"))
    assert committed == document, "run `make docs`"


def test_it_is_the_same_each_time() -> None:
    assert orjson.dumps(made()) == orjson.dumps(made())


def test_every_subject_of_the_contract_is_there(document: dict[str, Any]) -> None:
    subjects = Subjects()
    wanted = {subjects.cancel(), subjects.resume(), subjects.out(), "$SRV.*.ai-worker"}
    for kind in KINDS:
        wanted |= {
            subjects.request("req", kind),
            subjects.request("ask", kind),
            subjects.job(kind),
            subjects.dead(kind),
        }
    assert patterns(document) - {""} == wanted


def test_a_worker_without_jobs_shows_none() -> None:
    assert {address.split(".")[2] for address in patterns(made(worker_jobs=False)) if "ai.v1" in address} == {
        "req", "ask", "ctl"
    }  # fmt: skip


def test_an_answer_goes_where_its_request_says_and_to_no_invented_inbox(document: dict[str, Any]) -> None:
    assert "_INBOX." not in json.dumps(document["channels"])
    for name, operation in document["operations"].items():
        if operation["action"] == "send":
            assert "reply" not in operation
            continue
        assert at(document, operation["reply"]["channel"]["$ref"])["address"] is None
        wanted = "$message.header#/reply_to" if name.startswith("job-") else "$message.header#/reply"
        assert operation["reply"]["address"] == {"location": wanted}


def test_every_example_is_what_its_schema_says(document: dict[str, Any]) -> None:
    count = 0
    for message in document["components"]["messages"].values():
        validator = Draft202012Validator(message["payload"] | {"components": document["components"]})
        for example in message.get("examples", ()):
            validator.validate(example["payload"])
            count += 1
    assert count > 20


def test_every_error_code_says_whose_fault_it_is(document: dict[str, Any]) -> None:
    codes = document["components"]["schemas"]["ErrorCode"]["x-codes"]
    assert sorted(each["code"] for each in codes) == sorted(ErrorCode)
    assert all(each["description"] and each["fault"] and each["number"] for each in codes)


@pytest.mark.parametrize("name", ["req-text", "req-image", "ask-text", "ask-image"])
async def test_what_a_request_gets_is_what_the_document_says(
    nc: Client, worker: App, document: dict[str, Any], name: str
) -> None:
    for prompt in ("[sim: words=3]", "[sim: status=418]"):
        body = orjson.dumps({"prompt": prompt})
        assert_valid(document, name, body)
        exchange = await Exchange(nc).send(f"ai.v1.{name.replace('-', '.')}.default", body)
        await exchange.all()
        for message in exchange.messages[:-1]:
            assert_valid(document, f"{name}-reply", message.data)
            assert set(message.headers or ()) <= set(headers_of(document, f"{name}-reply"))


async def test_what_is_stored_of_jobs_and_read_again_is_what_the_document_says(
    broker: Broker, start_jobs: StartJobs, document: dict[str, Any]
) -> None:
    await start_jobs()
    await broker.submit("[sim: words=3]", "good")
    await broker.submit({"prompt": "hi", "model": "none"}, "bad")
    await broker.end()
    await broker.end()
    await broker.removed()
    for stream, name in (("AIOUT", "record"), ("AIDEAD", "dead-text")):
        for message in [found async for found in stored(broker, stream)]:
            assert_valid(document, name, message.data or b"")
            own = {header for header in message.headers or () if header.startswith(("Ai-Dead-", "Nats-Service-"))}
            assert own <= set(headers_of(document, name))
    again = await Exchange(broker.nc).send("ai.v1.ctl.resume.t", {"id": "good"})
    assert_valid(document, "resume", b'{"id":"good"}')
    while (await again.next()).data:
        assert_valid(document, "resume-reply", again.messages[-1].data)
    assert len(again.messages) > 2


async def test_what_a_cancel_and_the_services_api_answer_is_what_the_document_says(
    nc: Client, worker: App, document: dict[str, Any]
) -> None:
    cancelled = await nc.request("ai.v1.ctl.cancel.default.nothing", b"", timeout=WAIT_SECONDS)
    assert_valid(document, "cancel", b"")
    assert_valid(document, "cancel-reply", cancelled.data)
    for verb in ("PING", "INFO", "STATS"):
        answer = await nc.request(f"$SRV.{verb}.ai-worker", b"", timeout=WAIT_SECONDS)
        assert_valid(document, "service-reply", answer.data)


async def stored(broker: Broker, stream: str) -> AsyncIterator[RawStreamMsg]:
    state = (await broker.js.stream_info(stream)).state
    for seq in range(state.first_seq, state.last_seq + 1):
        yield await broker.js.get_msg(stream, seq=seq)
