"""Whatever bytes come, cut however: the right text or one typed error, never a hang, never text that was not sent."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aichats_worker.errors import WorkerError
from aichats_worker.provider import Finish, Picture, Reasoning
from aichats_worker.provider.aichats.dialect import AiChatsDecoder
from aichats_worker.provider.deltas import Decoder
from aichats_worker.provider.http.route import Timeouts
from aichats_worker.provider.openai.dialect import OpenAIDecoder
from aichats_worker.simulator.answers import CUT, HOLD, Part
from aichats_worker.simulator.server import Simulator
from tests.provider.asking import Asked, ask, items, make
from tests.provider.mutations import answers_of
from tests.provider.recorded import decoded
from tests.provider.wire import CLOSE, Wire, wire

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
    """What a provider sends."""

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

    def sent(self, kind: str) -> str:
        """What the whole body says in that dialect when it comes in one piece."""
        decoder = DECODERS[kind]()
        text = decoder.feed(b"".join(self.parts))
        return text + decoder.finish() if self.end == "clean" and not decoder.ended else text


NUMBERS = itertools.count()
# The long run gives each dialect all its examples; the usual one shares them out, for its time.
LONG = hypothesis_settings().max_examples > 1000
each_dialect = hypothesis_settings(max_examples=hypothesis_settings().max_examples // (1 if LONG else len(DECODERS)))
CASES = st.builds(
    Case,
    parts=st.lists(FRAGMENTS | st.binary(max_size=12), max_size=12),
    end=st.sampled_from(["clean"] * 6 + ["cut"] * 4 + ["hold"]),
    sized=st.booleans(),
    status=st.sampled_from([200] * 10 + [204, 302, 403, 429, 500, 503]),
)
QUICK = Timeouts(connect=10, first_byte=0.03, stall=0.03, image=0.03)


@pytest.fixture
async def providers(simulator: Simulator) -> AsyncIterator[dict[str, Asked]]:
    made: dict[str, Asked] = {kind: make(kind, simulator.url, timeouts=QUICK) for kind in DECODERS}
    yield made
    for provider in made.values():
        await provider.close()


@dataclass
class Came:
    """What came of a call."""

    pieces: list[str]
    pictures: list[Picture]
    finish: Finish | None = None
    error: WorkerError | None = None

    @property
    def text(self) -> str:
        return "".join(piece for piece in self.pieces if not isinstance(piece, Reasoning))

    def check(self) -> None:
        """It ended in exactly one way, and all of it can be told to a requester."""
        assert (self.finish is None) != (self.error is None)
        assert all(self.pieces), "an empty piece"
        orjson.dumps(list(map(str, self.pieces)))  # half a surrogate pair would be no JSON
        if self.error is not None:
            assert self.error.code != "internal"
            assert len(self.error.message) < 1000
            assert self.error.retry_after_ms is None or 0 <= self.error.retry_after_ms <= 24 * 3600 * 1000
        if self.finish is not None:
            assert self.finish.finish_reason in ("stop", "length", "content_filter")
            assert self.pieces or self.pictures or self.finish.finish_reason == "length"
            used = self.finish.usage
            assert used is None or 0 <= used.input_tokens + used.output_tokens < 2**53


async def call(provider: Asked, prompt: str = "hi", kind: str = "text") -> Came:
    """Ask, and write down what comes. An error that is no WorkerError fails the test."""
    came = Came([], [])
    options = {"reasoning": True} if provider.offers["text"]["gpt-4"][0] else {}
    question = ask(prompt) if kind == "image" else ask(prompt, options=options)
    try:
        async with asyncio.timeout(20):
            async for item in items(provider, question, kind):
                assert came.finish is None, "the finish is the last"
                if isinstance(item, Finish):
                    came.finish = item
                elif isinstance(item, Picture):
                    came.pictures.append(item)
                else:
                    came.pieces.append(item)
    except WorkerError as error:
        came.error = error
    came.check()
    return came


@pytest.mark.parametrize("kind", DECODERS)
@each_dialect
@given(case=CASES)
async def test_any_bytes_give_text_that_was_sent_or_a_typed_error(
    providers: dict[str, Asked], simulator: Simulator, kind: str, case: Case
) -> None:
    came = await call(providers[kind], case.play(simulator))
    assert case.sent(kind).startswith(came.text)
    if came.finish is not None and case.end == "clean":
        assert case.sent(kind) == came.text


@pytest.mark.parametrize("kind", DECODERS)
@each_dialect
@given(case=CASES)
async def test_any_bytes_give_an_image_or_a_typed_error(
    providers: dict[str, Asked], simulator: Simulator, kind: str, case: Case
) -> None:
    came = await call(providers[kind], case.play(simulator), "image")
    assert {picture.mime for picture in came.pictures} <= {"image/gif"}


@pytest.mark.parametrize("kind", DECODERS)
@each_dialect
@given(answer=st.lists(HTTP | st.binary(max_size=8), max_size=8))
async def test_any_bytes_in_the_place_of_http_give_text_or_a_typed_error(
    server: Wire, kind: str, answer: list[bytes]
) -> None:
    server.answer = lambda _: [b"".join(answer), CLOSE]
    provider = make(kind, server.url, timeouts=QUICK)
    await call(provider)
    await provider.close()


@pytest.mark.parametrize("kind", DECODERS)
@each_dialect
@given(data=st.data(), chunked=st.booleans())
async def test_a_real_answer_that_was_spoiled_gives_what_is_left_or_a_typed_error(
    server: Wire, kind: str, data: st.DataObject, *, chunked: bool
) -> None:
    spoiled = data.draw(answers_of(kind))
    pieces = spoiled.pieces(spoiled.recorded.http(chunked=chunked))
    server.answer = lambda _: [*(part for piece in pieces for part in (piece, 0)), CLOSE]
    provider = make(spoiled.recorded.dialect, server.url, timeouts=QUICK)
    await call(provider, kind=spoiled.recorded.kind)
    await provider.close()


@pytest.mark.parametrize("kind", DECODERS)
@each_dialect
@given(data=st.data())
def test_no_cut_changes_what_is_understood_of_a_spoiled_answer(kind: str, data: st.DataObject) -> None:
    spoiled = data.draw(answers_of(kind))
    body = spoiled.recorded.body
    assert decoded(kind, spoiled.pieces(body)) == decoded(kind, [body])


@pytest.fixture
async def server() -> AsyncIterator[Wire]:
    async with wire(lambda _: []) as running:
        yield running
