"""A body is read in two ways: what is a prompt alone does not pass the schema, which takes the same prompts.

All but one: what a second `prompt` puts out of sight may be nested deeper than the schema's own reader goes.
"""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from aichats_schemas.requests import TextRequest
from aichats_worker.errors import InvalidRequest, ModelNotFound, TooLarge
from aichats_worker.provider import ChatMessage
from aichats_worker.request.asked import Asked, Limits, read_request
from aichats_worker.request.call import Call

LIMITS = Limits(prompt_max_chars=1000, messages_max=3, timeout_seconds_max=60, allow_proxy=False)
OFFERS: Any = {"text": {"gpt-4": (frozenset({"seed", "temperature"}),)}, "image": {}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


def read(body: bytes) -> Asked:
    return read_request(Call("req", "text", "t", "i", "_INBOX.x", body, {}), LIMITS, OFFERS)


def by_schema(body: bytes) -> str | None:
    """The prompt that the schema takes, where nothing else was sent; None where it takes no such body."""
    try:
        request = TextRequest.model_validate_json(body)
    except ValidationError:
        return None
    assert request.model_fields_set <= {"prompt"}
    return request.prompt


def agree(body: bytes) -> None:
    expected = by_schema(body)
    if expected is None:
        with pytest.raises(InvalidRequest):
            read(body)
    else:
        assert read(body) == Asked((ChatMessage("user", expected),), "gpt-4")


@given(JSON)
@example("")
@example(" \n\u2003")
@example("\x1c")
@example("\x00")
@example("\ud800")
@example(["hi"])
def test_a_prompt_alone_is_what_the_schema_takes(value: Any) -> None:
    agree(json.dumps({"prompt": value}).encode())


@given(st.text(max_size=30))
@example(r"\ud800")
@example(r"\ud83d\ude00")
@example(r'a","prompt":"b')
@example(r'a","prompt":null,"x":"')
@example('a"} x{"')
@example("\x01")
def test_json_is_read_as_the_schema_reads_it(inside: str) -> None:
    agree(b'{"prompt":"%b"}' % inside.encode(errors="surrogatepass"))


@given(st.binary(max_size=20))
def test_bytes_that_are_no_text_are_refused_by_both(inside: bytes) -> None:
    agree(b'{"prompt":"%b"}' % inside)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_other_text_is_the_prompt_as_it_is(text: str) -> None:
    assert read(f"-{text}".encode()) == Asked((ChatMessage("user", f"-{text}"),), "gpt-4")


@pytest.mark.parametrize("body", [b"", b" \n", b"\xef\xbb\xbf\t", "\u2003".encode(), b"-\xff", b"{", b"{}"])
def test_nothing_and_what_is_no_text_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(body)


def test_a_byte_order_mark_and_space_before_the_brace_count_for_nothing() -> None:
    assert read(b'\xef\xbb\xbf \r\n{"prompt": "hi"} ') == read(b"hi")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ('"timeout_seconds": NaN', "timeout_seconds: Input should be a finite number"),
        ('"timeout_seconds": 1e999', "timeout_seconds: Input should be a finite number"),
        ('"seed": 99999999999999999999', "seed: "),
        ('"other": NaN', None),
        ('"other": 99999999999999999999', None),
    ],
)
def test_numbers_that_not_every_reader_takes_are_told_by_their_field(fields: str, said: str | None) -> None:
    body = f'{{"prompt": "hi", {fields}}}'.encode()
    if said is None:
        assert read(body).ignored == ("other",)
        return
    with pytest.raises(InvalidRequest) as told:
        read(body)
    assert told.value.message.startswith(said)


def test_what_is_asked_for_beside_a_prompt_is_kept() -> None:
    said = [{"role": "developer", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    more = {"seed": 1, "timeout_seconds": 5, "metadata": {"a": "b"}, "colour\n": 1}
    asked = read(json.dumps({"messages": said, "model": "gpt-4", **more}).encode())
    assert asked.messages == (ChatMessage("system", "a"), ChatMessage("user", "b"))
    assert (asked.model, asked.timeout_seconds, asked.options) == ("gpt-4", 5.0, {"seed": 1})
    assert (asked.metadata, asked.ignored) == ({"a": "b"}, ("colour?",))


@pytest.mark.parametrize("body", [b"x" * 1001, json.dumps({"prompt": "x" * 1001}).encode()])
def test_a_prompt_alone_has_the_same_limits(body: bytes) -> None:
    with pytest.raises(TooLarge) as told:
        read(body)
    assert told.value.message == "prompt: at most 1000 characters are accepted, 1001 were sent"


@pytest.mark.parametrize("body", [b"hi", b"x" * 1001, b'{"prompt": "hi", "seed": 1}'])
def test_where_there_is_no_model_none_is_found(body: bytes) -> None:
    with pytest.raises(ModelNotFound):
        read_request(Call("req", "image", "t", "i", "_INBOX.x", body, {}), LIMITS, OFFERS)
