"""The command line: what a person types, and the exit status that comes of it.

Exit statuses: 0 well, 1 the answer is an error or something is not well, 2 wrong usage or settings, 3 nobody answers,
130 interrupted.
"""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from nats.errors import Error as NatsError
from rich.console import Console

from aichats_client import ClientError
from aichats_schemas import __version__
from aichats_worker.errors import SetupError
from aichats_worker.settings import Settings, load_settings, settings_without_environment

T = TypeVar("T")

STATUS_ERROR, STATUS_USAGE, STATUS_NOBODY, STATUS_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit status: 0 well, 1 an error, 2 wrong usage or settings, 3 nobody answers, 130 interrupted.",
)

Server = Annotated[str | None, typer.Option("--server", "-s", help="NATS server, in place of NATS_URL.")]
Tenant = Annotated[str, typer.Option(help="Tenant, a token of the subject.")]
Timeout = Annotated[float | None, typer.Option(help="Whole budget in seconds.", min=0.001)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the events, one JSON object a line.")]
Prompt = Annotated[str | None, typer.Argument(help="The prompt; without one, or with -, standard input.")]


@app.callback()
def about() -> None:
    """Stream text and images from ai-chats.org over NATS. Settings are environment variables; see the README."""


@app.command()
def run() -> None:
    """Run a worker until SIGTERM or SIGINT."""
    from aichats_worker.service import serve
    from aichats_worker.telemetry import configure_logging

    settings = _settings(context=False)
    configure_logging(settings.worker_log_level, settings.worker_log_format)
    sys.exit(_finish(serve(settings)))


@app.command()
def demo() -> None:
    """Show it at work: a broker, a simulated provider and a worker, all on this machine."""
    from aichats_worker.commands.demo import DemoFailed, demo
    from aichats_worker.simulator.broker import NoServer
    from aichats_worker.telemetry import configure_logging

    configure_logging("warning", "auto")
    try:
        _finish(demo(Console()))
    except (DemoFailed, NoServer) as error:
        _fail(str(error))


@app.command()
def ask(
    prompt: Prompt = None,
    server: Server = None,
    tenant: Tenant = "default",
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a text, and print it as it comes."""
    _finish(_asker(server, tenant, timeout, as_json=as_json).ask(_prompt(prompt)))


@app.command()
def image(
    prompt: Prompt = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file; - for standard output.")] = None,
    server: Server = None,
    tenant: Tenant = "default",
    timeout: Timeout = None,
) -> None:
    """Ask for an image, and write it to a file."""
    if output is not None and not output.parent.is_dir():
        _fail(f"there is no directory {output.parent}", STATUS_USAGE)
    written = _finish(_asker(server, tenant, timeout).image(_prompt(prompt), output, Console(stderr=True)))
    if written:
        typer.echo(written)


@app.command()
def cancel(request_id: str, server: Server = None, tenant: Tenant = "default") -> None:
    """Stop a request, running or queued."""
    if not _finish(_asker(server, tenant).cancel(request_id)):
        _fail(f"nobody runs or holds {request_id}, or it has ended")
    typer.echo("cancelled")


@app.command()
def resume(
    request_id: str,
    after: Annotated[str | None, typer.Option(help="Only what came after ATTEMPT,SEQ.")] = None,
    server: Server = None,
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Print a job's events again, and go on live."""
    point: tuple[int, int] | None = None
    if after is not None:
        try:
            attempt, seq = (int(number) for number in after.split(","))
        except ValueError:
            _fail("--after takes ATTEMPT,SEQ, for example 1,41", STATUS_USAGE)
        point = (attempt, seq)
    _finish(_asker(server, tenant, as_json=as_json).resume(request_id, point))


@app.command()
def doctor(server: Server = None, as_json: AsJson = False) -> None:
    """Say what answers, what does not, and which settings are in force (secrets masked)."""
    import json

    from aichats_worker.commands.doctor import examine

    settings = _settings(server)
    report = _finish(examine(settings, settings_without_environment()))
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        for finding in report.findings:
            typer.echo(f"{'ok  ' if finding.well else 'FAIL'}  {finding.name:10} {finding.says}")
        typer.echo("\nSettings in force, * where they differ from the default:")
        for name, value in report.settings.items():
            typer.echo(f"{'*' if name in report.changed else ' '} {name}={value}")
    sys.exit(0 if report.well else STATUS_ERROR)


@app.command()
def simulator(
    port: Annotated[int, typer.Option(help="Where to listen.", min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Run a local stand-in for ai-chats.org, with faults on demand. It is not ai-chats.org."""
    from aichats_worker.simulator.server import serve

    def started(running: Any) -> None:
        typer.echo(f"A local simulator, not ai-chats.org: set AICHATS_URL={running.url}")
        typer.echo("Prompts may hold directives such as [sim: delay=3 words=50]; worker/simulator.py lists them.")

    _finish(serve(port, host, started))


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: str) -> float:
    """Read 45s, 90m, 12h or 30d, of at least a second, as seconds."""
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.isdigit() or int(number) == 0:
        raise typer.BadParameter("must be a whole number with s, m, h or d behind it, such as 30d")
    return float(int(number) * UNITS[unit])


def _made(default: str, says: str | None = None, **more: Any) -> Any:
    """Make an option of `provision` that leaves what is there as it is, unless it is given."""
    return typer.Option(help=says, show_default=f"{default} where it is made", **more)


Replicas = Annotated[int | None, _made("1", "Copies of each stream.", min=1, max=5)]
Jobs = Annotated[int | None, _made("100000", "Jobs that may wait; more are refused.", min=1)]
Bytes = Annotated[int | None, _made("1 GiB", min=1024)]
Kept = Annotated[float | None, _made("30d", "How long a dead letter is kept.", parser=_duration, metavar="DURATION")]
AckWait = Annotated[
    float | None,
    _made(
        "WORKER_ACK_WAIT_SECONDS",
        "The consumers'. A job that runs meanwhile may be given to a second worker.",
        parser=_duration,
        metavar="DURATION",
    ),
]


@app.command()
def provision(
    *,
    server: Server = None,
    replicas: Replicas = None,
    jobs_max: Jobs = None,
    jobs_max_bytes: Bytes = None,
    results_max_bytes: Bytes = None,
    dead_max_bytes: Bytes = None,
    dead_max_age: Kept = None,
    ack_wait: AckWait = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Make the streams and consumers of jobs, or bring them up to date; refuses what would lose data.

    What no option names stays as it is.
    """
    from aichats_worker.commands.operating import provision
    from aichats_worker.jobs.streams import Choices

    choices = Choices(
        jobs_max=jobs_max,
        jobs_max_bytes=jobs_max_bytes,
        results_max_bytes=results_max_bytes,
        dead_max_bytes=dead_max_bytes,
        dead_max_age_seconds=dead_max_age,
        replicas=replicas,
        ack_wait_seconds=ack_wait,
    )
    changes = _finish(provision(_settings(server), choices, dry_run=dry_run))
    typer.echo("\n".join(changes) if changes else "nothing to change")


dead = typer.Typer(no_args_is_help=True, help="Look at the jobs that were given up, and try or drop them.")
app.add_typer(dead, name="dead")

Number = Annotated[int, typer.Argument(help="As `dead list` shows it.", min=1)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dead.command("list")
def dead_list(server: Server = None, as_json: AsJson = False) -> None:
    """List all, oldest first, a line for each."""
    from aichats_worker.commands.operating import dead_list

    _finish(dead_list(_settings(server), as_json=as_json))


@dead.command("show")
def dead_show(number: Number, server: Server = None) -> None:
    """Print one whole, as JSON: its reason, headers and body."""
    import json

    from aichats_worker.commands.operating import dead_show

    typer.echo(json.dumps(_finish(dead_show(_settings(server), number)), indent=2, ensure_ascii=False))


@dead.command("retry")
def dead_retry(number: Number, server: Server = None, yes: Yes = False) -> None:
    """Submit the job again with its original headers, after its old record is cleared."""
    from aichats_worker.commands.operating import dead_retry

    if not yes:
        typer.confirm(f"submit the job of dead letter {number} again?", abort=True)
    typer.echo(f"submitted {_finish(dead_retry(_settings(server), number))} again")


@dead.command("drop")
def dead_drop(number: Number, server: Server = None, yes: Yes = False) -> None:
    """Forget one."""
    from aichats_worker.commands.operating import dead_drop

    if not yes:
        typer.confirm(f"drop dead letter {number}?", abort=True)
    typer.echo(f"dropped {_finish(dead_drop(_settings(server), number))}")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _settings(server: str | None = None, *, context: bool = True) -> Settings:
    """Read the environment, for a command: what no variable says may be said by a context of the nats command line."""
    from aichats_worker.commands.context import from_context

    options = {"nats_url": server} if server else {}
    try:
        settings = load_settings(**options)
        if context and settings.nats_context:
            named = settings.model_fields_set | ({"nats_user"} if "@" in settings.nats_url else set())
            settings = load_settings(**(from_context(settings.nats_context, named) | options))
    except SetupError as error:
        _fail(str(error), STATUS_USAGE)
    return settings


def _asker(server: str | None, tenant: str, timeout: float | None = None, *, as_json: bool = False) -> Any:
    from aichats_worker.commands.asking import Asker

    return Asker(_settings(server), tenant, timeout, as_json)


def _prompt(given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        _fail("give a prompt, or pipe one in", STATUS_USAGE)
    prompt = sys.stdin.read() if given in (None, "-") else given
    if prompt is None or not prompt.strip():
        _fail("the prompt is blank", STATUS_USAGE)
    return prompt


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; a failure becomes one sentence and an exit status."""
    from aichats_worker.commands.asking import Refused

    try:
        return asyncio.run(_until_terminated(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(STATUS_INTERRUPTED)
    except SetupError as error:
        _fail(str(error), STATUS_USAGE)
    except Refused as error:
        _fail(str(error))
    except ClientError as error:
        _fail(str(error), STATUS_NOBODY)
    except (NatsError, OSError) as error:
        _fail(
            f"{str(error).removeprefix('nats: ') or type(error).__name__}; `aichats-worker doctor` says more",
            STATUS_NOBODY,
        )


async def _until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """SIGTERM ends a command as Ctrl-C does: by cancelling it, so that it cleans up. `run` has its own way."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _fail(sentence: str, status: int = STATUS_ERROR) -> NoReturn:
    typer.echo(sentence, err=True)
    sys.exit(status)
