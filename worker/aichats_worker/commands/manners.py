"""What all commands share: their usual options, how they print, and the exit status that comes of what happens.

Exit statuses: 0 success, 1 an error or something is wrong, 2 wrong usage or settings, 3 nobody answers,
130 interrupted, 141 nobody reads what is printed.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from aichats_worker.starting import begun

if TYPE_CHECKING:
    from rich.console import Console

    from aichats_client import ClientError
    from aichats_worker.settings import Settings

T = TypeVar("T")

STATUS_ERROR, STATUS_USAGE, STATUS_NOBODY, STATUS_INTERRUPTED, STATUS_UNREAD = 1, 2, 3, 130, 141
_IDENTITY: Final = {"nats_creds", "nats_nkey", "nats_user", "nats_password", "nats_token"}
SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


class Refused(Exception):
    """There is no answer, or it cannot be used; the message is for the person who asked."""


class Unusable(Exception):
    """What was typed cannot be used, and nothing was asked; the message is for the person who typed it."""


def token(text: str) -> str:
    """Read a tenant or an id."""
    from aichats_schemas.subjects import is_token

    if not is_token(text):
        raise typer.BadParameter("is 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return text


Server = Annotated[str | None, typer.Option("--server", "-s", metavar="URL", help="NATS server; else NATS_URL.")]
Context = Annotated[str | None, typer.Option(metavar="NAME", help="Context of `nats`; else NATS_CONTEXT.")]
Tenant = Annotated[str, typer.Option(parser=token, metavar="NAME", help="Whose request it is.")]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest time for the whole answer.", min=0.001)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Prompt = Annotated[str | None, typer.Argument(help="Without one, or with -, standard input.", show_default=False)]
RequestId = Annotated[str, typer.Argument(parser=token, metavar="ID", show_default=False)]


def settings_of(server: str | None = None, context: str | None = None, *, by_context: bool = True) -> "Settings":
    """Return the settings for a command. What `--server` names comes first, then variables, then the context.

    Args:
        server: What `--server` names.
        context: What `--context` names.
        by_context: Whether NATS_CONTEXT counts: a worker goes by its variables alone.
    """
    from aichats_client import ContextError
    from aichats_worker.errors import SetupError
    from aichats_worker.settings import load_settings

    name = context or (os.environ.get("NATS_CONTEXT") if by_context else None)
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


def finish(work: Coroutine[Any, Any, T], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """Run to the end, in a loop that `loop` makes; a failure becomes one sentence and an exit status."""
    begun()
    with ending(), asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(_until_terminated(work))


@contextmanager
def ending() -> Iterator[None]:
    """Turn whatever ends a command into one sentence and an exit status."""
    from aichats_worker.errors import SetupError

    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(STATUS_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain once more at its end
        sys.exit(STATUS_UNREAD)
    except (Unusable, SetupError) as error:
        fail(str(error), STATUS_USAGE)
    except Refused as error:
        fail(str(error))
    except Exception as error:
        sentence, status = told(error)
        if not sentence:
            raise
        fail(sentence, status)


def told(error: Exception) -> tuple[str, int]:
    """Return a sentence for what somebody ran into, and the exit status. No sentence for a defect."""
    from nats.errors import Error as NatsError
    from nats.js.errors import Error as JetStreamError

    from aichats_client import ClientError
    from aichats_worker.commands.connection import RightMissing, Unreachable

    says = str(error).removeprefix("nats: ") or type(error).__name__
    if isinstance(error, ClientError):
        return _told_by_the_client(error)
    if isinstance(error, JetStreamError | RightMissing):
        return says, STATUS_ERROR
    if isinstance(error, Unreachable | NatsError | ConnectionError | TimeoutError | socket.gaierror):
        return f"{says}; `aichats-worker doctor` says more", STATUS_NOBODY
    return (says if isinstance(error, OSError) else ""), STATUS_ERROR


def _told_by_the_client(error: "ClientError") -> tuple[str, int]:
    from aichats_client import NoBroker, NoWorker, ServiceError, Stalled, TooLargeError

    if isinstance(error, NoBroker | NoWorker | Stalled):
        return str(error), STATUS_NOBODY
    if isinstance(error, TooLargeError) and not error.request_id:
        return str(error), STATUS_USAGE  # it was never sent
    if isinstance(error, ServiceError) and error.retryable:
        wait = f" in {error.retry_after:g} s" if error.retry_after is not None else ""
        return f"{error}; trying again{wait} may help", STATUS_ERROR
    return str(error), STATUS_ERROR


async def _until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """End a command on SIGTERM and SIGHUP as Ctrl-C does: by cancelling it, so that it cleans up."""
    task = asyncio.current_task()
    for number in SIGNALS:
        if task is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


def fail(sentence: str, status: int = STATUS_ERROR) -> NoReturn:
    """End with a sentence on standard error."""
    typer.echo(sentence, err=True)
    sys.exit(status)
