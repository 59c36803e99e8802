"""The command line of a queue: submit, result, resume, jobs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aichats_worker.commands.ending import STATUS_ERROR, STATUS_USAGE, Unusable, ending, fail, finish
from aichats_worker.commands.line_asking import Force, MaxTokens, Model, Out, Size, System, Temperature
from aichats_worker.commands.manners import (
    AsJson,
    Context,
    Prompt,
    RequestId,
    Server,
    Tenant,
    Timeout,
    prompt_of,
    settings_of,
    token,
)

app = typer.Typer()


@app.command()
def submit(
    prompt: Prompt = None,
    *,
    kind: Annotated[Literal["text", "image"], typer.Option(help="A text or an image.")] = "text",
    id: Annotated[  # noqa: A002 - the contract's own word
        str | None, typer.Option(parser=token, metavar="ID", help="The job's name; one is made without it.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Many jobs: on each line a JSON object, with kind, id and any field of the request."
        ),
    ] = None,
    model: Model = None,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    size: Size = None,
    timeout: Timeout = None,
    tenant: Tenant = "default",
    server: Server = None,
    context: Context = None,
) -> None:
    """Submit a job, or a file of them, and print the ids: what is printed is stored.

    A file's lines may also have top_p, stop, seed, json, reasoning, n and quality, as `ask` and `image` do.

    Example: aichats-worker submit --id order-7 'Say hi'; aichats-worker result order-7
    """
    from aichats_worker.commands.asking import Asker
    from aichats_worker.commands.orders import Order, orders_in, submit_all

    options: dict[str, Any] = {
        "model": model, "temperature": temperature, "max_tokens": max_tokens, "size": size, "timeout": timeout
    }  # fmt: skip
    with ending():
        if file is None:
            orders = [Order.read({"kind": kind, "id": id} | _question(prompt_of(prompt), system) | options)]
        else:
            if prompt is not None or id is not None:
                raise Unusable("give a prompt or a file, not both")
            if kind != "text" or system is not None or any(given is not None for given in options.values()):
                raise Unusable("with --file, each line has its own kind and options: give them there")
            orders = orders_in(file)
    failed = finish(submit_all(Asker(settings_of(server, context), tenant), orders))
    if failed:
        fail(f"{failed} of {len(orders)} jobs were not taken", STATUS_ERROR)


def _question(text: str, system: str | None) -> dict[str, Any]:
    if not system:
        return {"prompt": text}
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}


@app.command()
def result(
    job_id: RequestId,
    *,
    output: Out = None,
    force: Force = False,
    tenant: Tenant = "default",
    server: Server = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a job's end, and print its text or save its images. With -o, a text is saved too.

    Example: aichats-worker result order-7
    """
    from aichats_worker.commands.asking import Asker
    from aichats_worker.commands.output import Output

    finish(Asker(settings_of(server, context), tenant, as_json).result(job_id, Output(output, force)))


@app.command()
def resume(
    job_id: RequestId,
    *,
    after: Annotated[
        str | None, typer.Option(metavar="ATTEMPT,SEQ", help="Only what came later, such as 1,41.", show_default=False)
    ] = None,
    output: Out = None,
    force: Force = False,
    tenant: Tenant = "default",
    server: Server = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Print a job's text from its beginning, and go on live; its images, and with -o its text, are saved at the end.

    Example: aichats-worker resume order-7 --json
    """
    from aichats_worker.commands.asking import Asker
    from aichats_worker.commands.output import Output

    asker = Asker(settings_of(server, context), tenant, as_json)
    finish(asker.resume(job_id, _point(after), Output(output, force)))


def _point(after: str | None) -> tuple[int, int] | None:
    if after is None:
        return None
    try:
        attempt, seq = (int(number) for number in after.split(","))
    except ValueError:
        fail("--after takes ATTEMPT,SEQ, for example 1,41", STATUS_USAGE)
    return attempt, seq


@app.command()
def jobs(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many are listed, oldest first.")] = 50,
    server: Server = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Show which jobs wait, which run, and which were tried before. For operators: it reads the streams.

    Example: aichats-worker jobs --json | head
    """
    from aichats_worker.commands.waiting import show_jobs

    finish(show_jobs(settings_of(server, context), limit, as_json=as_json))


@app.command()
def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=60, metavar="SECONDS", help="How often it looks.")] = 2,
    server: Server = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Show the workers, what they do, and what waits, until Ctrl-C.

    Example: aichats-worker top --once --json
    """
    from aichats_worker.commands.top import top

    finish(top(settings_of(server, context), every, once=once, as_json=as_json))
