"""Chat completions as OpenAI-compatible servers answer them: whole, or as a stream. No I/O."""

import json
import time
from collections.abc import Sequence
from typing import Any, Final

from aichats_worker.simulator.answers import CUT, HOLD, Part, words
from aichats_worker.simulator.asked import ChatAsked
from aichats_worker.simulator.directives import Directives
from aichats_worker.simulator.oddities import event
from aichats_worker.simulator.refusing import error_body

_REFUSAL: Final = "I'm sorry, but I can't help with that."
_HEARTBEATS: Final = 200
USAGES: Final = {
    "asked": "in a chunk of its own where `stream_options.include_usage` asks for it",
    "always": "in a chunk of its own",
    "last": "in the chunk with the finish reason",
    "each": "in every chunk, growing",
    "never": "never",
}
AFTER_FINISH: Final[dict[str, tuple[str, Sequence[Part]]]] = {
    "cut": ("the connection is cut", [CUT]),
    "hold": ("silence, until the client goes", [HOLD]),
    "heartbeats": ("comments without end (for 20 s)", [b": ping\n\n", 0.1] * _HEARTBEATS),
    "error": ("an error object", []),
    "text": ("more text, which is no part of the answer", []),
}


class ChatStream:
    """One chat completion, in pieces or whole."""

    def __init__(self, wanted: Directives, asked: ChatAsked) -> None:
        self._wanted = wanted
        self._asked = asked
        self.pieces, self._finish_reason = _said(wanted, asked)
        self._written = 0

    def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        refused = self._wanted.answer == "refusal"
        message: dict[str, Any] = {"role": "assistant", "content": None if refused else "".join(self.pieces)}
        message["refusal"] = _REFUSAL if refused else None
        if self._wanted.reasoning:
            message[self._wanted.reasoning_as] = "".join(words(self._wanted.reasoning))
        self._written = len(self.pieces)
        choice = {"message": message, "logprobs": None, "finish_reason": self._finish_reason}
        choices = [{"index": index, **choice} for index in range(self._asked.n)]
        return self._object("chat.completion", choices) | {"usage": self._usage()}

    def opening(self) -> Sequence[Part]:
        """The role, and the reasoning."""
        parts: list[Part] = [self._chunk({"role": "assistant", "content": ""})]
        for word in words(self._wanted.reasoning) if self._wanted.reasoning else ():
            parts += [self._chunk({self._wanted.reasoning_as: word}), self._wanted.pause]
        return parts

    def delta(self, word: str) -> bytes:
        """One word."""
        self._written += 1
        return self._chunk({"content": word})

    def error(self) -> bytes:
        """An error object in the middle of the stream."""
        return b"data: " + error_body(self._wanted) + b"\n\n"

    def ending(self) -> Sequence[Part]:
        """The finish reason, the usage, `[DONE]`, and what is wanted after them."""
        if self._wanted.tries == "none":
            return []
        parts: list[Part] = [self._chunk({"refusal": _REFUSAL})] if self._wanted.answer == "refusal" else []
        if self._wanted.finish != "none":
            last = {"usage": self._usage()} if self._wanted.usage == "last" else {}
            parts.append(self._chunk({}, self._finish_reason, **last))
        parts += self._after_finish()
        told = self._wanted.usage
        if told == "always" or (told == "asked" and self._asked.include_usage):
            parts.append(event(self._object("chat.completion.chunk", []) | {"usage": self._usage()}))
        return [*parts, b"data: [DONE]\n\n"] if self._wanted.done else parts

    def _after_finish(self) -> Sequence[Part]:
        match self._wanted.after_finish:
            case "error":
                return [self.error()]
            case "text":
                return [self._chunk({"content": "late"})]
            case name:
                return AFTER_FINISH.get(name, ("", []))[1]

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = self._object("chat.completion.chunk", [{"index": n, **choice} for n in range(self._asked.n)]) | more
        if self._wanted.usage == "each":
            chunk["usage"] = self._usage()
        elif self._asked.include_usage:
            chunk.setdefault("usage", None)
        if self._wanted.lines == "several":
            return b"".join(b"data: %b\n" % line.encode() for line in json.dumps(chunk, indent=1).split("\n")) + b"\n"
        return event(chunk)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        made = {"id": "chatcmpl-simulated", "object": kind, "created": int(time.time()), "model": self._asked.model}
        return made | {"system_fingerprint": "simulated", "choices": choices}

    def _usage(self) -> dict[str, Any]:
        written = self._written * self._asked.n + self._wanted.reasoning
        counted = {"prompt_tokens": self._asked.prompt_tokens, "completion_tokens": written}
        details = {"completion_tokens_details": {"reasoning_tokens": self._wanted.reasoning}}
        return counted | {"total_tokens": self._asked.prompt_tokens + written} | details


def _said(wanted: Directives, asked: ChatAsked) -> tuple[list[str], str]:
    """Return the words that are said, and why there are no more: a word is a token here."""
    if wanted.answer in ("none", "refusal"):
        return [], wanted.finish
    pieces = words(wanted.words)
    if asked.json:
        pieces = ['{"answer": "', *pieces, '"}']
    found = [at for stop in asked.stop if (at := "".join(pieces).find(stop)) >= 0]
    if found:
        pieces = _cut(pieces, min(found))
    if asked.max_tokens is not None and len(pieces) > asked.max_tokens:
        return pieces[: asked.max_tokens], "length"
    return pieces, wanted.finish


def _cut(pieces: list[str], length: int) -> list[str]:
    kept: list[str] = []
    for piece in pieces:
        if length <= 0:
            break
        kept.append(piece[:length])
        length -= len(piece)
    return kept


def models(names: Sequence[str]) -> dict[str, Any]:
    """Return what `/v1/models` says."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names],
    }
