"""What all commands share: their usual options, what they take from where, and how they print."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from aichats_worker.commands.ending import STATUS_USAGE, fail
from aichats_worker.commands.naming import take_note

if TYPE_CHECKING:
    from rich.console import Console

    from aichats_worker.settings import Settings

_IDENTITY: Final = {"nats_creds", "nats_nkey", "nats_user", "nats_password", "nats_token"}


def token(text: str) -> str:
    """Read a tenant or an id."""
    from aichats_schemas.subjects import is_token

    if not is_token(text):
        raise typer.BadParameter("is 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return text


def _noted(option: str) -> Callable[[str | None], str | None]:
    """Make a callback that has the sentences of this command name others with what was typed for an option."""

    def note(value: str | None) -> str | None:
        take_note(option, None if option == "--tenant" and value == "default" else value)
        return value

    return note


Server = Annotated[
    str | None,
    typer.Option("--server", "-s", metavar="URL", callback=_noted("-s"), help="NATS server; else NATS_URL."),
]
Context = Annotated[
    str | None,
    typer.Option(metavar="NAME", callback=_noted("--context"), help="Context of `nats`; else NATS_CONTEXT."),
]
Tenant = Annotated[
    str, typer.Option(parser=token, metavar="NAME", callback=_noted("--tenant"), help="Whose request it is.")
]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest time for the whole answer.", min=0.001)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Prompt = Annotated[str | None, typer.Argument(help="Without one, or with -, standard input.", show_default=False)]
RequestId = Annotated[str, typer.Argument(parser=token, metavar="ID", show_default=False)]


def settings_of(server: str | None = None, context: str | None = None) -> "Settings":
    """Return the settings for a command. What `--server` names comes first, then variables, then the context.

    Args:
        server: What `--server` names.
        context: What `--context` names; else NATS_CONTEXT. A worker goes by its variables alone.
    """
    from aichats_client import ContextError
    from aichats_worker.errors import SetupError
    from aichats_worker.settings import load_settings

    name = context or os.environ.get("NATS_CONTEXT")
    try:
        found = _from_context(name, named=context is not None) if name else {}
        return load_settings(**found | ({"nats_url": server} if server else {}))
    except (SetupError, ContextError) as error:
        fail(str(error), STATUS_USAGE)


def _from_context(name: str, *, named: bool) -> dict[str, Any]:
    """Return what a context says and no variable does; all of it, where it was named on the command line."""
    from aichats_client import read_context

    context = read_context(name)
    fields = {
        f"nats_{field}": getattr(context, field)
        for field in ("url", "creds", "nkey", "user", "password", "token", "ca", "cert", "key", "inbox_prefix")
    }
    fields |= {"nats_js_domain": context.jetstream_domain, "nats_tls_first": context.tls_first}
    if named:
        return {field: value for field, value in fields.items() if value}
    said = {field for field in fields if os.environ.get(field.upper())}
    # Who one is comes whole from one place: a variable's token goes with no context's user.
    dropped = said | (_IDENTITY if said & _IDENTITY or "@" in os.environ.get("NATS_URL", "") else set())
    return {field: value for field, value in fields.items() if value and field not in dropped}


def prompt_of(given: str | None) -> str:
    """Return the prompt: what was typed, or standard input."""
    if given is None and sys.stdin.isatty():
        fail("give a prompt, or pipe one in", STATUS_USAGE)
    try:
        prompt = sys.stdin.read() if given in (None, "-") else given
    except UnicodeDecodeError:
        fail("what is piped in is not UTF-8 text", STATUS_USAGE)
    if prompt is None or not prompt.strip():
        fail("the prompt is blank", STATUS_USAGE)
    return prompt


def out(text: str) -> None:
    """Write to standard output as it is: no markup, no wrapping, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def console() -> "Console":
    """Return a console on standard error: for spinners and notes, which are shown on a terminal alone."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
