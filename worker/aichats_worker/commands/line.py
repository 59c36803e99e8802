"""The command line: what a person types. What all commands share is in manners.py."""

import sys
from typing import Annotated, Any, Literal

import typer

from aichats_worker.commands import line_asking, line_jobs
from aichats_worker.commands.manners import STATUS_ERROR, STATUS_USAGE, AsJson, Context, Server
from aichats_worker.commands.manners import fail as _fail
from aichats_worker.commands.manners import finish as _finish
from aichats_worker.commands.manners import settings_of as _settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 well, 1 an error, 2 wrong usage or settings, 3 nobody answers, 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def about(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Stream text and images from ai-chats.org over NATS. Settings are environment variables; see the README.

    Example: aichats-worker dev, and in another terminal: aichats-worker ask 'Say hi'
    """


@app.command()
def run() -> None:
    """Run a worker until SIGTERM or SIGINT."""
    from aichats_worker.service import serve
    from aichats_worker.telemetry import configure_logging

    settings = _settings()
    configure_logging(settings.worker_log_level, settings.worker_log_format)
    sys.exit(_finish(serve(settings)))


@app.command()
def demo() -> None:
    """Show it at work: a broker, a simulated provider and a worker, all on this machine."""
    from rich.console import Console

    from aichats_worker.commands.demo import DemoFailed, demo
    from aichats_worker.simulator.broker import NoServer
    from aichats_worker.telemetry import configure_logging

    configure_logging("warning", "auto")
    try:
        _finish(demo(Console()))
    except (DemoFailed, NoServer) as error:
        _fail(str(error))


@app.command()
def dev(
    provider: Annotated[Literal["simulator", "aichats", "openai"], typer.Option(help="Who answers.")] = "simulator",
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Of an OpenAI-compatible server.", show_default=False)
    ] = None,
) -> None:
    """Run a broker, a provider and a worker on this machine, and show what is asked of them, until Ctrl-C.

    Example: aichats-worker dev --provider openai --base-url http://127.0.0.1:11434/v1
    """
    from rich.console import Console

    from aichats_worker.commands.dev import Playground
    from aichats_worker.settings import SettingsError
    from aichats_worker.simulator.broker import NoServer
    from aichats_worker.telemetry import configure_logging

    if base_url and provider != "openai":
        _fail("--base-url goes with --provider openai", STATUS_USAGE)
    configure_logging("warning", "console")
    try:
        _finish(Playground(provider, base_url).run(Console(highlight=False)))
    except NoServer as error:
        _fail(str(error))
    except SettingsError as error:
        _fail(str(error), STATUS_USAGE)


@app.command()
def doctor(server: Server = None, context: Context = None, as_json: AsJson = False) -> None:
    """Say what answers, what does not, and which settings are in force (secrets masked)."""
    import json

    from aichats_worker.commands.doctor import examine
    from aichats_worker.settings import settings_without_environment

    settings = _settings(server, context)
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


@app.command()
def provision(
    server: Server = None,
    replicas: Annotated[int, typer.Option(help="Copies of each stream.", min=1, max=5)] = 1,
    jobs_max: Annotated[int, typer.Option(help="Jobs that may wait; more are refused.", min=1)] = 100_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Make or update the streams and consumers of jobs; refuses what would lose data."""
    from aichats_worker.commands.operating import provision
    from aichats_worker.jobs.provision import Limits

    limits = Limits(jobs_max=jobs_max, replicas=replicas)
    changes = _finish(provision(_settings(server), limits, dry_run=dry_run))
    typer.echo("\n".join(changes) if changes else "nothing to change")


dead = typer.Typer(no_args_is_help=True, help="Look at the jobs that were given up, and try or drop them.")
app.add_typer(dead, name="dead")

Number = Annotated[int, typer.Argument(help="As `dead list` shows it.", min=1)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dead.command("list")
def dead_list(server: Server = None, as_json: AsJson = False) -> None:
    """List all, oldest first."""
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
    """Submit the job again with its original headers."""
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
    from aichats_schemas import __version__

    typer.echo(__version__)


app.add_typer(line_asking.app)
app.add_typer(line_jobs.app)
