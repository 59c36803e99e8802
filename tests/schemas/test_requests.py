"""What a requester may send (contract, section 2)."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from aichats_schemas import ImageRequest, TextRequest


def text(**fields: Any) -> TextRequest:
    return TextRequest.model_validate_json(json.dumps({"prompt": "hi"} | fields))


def image(**fields: Any) -> ImageRequest:
    return ImageRequest.model_validate_json(json.dumps({"prompt": "a cat"} | fields))


def said(*contents: Any, role: str = "user") -> TextRequest:
    return text(prompt=None, messages=[{"role": role, "content": content} for content in contents])


def wrong(make: Any, *args: Any, **fields: Any) -> dict[str, str]:
    """The places that are wrong, and why."""
    with pytest.raises(ValidationError) as caught:
        make(*args, **fields)
    return {".".join(map(str, detail["loc"])): detail["msg"] for detail in caught.value.errors()}


def test_options_are_those_that_ask_for_something() -> None:
    options = {"temperature": 0, "top_p": 1, "max_tokens": 1, "stop": ["a"], "seed": 0, "json": True, "reasoning": True}
    assert text(**options).options == options
    assert text(json=False, reasoning=False, seed=None).options == {}
    assert text(stop="a").options == {"stop": ["a"]}
    assert image(size="1024x1024", quality="hd", n=4).options == {"size": "1024x1024", "quality": "hd", "n": 4}
    assert image(n=1).options == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", "1"), ("top_p", 1.1), ("top_p", True),
        ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", 2**64), ("seed", 1.5), ("seed", 2**64), ("stop", []),
        ("stop", ["a"] * 5), ("stop", 5), ("json", 1), ("reasoning", "yes"), ("model", 5),
    ],
)  # fmt: skip
def test_a_text_option_outside_its_range_is_named(name: str, value: Any) -> None:
    assert list(wrong(text, **{name: value})) == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", "big"),
        ("size", "0x10"),
        ("size", "1x1\n"),
        ("quality", "very high"),
        ("quality", ""),
        ("n", 0),
        ("n", 5),
    ],
)
def test_an_image_option_outside_its_range_is_named(name: str, value: Any) -> None:
    assert list(wrong(image, **{name: value})) == [name]


def test_a_message_is_named_by_its_place() -> None:
    assert list(wrong(said, " ")) == ["messages.0.content"]
    assert list(wrong(said, "a", "", [], "b", ["c"])) == [f"messages.{place}.content" for place in (1, 2, 4)]
    assert list(wrong(said, "a", role="robot")) == ["messages.0.role"]
    assert wrong(text, prompt=" \n") == {"prompt": "Value error, must not be blank"}


def test_content_may_be_parts_and_developer_is_system() -> None:
    request = said([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}], role="developer")
    assert [(message.role, message.content) for message in request.messages or ()] == [("system", "Hello")]
    assert list(wrong(said, [{"type": "image_url", "image_url": {}}])) == ["messages.0.content"]


def test_what_is_not_known_is_named_and_null_counts_as_absent() -> None:
    request = text(colour=1, size="64x64", model=None, other=None)
    assert request.ignored == ("colour", "size")
    assert request.model is None
    assert "colour" not in repr(request)


def test_a_model_is_held_against_those_that_whoever_reads_it_knows() -> None:
    def known(name: str) -> Any:
        body = json.dumps({"prompt": "hi", "model": name, "seed": "x"})
        return TextRequest.model_validate_json(body, context={"models": ["gpt-4", "fast"]})

    assert wrong(known, "gpt-9")["model"] == "Value error, not found; there is gpt-4, fast"
    assert list(wrong(known, "fast")) == ["seed"]


def test_a_request_survives_the_way_that_a_client_sends_it() -> None:
    request = TextRequest(prompt="hi", json=True, stop=["a"])
    sent = request.model_dump_json(exclude_none=True)
    assert json.loads(sent) == {"prompt": "hi", "json": True, "stop": ["a"]}
    assert TextRequest.model_validate_json(sent) == request
