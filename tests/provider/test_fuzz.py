"""Whatever bytes come, cut however: the right text or one typed error, never a hang, never text that was not sent."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aichats_worker.errors import WorkerError
from aichats_worker.provider import Finish, Picture, Provider
from aichats_worker.provider.aichats.dialect import AiChatsDecoder
from aichats_worker.provider.deltas import Decoder
from aichats_worker.provider.http.route import Timeouts
from aichats_worker.provider.openai.dialect import OpenAIDecoder
from aichats_worker.simulator.answers import CUT, HOLD, Part
from aichats_worker.simulator.server import Simulator
from tests.provider.asking import ask, draw, make

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(1800)]

DECODERS: dict[str, Callable[[], Decoder]] = {"aichats": AiChatsDecoder, "openai": OpenAIDecoder}
CHUNK = b'data: {"choices":[{"delta":{"content":"Hi \\u00fc"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
IMAGES = (b'{"data":[{"url":"data:image/gif;base64,R0lGODlh"}]}', b'{"data":[{"b64_json":"R0lGODlh"}]}')
FRAGMENTS = st.sampled_from([
    b"data: Hel\n\n", b"data: lo,\r\n", b"data:  world", b"data: \\n\n", b"data: ", b"data:", b"event: trylimit\n",
    b"data: 29\n", b"event: botmodel\ndata: gpt\n", b"\n", b"\r\n", b"\\n", b": ping\n", b"\xc3", b"\xa9",
    b"\xef\xbb\xbf", b"<html>captcha", b"{", b'{"error":1}', b"[DONE]\n", b"data: [DONE]\n\n", CHUNK, LAST, CHUNK[:30],
    CHUNK[30:], b'data: {"error":{}}\n', b"An internal server error occurred.", *IMAGES,
])  # fmt: skip
HTTP = st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 ", b"99999 X\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"\r\n",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"data: Hi\n", b"\x00", b"zz\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"Set-Cookie: a=\xff\r\n", b"X: " + b"y" * 9000, b"\x1f\x8b\x08",
])  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A provider of one kind, and what it sends."""

    kind: str
    parts: list[bytes]
    end: str
    sized: bool
    status: int

    def play(self, simulator: Simulator) -> str:
        """Prepare the answer, and return the prompt that gets it: under load, an earlier case's request may be late."""
        prompt = f"case {next(NUMBERS)}"
        length = sum(map(len, self.parts)) + (self.end != "clean")
        faults: dict[str, list[Part]] = {"clean": [], "cut": [CUT], "hold": [HOLD]}
        script: list[Part] = [part for part in self.parts if part]
        simulator.script(
            *script,
            *faults[self.end],
            status=self.status,
            headers={"Content-Length": str(length)} if self.sized else {},
            prompt=prompt,
        )
        return prompt

    def sent(self) -> str:
        """What the whole body says when it comes in one piece."""
        decoder = DECODERS[self.kind]()
        text = decoder.feed(b"".join(self.parts))
        return text + decoder.finish() if self.end == "clean" and not decoder.ended else text


NUMBERS = itertools.count()
KINDS = st.sampled_from(sorted(DECODERS))
CASES = st.builds(
    Case,
    kind=KINDS,
    parts=st.lists(FRAGMENTS | st.binary(max_size=12), max_size=12),
    end=st.sampled_from(["clean"] * 6 + ["cut"] * 4 + ["hold"]),
    sized=st.booleans(),
    status=st.sampled_from([200] * 10 + [204, 302, 403, 429, 500, 503]),
)
QUICK = Timeouts(connect=10, first_byte=0.03, stall=0.03, image=0.03)


@pytest.fixture
async def providers(simulator: Simulator) -> AsyncIterator[dict[str, Provider]]:
    made: dict[str, Provider] = {kind: make(kind, simulator.url, timeouts=QUICK) for kind in DECODERS}
    yield made
    for provider in made.values():
        await provider.close()


async def outcome(provider: Provider, prompt: str = "hi") -> tuple[list[str], Finish | None, str | None]:
    """The pieces, how they ended, and the code of the error; never both of those."""
    pieces: list[str | Finish] = []
    code = None
    try:
        async with asyncio.timeout(20):
            async for item in provider.text(ask(prompt)):
                pieces.append(item)  # noqa: PERF401 - what came before an error counts as well
    except WorkerError as error:
        code = error.code
    finish = pieces.pop() if pieces and isinstance(pieces[-1], Finish) else None
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert isinstance(finish, Finish | None)
    return [str(piece) for piece in pieces], finish, code


@given(case=CASES)
async def test_any_bytes_give_text_that_was_sent_or_a_typed_error(
    providers: dict[str, Provider], simulator: Simulator, case: Case
) -> None:
    prompt = case.play(simulator)
    pieces, finish, code = await outcome(providers[case.kind], prompt)
    assert (finish is None) != (code is None)
    assert code != "internal"
    assert case.sent().startswith("".join(pieces))
    if finish is not None:
        assert pieces
        assert case.end != "clean" or case.sent() == "".join(pieces)


@given(case=CASES)
async def test_any_bytes_give_an_image_or_a_typed_error(
    providers: dict[str, Provider], simulator: Simulator, case: Case
) -> None:
    prompt = case.play(simulator)
    picture = code = None
    try:
        async with asyncio.timeout(20):
            picture = await draw(providers[case.kind], ask(prompt))
    except WorkerError as error:
        code = error.code
    assert code != "internal"
    assert code is not None or (isinstance(picture, Picture) and picture.mime == "image/gif")


@given(kind=KINDS, answer=st.lists(HTTP | st.binary(max_size=8), max_size=8))
async def test_any_bytes_in_the_place_of_http_give_text_or_a_typed_error(
    wire: "Wire", kind: str, answer: list[bytes]
) -> None:
    wire.answer = b"".join(answer)
    provider = make(kind, wire.url, timeouts=QUICK)
    pieces, finish, code = await outcome(provider)
    await provider.close()
    assert (finish is None) != (code is None)
    assert code != "internal"
    assert bool(pieces) or finish is None


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
