"""The command line: what a person types. What all commands share is in manners.py."""

import sys
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from aichats_worker.commands import line_asking, line_jobs, line_operating
from aichats_worker.commands.ending import STATUS_ERROR, STATUS_USAGE
from aichats_worker.commands.ending import ending as _ending
from aichats_worker.commands.ending import fail as _fail
from aichats_worker.commands.ending import finish as _finish
from aichats_worker.commands.manners import AsJson, Context, Server
from aichats_worker.commands.manners import out as _out
from aichats_worker.commands.manners import settings_of as _settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 success, 1 an error, 2 wrong usage or settings, 3 nobody answers, 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def about(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Stream text and images from ai-chats.org over NATS.

    Settings are environment variables; `aichats-worker doctor` lists them.

    Example: aichats-worker dev, and in another terminal: aichats-worker ask 'Say hi'
    """


@app.command()
def run() -> None:
    """Run a worker until SIGTERM or SIGINT.

    Example: NATS_URL=nats://127.0.0.1:4222 aichats-worker run
    """
    from aichats_worker.commands.running import run

    run()


@app.command()
def demo() -> None:
    """Show it at work: a broker, a simulated provider and a worker, all on this machine.

    Example: aichats-worker demo
    """
    from rich.console import Console

    from aichats_worker.commands.demo import DemoFailed, demo
    from aichats_worker.simulator.broker import NoServer
    from aichats_worker.telemetry.logs import configure_logging

    configure_logging("error", "auto")  # that a provider fails is part of it
    try:
        _finish(demo(Console()))
    except (DemoFailed, NoServer) as error:
        _fail(str(error))


@app.command()
def dev(
    provider: Annotated[Literal["simulator", "aichats", "openai"], typer.Option(help="Who answers.")] = "simulator",
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of an OpenAI-compatible server.", show_default=False)
    ] = None,
) -> None:
    """Run a broker, a provider and a worker on this machine, and show what is asked of them, until Ctrl-C.

    Example: aichats-worker dev --provider openai --base-url http://127.0.0.1:11434/v1
    """
    from rich.console import Console

    from aichats_worker.commands.dev import Playground
    from aichats_worker.settings import SettingsError
    from aichats_worker.simulator.broker import NoServer
    from aichats_worker.telemetry.logs import configure_logging

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
    """Say what answers, what does not, and which settings are in force (secrets masked).

    Example: aichats-worker doctor --json
    """
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


class _WithDirectives(TyperCommand):
    """A command whose help goes on with the simulator's directives."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from aichats_worker.simulator.manual import as_text

        super().format_help(ctx, formatter)
        typer.echo(as_text())


@app.command(cls=_WithDirectives)
def simulator(
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    key: Annotated[str | None, typer.Option(help="The key that calls below /v1 need; without it, none.")] = None,
) -> None:
    """Run a local stand-in for ai-chats.org and for an OpenAI-compatible server, with faults on demand.

    Example: aichats-worker simulator --port 8000
    """
    from aichats_worker.simulator.server import serve

    def started(running: Any) -> None:
        typer.echo(f"A local simulator, not ai-chats.org: set AICHATS_URL={running.url}")
        typer.echo(f"It is an OpenAI-compatible server as well: set OPENAI_BASE_URL={running.url}/v1")
        typer.echo("Prompts may hold directives such as [sim: delay=3 words=50]; --help lists them.")

    _finish(serve(port, host, started, key=key))


@app.command()
def docs(
    as_format: Annotated[Literal["yaml", "json", "html"], typer.Option("--format", help="How it is written.")] = "yaml",
) -> None:
    """Print what can be sent to a worker with these settings, and what comes back: an AsyncAPI document.

    Example: aichats-worker docs --format html > contract.html
    """
    from aichats_worker.app import App
    from aichats_worker.documents.contract import WRITERS
    from aichats_worker.settings import load_settings

    with _ending():
        _out(WRITERS[as_format](App(load_settings()).contract.document()).decode())


@app.command()
def version() -> None:
    """Print the version.

    Example: aichats-worker version
    """
    from aichats_schemas import __version__

    typer.echo(__version__)


app.add_typer(line_operating.app)
app.add_typer(line_asking.app)
app.add_typer(line_jobs.app)
