"""The corpus: what servers of many families answer, byte for byte, and what is to come of it.

Each folder of `corpus` is a family. Its `expected.toml` names the sources and has a table for each file:

- `text`, `reasoning`, `finish`, `usage` (tokens in and out), `tries_left`: of an answer; `images`: the media types;
- `error`: the code that the requester is told, or a list where the contract leaves two; `text` came before it then;
- `status`, `headers`, `kind`, `dialect`: how it is asked and answered; 200, the file's type, text and openai without.
"""

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aichats_worker.provider.aichats.dialect import AiChatsDecoder
from aichats_worker.provider.deltas import Decoder
from aichats_worker.provider.openai.dialect import OpenAIDecoder

DECODERS: dict[str, Callable[[], Decoder]] = {"aichats": AiChatsDecoder, "openai": OpenAIDecoder}
CORPUS = Path(__file__).parent / "corpus"
TYPES = {".sse": "text/event-stream", ".json": "application/json", ".html": "text/html", ".txt": "text/plain"}


@dataclass(frozen=True)
class Recorded:
    """One answer of the corpus."""

    name: str
    body: bytes = field(repr=False)
    dialect: str = "openai"
    kind: str = "text"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    usage: tuple[int, int] | None = None
    tries_left: int | None = None
    images: tuple[str, ...] = ()
    errors: frozenset[str] = frozenset()
    retry_after_ms: int | None = None

    def __str__(self) -> str:
        return self.name

    def http(self, *, chunked: bool) -> bytes:
        """The whole HTTP answer."""
        headers = {"Content-Type": TYPES[Path(self.name).suffix], **self.headers, "Connection": "close"}
        headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(self.body))}
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Own"
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        body = b"%x\r\n%b\r\n" % (len(self.body), self.body) if chunked and self.body else self.body
        return "\r\n".join(lines).encode() + body + (b"0\r\n\r\n" if chunked else b"")


@cache
def families() -> dict[str, list[Recorded]]:
    """All of the corpus, by family."""
    found = {}
    for index in sorted(CORPUS.glob("*/expected.toml")):
        tables: dict[str, Any] = tomllib.loads(index.read_text(encoding="utf-8"))
        assert tables.pop("sources"), f"{index} names no source"
        assert set(tables) == {path.name for path in index.parent.iterdir()} - {index.name}
        found[index.parent.name] = [_recorded(index.parent / file, table) for file, table in tables.items()]
    return found


def everything() -> list[Recorded]:
    return [recorded for family in families().values() for recorded in family]


def _recorded(path: Path, table: dict[str, Any]) -> Recorded:
    error = table.pop("error", [])
    return Recorded(
        name=f"{path.parent.name}/{path.name}",
        body=path.read_bytes(),
        errors=frozenset([error] if isinstance(error, str) else error),
        usage=tuple(table.pop("usage", ())) or None,
        images=tuple(table.pop("images", ())),
        **table,
    )


def decoded(dialect: str, pieces: Iterable[bytes]) -> tuple[Any, ...]:
    """All that a decoder says of a body that comes in these pieces and ends well."""
    decoder = DECODERS[dialect]()
    text = "".join([decoder.feed(piece) for piece in pieces])
    text += decoder.finish()
    failure = decoder.failure.leaf() if decoder.failure else None
    ends = (decoder.complete, decoder.broke_off, decoder.silent)
    return text, decoder.thoughts, failure, ends, decoder.usage, bytes(decoder.stray)
