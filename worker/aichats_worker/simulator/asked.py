"""What the body of an OpenAI-compatible call asks for, checked as such servers check it. No I/O."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_SIZE: Final = re.compile(r"(\d{1,4})x(\d{1,4})")
IMAGES_MAX: Final = 10
_CHARACTERS_PER_TOKEN: Final = 4


class WrongRequest(Exception):
    """The body is wrong.

    Args:
        param: The field.
        message: What is wrong with it.
    """

    def __init__(self, param: str | None, message: str) -> None:
        super().__init__(message)
        self.param = param

    def body(self) -> dict[str, Any]:
        """As OpenAI says it, with status 400."""
        return {"error": {"message": str(self), "type": "invalid_request_error", "param": self.param, "code": None}}


@dataclass(frozen=True, slots=True)
class ChatAsked:
    """A chat completion that is asked for; a token is four characters of the messages, or one word of the answer."""

    model: str
    prompt_tokens: int
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    json: bool = False


@dataclass(frozen=True, slots=True)
class ImagesAsked:
    """Images that are asked for."""

    model: str
    n: int = 1
    width: int = 256
    height: int = 256
    b64: bool = False


def _is_number(low: float, high: float, *, whole: bool = False) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        number = isinstance(value, int) or (isinstance(value, float) and not whole)
        return number and not isinstance(value, bool) and low <= value <= high

    return holds


def _is_stop(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and 1 <= len(value) <= 4 and all(isinstance(one, str) for one in value)
    )


_WHOLE: Final = _is_number(1, 2**31, whole=True)
_CHAT: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "messages": (lambda value: isinstance(value, list) and bool(value), "must be a list with at least one message"),
    "model": (lambda value: isinstance(value, str) and bool(value), "must be a model's name"),
    "stream": (lambda value: isinstance(value, bool), "must be a boolean"),
    "temperature": (_is_number(0, 2), "must be a number between 0 and 2"),
    "top_p": (_is_number(0, 1), "must be a number between 0 and 1"),
    "n": (_is_number(1, 128, whole=True), "must be an integer between 1 and 128"),
    "max_tokens": (_WHOLE, "must be an integer above 0"),
    "max_completion_tokens": (_WHOLE, "must be an integer above 0"),
    "seed": (_is_number(-(2**63), 2**63 - 1, whole=True), "must be an integer"),
    "stop": (_is_stop, "must be a string or a list of at most 4"),
    "response_format": (lambda value: isinstance(value, dict) and "type" in value, "must be an object with a type"),
}
_IMAGES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "prompt": (lambda value: isinstance(value, str) and bool(value), "must be a string"),
    "n": (_is_number(1, IMAGES_MAX, whole=True), f"must be an integer between 1 and {IMAGES_MAX}"),
    "size": (
        lambda value: value == "auto" or _pixels(value) is not None,
        "must be `auto`, or width and height such as 1024x1024",
    ),
    "response_format": (lambda value: value in ("url", "b64_json"), "must be url or b64_json"),
}


def chat_asked(body: bytes) -> ChatAsked:
    """Read a chat completion's body.

    Raises:
        WrongRequest: It is no JSON, or a field is missing or wrong.
    """
    asked = _checked(body, _CHAT, "messages")
    stop, most = asked.get("stop") or (), asked.get("max_completion_tokens") or asked.get("max_tokens")
    options, form = asked.get("stream_options") or {}, asked.get("response_format") or {}
    return ChatAsked(
        model=asked.get("model") or "simulated",
        prompt_tokens=max(1, len(json.dumps(asked["messages"], ensure_ascii=False)) // _CHARACTERS_PER_TOKEN),
        stream=bool(asked.get("stream")),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        n=asked.get("n") or 1,
        max_tokens=most,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        json=form.get("type") in ("json_object", "json_schema"),
    )


def images_asked(body: bytes) -> ImagesAsked:
    """Read the body of an image's call.

    Raises:
        WrongRequest: It is no JSON, or a field is missing or wrong.
    """
    asked = _checked(body, _IMAGES, "prompt")
    width, height = _pixels(asked.get("size")) or (256, 256)
    model = str(asked.get("model") or "simulated")
    return ImagesAsked(model, asked.get("n") or 1, width, height, asked.get("response_format") == "b64_json")


def _checked(body: bytes, rules: dict[str, tuple[Callable[[Any], bool], str]], needed: str) -> dict[str, Any]:
    try:
        asked: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise WrongRequest(None, "We could not parse the JSON body of your request.") from None
    if not isinstance(asked, dict):
        raise WrongRequest(None, "The body must be a JSON object.")
    if asked.get(needed) is None:
        raise WrongRequest(needed, f"Missing required parameter: '{needed}'.")
    for name, (holds, says) in rules.items():
        if asked.get(name) is not None and not holds(asked[name]):
            raise WrongRequest(name, f"Invalid '{name}': it {says}.")
    return asked


def _pixels(size: Any) -> tuple[int, int] | None:
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    pixels = (int(found[1]), int(found[2])) if found else (0, 0)
    return pixels if min(pixels) > 0 and max(pixels) <= 4096 else None
