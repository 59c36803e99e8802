import pytest
from hypothesis import given
from hypothesis import strategies as st

from aichats_worker.provider.aichats.dialect import AiChatsDecoder
from aichats_worker.provider.decoding.lines import LINE_MAX_BYTES, STRAY_MAX_BYTES, LineTooLong


def decode(body: bytes, *, cuts: list[int] | None = None) -> tuple[str, AiChatsDecoder]:
    decoder, text, start = AiChatsDecoder(), "", 0
    for end in [*sorted(cuts or []), len(body)]:
        text += decoder.feed(body[start:end])
        start = end
    return text + decoder.finish(), decoder


FIXTURE = b"data: Hel\ndata: lo,\ndata:  world\ndata: \\n\ndata: \nevent: trylimit\ndata: 29\n"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(FIXTURE, "Hello, world\n", id="the known fixture"),
        pytest.param(FIXTURE.replace(b"\n", b"\r\n"), "Hello, world\n", id="CRLF"),
        pytest.param(b"data:Hi\ndata:  there\n", "Hi there", id="no space after the colon"),
        pytest.param(b": ping\ndata: a\n:\n\ndata: b\n", "ab", id="comments"),
        pytest.param(b"data: a\ndata: b\n\ndata: c\n\n", "abc", id="several data lines in one event"),
        pytest.param(b"data: a\ndata: b", "ab", id="no final newline"),
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"event: botmodel\ndata: gpt-4o\n\ndata: Hi\n\n", "Hi", id="a sister site's model"),
        pytest.param(b"event: botmodel\ndata: gpt-4o\ndata: Hi\n", "Hi", id="the same without a blank line"),
        pytest.param(b"event: ping\n\ndata: Hi\n", "Hi", id="an event without data ends at the blank line"),
        pytest.param(b"event: message\ndata: Hi\n", "Hi", id="the default event by its name"),
        pytest.param(b"data: 42\n", "42", id="an answer of digits alone"),
        pytest.param(b"data: Hi\nAn internal server error occurred.", "Hi", id="prose is never answer text"),
        pytest.param(b"data: Hi\nevent: trylimit\n\ndata: 3\ndata: late\n", "Hi", id="nothing after the end"),
        pytest.param(b"\xef\xbb\xbfdata: Hi\n", "Hi", id="byte order mark"),
        pytest.param(b"data: C:\\\ndata: new\n", "C:\\new", id="a backslash and an n of two deltas"),
        pytest.param(b"id: 1\nretry: 5\ndata: Hi\n", "Hi", id="other fields"),
        pytest.param(b"data: \xc3\ndata: \xa9\n", "é", id="a character cut over two deltas"),
        pytest.param(b"data: \xff\n", "�", id="bytes that are no UTF-8"),
        pytest.param(b"<html>\ndata: no\n</html>\n", "", id="a web page that has a data line"),
    ],
)
def test_a_stream_gives_its_text_and_nothing_else(body: bytes, text: str) -> None:
    assert decode(body)[0] == text


def test_the_tries_left_are_read_and_are_no_text() -> None:
    text, decoder = decode(FIXTURE)
    assert (text, decoder.tries_left, decoder.ended) == ("Hello, world\n", 29, True)


def test_tries_that_are_no_number_are_unknown() -> None:
    text, decoder = decode(b"data: Hi\nevent: trylimit\ndata: many\n")
    assert (text, decoder.tries_left, decoder.ended) == ("Hi", None, True)


@pytest.mark.parametrize("body", [FIXTURE, FIXTURE.replace(b"\n", b"\r\n"), "data: Grüße 🎈\ndata: ü".encode()])
def test_every_single_cut_gives_the_same_text(body: bytes) -> None:
    whole = decode(body)[0]
    assert {decode(body, cuts=[at])[0] for at in range(len(body) + 1)} == {whole}


LINES = st.sampled_from(
    [b"data: ", b"data:", b"event: trylimit", b"event: x", b"\n", b"\r\n", b"\\n", b":", b"\xc3", b"\xa9", b"7"]
)


@pytest.mark.fuzz
@given(st.lists(LINES | st.binary(max_size=6)), st.lists(st.integers(0, 200), max_size=8))
def test_any_cut_of_any_bytes_gives_the_same_text(parts: list[bytes], cuts: list[int]) -> None:
    body = b"".join(parts)
    cut = [min(at, len(body)) for at in cuts]
    whole, one = decode(body)
    pieces, other = decode(body, cuts=cut)
    assert (pieces, other.tries_left, other.ended, other.broke_off, other.stray) == (
        whole,
        one.tries_left,
        one.ended,
        one.broke_off,
        one.stray,
    )


@pytest.mark.fuzz
@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n\\", codec="utf-8"), max_size=20)))
def test_what_a_provider_encodes_comes_back(deltas: list[str]) -> None:
    body = "".join(f"data: {delta}\n\n" for delta in deltas).encode()
    assert decode(body)[0] == "".join(deltas)


def test_a_character_that_comes_in_three_reads_is_kept_until_it_is_whole() -> None:
    decoder = AiChatsDecoder()
    reads = (b"data: \xf0\x9f\n\n", b"data: \x98\n\n", b"data: \x80\n\n", b"data: a\n\n", b"data: \xc3\n\n")
    assert [decoder.feed(read) for read in reads] == ["", "", "😀", "a", ""]
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"


def test_a_half_line_is_no_text_before_its_end() -> None:
    decoder = AiChatsDecoder()
    assert decoder.feed(b"data: Hel") == ""
    assert decoder.feed(b"lo\ndata: wor") == "Hello"


def test_a_line_without_end_is_refused() -> None:
    decoder = AiChatsDecoder()
    with pytest.raises(LineTooLong):
        decoder.feed(b"x" * (LINE_MAX_BYTES + 1))


def test_what_is_not_the_dialect_is_kept_only_up_to_a_bound() -> None:
    decoder = AiChatsDecoder()
    for _ in range(100):
        decoder.feed(b"prose " * 1000 + b"\n")
    assert len(decoder.stray) == STRAY_MAX_BYTES


def test_prose_after_the_end_breaks_nothing_off_and_before_it_does() -> None:
    assert decode(FIXTURE + b"An internal server error occurred.")[1].broke_off is False
    assert decode(b"data: Hi\nAn internal server error occurred.")[1].broke_off is True
