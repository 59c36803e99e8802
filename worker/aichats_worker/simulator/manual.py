"""The simulator's manual, made from its tables: `python -m aichats_worker.simulator.manual > docs/simulator.md`."""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import groupby
from typing import Any, Final

from aichats_worker.simulator.directives import Directives
from aichats_worker.simulator.images import B64_FORMS
from aichats_worker.simulator.oddities import ODDITIES
from aichats_worker.simulator.openai import AFTER_FINISH, USAGES
from aichats_worker.simulator.refusing import ANSWERS, CODES, ERROR_FORMS, WAITS

_WIDTH: Final = 112
_COLUMN: Final = 28
_ABOUT: Final = """\
# The simulator

<!-- Made by `python -m aichats_worker.simulator.manual`; a test compares. -->

`aichats-worker simulator` is a local stand-in for ai-chats.org and for an OpenAI-compatible server, with faults on
demand. No model answers: it streams a fixed text and makes a gradient as an image. Set `AICHATS_URL` to its address,
or `OPENAI_BASE_URL` to its address and `/v1`.

| Path | What |
| --- | --- |
| `POST /chat/send2/` | ai-chats.org, text and image |
| `POST /v1/chat/completions` | whole or as a stream; `n`, `stop`, `max_tokens`, `response_format`, `stream_options` |
| `POST /v1/images/generations` | `n`, `size`, `response_format` `url` or `b64_json` |
| `GET /v1/models` | two names; a call may name any model |
| `/openai/deployments/<name>/…?api-version=…` | the same calls, as Azure has them |

With `--key` the calls of the OpenAI dialect need that key, as a bearer token or as `api-key`. On SIGTERM it takes no
new connection and finishes the answers that are on their way, for at most 20 s.

What a prompt says in brackets decides what happens. Several directives may share a pair of brackets, and there may be
several pairs, anywhere in the last message; where two disagree, the later one holds. What is unknown is ignored.

<!-- not run: tests/simulator runs what each directive does -->
```
aichats-worker ask '[sim: words=5 pause=0.5] Hello'
aichats-worker ask '[sim: code=context_length_exceeded] too long'
aichats-worker ask '[sim: times=2 status=503] [sim: words=3] fails twice, then answers'
aichats-worker ask '[sim: only=aichats status=503] the first provider fails, the next one answers'
aichats-worker image '[sim: image-times=1 image-status=503] one hiccup at the download'
```
"""


def _values() -> dict[str, dict[str, str]]:
    return {
        "answer": dict(ANSWERS),
        "code": {name: str(fault.status) for name, fault in CODES.items()},
        "error-form": {name: does for name, (does, _) in ERROR_FORMS.items()},
        "retry-after": dict(WAITS),
        "usage": dict(USAGES),
        "after-finish": {name: does for name, (does, _) in AFTER_FINISH.items()},
        "odd": {name: oddity.does + _where(oddity.dialect) for name, oddity in ODDITIES.items()},
        "b64": {name: does for name, (does, _) in B64_FORMS.items()},
    }


def _groups() -> Iterator[tuple[str, dict[str, str]]]:
    for group, members in groupby(fields(Directives), lambda one: one.metadata["group"]):
        yield group, {_example(one.name, one.default): _does(one.metadata) for one in members}
    for name, values in _values().items():
        yield f"Values of {name}", values


def _example(name: str, default: Any) -> str:
    name = name.replace("_", "-")
    if isinstance(default, bool):
        return f"{name}=off" if default else name
    return f"{name}={'S' if isinstance(default, float) else 'N' if isinstance(default, int) else '…'}"


def _does(metadata: Mapping[str, str]) -> str:
    return metadata["does"] + _where(metadata["dialect"])


def _where(dialect: str) -> str:
    return "" if dialect == "both" else f" ({dialect})"


def as_text() -> str:
    """Return the directives for a terminal."""
    lines = ["Directives, in the prompt: [sim: words=5 pause=0.5]. N is a number, S seconds.", ""]
    for title, rows in _groups():
        lines.append(f"{title}:")
        for name, does in rows.items():
            wrapped = textwrap.wrap(does.replace("`", ""), _WIDTH - _COLUMN)
            lines += [f"  {name:{_COLUMN - 3}} {wrapped[0]}", *(" " * _COLUMN + line for line in wrapped[1:])]
        lines.append("")
    return "\n".join(lines)


def as_page() -> str:
    """Return the whole page, as Markdown."""
    parts = [_ABOUT]
    for title, rows in _groups():
        head = "Value" if title.startswith("Values") else "Directive"
        table = [f"| `{name}` | {does} |" for name, does in rows.items()]
        parts.append("\n".join([f"## {title}", "", f"| {head} | What it does |", "| --- | --- |", *table, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(as_page())
