"""One request, from the NATS message to the sentinel: one test per outcome."""

import asyncio
import base64
import hashlib
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from aichats_worker.app import App
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.processes import NatsServer
from tests.requester import Exchange, ask, text_of

REQ_TEXT = "ai.v1.req.text.default"
REQ_IMAGE = "ai.v1.req.image.default"
ASK_TEXT = "ai.v1.ask.text.default"
ASK_IMAGE = "ai.v1.ask.image.default"


def outcomes(app: App, *, mode: str = "req", kind: str = "text") -> dict[str, float]:
    """How many requests ended how."""
    return {
        sample.labels["outcome"]: sample.value
        for metric in app.telemetry.registry.collect()
        for sample in metric.samples
        if sample.name == "aichats_requests_total"
        and (sample.labels["mode"], sample.labels["kind"]) == (mode, kind)
        and sample.value
    }


async def until(condition: Any, *, seconds: float = 60.0) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.e2e
async def test_the_first_delta_arrives_while_the_provider_still_writes(
    nc: Client, worker: App, simulator: Simulator
) -> None:
    exchange = await Exchange(nc).send(REQ_TEXT, b"[sim: words=3 pause=0.5] go")
    first = await exchange.event()
    assert first.type == "response"
    assert not simulator.requests[0].ended.is_set(), "the provider's answer is complete already"
    events = await exchange.all()
    assert len(text_of(events).split()) == 3


@pytest.mark.e2e
async def test_an_answer_ends_with_done_and_the_sentinel(nc: Client, worker: App) -> None:
    events = await ask(nc, REQ_TEXT, {"prompt": "[sim: words=3]", "metadata": {"order": "7"}}, {"Nats-Msg-Id": "r9"})
    done = events[-1]
    assert done.type == "done"
    assert done.id == "r9"
    assert done.attempt == 1
    assert done.data.model == "gpt-4"
    assert done.data.finish_reason == "stop"
    assert done.data.provider["tries_left"] >= 0
    assert done.data.metadata == {"order": "7"}
    assert 0 <= done.data.timing.first_ms <= done.data.timing.total_ms


async def test_a_history_reaches_the_provider_flattened(nc: Client, worker: App, simulator: Simulator) -> None:
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Weather?"},
    ]
    await ask(nc, REQ_TEXT, {"messages": messages})
    flat = "System: Be brief\nUser: Hi\nAssistant: Hello\nUser: Weather?\nAssistant:"
    assert simulator.requests[-1].content == flat


async def test_unknown_fields_are_ignored_and_null_counts_as_absent(nc: Client, worker: App) -> None:
    body = {"prompt": "[sim: words=1]", "messages": None, "model": None, "timeout_seconds": None, "colour": 7}
    done = (await ask(nc, REQ_TEXT, body))[-1]
    assert done.type == "done"
    assert done.data.ignored == ["colour"]


async def test_an_option_that_nobody_can_honour_is_refused_by_its_name(nc: Client, worker: App) -> None:
    (error,) = await ask(nc, REQ_TEXT, {"prompt": "hi", "temperature": 0.7, "n": 2})
    assert error.data.code == "invalid_request"
    assert all(f"{name}: no provider" in error.data.message for name in ("temperature", "n"))


@pytest.mark.e2e
async def test_ask_gives_the_whole_text_as_one_result(nc: Client, worker: App) -> None:
    (result,) = await ask(nc, ASK_TEXT, b"[sim: words=3 pause=0.4] hi")
    assert result.type == "result"
    assert len(result.data.text.split()) == 3
    assert result.data.images is None


@pytest.mark.e2e
async def test_an_image_larger_than_max_payload_comes_in_parts(nc: Client, worker: App) -> None:
    events = await ask(nc, REQ_IMAGE, b"[sim: bytes=3000000 type=png] a cat")
    parts = [event.data for event in events if event.type == "image"]
    assert [part.part for part in parts] == list(range(parts[0].parts))
    assert parts[0].parts > 1
    image = b"".join(base64.b64decode(part.b64) for part in parts)
    assert len(image) == parts[0].bytes == 3000000
    assert hashlib.sha256(image).hexdigest() == parts[0].sha256
    assert {part.mime for part in parts} == {"image/png"}
    assert events[-1].type == "done"
    assert events[-1].data.model == "dalle"


async def test_a_small_image_comes_in_one_part(nc: Client, worker: App) -> None:
    events = await ask(nc, REQ_IMAGE, b"[sim: bytes=2000 type=webp] a cat")
    (part,) = [event.data for event in events if event.type == "image"]
    assert (part.index, part.part, part.parts, part.mime) == (0, 0, 1, "image/webp")


async def test_of_messages_the_last_is_the_prompt_of_an_image(nc: Client, worker: App, simulator: Simulator) -> None:
    messages = [{"role": "user", "content": "a dog"}, {"role": "user", "content": "a cat"}]
    assert (await ask(nc, REQ_IMAGE, {"messages": messages}))[-1].type == "done"
    post = next(request for request in reversed(simulator.requests) if request.method == "POST")
    assert post.content == "a cat"
    assert b'"image"' in post.body


@pytest.mark.e2e
async def test_ask_gives_a_whole_image_as_one_result(nc: Client, worker: App) -> None:
    (result,) = await ask(nc, ASK_IMAGE, b"[sim: bytes=200000 type=jpeg] a cat")
    (image,) = result.data.images
    data = base64.b64decode(image.b64)
    assert (len(data), image.mime, hashlib.sha256(data).hexdigest()) == (image.bytes, "image/jpeg", image.sha256)
    assert result.data.text is None


async def test_an_ask_whose_answer_does_not_fit_points_to_req(nc: Client, worker: App) -> None:
    (error,) = await ask(nc, ASK_IMAGE, b"[sim: bytes=1500000] a cat")
    assert error.data.code == "too_large"
    assert "max_payload" in error.data.message
    assert str(nc.max_payload) in error.data.message
    assert "req" in error.data.message


@pytest.mark.e2e
async def test_silence_is_broken_by_a_status_and_nothing_comes_at_once(nc: Client, worker: App) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    exchange = await Exchange(nc).send(REQ_TEXT, b"[sim: delay=2 words=2 pause=0.01]")
    first = await exchange.event()
    assert first.type == "status"
    assert loop.time() - started >= 0.8
    events = await exchange.all()
    assert [event.data for event in events if event.type == "status"][:2] == ["working", "working"]
    assert events[-1].type == "done"


async def test_an_ask_gets_no_status(nc: Client, worker: App) -> None:
    (result,) = await ask(nc, ASK_TEXT, b"[sim: delay=1 words=1]")
    assert result.type == "result"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body"),
        (b"  \n", "body"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"prompt":', "JSON"),
        (b'{"prompt":"\xff"}', "JSON"),
        (b"{}", "prompt"),
        (b'{"prompt":""}', "prompt"),
        (b'{"prompt":"  "}', "prompt"),
        (b'{"prompt":5}', "prompt"),
        (b'{"prompt":"a","messages":[{"role":"user","content":"b"}]}', "prompt and messages"),
        (b'{"messages":[]}', "messages"),
        (b'{"messages":[{"role":"robot","content":"b"}]}', "messages.0.role"),
        (b'{"messages":[{"role":"user"}]}', "messages.0.content"),
        (b'{"prompt":"a","timeout_seconds":0}', "timeout_seconds"),
        (b'{"prompt":"a","timeout_seconds":"5"}', "timeout_seconds"),
        (b'{"prompt":"a","timeout_seconds":true}', "timeout_seconds"),
        (b'{"prompt":"a","timeout_seconds":1e999}', "timeout_seconds"),
        (b'{"prompt":"a","timeout_seconds":601}', "600"),
        (b'{"prompt":"a","metadata":{"a":1}}', "metadata.a"),
        (b'{"prompt":"a","model":7}', "model"),
    ],
)
async def test_a_wrong_body_gets_one_error_that_names_what_is_wrong(
    nc: Client, worker: App, simulator: Simulator, body: bytes, named: str
) -> None:
    (error,) = await ask(nc, REQ_TEXT, body)
    assert error.data.code == "invalid_request"
    assert named in error.data.message
    assert not error.data.retryable
    assert simulator.requests == []


@pytest.mark.e2e
async def test_every_wrong_field_is_named(nc: Client, worker: App) -> None:
    (error,) = await ask(nc, REQ_TEXT, {"prompt": 1, "timeout_seconds": -1, "metadata": [], "model": "gpt-9"})
    assert error.data.code == "invalid_request"
    for field in ("prompt", "timeout_seconds", "metadata", "model"):
        assert field in error.data.message


async def test_another_model_is_not_found_and_the_models_are_listed(nc: Client, worker: App) -> None:
    (error,) = await ask(nc, REQ_TEXT, {"prompt": "a", "model": "gpt-9"})
    assert (error.data.code, "gpt-4" in error.data.message) == ("model_not_found", True)
    (error,) = await ask(nc, REQ_IMAGE, {"prompt": "a", "model": "gpt-4"})
    assert (error.data.code, "dalle" in error.data.message) == ("model_not_found", True)


async def test_a_proxy_is_forbidden_unless_it_is_allowed(nc: Client, worker: App) -> None:
    (error,) = await ask(nc, REQ_TEXT, {"prompt": "a", "proxy": "http://u:secret@proxy:1"})
    assert error.data.code == "forbidden"
    assert "secret" not in error.data.message


@pytest.mark.parametrize(
    ("body", "limit", "sent"),
    [
        ({"prompt": "x" * 101}, "100", "101"),
        ({"messages": [{"role": "user", "content": "x"}] * 5}, "4", "5"),
        ({"messages": [{"role": "user", "content": "x" * 60}] * 2}, "100", "120"),
        ({"prompt": "a", "metadata": {str(n): "" for n in range(17)}}, "16", "17"),
        ({"prompt": "a", "metadata": {"k" * 65: "v"}}, "64", "65"),
        ({"prompt": "a", "metadata": {"k": "v" * 257}}, "256", "257"),
    ],
)
async def test_a_passed_limit_is_too_large_and_says_by_how_much(
    nc: Client, start_worker: StartWorker, body: dict[str, Any], limit: str, sent: str
) -> None:
    await start_worker(worker_prompt_max_chars=100, worker_messages_max=4)
    (error,) = await ask(nc, REQ_TEXT, body)
    assert error.data.code == "too_large"
    assert limit in error.data.message
    assert sent in error.data.message


@pytest.mark.parametrize(
    ("subject", "headers"),
    [
        ("ai.v1.req.text.*", None),
        ("ai.v1.req.text.ten$ant", None),
        (f"ai.v1.req.text.{'t' * 65}", None),
        (REQ_TEXT, {"Nats-Msg-Id": "no spaces"}),
        (REQ_TEXT, {"Nats-Msg-Id": "i" * 65}),
    ],
)
async def test_a_wrong_tenant_or_id_is_answered_under_an_id_of_the_workers_own(
    nc: Client, worker: App, subject: str, headers: dict[str, str] | None
) -> None:
    (error,) = await ask(nc, subject, b"hi", headers)
    assert error.data.code == "invalid_request"
    assert ("id" if headers else "tenant") in error.data.message
    assert error.id not in (headers or {}).values()


async def test_a_running_id_is_a_duplicate_and_free_again_after_its_end(nc: Client, worker: App) -> None:
    first = await Exchange(nc).send(REQ_TEXT, b"[sim: words=3 pause=1]", {"Nats-Msg-Id": "same"})
    await first.event()
    (error,) = await ask(nc, REQ_TEXT, b"hi", {"Nats-Msg-Id": "same"})
    assert (error.data.code, error.data.retryable) == ("duplicate", False)
    (other,) = await ask(nc, "ai.v1.ask.text.another", b"[sim: words=1]", {"Nats-Msg-Id": "same"})
    assert other.type == "result"
    assert (await first.all())[-1].type == "done"
    assert (await ask(nc, REQ_TEXT, b"[sim: words=1]", {"Nats-Msg-Id": "same"}))[-1].type == "done"


@pytest.mark.parametrize("reply", ["$JS.API.STREAM.PURGE.X", "ai.v1.req.text.default", "_INBOX", f"_INBOX.{'x' * 255}"])
async def test_a_reply_subject_that_is_no_inbox_is_dropped_and_counted(
    nc: Client, worker: App, simulator: Simulator, reply: str
) -> None:
    heard = await nc.subscribe(reply) if not reply.startswith("ai.") else None
    await nc.publish(REQ_TEXT, b"hi", reply=reply)
    count = worker.telemetry.registry.get_sample_value
    await until(lambda: count("aichats_requests_dropped_total", {"reason": "forbidden_reply"}) == 1)
    assert simulator.requests == []
    assert heard is None or heard.pending_msgs == 0


async def test_a_request_without_a_reply_subject_is_dropped_and_counted(
    nc: Client, worker: App, simulator: Simulator
) -> None:
    await nc.publish(REQ_TEXT, b"hi")
    count = worker.telemetry.registry.get_sample_value
    await until(lambda: count("aichats_requests_dropped_total", {"reason": "no_reply"}) == 1)
    assert simulator.requests == []


async def test_with_strict_inboxes_a_tenant_is_answered_at_its_own_alone(nc: Client, start_worker: StartWorker) -> None:
    worker = await start_worker(worker_strict_tenant_inbox=True)
    own = await Exchange(nc, inbox="_INBOX.default.one").send(REQ_TEXT, b"[sim: words=1]")
    assert (await own.all())[-1].type == "done"
    await nc.publish(REQ_TEXT, b"hi", reply="_INBOX.another.one")
    count = worker.telemetry.registry.get_sample_value
    await until(lambda: count("aichats_requests_dropped_total", {"reason": "forbidden_reply"}) == 1)


async def test_a_requester_that_went_away_stops_the_provider_call(
    nc: Client, worker: App, simulator: Simulator
) -> None:
    exchange = await Exchange(nc).send(REQ_TEXT, b"[sim: words=100 pause=0.2]")
    await exchange.event()
    await exchange.leave()
    async with asyncio.timeout(5):
        await simulator.requests[0].ended.wait()
    assert simulator.closed_early == 1
    await until(lambda: outcomes(worker) == {"gone": 1.0})


@pytest.mark.e2e
async def test_the_whole_budget_bounds_an_answer_that_goes_on(nc: Client, worker: App, simulator: Simulator) -> None:
    events = await ask(nc, REQ_TEXT, {"prompt": "[sim: words=100 pause=0.1]", "timeout_seconds": 2})
    assert events[0].type == "response"
    error = events[-1]
    assert (error.data.code, error.data.retryable) == ("deadline_exceeded", True)
    assert "total" in error.data.message
    async with asyncio.timeout(5):
        await simulator.requests[0].ended.wait()
    assert simulator.closed_early == 1


async def test_the_budget_of_an_ask_is_bounded_too(nc: Client, worker: App) -> None:
    (error,) = await ask(nc, ASK_TEXT, {"prompt": "[sim: words=100 pause=0.1]", "timeout_seconds": 0.5})
    assert error.data.code == "deadline_exceeded"


@pytest.mark.e2e
async def test_a_delta_too_large_for_a_message_is_split(own_nats_server: Any, start_worker: StartWorker) -> None:
    server: NatsServer = own_nats_server("max_payload: 4096")
    await start_worker(nats_url=server.url)
    nc = await nats.connect(server.url)
    events = await ask(nc, REQ_TEXT, b"[sim: words=4000 pause=0]")
    assert text_of(events) == "".join(words(4000))
    assert events[-1].type == "done"
    image = await ask(nc, REQ_IMAGE, b"[sim: bytes=10000]")
    assert len([event for event in image if event.type == "image"]) > 2
    await nc.close()


async def test_two_workers_never_answer_one_request_twice(
    nc: Client, start_worker: StartWorker, simulator: Simulator
) -> None:
    first, second = await start_worker(), await start_worker()
    answers = await asyncio.gather(*(ask(nc, REQ_TEXT, b"[sim: words=2 pause=0.01]") for _ in range(60)))
    assert {events[-1].type for events in answers} == {"done"}
    assert len(simulator.requests) == 60
    done = [outcomes(app).get("done", 0) for app in (first, second)]
    assert sum(done) == 60
    assert min(done) > 0, "the work was not shared"


async def test_a_stray_cancellation_ends_one_request_and_no_other(nc: Client, worker: App) -> None:
    exchanges = [
        await Exchange(nc).send(REQ_TEXT, b"[sim: words=3 pause=1]", {"Nats-Msg-Id": f"n{n}"}) for n in range(3)
    ]
    for exchange in exchanges:
        await exchange.event()
    next(task for task in asyncio.all_tasks() if task.get_name() == "req:n1").cancel()
    ends = [(await exchange.all())[-1] for exchange in exchanges]
    assert [end.type for end in ends] == ["done", "error", "done"]
    assert ends[1].data.code == "internal"
    assert (await ask(nc, REQ_TEXT, b"[sim: words=1]"))[-1].type == "done", "the subscriber lives"
