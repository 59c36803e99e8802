"""A request's trace, from its sender through queue, hand-over and provider to its end, as a real receiver gets it."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from aichats_worker.simulator.server import Simulator
from aichats_worker.tracing import messages, sending
from aichats_worker.tracing.exporting import FLUSH_TIMEOUT_SECONDS
from aichats_worker.tracing.sending import Sender
from tests.conftest import SpawnWorker
from tests.jobs.broker import Broker, broker, provisioned, settings_for
from tests.processes import free_port
from tests.requester import Exchange, ask
from tests.tracing.receiver import Receiver, Seen, receiving

__all__ = ["broker"]

TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{SENDER}-01", "tracestate": "vendor=1"}
REQ = "ai.v1.req.text.default"
SETTINGS = {"WORKER_JOBS": "off", "WORKER_RETRY_BASE_SECONDS": "0.01", "PROVIDER_CIRCUIT_FAILURES": "1000"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


def requests_in(spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if span.kind == "consumer"]


def calls_in(spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if span.kind == "client"]


async def both(receiver: Receiver) -> tuple[Seen, Seen]:
    """One request's span, and its provider's."""
    spans = await receiver.until(lambda spans: len(spans) >= 2)
    (request,), (call,) = requests_in(spans), calls_in(spans)
    return request, call


async def test_a_request_is_part_of_its_senders_trace_and_its_provider_is_below_it(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver, simulator: Simulator
) -> None:
    resource = "deployment.environment=test"
    worker = await spawn_worker(**SETTINGS, **receiver.settings(), OTEL_RESOURCE_ATTRIBUTES=resource)
    (*_, done) = await ask(nc, REQ, {"prompt": "[sim: words=3]"}, headers=SENT | {"Nats-Msg-Id": "r9"})
    request, call = await both(receiver)
    assert f'"trace_id": "{TRACE}"' in worker.log, "the log's line and the trace find each other"
    assert (request.trace, request.parent) == (TRACE, SENDER)
    assert (request.state, call.state) == ("vendor=1", "vendor=1")
    assert (request.flags, call.flags) == (0x301, 0x101), "both are kept; what is above one is another process's"
    assert request.name == "process ai.v1.req.text.{tenant}"
    assert request.said["messaging.system"] == "nats"
    assert request.said["messaging.operation.type"] == "process"
    assert request.said["messaging.consumer.group.name"] == "ai-workers"
    assert request.said["messaging.message.id"] == "r9"
    assert (request.said["aichats.tenant"], request.said["aichats.outcome"]) == ("default", "done")
    assert request.said["gen_ai.usage.output_tokens"] == done.data.usage.output_tokens
    assert request.said["aichats.usage.estimated"] is done.data.usage.estimated
    assert [name for name, _ in request.events] == ["first piece of the answer"]
    assert not request.failed

    assert (call.trace, call.parent) == (TRACE, request.id)
    assert call.name == "chat gpt-4"
    assert call.said["gen_ai.operation.name"] == "chat"
    assert call.said["gen_ai.provider.name"] == "aichats"
    assert call.said["gen_ai.request.model"] == "gpt-4"
    assert call.said["gen_ai.response.model"] == done.data.provider["model"]
    assert call.said["gen_ai.response.finish_reasons"] == ["stop"]
    assert call.said["gen_ai.output.type"] == "text"
    assert 0 < call.said["gen_ai.response.time_to_first_chunk"] < 60
    assert "error.type" not in call.said

    assert request.resource["service.name"] == "ai-worker"
    assert request.resource["deployment.environment"] == "test"
    assert {"service.version", "service.instance.id"} <= set(request.resource)
    assert simulator.requests
    for sent in simulator.requests:
        assert {"traceparent", "tracestate", "baggage"}.isdisjoint(sent.headers), "nothing of it is the provider's"


async def test_a_request_without_a_sender_begins_a_trace(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    await spawn_worker(**SETTINGS, **receiver.settings())
    await ask(nc, "ai.v1.ask.image.default", {"prompt": "[sim: bytes=500]"}, headers={"traceparent": "nonsense"})
    request, call = await both(receiver)
    assert request.parent == ""
    assert call.name == "generate_content dalle"
    assert call.said["gen_ai.output.type"] == "image"


async def test_a_failure_is_told_by_its_code_and_each_further_try(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    await spawn_worker(**SETTINGS, **receiver.settings())
    await ask(nc, REQ, {"prompt": "[sim: status=503]"})
    request, call = await both(receiver)
    for span in (request, call):
        assert span.said["error.type"] == "provider_unavailable"
        assert span.failed
    assert [said["error.type"] for name, said in call.events if name == "asked again"] == ["provider_unavailable"] * 2


async def test_each_provider_that_is_asked_has_a_span_of_its_own(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver, simulator: Simulator
) -> None:
    settings = {
        "WORKER_PROVIDERS": "aichats,openai",
        "AICHATS_URL": f"http://127.0.0.1:{free_port()}",
        "OPENAI_BASE_URL": f"{simulator.url}/v1",
    }
    await spawn_worker(**SETTINGS | settings, **receiver.settings())
    assert (await ask(nc, REQ, b"[sim: words=2]"))[-1].type == "done"
    spans = await receiver.until(lambda spans: len(spans) == 3)
    first, second = sorted(calls_in(spans), key=lambda span: str(span.said["gen_ai.provider.name"]))
    assert (first.said["gen_ai.provider.name"], first.said["error.type"]) == ("aichats", "provider_unavailable")
    assert (second.said["gen_ai.provider.name"], second.failed) == ("openai", False)
    assert second.said["gen_ai.usage.output_tokens"] > 0
    assert {first.parent, second.parent} == {span.id for span in requests_in(spans)}


async def test_the_options_are_named_and_what_is_the_requesters_text_is_not(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver, simulator: Simulator
) -> None:
    settings = SETTINGS | {"WORKER_PROVIDERS": "openai", "OPENAI_BASE_URL": f"{simulator.url}/v1"}
    await spawn_worker(**settings, **receiver.settings())
    options = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "json": True, "stop": ["mk-stop"]}
    await ask(nc, REQ, {"prompt": "[sim: words=2] mk-prompt", "metadata": {"mk-a": "mk-b"}, **options})
    _, call = await both(receiver)
    assert {name: call.said[f"gen_ai.request.{name}"] for name in ("temperature", "top_p", "max_tokens", "seed")} == {
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3
    }  # fmt: skip
    assert call.said["gen_ai.output.type"] == "json"
    assert b"mk-" not in b"".join(receiver.raw)


async def test_what_is_the_requesters_fault_is_no_failure_of_the_workers(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    await spawn_worker(**SETTINGS, **receiver.settings())
    await ask(nc, REQ, {"prompt": "hi", "model": "none"})
    (request,) = await receiver.until(bool)
    assert (request.said["error.type"], request.failed) == ("model_not_found", False)


async def test_a_trace_that_is_not_sampled_is_not_sent(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    worker = await spawn_worker(**SETTINGS, **receiver.settings())
    await ask(nc, REQ, b"[sim: words=1]", headers={"traceparent": f"00-{TRACE}-{SENDER}-00"})
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    assert receiver.spans == []


async def test_what_opentelemetrys_variables_say_of_sampling_and_sending_is_kept_to(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    settings = {
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=ours",
    }
    await spawn_worker(**SETTINGS, **receiver.settings() | settings)
    for headers in (None, SENT, None):
        await ask(nc, REQ, b"[sim: words=1]", headers=headers)
    request, call = await both(receiver)
    assert {request.trace, call.trace} == {TRACE}, "nothing is kept but what its sender keeps"
    assert len(receiver.raw) == 2, "one at a time"
    assert {(sent["content-encoding"], sent["x-team"]) for sent in receiver.headers} == {("gzip", "ours")}


async def test_a_request_that_is_handed_over_is_followed_to_the_worker_that_has_room(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    for _ in range(2):
        await spawn_worker(**SETTINGS, **receiver.settings(), WORKER_CONCURRENCY_MAX="1")
    # The queue group does not look at load: of requests that come two at a time, some go to the worker that is full.
    for _ in range(40):
        pair = [await Exchange(nc).send(REQ, b"[sim: words=1 delay=0.2]", headers=SENT) for _ in range(2)]
        for exchange in pair:
            await exchange.all()
        await asyncio.sleep(0.1)
        given = [span for span in requests_in(receiver.spans) if span.said["aichats.outcome"] == "handed_over"]
        if given:
            break
    giver = given[0]
    assert giver.trace == TRACE
    spans = await receiver.until(lambda spans: any(span.parent == giver.id for span in spans))
    (taker,) = [span for span in spans if span.parent == giver.id]
    assert taker.state == "vendor=1"
    assert taker.resource["service.instance.id"] != giver.resource["service.instance.id"]
    assert (taker.trace, taker.said["aichats.outcome"]) == (TRACE, "done")
    assert not [span for span in calls_in(spans) if span.parent == giver.id]


@pytest.mark.parametrize("headers", [SENT, None], ids=["sent", "unsent"])
async def test_each_attempt_of_a_job_is_linked_to_the_one_before_whoever_runs_it(
    broker: Broker, spawn_worker: SpawnWorker, receiver: Receiver, headers: dict[str, str] | None
) -> None:
    settings = settings_for(broker, **receiver.settings(), PROVIDER_CALLS_MAX="1", WORKER_ATTEMPTS_MAX="3")
    for _ in range(2):
        worker = await spawn_worker(**settings)
    await worker.serving_jobs()
    await provisioned(broker)
    await broker.js.publish("ai.v1.job.text.t.r1", b"[sim: status=503]", headers=headers)
    spans = await receiver.until(lambda spans: len(requests_in(spans)) == 3)
    attempts = sorted(requests_in(spans), key=lambda span: int(span.said["aichats.attempt"]))
    assert [span.said["aichats.attempt"] for span in attempts] == [1, 2, 3]
    assert len({span.trace for span in attempts}) == 1
    assert {span.parent for span in attempts} == ({SENDER} if headers else {""})
    assert [span.links for span in attempts] == [[], *[[(span.trace, span.id)] for span in attempts[:2]]]
    assert attempts[0].name == "process ai.v1.job.text.{tenant}.{id}"
    assert attempts[0].said["messaging.consumer.group.name"] == "ai-workers-text"
    assert attempts[2].said["aichats.queued_seconds"] > attempts[0].said["aichats.queued_seconds"]
    assert {span.parent for span in calls_in(spans)} == {span.id for span in attempts}


async def test_the_last_spans_are_sent_before_a_worker_ends(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    worker = await spawn_worker(**SETTINGS, **receiver.settings() | {"OTEL_BSP_SCHEDULE_DELAY": "60000"})
    await ask(nc, REQ, b"[sim: words=1]")
    assert receiver.spans == []
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    assert len(receiver.spans) == 2


async def test_a_receiver_that_is_stuck_holds_up_neither_a_request_nor_a_stop(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    receiver.stuck.set()
    worker = await spawn_worker(**SETTINGS, **receiver.settings())
    await ask(nc, REQ, b"[sim: words=1]")
    async with asyncio.timeout(20):
        await receiver.called.wait()
    assert (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done"
    worker.send(signal.SIGTERM)
    stopping = time.monotonic()
    assert await worker.wait() == 0
    assert time.monotonic() - stopping < FLUSH_TIMEOUT_SECONDS + 10
    assert "the last spans were not sent" in worker.log


async def test_a_receiver_that_is_away_is_logged_and_nothing_else(nc: Client, spawn_worker: SpawnWorker) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:mk-word@127.0.0.1:{free_port()}"}
    worker = await spawn_worker(**SETTINGS, **settings, OTEL_BSP_SCHEDULE_DELAY="50")
    assert (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done"
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    assert "traces are on" in worker.log
    assert "mk-word" not in worker.log


async def test_what_opentelemetry_says_is_told_once_and_without_what_it_fills_in(
    nc: Client, spawn_worker: SpawnWorker
) -> None:
    settings = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{free_port()}/v1/traces?token=mk-token",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization mk-key",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "WORKER_LOG_LEVEL": "debug",
    }
    worker = await spawn_worker(**SETTINGS, **settings)
    hostile = {"tracestate": "mk-Wrong member=mk-prompt"} | {"traceparent": SENT["traceparent"]}
    for headers in (hostile, hostile, {"traceparent": "0" * 100_000}, {"traceparent": "0" * 100_000}):
        assert (await ask(nc, REQ, b"[sim: words=1]", headers=headers))[-1].type == "done"
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    assert "mk-" not in worker.log
    for said in ("Header format invalid!", "w3c identifiers format", "traceparent header exceeded", "Transient error"):
        assert worker.log.count(said) == 1, said
    assert '"cause": "ConnectionError"' in worker.log
    assert "%s" not in worker.log


async def test_a_wrong_variable_of_opentelemetrys_turns_traces_off_and_the_worker_works(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    worker = await spawn_worker(**SETTINGS, **receiver.settings() | {"OTEL_BSP_MAX_QUEUE_SIZE": "10"})
    assert "one of OpenTelemetry's variables is wrong" in worker.log
    assert (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done"


WITHOUT = "import sys; sys.modules['opentelemetry.sdk'] = None; sys.modules['opentelemetry.exporter'] = None; "
RUN = "sys.argv = ['aichats-worker', 'run']; from aichats_worker.__main__ import main; main()"


async def test_a_worker_without_the_extra_says_which_one_and_works(nc: Client, spawn_worker: SpawnWorker) -> None:
    worker = await spawn_worker(
        command=[sys.executable, "-c", WITHOUT + RUN], **SETTINGS, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1"
    )
    assert "pip install 'aichats-worker[otel]'" in worker.log
    assert (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done"


OTHER = """
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
OTLPSpanExporter.__init__ = lambda self: None
import sys
"""


async def test_a_version_of_opentelemetry_that_is_not_known_turns_traces_off_and_the_worker_works(
    nc: Client, spawn_worker: SpawnWorker, receiver: Receiver
) -> None:
    worker = await spawn_worker(command=[sys.executable, "-c", OTHER + RUN], **SETTINGS, **receiver.settings())
    assert "another version of OpenTelemetry is installed" in worker.log
    assert (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done"


async def test_limits_that_are_not_kept_to_are_named(spawn_worker: SpawnWorker, receiver: Receiver) -> None:
    worker = await spawn_worker(**SETTINGS, **receiver.settings(), OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="5")
    assert "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT: docs/traces.md says which" in worker.log
    assert "traces are on" in worker.log


async def test_a_batch_past_the_bound_of_a_request_is_not_sent(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    sender, name = Sender(Resource({})), messages.kind_of("process", messages.CONSUMER, {})
    spans = [messages.ended(messages.begun(name, b"t" * 16, b"s" * 8)) for _ in range(10)]
    monkeypatch.setattr(sending, "REQUEST_MAX_BYTES", 300)
    assert await asyncio.to_thread(sender.export, spans) is SpanExportResult.FAILURE
    assert receiver.raw == []
    assert await asyncio.to_thread(sender.export, spans[:2]) is SpanExportResult.SUCCESS
    assert len(receiver.spans) == 2


LOADED = """
import json, sys
import aichats_worker.service
from aichats_worker.tracing import trace
from aichats_worker.tracing.exporting import Exporting
parts = ("opentelemetry.sdk", "opentelemetry.trace", "opentelemetry.exporter")  # FastStream looks for its names alone
for environment in json.loads(sys.argv[1]):
    Exporting(environment, prefix="ai.v1", instance="i")
    print(trace._listener, [name for name in parts if name in sys.modules])
"""
NO_ENDPOINT: list[dict[str, str]] = [
    {},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
    {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
]


async def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOADED, json.dumps(NO_ENDPOINT), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode().splitlines()[-len(NO_ENDPOINT) :] == ["None []"] * len(NO_ENDPOINT)
