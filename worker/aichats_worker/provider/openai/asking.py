"""A question as a chat completion or an image generation: what each option is called there. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from aichats_worker.provider import Question

_Field = Callable[[Any], dict[str, Any]]


def _as(name: str) -> _Field:
    return lambda value: {name: value}


# An option is one row here, and one field in the schema.
_TEXT: Final[Mapping[str, _Field]] = {
    "temperature": _as("temperature"),
    "top_p": _as("top_p"),
    "max_tokens": _as("max_tokens"),
    "stop": _as("stop"),
    "seed": _as("seed"),
    "json": lambda _: {"response_format": {"type": "json_object"}},
    "reasoning": lambda _: {},  # servers send it by themselves; without the option it is left out of the events
}
_IMAGE: Final[Mapping[str, _Field]] = {"size": _as("size"), "quality": _as("quality"), "n": _as("n")}
TEXT_OPTIONS: Final = frozenset(_TEXT)
IMAGE_OPTIONS: Final = frozenset(_IMAGE)


def chat(question: Question, model: str) -> dict[str, Any]:
    """Return the body that asks for a streamed text."""
    messages = [{"role": message.role, "content": message.content} for message in question.messages]
    asked = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    return asked | _options(question, _TEXT)


def picture(question: Question, model: str) -> dict[str, Any]:
    """Return the body that asks for images of the last message."""
    return {"model": model, "prompt": question.messages[-1].content, "n": 1} | _options(question, _IMAGE)


def _options(question: Question, fields: Mapping[str, _Field]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    for name, value in question.options.items():
        asked |= fields[name](value)
    return asked


class Dialects:
    """What a server does not take, learnt from its refusals and kept by model: it is asked in vain once."""

    def __init__(self) -> None:
        self._refused: set[tuple[str, str]] = set()

    def translated(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the body as this model's server takes it, as far as that is known."""
        model = asked["model"]
        body = dict(asked)
        if (model, "stream_options") in self._refused:
            body.pop("stream_options", None)
        if (model, "max_tokens") in self._refused and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return body

    def learns(self, asked: dict[str, Any], message: str) -> bool:
        """Take note of a refusal's words; True where the body is another one now.

        It may be another call that learnt it: all that were out at the same time are refused in the same words.
        """
        if "stream_options" in asked and ("stream_options" in message or "include_usage" in message):
            self._refused.add((asked["model"], "stream_options"))
        if "max_tokens" in asked and "max_completion_tokens" in message:
            self._refused.add((asked["model"], "max_tokens"))
        return self.translated(asked) != asked
