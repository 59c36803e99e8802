"""What servers send that is unusual and no error: one table. No I/O."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_BIG: Final = 2 * 1024 * 1024

Event = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something unusual.

    Attributes:
        does: What it is, for people.
        bytes_of: Gives it, out of the usual bytes of the word that it comes with and the word itself.
        dialect: The one that has it; `both` for either.
    """

    does: str
    bytes_of: Callable[[bytes, str], bytes]
    dialect: str = "openai"


def event(chunk: Any) -> bytes:
    """Return one server-sent event with this JSON."""
    return f"data: {json.dumps(chunk)}\n\n".encode()


def _before(*chunks: Any) -> Callable[[bytes, str], bytes]:
    extra = b"".join(one if isinstance(one, bytes) else event(one) for one in chunks)
    return lambda usual, _: extra + usual


def _delta(delta: Any, **more: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more}


def _said(delta_of: Callable[[str], Any]) -> Callable[[bytes, str], bytes]:
    return lambda _, word: event(_delta(delta_of(word)))


def _part(word: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": word}]}


_FILTER: Final = {"hate": {"filtered": False, "severity": "safe"}}
ODDITIES: Final[dict[str, Oddity]] = {
    "no-delta": Oddity(
        "a choice without `delta`, as Azure's asynchronous filter has it",
        _before({"choices": [{"index": 0, "finish_reason": None, "content_filter_results": _FILTER}]}),
    ),
    "null-delta": Oddity("`delta: null`", _before(_delta(None))),
    "no-choices": Oddity("a chunk without `choices`", _before({"object": "chat.completion.chunk", "usage": None})),
    "null-choices": Oddity("`choices: null`", _before({"choices": None})),
    "empty-choices": Oddity("`choices: []`", _before({"choices": [], "prompt_filter_results": []})),
    "empty-data": Oddity("`data:` and nothing more", _before(b"data:\n\ndata: \n\n"), "both"),
    "error-null": Oddity("`error: null` in a chunk", _before(_delta({}, error=None))),
    "parts": Oddity("the content as a list of parts", _said(_part)),
    "null-content": Oddity("`content: null`", _before(_delta({"role": "assistant", "content": None}))),
    "tool-calls": Oddity(
        "a tool's call", _before(_delta({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}))
    ),
    "surrogate": Oddity("half a surrogate pair in a word of its own", _before(_delta({"content": "\ud83d"}))),
    "bad-utf8": Oddity("a byte that is no UTF-8, before the word", lambda usual, word: usual.replace(
        word.strip().encode(), b"\xff" + word.strip().encode(), 1), "both"),
    "nan": Oddity("`NaN`, which is no JSON", _before(_delta({}, logprobs=float("nan")))),
    "ping": Oddity("an event of another name with data of its own", _before(b'event: ping\ndata: {"type":"ping"}\n\n')),
    "comment": Oddity("a comment", _before(b": OPENROUTER PROCESSING\n\n"), "both"),
    "id-retry": Oddity("the fields `id` and `retry`", _before(b"id: 7\nretry: 3000\n\n"), "both"),
    "no-space": Oddity("no space after `data:`", lambda usual, _: usual.replace(b"data: {", b"data:{", 1)),
    "big": Oddity("a word of 2 MiB", lambda _, word: event(_delta({"content": word + "x" * _BIG}))),
    "many-choices": Oddity(
        "a second choice, which nobody asked for",
        _before({"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": None}]}),
    ),
    "bom": Oddity("a byte order mark before the first line", lambda usual, _: usual, "both"),
}  # fmt: skip


def with_oddities(usual: bytes, word: str, names: str, dialect: str) -> bytes:
    """Return a word's bytes with the oddities that `names` lists; one that the dialect has not adds nothing."""
    for name in names.split(","):
        oddity = ODDITIES.get(name)
        if oddity is not None and oddity.dialect in (dialect, "both"):
            usual = oddity.bytes_of(usual, word)
    return usual
