"""Every answer that a provider can give instead of one, over real HTTP, for both providers."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme

from aichats_worker.errors import (
    BadResponse,
    Challenge,
    DeadlineExceeded,
    Interrupted,
    InvalidRequest,
    Misconfigured,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    TooLarge,
    WorkerError,
)
from aichats_worker.provider.decoding.lines import LINE_MAX_BYTES, STRAY_MAX_BYTES
from aichats_worker.provider.http.route import Timeouts
from aichats_worker.simulator.server import CUT, HOLD, Simulator, start_simulator
from tests.provider.asking import Asked, ask, collect, draw, make

KINDS = ("aichats", "openai")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def provider(kind: str, simulator: Simulator) -> AsyncIterator[Asked]:
    one = make(kind, simulator.url)
    yield one
    await one.close()


async def failing(provider: Asked, prompt: str = "hi") -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await collect(provider, ask(prompt))
    assert_tells_nothing(caught.value)
    return caught.value


def assert_tells_nothing(error: WorkerError) -> None:
    """No URL, no cookie, nothing of the body, no trace of what raised it."""
    assert not any(word in error.message for word in ("://", "secret", "127.0.0.1", "<", "Something went wrong"))
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("[sim: status=429]", RateLimited),
        ("[sim: status=400]", InvalidRequest),
        ("[sim: status=401]", Misconfigured),
        ("[sim: status=402]", QuotaExhausted),
        ("[sim: status=403]", Misconfigured),
        ("[sim: status=404]", Misconfigured),
        ("[sim: status=302]", Misconfigured),
        ("[sim: status=307]", Misconfigured),
        ("[sim: status=407]", ProviderUnavailable),
        ("[sim: status=408]", ProviderUnavailable),
        ("[sim: status=413]", TooLarge),
        ("[sim: status=418]", BadResponse),
        ("[sim: status=422]", InvalidRequest),
        ("[sim: status=425]", ProviderUnavailable),
        ("[sim: status=500]", ProviderUnavailable),
        ("[sim: status=502 answer=html]", ProviderUnavailable),
        ("[sim: status=503]", ProviderUnavailable),
        ("[sim: answer=challenge]", Challenge),
        ("[sim: answer=challenge status=403]", Challenge),
        ("[sim: answer=challenge status=503]", Challenge),
        ("[sim: answer=html]", BadResponse),
        ("[sim: answer=json-error]", ProviderUnavailable),
        ("[sim: answer=prose]", BadResponse),
        ("[sim: answer=empty]", BadResponse),
        ("[sim: cut-after=0]", ProviderUnavailable),
        ("[sim: cut-after=2 pause=0.02]", Interrupted),
        ("[sim: cut-after=2 pause=0.02 sized]", Interrupted),
    ],
)
async def test_what_is_no_answer_has_its_code(provider: Asked, prompt: str, error: type[WorkerError]) -> None:
    assert type(await failing(provider, prompt)) is error


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("[sim: status=429]", RateLimited),
        ("[sim: status=400]", InvalidRequest),
        ("[sim: status=503]", ProviderUnavailable),
        ("[sim: answer=challenge]", Challenge),
        ("[sim: answer=html]", BadResponse),
        ("[sim: answer=json-error]", ProviderUnavailable),
        ("[sim: answer=prose]", BadResponse),
        ("[sim: answer=empty]", BadResponse),
        ("[sim: source=none]", BadResponse),
    ],
)
async def test_what_is_no_image_has_its_code(provider: Asked, prompt: str, error: type[WorkerError]) -> None:
    with pytest.raises(WorkerError) as caught:
        await draw(provider, ask(prompt))
    assert_tells_nothing(caught.value)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("said", "low", "high"), [("2", 2000, 2000), ("date", 1, 30_000), ("body", 7000, 7000), ("nonsense", None, None)]
)
async def test_a_429_says_when_to_come_back(provider: Asked, said: str, low: int | None, high: int | None) -> None:
    error = await failing(provider, f"[sim: status=429 retry-after={said}]")
    if low is None or high is None:
        assert error.retry_after_ms is None
    else:
        assert error.retry_after_ms is not None
        assert low <= error.retry_after_ms <= high


async def test_a_503_may_say_when_to_come_back(provider: Asked) -> None:
    assert (await failing(provider, "[sim: status=503 retry-after=2]")).retry_after_ms == 2000


@pytest.mark.parametrize("wait", [b'{"retry_after": NaN}', b'{"retry_after": 1e400}', b'{"retry_after": true}', b"[["])
async def test_a_wait_that_is_none_is_not_believed(provider: Asked, simulator: Simulator, wait: bytes) -> None:
    simulator.script(wait, status=429)
    error = await failing(provider)
    assert error.retry_after_ms in (None, 24 * 3600 * 1000)


async def test_a_header_alone_can_say_that_it_is_a_challenge(provider: Asked, simulator: Simulator) -> None:
    simulator.script(b"no", status=403, headers={"cf-mitigated": "challenge"})
    assert type(await failing(provider)) is Challenge


async def test_no_tries_left_and_no_answer_is_quota_exhausted(simulator: Simulator) -> None:
    provider = make("aichats", simulator.url)
    assert type(await failing(provider, "[sim: answer=none tries=0]")) is QuotaExhausted
    assert type(await failing(provider, "[sim: answer=none tries=3]")) is BadResponse
    text, finish = await collect(provider, ask("[sim: words=1 tries=0]"))
    assert (text, finish.tries_left) == ("Hello", 0)
    await provider.close()


async def test_insufficient_quota_is_quota_exhausted(provider: Asked, simulator: Simulator) -> None:
    simulator.script(b'{"error":{"code":"insufficient_quota"}}', status=429)
    assert type(await failing(provider)) is QuotaExhausted


async def test_the_end_without_trylimit_is_an_end(simulator: Simulator) -> None:
    provider = make("aichats", simulator.url)
    for prompt in ("[sim: words=2 tries=none]", "[sim: words=2 tries=none sized]"):
        text, finish = await collect(provider, ask(prompt))
        assert (text, finish.tries_left) == ("Hello from", None)
    await provider.close()


async def test_the_end_without_a_finish_reason_is_a_cut(simulator: Simulator) -> None:
    provider = make("openai", simulator.url)
    assert type(await failing(provider, "[sim: words=2 tries=none]")) is Interrupted
    await provider.close()


async def test_prose_after_the_beginning_of_an_answer_is_a_cut(simulator: Simulator) -> None:
    provider = make("aichats", simulator.url)
    simulator.script(b"data: Hi\n\nAn internal server error occurred.")
    assert type(await failing(provider)) is Interrupted
    await provider.close()


async def test_an_error_in_the_stream_is_no_text(simulator: Simulator) -> None:
    provider = make("openai", simulator.url)
    error = b'data: {"error":{"message":"Something went wrong"}}\n\n'
    simulator.script(error)
    assert type(await failing(provider)) is BadResponse
    simulator.script(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n', 0.01, error)
    assert type(await failing(provider)) is Interrupted
    await provider.close()


async def test_a_body_cut_after_its_headers_and_before_its_first_delta_is_unavailable(
    provider: Asked, simulator: Simulator
) -> None:
    simulator.script(b": hello\n", 0.02, CUT)
    assert type(await failing(provider)) is ProviderUnavailable


async def test_a_half_line_at_a_cut_is_no_text(simulator: Simulator) -> None:
    provider = make("aichats", simulator.url)
    simulator.script(b"data: Hello\ndata: wor", 0.02, CUT)
    items = provider.text(ask("hi"))
    seen = [await anext(items)]
    with pytest.raises(Interrupted):
        await anext(items)
    assert seen == ["Hello"]
    await provider.close()


async def test_a_line_without_end_is_refused(provider: Asked, simulator: Simulator) -> None:
    simulator.script(*[b"data: " + b"x" * 65536] * (LINE_MAX_BYTES // 65536 + 1))
    assert type(await failing(provider)) is BadResponse


async def test_prose_without_end_is_refused(provider: Asked, simulator: Simulator) -> None:
    simulator.script(*[b"prose\n" * 1000] * (STRAY_MAX_BYTES // 6000 + 2), HOLD)
    assert type(await failing(provider)) is BadResponse


async def test_the_phases_of_the_deadline_have_their_names(kind: str, simulator: Simulator) -> None:
    slow = make(kind, simulator.url, timeouts=Timeouts(first_byte=0.05))
    simulator.script(HOLD)
    error = await failing(slow)
    assert isinstance(error, DeadlineExceeded)
    assert error.phase == "first_byte"
    await simulator.requests[0].ended.wait()
    assert simulator.requests[0].closed_early

    quiet = make(kind, simulator.url, timeouts=Timeouts(stall=0.05))
    error = await failing(quiet, "[sim: stall-after=1]")
    assert isinstance(error, DeadlineExceeded)
    assert error.phase == "stall"
    await simulator.requests[1].ended.wait()
    assert simulator.requests[1].closed_early
    await slow.close()
    await quiet.close()


async def test_a_server_that_does_not_accept_in_time_is_a_connect_deadline(kind: str) -> None:
    def never(_: Any, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)  # TLS never begins

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(never, "127.0.0.1", 0)
    provider = make(kind, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeouts=Timeouts(connect=0.1))
    error = await failing(provider)
    assert isinstance(error, DeadlineExceeded)
    assert error.phase == "connect"
    await provider.close()
    server.close()
    for writer in writers:
        writer.close()


async def test_a_refused_connection_is_unavailable(kind: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take the port
        provider = make(kind, f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert type(await failing(provider)) is ProviderUnavailable
        await provider.close()


async def test_a_name_that_does_not_resolve_is_unavailable(kind: str) -> None:
    provider = make(kind, "http://nowhere.invalid")
    error = await failing(provider)
    assert type(error) is ProviderUnavailable
    assert "DNS" in error.message
    await provider.close()


async def test_tls_works_with_a_certificate_that_is_trusted_and_fails_with_another(kind: str) -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with await start_simulator(tls=serving) as simulator:
        provider = make(kind, simulator.url, tls=trusting)
        assert (await collect(provider, ask("[sim: words=1]")))[0] == "Hello"
        await provider.close()
        stranger = make(kind, simulator.url)
        error = await failing(stranger)
        assert type(error) is ProviderUnavailable
        assert "TLS" in error.message
        await stranger.close()


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00\xff", b""])
async def test_a_server_that_does_not_speak_http_is_told_as_such(kind: str, garbage: bytes) -> None:
    def reply(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    provider = make(kind, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert type(await failing(provider)) in (BadResponse, ProviderUnavailable)
    await provider.close()
    server.close()


async def test_a_closed_provider_opens_again_when_it_is_asked(kind: str, simulator: Simulator) -> None:
    provider = make(kind, simulator.url)
    await provider.close()
    assert (await collect(provider, ask("[sim: words=1]")))[0] == "Hello"
    await provider.close()
