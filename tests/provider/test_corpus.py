"""What servers of many families send: over HTTP as the provider reads it, and at every cut of the bytes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from aichats_worker.errors import WorkerError
from aichats_worker.provider import Finish, Picture, Reasoning
from tests.provider.asking import ask, make
from tests.provider.recorded import DECODERS, Recorded, decoded, everything, families
from tests.provider.wire import CLOSE, Wire, wire

ALL = everything()
STREAMS = [recorded for recorded in ALL if recorded.kind == "text" and recorded.status == 200]


@dataclass
class Came:
    """What a provider made of an answer."""

    text: str = ""
    reasoning: str = ""
    images: list[str] = field(default_factory=list)
    finish: Finish | None = None
    error: WorkerError | None = None


@pytest.fixture
async def server() -> AsyncIterator[Wire]:
    async with wire(lambda _: []) as running:
        yield running


async def replay(recorded: Recorded, server: Wire, *, chunked: bool, size: int) -> Came:
    """Ask a server that answers so, in writes of `size` bytes; 0 for one."""
    answer = recorded.http(chunked=chunked)
    step = size or len(answer)
    pieces = [answer[at : at + step] for at in range(0, len(answer), step)]
    server.answer = lambda _: [*(part for piece in pieces for part in (piece, 0)), CLOSE]
    provider = make(recorded.dialect, server.url)
    came = Came()
    question = replace(ask("hi"), options={"reasoning": True} if recorded.dialect == "openai" else {})
    try:
        async for item in provider.images(ask("hi")) if recorded.kind == "image" else provider.text(question):
            match item:
                case Finish():
                    came.finish = item
                case Picture():
                    came.images.append(item.mime)
                case Reasoning():
                    came.reasoning += item
                case _:
                    came.text += item
    except WorkerError as error:
        came.error = error
    await provider.close()
    return came


@pytest.mark.parametrize("size", [0, 1, 7], ids=lambda size: f"writes of {size or 'all'}")
@pytest.mark.parametrize("recorded", ALL, ids=str)
async def test_an_answer_is_understood_or_told_as_what_it_is(recorded: Recorded, server: Wire, size: int) -> None:
    came = await replay(recorded, server, chunked=size != 7, size=size)
    if recorded.errors:
        assert came.finish is None
        assert came.error is not None, f"{came.text!r} instead of an error"
        assert came.error.code.value in recorded.errors
        assert recorded.retry_after_ms in (None, came.error.retry_after_ms)
    else:
        assert came.error is None
        assert came.finish is not None
        assert came.images == list(recorded.images)
    assert (came.text, came.reasoning) == (recorded.text, recorded.reasoning)
    assert came.finish is None or check_finish(came.finish, recorded) == []


def check_finish(finish: Finish, recorded: Recorded) -> list[str]:
    wrong = []
    if recorded.finish not in (None, finish.finish_reason):
        wrong.append(f"finish reason {finish.finish_reason}")
    if recorded.tries_left != finish.tries_left:
        wrong.append(f"tries left {finish.tries_left}")
    used = (finish.usage.input_tokens, finish.usage.output_tokens) if finish.usage else None
    if recorded.usage is not None and recorded.usage != used:
        wrong.append(f"usage {used}")
    return wrong


@pytest.mark.parametrize("recorded", STREAMS, ids=str)
def test_no_cut_of_the_bytes_changes_what_is_understood(recorded: Recorded) -> None:
    body = recorded.body
    whole = decoded(recorded.dialect, [body])
    for cut in range(1, len(body)):
        assert decoded(recorded.dialect, [body[:cut], body[cut:]]) == whole, f"cut after {body[:cut][-40:]!r}"
    assert decoded(recorded.dialect, [body[at : at + 1] for at in range(len(body))]) == whole


@pytest.mark.parametrize("recorded", STREAMS, ids=str)
def test_what_has_arrived_is_never_more_than_was_sent(recorded: Recorded) -> None:
    for cut in range(len(recorded.body)):
        text = DECODERS[recorded.dialect]().feed(recorded.body[:cut])
        assert recorded.text.startswith(text), f"cut after {recorded.body[:cut][-40:]!r}"


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(families()) >= 20
    assert len(ALL) >= 150
    assert {code for recorded in ALL for code in recorded.errors} >= {
        "bad_response", "challenge", "content_filtered", "interrupted", "invalid_request", "misconfigured",
        "provider_unavailable", "quota_exhausted", "rate_limited", "too_large",
    }  # fmt: skip
