"""Whatever bytes come, cut however: the right text or one typed error, never a hang, never text that was not sent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asking import ask, make
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import WorkerError
from worker.provider import Finish, Picture, Provider
from worker.provider.dialect import AiChatsDecoder
from worker.provider.lines import LineTooLong
from worker.provider.openai import OpenAIDecoder
from worker.provider.streams import Decoder
from worker.provider.upstream import Timeouts
from worker.simulator import CUT, HOLD, Simulator

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(1800)]

DECODERS: dict[str, Callable[[], Decoder]] = {"aichats": AiChatsDecoder, "openai": OpenAIDecoder}
CHUNK = b'data: {"choices":[{"delta":{"content":"Hi \\u00fc"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
FRAGMENTS = st.sampled_from([
    b"data: Hel\n\n", b"data: lo,\r\n", b"data:  world", b"data: \\n\n", b"data: ", b"data:", b"event: trylimit\n", b"data: 29\n",
    b"event: botmodel\ndata: gpt\n", b"\n", b"\r\n", b"\\n", b": ping\n", b"\xc3", b"\xa9", b"\xef\xbb\xbf", b"<html>captcha", b"{",
    b'{"error":1}', b'{"data":[{"url":"data:image/gif;base64,R0lGODlh"}]}', b'{"data":[{"b64_json":"R0lGODlh"}]}', b"[DONE]\n",
    b"data: [DONE]\n\n", CHUNK, LAST, CHUNK[:30], CHUNK[30:], b'data: {"error":{}}\n', b"An internal server error occurred.",
])  # fmt: skip
BODIES = st.lists(FRAGMENTS | st.binary(max_size=12), max_size=12)
ENDS = st.sampled_from(["clean", "clean", "clean", "cut", "cut", "hold"])
STATUSES = st.sampled_from([200] * 8 + [204, 302, 403, 429, 500, 503])


@pytest.fixture(params=["aichats", "openai"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def provider(kind: str, simulator: Simulator) -> AsyncIterator[Provider]:
    one = make(kind, simulator.url, timeouts=Timeouts(connect=10, first_byte=0.05, stall=0.05))
    yield one
    await one.close()


def play(simulator: Simulator, parts: list[bytes], end: str, sized: bool, status: int) -> None:
    parts = [part for part in parts if part]
    headers = {"Content-Length": str(sum(map(len, parts)) + (end != "clean"))} if sized else {}
    script: list[Any] = [*parts, *({"cut": [CUT], "hold": [HOLD]}.get(end, []))]
    simulator.script(*script, status=status, headers=headers)


def reference(decoder: Decoder, body: bytes, *, finish: bool) -> str:
    """What the whole body says when it comes in one piece."""
    try:
        text = decoder.feed(body)
        return text + decoder.finish() if finish and not decoder.ended else text
    except LineTooLong:
        return ""


@given(parts=BODIES, end=ENDS, sized=st.booleans(), status=STATUSES)
async def test_any_bytes_give_text_that_was_sent_or_a_typed_error(
    kind: str, provider: Provider, simulator: Simulator, parts: list[bytes], end: str, sized: bool, status: int
) -> None:
    play(simulator, parts, end, sized, status)
    pieces: list[str] = []
    finish: Finish | None = None
    try:
        async with asyncio.timeout(20):
            async for item in provider.text(ask("hi")):
                assert finish is None
                if isinstance(item, Finish):
                    finish = item
                else:
                    pieces.append(item)
    except WorkerError as error:
        assert error.code != "internal"
        assert finish is None
    else:
        assert finish is not None
        assert pieces
    assert all(pieces)
    sent = reference(DECODERS[kind](), b"".join(parts), finish=end == "clean")
    assert sent.startswith("".join(pieces))
    if finish is not None and end == "clean":
        assert sent == "".join(pieces)


@given(parts=BODIES, end=ENDS, sized=st.booleans(), status=STATUSES)
async def test_any_bytes_give_an_image_or_a_typed_error(
    provider: Provider, simulator: Simulator, parts: list[bytes], end: str, sized: bool, status: int
) -> None:
    play(simulator, parts, end, sized, status)
    try:
        async with asyncio.timeout(20):
            picture = await provider.image(ask("hi"))
    except WorkerError as error:
        assert error.code != "internal"
    else:
        assert isinstance(picture, Picture)
        assert picture.mime == "image/gif"


HTTP = st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 ", b"99999 X\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"data: Hi\n", b"\x00", b"zz\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"Set-Cookie: a=\xff\r\n", b"X: " + b"y" * 9000, b"\x1f\x8b\x08",
])  # fmt: skip


@given(answer=st.lists(HTTP | st.binary(max_size=8), max_size=8))
async def test_any_bytes_in_the_place_of_http_give_text_or_a_typed_error(
    kind: str, wire: "Wire", answer: list[bytes]
) -> None:
    wire.answer = b"".join(answer)
    provider = make(kind, wire.url, timeouts=Timeouts(first_byte=0.05, stall=0.05))
    pieces = []
    try:
        async with asyncio.timeout(20):
            async for item in provider.text(ask("hi")):
                pieces.append(item)  # noqa: PERF401 - what came before an error counts as well
    except WorkerError as error:
        assert error.code != "internal"
    else:
        assert isinstance(pieces[-1], Finish)
    finally:
        await provider.close()


class Wire:
    """A server that answers each connection with the same bytes, and closes."""

    def __init__(self) -> None:
        self.answer = b""
        self.url = ""

    def __call__(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answer)
        writer.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    one = Wire()
    server = await asyncio.start_server(one, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield one
    server.close()
