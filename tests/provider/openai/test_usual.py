"""What is taken apart in one go says what reading each chunk by itself says."""

import itertools

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aichats_worker.provider.openai.dialect import OpenAIDecoder
from aichats_worker.provider.openai.usual import LEARNED_MAX, Alike

AROUND = (
    (b'{"id":"1","choices":[{"index":0,"delta":{"content":', b'},"finish_reason":null}]}'),
    (b'{"choices": [{"delta": {"content": ', b'}}], "usage": null}'),
    (b'{"content":"not this","choices":[{"delta":{"content":', b"}}]}"),
    (b'{"content":', b',"choices":[{"delta":{"content":"not this"}}]}'),
)
NO_STRINGS = (
    *(
        b'"a","b',
        b'c"',
        b'"a","finish_reason":"stop","x":"b"',
        b'"a"\n',
        b'\n"a"',
        b'"a"\n\ndata: ',
        b'"a\nb"',
        b"1",
        b"null",
    ),
    *(
        b'["x"]',
        b'"\xff"',
        b' "a" ',
        b"",
        b'""',
        b'"\\ud83d"',
        b'"\\ude00"',
        b'"\\u00e9"',
        b'"a"},"finish_reason":"stop"}]}\n\n',
    ),
)
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def line(around: tuple[bytes, bytes], quoted: bytes) -> bytes:
    return b"data: " + around[0] + quoted + around[1] + b"\n\n"


def said(decoder: OpenAIDecoder, reads: list[bytes]) -> list[object]:
    """All that a decoder says, after each read and at the end."""
    found: list[object] = []
    for read in [*reads, None]:
        found += [decoder.finish() if read is None else decoder.feed(read)]
        found += [decoder.ended, decoder.complete, decoder.broke_off, decoder.silent, decoder.failure]
        found += [bytes(decoder.stray), decoder.thoughts, decoder.usage, decoder.end(), repr(decoder.nothing())]
    return found


FIRST = (line(AROUND[0], b'"Hi"'), line(AROUND[2], b'"not this"'))
# A key that is there twice: the second counts, and a text that is called as the key is no text.
TWICE = [
    b'data: {"choices":[{"delta":{"content":"delta."},"%b":{"content":"delta"}}]}\n\n' % key
    for key in (b"delta", b"foo", b"finish_reason")
]
texts = st.text(st.characters(exclude_categories=["Cs"])).map(orjson.dumps)
lines = st.one_of(
    st.builds(line, st.sampled_from([*AROUND[:1] * 4, *AROUND]), st.one_of(texts, texts, st.sampled_from(NO_STRINGS))),
    st.sampled_from(TWICE),
)
# Where a read ends: before so many chunks, and so many bytes off.
places = st.tuples(st.integers(0, 20), st.sampled_from([0, 0, 0, -1, 1, 2, 40]))


@example(FIRST[0], [line(AROUND[0], b'"a","b'), line(AROUND[0], b'c"')], [], True)
@example(FIRST[0], [line(AROUND[0], b'"a","b"'), line(AROUND[0], b'"c"')], [], True)
@example(FIRST[0], [line(AROUND[0], b"1")], [], False)
@example(FIRST[0], [b"data: " + AROUND[0][0] + b'"a"\n'], [], False)
@example(FIRST[1], [line(AROUND[3], b'"Hi"')], [], True)
@example(FIRST[0], TWICE[:2], [(1, 0)], True)
@example(FIRST[0], TWICE[::2], [(1, 0)], True)
@given(st.sampled_from(FIRST), st.lists(lines), st.lists(places), st.booleans())
def test_whatever_comes_it_says_the_same(
    first: bytes, chunks: list[bytes], cuts: list[tuple[int, int]], ends: bool
) -> None:
    whole = b"".join(chunks) + END * ends
    at = {len(b"".join(chunks[:count])) + off for count, off in cuts}
    between = sorted({0, len(whole), *(cut for cut in at if 0 < cut < len(whole))})
    reads = [first] * 2 + [whole[start:stop] for start, stop in itertools.pairwise(between)]
    one_by_one = OpenAIDecoder()
    one_by_one._alike._left = 0
    assert said(OpenAIDecoder(), reads) == said(one_by_one, reads)


@pytest.mark.parametrize("around", AROUND[:2], ids=["usual", "with spaces"])
def test_chunks_like_one_before_are_taken_at_once(around: tuple[bytes, bytes]) -> None:
    alike = Alike()
    chunk = around[0] + b'"Hi"' + around[1]
    assert alike.take(line(around, b'"Hi"')) == ("", line(around, b'"Hi"')), "nothing is learned yet"
    alike.learn(chunk, "Hi")
    both = line(around, b'"Hel"') + line(around, b'"lo \\u00e9"')
    assert alike.take(both) == ("Hello \u00e9", b"")
    assert alike.take(both + END) == ("Hello \u00e9", END)
    assert alike.take(END) == ("", END)


def test_what_is_new_in_every_chunk_is_not_learned_for_ever() -> None:
    alike = Alike()
    for number in range(100):
        alike.learn(b'{"n":%d,"choices":[{"delta":{"content":"Hi"}}]}' % number, "Hi")
    last = b'{"n":%d,"choices":[{"delta":{"content":'
    assert alike.take(line((last % (LEARNED_MAX - 1), b"}}]}"), b'"Hi"')) == ("Hi", b"")
    assert alike.take(line((last % 99, b"}}]}"), b'"Hi"'))[0] == ""
