"""A server that never ends: what a decoder keeps of it has a bound, whatever it sends."""

import tracemalloc

import pytest

from aichats_worker.provider.decoding.lines import LINE_MAX_BYTES, STRAY_MAX_BYTES, LineTooLong
from tests.provider.recorded import DECODERS

PIECE_BYTES = 64 * 1024
# What adds nothing leaves nothing: by an eighth of this at the latest, only the limit of what is strange is kept.
ADDS_NOTHING_BYTES = 8 * STRAY_MAX_BYTES
ADDS_NOTHING_KEPT_MAX_BYTES = 3 * STRAY_MAX_BYTES
# What waits for its end is given up when it is longer than any line may be.
UNENDED_BYTES = LINE_MAX_BYTES + 2 * 1024 * 1024

ADDS_NOTHING = {
    "comments": b": ping\n\n",
    "empty data": b"data:\n\n",
    "events without data": b"event: ping\n\n",
    "prose": b"Lorem ipsum\n",
    "blank lines": b"\n",
    "carriage returns": b"\r",
    "chunks without text": b'data: {"choices":[{"index":0,"delta":{}}]}\n\n',
    "half characters": b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',
    "second choices": b'data: {"choices":[{"index":1,"delta":{"content":"x"}}]}\n\n',
    "objects that are not closed": b"data: {\n\n",
    "tries": b"event: trylimit\n\n",
}
UNENDED = {
    "nothing but x, aichats": ("aichats", b"", b"x"),
    "a line, aichats": ("aichats", b"data: ", b"x"),
    "nothing but x": ("openai", b"", b"x"),
    "a line": ("openai", b"data: ", b"x"),
    "an object on many lines": ("openai", b"{\n", b'"a":1,\n'),
    "an event of many lines": ("openai", b"data: {\n", b"data: xy\n"),
    "an event of many objects": ("openai", b"data: {\n", b"data: {\n"),
}


@pytest.mark.parametrize("dialect", DECODERS)
@pytest.mark.parametrize("again", ADDS_NOTHING.values(), ids=ADDS_NOTHING)
def test_what_adds_nothing_leaves_nothing(again: bytes, dialect: str) -> None:
    assert kept(dialect, again) < ADDS_NOTHING_KEPT_MAX_BYTES


@pytest.mark.parametrize(("dialect", "head", "again"), UNENDED.values(), ids=UNENDED)
def test_what_waits_for_its_end_is_given_up(dialect: str, head: bytes, again: bytes) -> None:
    decoder = DECODERS[dialect]()
    decoder.feed(head)
    piece = again * (PIECE_BYTES // len(again))
    with pytest.raises(LineTooLong):  # noqa: PT012 - which piece is too much does not matter
        for _ in range(UNENDED_BYTES // len(piece)):
            decoder.feed(piece)


def kept(dialect: str, again: bytes) -> int:
    """How much memory is held after so many bytes, or when the decoder has had enough of them."""
    decoder = DECODERS[dialect]()
    piece = again * (PIECE_BYTES // len(again))
    tracemalloc.start()
    for _ in range(ADDS_NOTHING_BYTES // len(piece)):
        if not decoder.ended:
            decoder.feed(piece)
            decoder.thoughts = ""
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held
