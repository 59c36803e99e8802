"""`Client`: texts and images, what fails, and what becomes of a request that is left."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client as NatsClient

from aichats_client import (
    Client,
    ClientError,
    CutOff,
    DeadlineExceededError,
    Gap,
    InvalidRequestError,
    NoBroker,
    NoWorker,
    ProviderUnavailableError,
    RateLimitedError,
    ServiceError,
    Stalled,
    TooLargeError,
)
from aichats_client import client as client_module
from aichats_worker.app import App
from aichats_worker.simulator.answers import image as simulated_image
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.processes import NatsServer, free_port

WAIT_SECONDS = 60.0
LONG = "[sim: words=500 pause=0.05]"


@pytest.fixture
async def ai(nats_server: NatsServer) -> AsyncIterator[Client]:
    async with Client(nats_server.url, tenant="team-a") as client:
        yield client


async def stopped(simulator: Simulator) -> None:
    """Wait until the provider's connection is closed before the answer's end."""
    async with asyncio.timeout(WAIT_SECONDS):
        await (await simulator.received(1)).ended.wait()
    assert simulator.closed_early == 1


async def test_a_text_comes_piece_by_piece(ai: Client, worker: App) -> None:
    stream = ai.text("[sim: words=5 pause=0.05]")
    pieces = [piece async for piece in stream]
    assert "".join(pieces) == "".join(words(5))
    assert len(pieces) > 1
    assert stream.done is not None
    assert stream.done.finish_reason == "stop"


async def test_ask_returns_the_whole_text(ai: Client, worker: App) -> None:
    assert await ai.ask("[sim: words=5 pause=0]") == "".join(words(5))


async def test_messages_take_the_place_of_the_prompt(ai: Client, worker: App, simulator: Simulator) -> None:
    await ai.ask(messages=[{"role": "system", "content": "short"}, {"role": "user", "content": "[sim: words=1]"}])
    assert "short" in simulator.requests[-1].content
    assert "[sim: words=1]" in simulator.requests[-1].content


async def test_an_image_is_saved_under_a_name_that_says_what_it_is(ai: Client, worker: App, tmp_path: Path) -> None:
    image = await ai.image("[sim: bytes=1500000 type=png] a cat")
    path = image.save(tmp_path / "cat")
    assert path == tmp_path / "cat.png"
    assert path.read_bytes() == simulated_image("png", 1500000)


async def test_several_images_come_whole(
    ai: Client, start_worker: StartWorker, simulator: Simulator, tmp_path: Path
) -> None:
    await start_worker(worker_providers="aichats,openai", openai_base_url=f"{simulator.url}/v1")
    images = await ai.images("[sim: bytes=3000 type=png] a cat", n=2)
    assert [image.data for image in images] == [simulated_image("png", 3000)] * 2
    names = [image.save(tmp_path / f"cat-{number}").name for number, image in enumerate(images, 1)]
    assert names == ["cat-1.png", "cat-2.png"]


async def test_the_events_of_a_text_can_be_read_instead_of_its_pieces(ai: Client, worker: App) -> None:
    types = [event.type async for event in ai.text("[sim: delay=1 words=2]").events()]
    assert types[0] == "status"
    assert types[-1] == "done"


async def test_a_failure_is_the_exception_of_its_code(ai: Client, worker: App) -> None:
    with pytest.raises(RateLimitedError) as caught:
        await ai.ask("[sim: status=429 retry-after=7]")
    assert caught.value.retryable
    assert caught.value.retry_after == 7
    assert isinstance(caught.value, ServiceError)
    assert caught.value.request_id
    with pytest.raises(InvalidRequestError):
        await ai.ask(" ")


async def test_what_cannot_be_asked_is_found_before_anything_is_sent() -> None:
    ai = Client(f"nats://127.0.0.1:{free_port()}")
    with pytest.raises(ValueError, match="exactly one"):
        ai.text()
    with pytest.raises(ValueError, match="exactly one"):
        ai.text("hi", messages=[])
    with pytest.raises(TypeError, match="temprature"):
        ai.text("hi", temprature=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="above 0"):
        ai.text("hi", timeout=0)
    with pytest.raises(ValueError, match="tenant"):
        Client(tenant="a.b")
    with pytest.raises(ValueError, match="id is"):
        ai.job("a b")


async def test_a_request_that_no_message_can_hold_is_refused_and_the_connection_stays(ai: Client, worker: App) -> None:
    with pytest.raises(TooLargeError, match="max_payload"):
        await ai.ask("x" * 1_048_500)
    assert await ai.ask("[sim: words=1]") == "Hello"


async def test_without_a_worker_there_is_no_wait_and_a_hint(ai: Client) -> None:
    started = time.monotonic()
    with pytest.raises(NoWorker, match="aichats-worker run"):
        await ai.ask("hi")
    assert time.monotonic() - started < 5


async def test_without_a_broker_there_is_no_wait_and_no_secret() -> None:
    where = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(NoBroker, match=where) as caught:
        await Client(f"nats://us3r:s3cret@{where}").ask("hi")
    assert time.monotonic() - started < 4
    assert "s3cret" not in str(caught.value)


async def test_the_first_of_two_servers_may_be_down(worker: App, nats_server: NatsServer) -> None:
    async with Client([f"nats://127.0.0.1:{free_port()}", nats_server.url]) as ai:
        assert await ai.ask("[sim: words=1]") == "Hello"


async def test_the_timeout_is_kept_by_the_worker(ai: Client, worker: App, simulator: Simulator) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="phase"):
        await ai.ask("[sim: delay=30]", timeout=0.5)
    assert time.monotonic() - started < 4
    await stopped(simulator)


async def test_a_break_stops_the_request(ai: Client, worker: App, simulator: Simulator) -> None:
    async for _ in ai.text(LONG):
        break
    await stopped(simulator)


async def test_a_block_that_is_left_stops_the_request(ai: Client, worker: App, simulator: Simulator) -> None:
    async with ai.text(LONG) as stream:
        assert await anext(stream) == "Hello"
    await stopped(simulator)


async def test_a_task_that_is_cancelled_stops_its_request(ai: Client, worker: App, simulator: Simulator) -> None:
    asking = asyncio.create_task(ai.ask("[sim: delay=30]"))
    async with asyncio.timeout(WAIT_SECONDS):
        await simulator.received(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await stopped(simulator)


async def test_a_timeout_of_the_callers_own_stops_the_request(ai: Client, worker: App, simulator: Simulator) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await ai.ask("[sim: delay=30]")
    await stopped(simulator)


async def test_a_client_that_is_closed_stops_what_runs(
    worker: App, nats_server: NatsServer, simulator: Simulator
) -> None:
    async with Client(nats_server.url) as ai:
        stream = ai.text(LONG)
        await anext(stream)
    await stopped(simulator)
    await stream.aclose()


async def test_leaving_is_told_at_once_and_not_by_silence(
    start_worker: StartWorker, ai: Client, simulator: Simulator
) -> None:
    """The worker's own way, a keep-alive that nobody hears, is out of play here."""
    await start_worker(worker_keepalive_seconds=60)
    async with ai.text("[sim: delay=30 words=1]") as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(stream)
    await stopped(simulator)


async def test_a_connection_that_is_there_is_used_and_left_open(nc: NatsClient, worker: App) -> None:
    async with Client(nc) as ai:
        assert await ai.ask("[sim: words=1]") == "Hello"
    assert nc.is_connected


async def test_faststreams_broker_lends_its_connection(nats_server: NatsServer, worker: App) -> None:
    async with NatsBroker(nats_server.url) as broker:
        async with Client(broker) as ai:
            assert await ai.ask("[sim: words=1]") == "Hello"
        await broker.publish("still open", "somewhere")


async def test_a_client_without_a_block_connects_when_it_is_used(nats_server: NatsServer, worker: App) -> None:
    ai = Client(nats_server.url)
    assert await ai.ask("[sim: words=1]") == "Hello"
    await ai.close()


async def serve(nc: NatsClient, *payloads: bytes) -> None:
    """Answer requests with these messages, as a worker that has a defect would."""

    async def answer(message: object) -> None:
        for payload in payloads:
            await nc.publish(message.reply, payload)  # type: ignore[attr-defined]

    await nc.subscribe("ai.v1.req.text.team-a", cb=answer)
    for _ in range(2):  # nats-py sends the first one's PING before what is pending
        await nc.flush()


def response(seq: int) -> bytes:
    return b'{"type":"response","data":"x","id":"r","attempt":1,"seq":%d}' % seq


async def test_a_gap_is_an_error_and_no_short_answer(ai: Client, nc: NatsClient) -> None:
    await serve(nc, response(0), response(2))
    with pytest.raises(Gap):
        await ai.ask("hi")


async def test_a_cut_stream_is_an_error_and_no_short_answer(ai: Client, nc: NatsClient) -> None:
    await serve(nc, response(0), b"")
    with pytest.raises(CutOff):
        await ai.ask("hi")


async def test_silence_is_an_error_and_no_short_answer(
    ai: Client, nc: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STALL_SECONDS", 0.3)
    await serve(nc, response(0))
    with pytest.raises(Stalled, match=r"0\.3 s"):
        await ai.ask("hi")


async def test_a_code_of_tomorrow_is_a_service_error(ai: Client, nc: NatsClient) -> None:
    data = b'{"code":"too_hot","message":"wait","retryable":true,"retry_after_ms":1500}'
    await serve(nc, b'{"type":"error","id":"r","attempt":1,"seq":0,"data":%s}' % data, b"")
    with pytest.raises(ServiceError, match="too_hot: wait") as caught:
        await ai.ask("hi")
    assert (caught.value.code, caught.value.retry_after) == ("too_hot", 1.5)
    assert not isinstance(caught.value, ProviderUnavailableError)


async def test_a_script_asks_without_an_event_loop(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom aichats_client import sync\n"
        "print(sync.ask('[sim: words=1]', servers=sys.argv[1], tenant='t'))\n"
        "print(sync.image('[sim: bytes=900 type=gif]', servers=sys.argv[1]).save('it'))\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, nats_server.url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.stdout.splitlines() == ["Hello", "it.gif"], done.stderr
    assert (tmp_path / "it.gif").read_bytes() == simulated_image("gif", 900)


async def test_a_user_who_may_not_publish_is_told_so(nats_server: NatsServer, own_nats_server: object) -> None:
    config = 'server_name: test\nauthorization { users: [{user: u, password: p, permissions: {publish: ["x"]}}] }\n'
    server = own_nats_server(config)  # type: ignore[operator]
    async with Client(server.url.replace("//", "//u:p@")) as ai:
        with pytest.raises(ClientError, match="may not publish"):
            await ai.ask("hi", timeout=0.1)


async def test_nats_contexts_say_where_and_who(
    worker: App, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    (folder / "lab.json").write_text(json.dumps({"url": nats_server.url, "inbox_prefix": "_INBOX.lab"}))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    async with Client(context="lab") as ai:
        assert await ai.ask("[sim: words=1]") == "Hello"
        assert (await ai.connection()).new_inbox().startswith("_INBOX.lab.")


async def test_our_own_connection_listens_below_its_tenants_inbox(nats_server: NatsServer) -> None:
    async with Client(nats_server.url, tenant="team-a") as ai:
        assert (await ai.connection()).new_inbox().startswith("_INBOX.team-a.")
