"""A stream of chat completion chunks, decoded: bytes in, deltas out, no I/O.

Servers agree on the usual chunk and on little else. So what adds nothing is skipped: a chunk without choices, a choice
without a delta, empty data, data that is no object, unknown events and fields. A line of data that is a whole object is
read at once; one that is not waits for the rest of its event, as the standard has it. Only an error, or an object that
cannot be read even leniently, ends an answer.
"""

from typing import Any, Final

import orjson

from aichats_schemas.events import Usage
from aichats_worker.errors import ContentFiltered
from aichats_worker.provider import Finish, FinishReason
from aichats_worker.provider.decoding.lenient import Halves, loads, tokens, whole
from aichats_worker.provider.decoding.lines import LINE_MAX_BYTES, STRAY_MAX_BYTES, Lines, LineTooLong, lines_of
from aichats_worker.provider.openai.usual import Alike, text_of
from aichats_worker.provider.refusals import Refusal, refusal_in

_REASONS: Final[dict[str, FinishReason]] = {
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(
        ("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "refusal"),
        "content_filter",
    ),
}
_WORD_MAX_CHARS: Final = 64
_LINE_OVERHEAD_BYTES: Final = 64  # what a kept line costs beside its bytes
_FAILED: Final = Refusal(None, words=("servererror",))


class OpenAIDecoder:
    """Decodes one answer, a stream or one object; deltas.Decoder says what it is used for.

    Attributes:
        ended: `[DONE]` was read, an error, or too much that is no answer.
        complete: A finish reason was read.
        failure: The error that was read.
        stray: What is no chunk, at most STRAY_MAX_BYTES of it.
        thoughts: Reasoning that was read and not taken yet.
        usage: As the server counted it.
    """

    def __init__(self) -> None:
        self.ended = False
        self.complete = False
        self.failure: Refusal | None = None
        self.stray = bytearray()
        self.thoughts = ""
        self.usage: Usage | None = None
        self._lines = Lines()
        self._event = b""
        self._pending: list[bytes] = []  # data lines of an event that are no object by themselves
        self._pending_bytes = 0
        self._object: bytearray | None = None  # an answer that is one object and no stream
        self._done = False
        self._halves = Halves()
        self._alike = Alike()
        self._finish_reason: FinishReason = "stop"
        self._thought = False
        self._refused = False
        self._by_delta = False  # deltas gave text

    @property
    def broke_off(self) -> bool:
        """No chunk has said yet why the answer ended, and `[DONE]` was not read."""
        return not (self.complete or self._done)

    @property
    def silent(self) -> bool:
        """The tokens went into reasoning, or there were too few of them for any text."""
        return self.complete and (self._finish_reason == "length" or (self._thought and self.nothing() is None))

    def feed(self, data: bytes) -> str:
        """Return the text of all chunks that `data` completes, joined.

        Raises:
            LineTooLong: A line passed the limit.
        """
        text, lines = "", self._lines.whole(data)
        if self._by_delta and not (self.ended or self._pending or self._event or self._object is not None):
            text, lines = self._alike.take(lines)
            text = self._halves.mend(text) if text else ""
            if not lines:
                return text
        for line in lines_of(lines):
            if self.ended:
                break
            # The usual line takes the short way.
            if line[:7] == b"data: {" and not self._pending:
                text += self._object_line(line[6:])
            elif line or self._pending or self._event or self._object is not None:
                text += self._line(line)
        return text

    def finish(self) -> str:
        """Complete the last line: the body ended as HTTP says it should. After a cut, do not call it."""
        if self.ended:
            return ""
        rest = self._lines.rest()
        text = self._line(rest) if rest else ""
        if self._object is not None:
            text += self._whole_answer(bytes(self._object))
            self._object = None
        elif self._pending:
            text += self._flush()
        return text + self._halves.rest()

    def end(self) -> Finish:
        """Return the finish reason and the usage."""
        return Finish("content_filter" if self._refused else self._finish_reason, usage=self.usage)

    def nothing(self) -> ContentFiltered | None:
        """Return ContentFiltered where the model refused, or a filter took the text away."""
        if self._refused or self._finish_reason == "content_filter":
            return ContentFiltered("the provider refuses to answer this prompt (content filter); change the prompt")
        return None

    def _line(self, line: bytes) -> str:
        if self._object is not None:
            self._keep(line)
            return ""
        if not line:
            text = self._flush() if self._pending else ""
            self._event = b""
            return text
        name, _, value = line.partition(b":")
        if name == b"data":
            return self._data(value.removeprefix(b" "))
        if name == b"event":
            self._event = value.strip()
        elif name == b"error" and value.lstrip()[:1] == b"{":  # llama.cpp until 2025
            self._event = name
            return self._data(value)
        elif line.lstrip()[:1] == b"{" and not self.stray:
            self._object = bytearray()
            self._keep(line)
        elif name not in (b"", b"id", b"retry"):
            self._strange(line)
        return ""

    def _keep(self, line: bytes) -> None:
        """An answer of one object may stand on many lines."""
        assert self._object is not None  # noqa: S101
        self._object += line + b"\n"
        if len(self._object) > LINE_MAX_BYTES:
            raise LineTooLong

    def _data(self, value: bytes) -> str:
        if self._pending:
            self._wait(value)
            return ""
        value = value.strip()
        if value == b"[DONE]":
            self.ended = self._done = True
            return self._halves.rest()
        if value[:1] == b"{":
            return self._object_line(value)
        if value:
            self._strange(value)
        return ""

    def _object_line(self, value: bytes) -> str:
        try:
            chunk = orjson.loads(value)
        except ValueError:
            self._wait(value)
            return ""
        if self._by_delta and self._object is None and (text := text_of(chunk)) and self._halves.are_whole(text):
            self._alike.learn(value, text)
            return text
        return self._chunk(chunk)

    def _wait(self, value: bytes) -> None:
        """Keep a data line for the end of its event, which has to come."""
        self._pending.append(value)
        self._pending_bytes += len(value) + _LINE_OVERHEAD_BYTES
        if self._pending_bytes > LINE_MAX_BYTES:
            raise LineTooLong

    def _flush(self) -> str:
        """Read the event whose lines were no objects by themselves: joined, else each, else leniently, else not."""
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        try:
            return self._chunk(loads(b"\n".join(pending)))
        except ValueError:
            pass
        if len(pending) == 1:
            self.ended = True
            self._strange(pending[0])
            return ""
        text = ""
        for value in pending:
            if self.ended:  # what follows a hole is no answer
                break
            text += self._data(value)
            if self._pending:
                text += self._flush()
        return text

    def _whole_answer(self, body: bytes) -> str:
        try:
            answer = loads(body)
        except ValueError:
            answer = None
        text = self._chunk(answer) if isinstance(answer, dict) else ""
        self.complete = self.complete or bool(text)
        if self.failure is None and not self.complete:
            self._strange(body)
        return text

    def _chunk(self, chunk: Any) -> str:
        if not isinstance(chunk, dict):
            return ""
        choices = chunk.get("choices")
        if (not choices or chunk.get("error") is not None) and self._is_error(chunk, choices):
            self.failure, self.ended = refusal_in(chunk), True
            return ""
        if chunk.get("usage"):
            self._count(chunk["usage"])
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return ""
        choice = choices[0]
        if choice.get("index"):  # of several answers to one question, ours is the first
            return ""
        text = self._said_in(choice)
        reason = choice.get("finish_reason")
        return text + self._finished(str(reason)[:_WORD_MAX_CHARS].lower(), choice) if reason else text

    def _is_error(self, chunk: dict[str, Any], choices: Any) -> bool:
        error = chunk.get("error")
        if error or (error is not None and not choices):
            return True
        return not choices and (self._event == b"error" or chunk.get("object") == "error")

    def _said_in(self, choice: dict[str, Any]) -> str:
        """Some servers send both, Perplexity does: in a stream, the message is all that the deltas said until now."""
        delta, message = choice.get("delta"), choice.get("message")
        by_message = self._object is not None or not (delta or self._by_delta)
        said: Any = (message or delta) if by_message else delta
        text = self._said(said) if isinstance(said, dict) else ""
        self._by_delta = self._by_delta or (bool(text) and not by_message)
        return text

    def _said(self, said: dict[str, Any]) -> str:
        content = said.get("content")
        if not isinstance(content, str):
            content = self._parts(content) if isinstance(content, list) else ""
        if len(said) > 1 or not content:  # the usual delta is content alone
            self._aside(said)
        return self._halves.mend(content) if content else ""

    def _aside(self, said: dict[str, Any]) -> None:
        thoughts = said.get("reasoning_content") or said.get("reasoning")
        if isinstance(thoughts, str):
            self._think(thoughts)
        if said.get("refusal"):
            self._refused = True

    def _parts(self, parts: list[Any]) -> str:
        """Join the text parts; what a model thinks is in parts of its own."""
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
            elif isinstance(part, dict):
                if isinstance(part.get("text"), str):
                    text += part["text"]
                if isinstance(part.get("thinking"), list | str):
                    thoughts = part["thinking"]
                    self._think(thoughts if isinstance(thoughts, str) else self._parts(thoughts))
        return text

    def _think(self, thoughts: str) -> None:
        if thoughts:
            self._thought = True
            self.thoughts += whole(thoughts)

    def _finished(self, reason: str, choice: dict[str, Any]) -> str:
        if reason == "error":
            error = choice.get("error")
            self.failure, self.ended = (refusal_in({"error": error}) if error else _FAILED), True
            return ""
        self.complete = True
        self._finish_reason = _REASONS.get(reason, "stop")
        return self._halves.rest()

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        counts = [tokens(usage.get(name)) or tokens(usage.get(other)) or 0 for name, other in _USAGE]
        if any(counts):
            self.usage = Usage(input_tokens=counts[0], output_tokens=counts[1], estimated=False)

    def _strange(self, line: bytes) -> None:
        self.stray += (line + b"\n")[: STRAY_MAX_BYTES - len(self.stray)]
        self.ended = self.ended or len(self.stray) == STRAY_MAX_BYTES


_USAGE: Final = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
