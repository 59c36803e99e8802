"""Secrets and text: what passes through a worker shows up in nothing that it says about itself."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import nats
import nkeys
import orjson
import pytest
from nats.aio.client import Client

from aichats_client import Answer
from aichats_schemas import parse_event
from aichats_schemas.requests import Message, TextRequest
from aichats_worker.jobs.letters import DeadLetter
from aichats_worker.provider import ChatMessage, Finish, Picture, Question
from aichats_worker.provider.generator import ImageResponse
from aichats_worker.request.asked import Asked
from aichats_worker.request.call import Call
from aichats_worker.request.outcome import Completed
from aichats_worker.settings import SettingsError, load_settings
from aichats_worker.simulator.answers import CUT
from aichats_worker.simulator.server import Simulator
from tests.commands.test_commands import finished, start
from tests.conftest import SpawnWorker
from tests.jobs.test_jobs import Broker, provisioned
from tests.processes import ROOT, START_TIMEOUT_SECONDS, NatsServer, WorkerProcess
from tests.provider.http.proxies import Proxy, running
from tests.requester import Exchange
from tests.tracing.receiver import Receiver, receiving

COOKIE, KEY = "session=mk-cookie", "mk-apikey"
PROXY_USER, PROXY_PASSWORD = "mk-proxyuser", "mk-proxypass"
PROMPT, ANSWER, METADATA, LABEL = "mk-prompt", "mk-answer", "mk-metadata", "mk-label"
ASKED_PROXY = "http://mk-askeduser:mk-askedpass@127.0.0.1"
NATS_SECRET = "mk-natsword"
# Whatever is a secret or a text holds this, and nothing else does.
MARK = "mk-"
TEXT = (b"data: " + ANSWER.encode() + b"\n\n", b"event: trylimit\ndata: 29\n\n")


@dataclass(frozen=True)
class Login:
    """How a worker and a requester get in: the server's configuration, and their settings."""

    config: str
    user: dict[str, Any]
    settings: dict[str, str]
    url: str = "nats://127.0.0.1:{port}"


def logins(directory: Path) -> dict[str, Login]:
    seed: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)  # type: ignore[no-untyped-call]
    path = directory / "worker.nk"
    path.write_bytes(seed)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()  # type: ignore[no-untyped-call]
    word = f'authorization {{ user: worker, password: "{NATS_SECRET}" }}'
    user = {"user": "worker", "password": NATS_SECRET}
    return {
        "password": Login(word, user, {"NATS_USER": "worker", "NATS_PASSWORD": NATS_SECRET}),
        "url": Login(word, user, {}, f"nats://worker:{NATS_SECRET}@127.0.0.1:{{port}}"),
        "token": Login(
            f"authorization {{ token: {NATS_SECRET} }}", {"token": NATS_SECRET}, {"NATS_TOKEN": NATS_SECRET}
        ),
        "nkey": Login(
            f"authorization {{ users: [{{ nkey: {public} }}] }}", {"nkeys_seed": str(path)}, {"NATS_NKEY": str(path)}
        ),
    }  # fmt: skip


def scripted(simulator: Simulator) -> dict[str, bytes]:
    """Prompts, by what becomes of them, each of which the simulator answers with the marked answer."""
    prompts = {name: f"{PROMPT} {name}" for name in ("done", "cut", "failed", "page", "captcha", "json", "refused")}
    html = {"Content-Type": "text/html"}
    page = f"<html><h1>{ANSWER}</h1></html>".encode()
    simulator.script(*TEXT, prompt=prompts["done"])
    simulator.script(TEXT[0], 0.2, CUT, prompt=prompts["cut"])
    simulator.script(page, status=503, prompt=prompts["failed"])
    simulator.script(page, headers=html, prompt=prompts["page"])
    simulator.script(b"<html>captcha " + page, status=403, headers=html, prompt=prompts["captcha"])
    simulator.script(orjson.dumps({"error": ANSWER}), prompt=prompts["json"])
    simulator.script(ANSWER.encode(), status=418, prompt=prompts["refused"])
    return {name: orjson.dumps({"prompt": prompt, "metadata": {"k": METADATA}}) for name, prompt in prompts.items()}


def wrong(proxy: Proxy) -> list[bytes]:
    """Requests that never reach the provider."""
    return [
        orjson.dumps({"prompt": PROMPT, "proxy": f"{ASKED_PROXY}:{proxy.port}"}),
        orjson.dumps({"prompt": PROMPT, "proxy": f"{ASKED_PROXY}:1"}),
        orjson.dumps({"prompt": PROMPT, "proxy": f"{ASKED_PROXY}:mk-port"}),
        orjson.dumps({"prompt": PROMPT, "proxy": ASKED_PROXY.replace("http", "mk-ftp")}),
        b'{"prompt":"' + PROMPT.encode(),
        b"{" + PROMPT.encode(),
        orjson.dumps({"prompt": [PROMPT], "timeout_seconds": PROMPT, "messages": [{"role": PROMPT, "content": 5}]}),
        orjson.dumps({"prompt": PROMPT, "model": PROMPT}),
        orjson.dumps({"prompt": PROMPT, "metadata": {"k": METADATA * 100}}),
        PROMPT.encode() + b"\xff",
    ]


async def streamed(nc: Client, subject: str, body: bytes) -> list[Any]:
    exchange = await Exchange(nc).send(subject, body)
    return await exchange.all()


def errors_in(events: list[Any]) -> list[Any]:
    return [event for event in events if event.type == "error"]


async def seen_from_outside(worker: WorkerProcess, nc: Client) -> dict[str, str]:
    """All that a worker tells whoever asks."""

    def get(path: str) -> str:
        page = Request(f"http://127.0.0.1:{worker.http_port}{path}", headers={"accept": "text/html"})
        try:
            with urlopen(page, timeout=60) as answer:  # noqa: S310 - a document is written for half a second of CPU
                return str(answer.read().decode())
        except HTTPError as error:
            return error.read().decode()

    paths = (
        "/",
        "/metrics",
        "/readyz",
        "/livez",
        "/docs/asyncapi",
        "/docs/asyncapi.json",
        "/docs/asyncapi.yaml",
        "/none",
    )
    said = {path: await asyncio.to_thread(get, path) for path in paths}
    for verb in ("PING", "INFO", "STATS"):
        said[verb] = (await nc.request(f"$SRV.{verb}.ai-worker", b"", timeout=5)).data.decode()
    return said


async def traffic(nc: Client, simulator: Simulator, proxy: Proxy) -> list[Any]:
    """Good and failing requests, core and jobs; what failed, as events and as dead letters' headers."""
    said: list[Any] = []
    for name, body in scripted(simulator).items():
        events = await streamed(nc, "ai.v1.req.text.t", body)
        if name in ("done", "cut"):
            assert any(event.type == "response" and event.data == ANSWER for event in events), events
        assert bool(errors_in(events)) == (name != "done"), (name, events)
        said += errors_in(events)
        await asyncio.sleep(0.02)  # longer than the circuit stays open
    assert len({event.data.code for event in said}) >= 4
    for body in wrong(proxy):
        for mode, kind in (("ask", "text"), ("req", "image")):
            failed = errors_in(await streamed(nc, f"ai.v1.{mode}.{kind}.t", body))
            assert len(failed) == 1
            said += failed
    assert any("credentials" in event.data.message for event in said)
    # A field of a requester's own naming is named back to it, and to nobody else.
    (named,) = await streamed(nc, "ai.v1.req.text.t", orjson.dumps({"prompt": PROMPT, "metadata": {LABEL: 5}}))
    assert LABEL in named.data.message
    return said


async def dead_letters(broker: Broker) -> list[Any]:
    """Jobs that end as dead letters: their headers, of which the body is by contract no part."""
    for number, body in enumerate((b"{" + PROMPT.encode(), orjson.dumps({"prompt": PROMPT, "model": PROMPT}))):
        await broker.js.publish(f"ai.v1.job.text.t.j{number}", body)
        await broker.removed()
    letters = await broker.dead()
    assert len(letters) == 2
    return [*letters, *[await last_error(broker, number) for number in range(2)]]


async def last_error(broker: Broker, number: int) -> Any:
    state = (await broker.js.stream_info("AIOUT")).state
    message = await broker.js.get_msg("AIOUT", seq=state.first_seq + 2 * number)
    return parse_event(message.data or b"")


def assert_no_marks(said: dict[str, Any]) -> None:
    for name, found in said.items():
        text = str(found)
        at = text.find(MARK)
        assert at < 0, f"{name}: ...{text[max(0, at - 200) : at + 60]}"


def received(receiver: Receiver) -> str:
    """All bytes of all spans. Their strings are in the protobuf as they are."""
    assert {span.kind for span in receiver.spans} == {"consumer", "client"}
    assert {"done", "provider_unavailable"} <= {span.said.get("aichats.outcome") for span in receiver.spans}
    assert any("error.type" in span.said for span in receiver.spans if span.kind == "client")
    return b"".join(receiver.raw).decode("latin-1")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with running(Proxy(auth=f"{PROXY_USER}:{PROXY_PASSWORD}"), "http") as one:
        yield one


def provider_settings(simulator: Simulator, proxy: Proxy, provider: str) -> dict[str, str]:
    return {
        "AICHATS_COOKIE": COOKIE,
        "PROVIDER_PROXY": f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:{proxy.port}",
        "PROVIDER_CALLS_MAX": "1",
        "PROVIDER_CIRCUIT_FAILURES": "1000",
        "PROVIDER_CIRCUIT_OPEN_SECONDS": "0.001",
        "OPENAI_BASE_URL": f"{simulator.url}/v1",
        "OPENAI_API_KEY": KEY,
        "WORKER_PROVIDERS": provider,
        "WORKER_ALLOW_REQUEST_PROXY": "on",
    }


async def told_by_the_doctor(said: dict[str, Any], *arguments: str, **settings: str) -> None:
    ran = await finished(await start("doctor", *arguments, cwd=ROOT, **settings))
    assert (ran.status, "AICHATS_COOKIE" in ran.out.decode()) == (0, True), ran
    said[" ".join(("doctor", *arguments))] = ran.out.decode() + ran.err


@pytest.mark.slow("a worker and two commands start, and all that fails is made to fail")
async def test_nothing_that_a_run_writes_holds_a_secret_or_a_text(
    own_nats_server: Callable[..., NatsServer], spawn_worker: SpawnWorker, simulator: Simulator, proxy: Proxy, *,
    receiver: Receiver, tmp_path: Path,
) -> None:  # fmt: skip
    way = logins(tmp_path)["password"]
    server = own_nats_server(way.config)
    settings = way.settings | provider_settings(simulator, proxy, "aichats") | receiver.settings()
    settings |= {"NATS_URL": server.url, "AICHATS_URL": simulator.url, "WORKER_LOG_LEVEL": "debug"}
    worker = await spawn_worker(**settings)
    settings |= {"WORKER_HTTP_PORT": str(worker.http_port)}  # else the doctor looks who has 8080 here
    nc = await nats.connect(server.url, **way.user)
    broker = Broker(server, nc)
    await provisioned(broker)
    said: dict[str, Any] = {"errors": await traffic(nc, simulator, proxy), "letters": await dead_letters(broker)}
    said |= await seen_from_outside(worker, nc)
    for arguments in ((), ("--json",)):
        await told_by_the_doctor(said, *arguments, **settings)
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    await nc.close()
    said["log"] = worker.log
    said["traces"] = received(receiver)
    assert "request ended" in said["log"]
    assert "aichats_requests_total" in said["/metrics"]
    assert '"servers"' in said["/docs/asyncapi.json"]
    assert "last_error" in said["STATS"]

    # It all came through, or this test could not fail.
    posts = [request for request in simulator.requests if request.method == "POST"]
    assert all(request.headers["cookie"] == COOKIE for request in posts)
    assert {f"{PROMPT} done", f"{PROMPT} captcha"} <= {request.content for request in posts}
    assert proxy.targets
    assert_no_marks(said)


@pytest.mark.parametrize("login", ["url", "token", "nkey"])
async def test_nor_whichever_way_it_gets_in(
    own_nats_server: Callable[..., NatsServer], spawn_worker: SpawnWorker, simulator: Simulator, tmp_path: Path,
    login: str,
) -> None:  # fmt: skip
    """What a login can show up in: all that a worker says of itself and its broker, also of one that went away."""
    way = logins(tmp_path)[login]
    server = own_nats_server(way.config)
    settings = way.settings | {"NATS_URL": way.url.format(port=server.port), "AICHATS_URL": simulator.url}
    settings |= {"AICHATS_COOKIE": COOKIE, "WORKER_LOG_LEVEL": "debug"}
    worker = await spawn_worker(**settings)
    await worker.serving_jobs()
    server.kill()
    server.start()
    nc = await nats.connect(server.url, **way.user)
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        while "broker connected again" not in worker.log:
            await asyncio.sleep(0.05)
    await worker.ready()
    events = await streamed(nc, "ai.v1.req.text.t", b"[sim: status=503]")
    said: dict[str, Any] = {"errors": errors_in(events)} | await seen_from_outside(worker, nc)
    await told_by_the_doctor(said, **settings | {"WORKER_HTTP_PORT": str(worker.http_port)})
    worker.send(signal.SIGTERM)
    assert await worker.wait() == 0
    await nc.close()
    said["log"] = worker.log
    assert said["errors"]
    assert '"servers"' in said["/docs/asyncapi.json"]
    if login == "nkey":
        seed = Path(way.settings["NATS_NKEY"]).read_text()
        assert all(seed not in str(text) for text in said.values())
    assert_no_marks(said)


async def test_nor_with_the_other_provider(
    nc: Client, spawn_worker: SpawnWorker, simulator: Simulator, proxy: Proxy, *, receiver: Receiver
) -> None:
    settings = provider_settings(simulator, proxy, "openai") | {"WORKER_LOG_LEVEL": "debug", "WORKER_JOBS": "off"}
    settings |= receiver.settings()
    worker = await spawn_worker(**settings)
    said: dict[str, Any] = {}
    for what in ("words=2", "status=503", "status=401", "answer=challenge", "answer=json-error", "cut-after=1"):
        for kind in ("text", "image"):
            events = await streamed(nc, f"ai.v1.req.{kind}.t", f"[sim: {what}] {PROMPT}".encode())
            said[f"{kind} {what}"] = errors_in(events)
            await asyncio.sleep(0.02)
    said |= await seen_from_outside(worker, nc)
    worker.send(signal.SIGTERM)
    await worker.wait()
    posts = [request for request in simulator.requests if request.method == "POST"]
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in posts)
    assert any(PROMPT in request.content for request in posts)
    assert_no_marks(said | {"log": worker.log, "traces": received(receiver)})


DEFECTIVE = """
import sys
import aichats_worker.wiring as wiring
from contextlib import asynccontextmanager
from aichats_worker.provider import Begun

class Defective:
    working = True
    offers = {"text": {"gpt-4": (frozenset(),)}, "image": {"dalle": (frozenset(),)}}
    @asynccontextmanager
    async def text(self, question):
        async def rest():
            _ = question, question.messages[0].content[10 ** 9]
            yield
        yield Begun(question.messages[0].content, rest())
    def images(self, question):
        raise KeyError(len(question.messages))
    async def close(self):
        pass

wiring.provider = lambda settings: Defective()
from aichats_worker.__main__ import main
sys.argv = ["aichats-worker", "run"]
main()
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_the_log_of_a_defect_shows_where_it_is_and_no_values(
    nats_server: NatsServer, nc: Client, spawn_worker: SpawnWorker, log_format: str
) -> None:
    worker = await spawn_worker(
        ready=False, command=[sys.executable, "-c", DEFECTIVE], WORKER_LOG_LEVEL="debug", WORKER_LOG_FORMAT=log_format,
        WORKER_JOBS="off",
    )  # fmt: skip
    await worker.ready()
    for kind in ("text", "image"):
        (error,) = errors_in(await streamed(nc, f"ai.v1.req.{kind}.t", PROMPT.encode()))
        assert error.data.code == "internal"
        assert_no_marks({"error": error})
    assert worker.log.count("Traceback") == 2
    assert_no_marks({"log": worker.log})


def test_no_repr_holds_a_secret_or_a_text() -> None:
    settings = load_settings(
        nats_url=f"nats://worker:{NATS_SECRET}@127.0.0.1:1,nats://{NATS_SECRET}@127.0.0.1:2", nats_token=NATS_SECRET,
        nats_user="worker", nats_password=NATS_SECRET, aichats_cookie=COOKIE, openai_api_key=KEY,
        provider_proxy=f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:1",
    )  # fmt: skip
    message, asked = Message(role="user", content=PROMPT), ChatMessage("user", PROMPT)
    headers = {"X": METADATA}
    picture = Picture(ANSWER.encode(), "image/png", "0")
    tail = {"id": "r", "attempt": 1, "seq": 0}
    timing: dict[str, Any] = {"queued_ms": 0, "first_ms": 0, "total_ms": 0}
    done: dict[str, Any] = {
        "finish_reason": "stop",
        "last_seq": 0,
        "model": "gpt-4",
        "timing": timing,
        "metadata": headers,
    }
    image: dict[str, Any] = {"mime": "image/png", "bytes": 1, "sha256": "0", "b64": ANSWER}
    events: list[dict[str, Any]] = [
        {"type": "response", "data": ANSWER},
        {"type": "image", "data": {"index": 0, "part": 0, "parts": 1} | image},
        {"type": "done", "data": done},
        {"type": "result", "data": done | {"text": ANSWER}},
        {"type": "result", "data": done | {"images": [image]}},
    ]
    shown = [
        settings,
        settings.masked(),
        message,
        TextRequest(prompt=PROMPT, proxy=ASKED_PROXY, metadata=headers),
        TextRequest(messages=[message]),
        asked,
        Question((asked,), "t", 0.0, ASKED_PROXY),
        Asked((asked,), "gpt-4", proxy=ASKED_PROXY, metadata=headers, ignored=(PROMPT,)),
        Call("req", "text", "t", "r", "_INBOX.a", PROMPT.encode(), headers),
        Completed("gpt-4", Finish(), headers, 0.0, 0.0),
        DeadLetter(1, "text", "t", "r", "internal", "", 1, datetime.now(UTC).isoformat(), headers, PROMPT.encode()),
        picture,
        ImageResponse(picture, PROMPT),
        Answer(ANSWER, [ANSWER.encode()]),
        *[parse_event(orjson.dumps(event | tail)) for event in events],
    ]
    for one in shown:
        assert_no_marks({type(one).__name__: repr(one)})


@pytest.mark.parametrize(
    "wrong_setting",
    [
        {"provider_proxy": f"mk-ftp://{PROXY_USER}:{PROXY_PASSWORD}@x"},
        {"provider_proxy": f"http://{PROXY_USER}:{PROXY_PASSWORD}@x:mk-port"},
        {"aichats_cookie": f"{COOKIE}\n"},
        {"openai_api_key": f"{KEY}\n"},
        {"aichats_url": f"http://{PROXY_USER}:{PROXY_PASSWORD}@x"},
        {"provider_proxy": "http://mk-user:mk-pass/mk-word@x:1"},
        {"provider_proxy": "http://mk-user:mk-pass\u2100@x:1"},
        {"aichats_url": "http://mk-pass\u2100@x:1"},
        {"openai_base_url": f"http://{PROXY_USER}:{PROXY_PASSWORD}@x/v1"},
    ],
)
def test_no_refusal_of_a_setting_repeats_it(wrong_setting: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(**wrong_setting)
    assert_no_marks({"refusal": refusal.value})
