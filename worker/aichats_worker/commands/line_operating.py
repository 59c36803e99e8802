"""The command line of whoever keeps the queue: provision, dead."""

from typing import Annotated, Any

import typer

from aichats_worker.commands.ending import finish
from aichats_worker.commands.manners import AsJson, Context, Server, settings_of

app = typer.Typer()

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
Bytes = Annotated[int | None, _made("1 GiB", "Its largest size, in bytes.", min=1024)]
Kept = Annotated[float | None, _made("30d", "How long a dead letter is kept.", parser=_duration, metavar="DURATION")]
AckWait = Annotated[
    float | None,
    _made(
        "WORKER_ACK_WAIT_SECONDS",
        "Silence after which a job goes to another worker. A change may give what runs to two.",
        parser=_duration,
        metavar="DURATION",
    ),
]


@app.command()
def provision(
    *,
    server: Server = None,
    context: Context = None,
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

    Example: aichats-worker provision --replicas 3 --dry-run
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
    changes = finish(provision(settings_of(server, context), choices, dry_run=dry_run))
    typer.echo("\n".join(changes) if changes else "nothing to change")


dead = typer.Typer(
    no_args_is_help=True,
    help="Look at the jobs that were given up, and try or drop them.\n\nExample: aichats-worker dead list",
)
app.add_typer(dead, name="dead")

Number = Annotated[int, typer.Argument(help="As `dead list` shows it.", min=1)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dead.command("list")
def dead_list(server: Server = None, context: Context = None, as_json: AsJson = False) -> None:
    """List all dead letters, the oldest first, one on each line.

    Example: aichats-worker dead list --json | head
    """
    from aichats_worker.commands.operating import dead_list

    finish(dead_list(settings_of(server, context), as_json=as_json))


@dead.command("show")
def dead_show(number: Number, server: Server = None, context: Context = None) -> None:
    """Print one dead letter as JSON: its reason, headers and body.

    Example: aichats-worker dead show 3
    """
    import json

    from aichats_worker.commands.operating import dead_show

    typer.echo(json.dumps(finish(dead_show(settings_of(server, context), number)), indent=2, ensure_ascii=False))


@dead.command("retry")
def dead_retry(number: Number, server: Server = None, context: Context = None, yes: Yes = False) -> None:
    """Submit the job of one dead letter again, with its headers. Its old record is cleared first.

    Example: aichats-worker dead retry 3
    """
    from aichats_worker.commands.operating import dead_retry

    if not yes:
        typer.confirm(f"submit the job of dead letter {number} again?", abort=True)
    typer.echo(f"submitted {finish(dead_retry(settings_of(server, context), number))} again")


@dead.command("drop")
def dead_drop(number: Number, server: Server = None, context: Context = None, yes: Yes = False) -> None:
    """Delete one dead letter for good.

    Example: aichats-worker dead drop 3 --yes
    """
    from aichats_worker.commands.operating import dead_drop

    if not yes:
        typer.confirm(f"drop dead letter {number}?", abort=True)
    typer.echo(f"dropped {finish(dead_drop(settings_of(server, context), number))}")
