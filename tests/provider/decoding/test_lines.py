import pytest
from hypothesis import given
from hypothesis import strategies as st

from aichats_worker.provider.decoding.lines import Lines
from aichats_worker.provider.decoding.lines import lines_of as taken_apart


def lines_of(body: bytes, cuts: list[int]) -> list[bytes]:
    lines, read, start = Lines(), list[bytes](), 0
    for end in [*sorted(min(at, len(body)) for at in cuts), len(body)]:
        read += taken_apart(lines.whole(body[start:end]))
        start = end
    return [*read, lines.rest()]


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"", [b""]),
        (b"a", [b"a"]),
        (b"a\nb\n", [b"a", b"b", b""]),
        (b"a\r\nb\r\n", [b"a", b"b", b""]),
        (b"a\rb\r", [b"a", b"b", b""]),
        (b"a\n\r\n\rb", [b"a", b"", b"", b"b"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", [b"a", b"\xef\xbb\xbfb"]),
        (b"\xef\xbba\n", [b"\xef\xbba", b""]),
        (b"\xef\xbb\xbf", [b""]),
    ],
)
def test_lines_end_as_the_standard_says_wherever_they_are_cut(body: bytes, lines: list[bytes]) -> None:
    assert lines_of(body, []) == lines
    assert all(lines_of(body, [at, at + 1]) == lines for at in range(len(body)))


@pytest.mark.fuzz
@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\xef", b"\xbb", b"\xbf", b"a"])), st.lists(st.integers(0, 60))
)
def test_any_cuts_give_the_same_lines(parts: list[bytes], cuts: list[int]) -> None:
    body = b"".join(parts)
    assert lines_of(body, cuts) == lines_of(body, [])
