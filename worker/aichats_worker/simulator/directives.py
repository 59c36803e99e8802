"""What `[sim: …]` in a prompt can say: one table; reading, help and docs/simulator.md are made of it. No I/O."""

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeVar

T = TypeVar("T")
Dialect = Literal["aichats", "openai"]
ONLY_OPENAI: Final = "openai"

_BRACKETS: Final = re.compile(r"\[sim:([^\]]*)\]")


def _says(default: T, group: str, does: str, dialect: str = "both") -> T:
    made: T = field(default=default, metadata={"group": group, "does": does, "dialect": dialect})
    return made


@dataclass(frozen=True, slots=True)
class Directives:
    """All directives; a default's type is what is read. The words after a name are its whole documentation."""

    only: str = _says("", "When", "the bracket holds for one dialect alone: `aichats` or `openai`")
    times: int = _says(0, "When", "the bracket holds for the first so many requests with this very prompt")

    words: int = _says(0, "The answer", "so many words; 0 for the whole text")
    pause: float = _says(0.05, "The answer", "seconds between two words")
    delay: float = _says(0.0, "The answer", "nothing at all for so many seconds, then the answer")
    first_byte: float = _says(0.0, "The answer", "the head at once, the body so many seconds after it")
    tries: str = _says("29", "The answer", "the number after `trylimit`; `none` leaves the end out, in both dialects")
    botmodel: str = _says(
        "", "The answer", "a model's name in an event before the answer, as sister sites send it", "aichats"
    )
    reasoning: int = _says(0, "The answer", "so many words of reasoning before the answer", ONLY_OPENAI)
    reasoning_as: str = _says(
        "reasoning_content", "The answer", "the field of the reasoning: `reasoning_content` or `reasoning`", ONLY_OPENAI
    )
    finish: str = _says("stop", "The answer", "the finish reason, `error` too; `none` leaves it out", ONLY_OPENAI)
    usage: str = _says("asked", "The answer", "when the usage is told; see below", ONLY_OPENAI)
    done: bool = _says(True, "The answer", "`done=off` leaves `[DONE]` out", ONLY_OPENAI)

    answer: str = _says("", "Instead of an answer", "what comes instead; see below")
    status: int = _says(0, "Instead of an answer", "an HTTP status; 0 for 200, or the status that `code` has")
    code: str = _says("", "Instead of an answer", "an error's code, with the status that belongs to it; see below")
    error_form: str = _says("openai", "Instead of an answer", "the shape of an error's body; see below")
    retry_after: str = _says(
        "", "Instead of an answer", "when to come back: a number of seconds for the header, or see below"
    )
    redirect: str = _says(
        "", "Instead of an answer", "a 307 (or `status`) to `same` or `other` origin, once, or in a `loop`"
    )

    error_after: int = _says(-1, "Faults in the stream", "an error object after so many words; `code` says which")
    cut_after: int = _says(-1, "Faults in the stream", "the connection is cut after so many words")
    stall_after: int = _says(-1, "Faults in the stream", "silence after so many words, until the client goes")
    after_finish: str = _says("", "Faults in the stream", "what follows the finish reason; see below", ONLY_OPENAI)
    odd: str = _says(
        "", "Faults in the stream", "something unusual with the second word, several with commas; see below"
    )
    lines: str = _says(
        "lf", "Faults in the stream", "how lines end: `lf`, `crlf`, `cr`; `several` cuts each event over data lines"
    )
    heartbeat: float = _says(0.0, "Faults in the stream", "in a silence, a comment each so many seconds")

    sized: bool = _says(False, "HTTP", "a Content-Length is announced")
    gzip: bool = _says(False, "HTTP", "the body is compressed, though nobody asked for it")
    header_bytes: int = _says(0, "HTTP", "a header of so many bytes")
    write: int = _says(0, "HTTP", "so many bytes in a write, with a turn of the event loop between")
    idle_close: float = _says(-1.0, "HTTP", "the connection is closed so many seconds after the answer, unannounced")
    idle_cut: bool = _says(False, "HTTP", "the next request over the same connection is cut without an answer")

    bytes: int = _says(0, "Images", "the image's size in bytes; 0 for its natural one")
    type: str = _says("png", "Images", "`png`, `jpeg`, `webp`, `gif`, `avif`, or `text` for what is no image")
    source: str = _says(
        "", "Images", "the image as `url`, `data` (a data: URL), `b64`, or `none`; else as it was asked"
    )
    b64: str = _says("plain", "Images", "the form of the base64; see below")
    images: int = _says(-1, "Images", "so many images, whatever was asked")
    image_url: str = _says("", "Images", "another address for the image")
    image_status: int = _says(200, "Images", "the download's HTTP status")
    image_redirects: int = _says(0, "Images", "so many redirects of the download")
    image_stall_after: int = _says(-1, "Images", "the download stalls after so many bytes")
    image_cut_after: int = _says(-1, "Images", "the download is cut after so many bytes")
    image_times: int = _says(0, "Images", "the download fails so only for the first so many times; 0 for always")
    image_key: bool = _says(False, "Images", "the download needs the key, as the call did")
    image_signed: bool = _says(False, "Images", "the address is signed: changed by one byte, it is a 403")


_TYPES: Final[dict[str, type]] = {one.name: type(one.default) for one in fields(Directives)}


def directives(prompt: str, dialect: Dialect | None = None, call: int = 1) -> Directives:
    """Read the directives of a prompt. What is unknown or no number is ignored: a prompt is not ours to refuse.

    Args:
        prompt: Anything; brackets stand anywhere in it, and a later one wins.
        dialect: Whose brackets hold; None for all.
        call: How often this prompt has been asked, this time included.
    """
    found: dict[str, Any] = {}
    for body in _BRACKETS.findall(prompt):
        bracket = dict(_read(body))
        theirs, times = bracket.get("only", ""), bracket.get("times", 0)
        if (not theirs or dialect is None or theirs == dialect) and (not times or call <= times):
            found |= bracket
    return replace(Directives(), **found)


def _read(body: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for word in body.split():
        name, _, value = word.partition("=")
        name = name.replace("-", "_")
        if name not in _TYPES:
            continue
        try:
            found.append((name, value != "off" if _TYPES[name] is bool else _TYPES[name](value)))
        except ValueError:
            continue
    return found
