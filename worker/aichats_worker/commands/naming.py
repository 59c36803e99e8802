"""The commands that a sentence names, so that they can be copied: with where and whose, as they were typed."""

import re
import shlex
from typing import Final

from aichats_worker.urls import masked_urls

# These take neither --server nor --context: they bring a broker, need none, or go by variables alone.
ELSEWHERE: Final = frozenset({"run", "demo", "dev", "simulator", "docs", "version"})
OF_A_TENANT: Final = frozenset({"ask", "image", "chat", "submit", "result", "resume", "cancel"})
_NAMED: Final = re.compile(r"`(?P<program>aichats-worker|nats) (?P<rest>(?P<command>\w+)[^`]*)`")
_typed: dict[str, str] = {}  # by option; a process runs one command


def take_note(option: str, value: str | None) -> None:
    """Take note of what was typed for an option; nothing, or None, for what was not."""
    _typed.pop(option, None)
    if value:
        _typed[option] = value


def as_typed(sentence: str) -> str:
    """Add to each command in backquotes the options without which it would look elsewhere. No password is written."""
    return _NAMED.sub(_completed, sentence)


def _completed(named: re.Match[str]) -> str:
    program, command, rest = named["program"], named["command"], named["rest"]
    typed = {option: masked_urls(value) if option == "-s" else value for option, value in _typed.items()}
    if program == "nats":
        return f"`{_line('nats', typed, ('-s', '--context'))} {rest}`"
    if command == "run" and "-s" in typed:
        return f"`NATS_URL={shlex.quote(typed['-s'])} aichats-worker run`"
    taken = () if command in ELSEWHERE else ("-s", "--context")
    return f"`{_line(f'{program} {rest}', typed, (*taken, *(('--tenant',) if command in OF_A_TENANT else ())))}`"


def _line(begins: str, typed: dict[str, str], options: tuple[str, ...]) -> str:
    return " ".join([begins, *(f"{option} {shlex.quote(typed[option])}" for option in options if option in typed)])
