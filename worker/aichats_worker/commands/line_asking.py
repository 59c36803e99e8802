"""The command line of whoever asks: ask, image, chat, cancel."""

from pathlib import Path
from typing import Annotated

import typer

from aichats_worker.commands.ending import ending, fail, finish
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
)

app = typer.Typer()

Model = Annotated[str | None, typer.Option(metavar="NAME", help="One of those that `aichats-worker top` lists.")]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="What the model is told before the prompt.")]
Temperature = Annotated[float | None, typer.Option(min=0, max=2, help="0 for the most likely words, 2 for wild ones.")]
TopP = Annotated[float | None, typer.Option(min=0, max=1, help="Choose among the likeliest words of this share.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="The answer's greatest length, in tokens.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="The answer ends before this text; up to 4.")]
Seed = Annotated[int | None, typer.Option(help="With the same seed, many models repeat an answer.")]
JsonObject = Annotated[bool, typer.Option("--json-object", help="The answer is to be a JSON object.")]
Reasoning = Annotated[bool, typer.Option("--reasoning", help="Show the model's reasoning, on standard error.")]
Out = Annotated[Path | None, typer.Option("--output", "-o", help="Where to save; - for standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
Count = Annotated[int | None, typer.Option("--n", min=1, max=4, help="How many images.")]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Such as 1024x1024.")]
Quality = Annotated[str | None, typer.Option(metavar="WORD", help="Such as hd.")]


@app.command()
def ask(
    prompt: Prompt = None,
    *,
    model: Model = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    seed: Seed = None,
    json_object: JsonObject = False,
    reasoning: Reasoning = False,
    timeout: Timeout = None,
    tenant: Tenant = "default",
    server: Server = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a text, and print it as it comes.

    Example: git diff | aichats-worker ask --system 'Write a commit message.'
    """
    from aichats_worker.commands.asking import Asker, check

    if stop and len(stop) > 4:
        fail("--stop may be given 4 times", 2)
    text = prompt_of(prompt)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}] if system else None
    options = {
        "messages": messages, "model": model, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens,
        "stop": stop or None, "seed": seed, "json": json_object or None,
        "reasoning": reasoning or None, "timeout": timeout,
    }  # fmt: skip
    prompt = None if messages else text
    with ending():
        check("text", prompt, options)
    finish(Asker(settings_of(server, context), tenant, as_json).ask(prompt, options))


@app.command()
def image(
    prompt: Prompt = None,
    *,
    output: Out = None,
    force: Force = False,
    n: Count = None,
    size: Size = None,
    quality: Quality = None,
    model: Model = None,
    timeout: Timeout = None,
    tenant: Tenant = "default",
    server: Server = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Ask for images, save them, and print where they are.

    Example: aichats-worker image 'a cat' -o cat
    """
    from aichats_worker.commands.asking import Asker, check
    from aichats_worker.commands.output import Output

    text = prompt_of(prompt)
    options = {"n": n, "size": size, "quality": quality, "model": model, "timeout": timeout}
    asker = Asker(settings_of(server, context), tenant, as_json)
    given = {name: value for name, value in options.items() if value is not None}
    with ending():
        check("image", text, given)
        Output(output, force).check(n or 1, as_json=as_json)
    finish(asker.image(text, Output(output, force), given))


@app.command()
def chat(
    *,
    history: Annotated[Path | None, typer.Option(help="Go on with what is in this file, and add to it.")] = None,
    model: Model = None,
    system: System = None,
    temperature: Temperature = None,
    timeout: Timeout = None,
    tenant: Tenant = "default",
    server: Server = None,
    context: Context = None,
) -> None:
    """Have a conversation. Ctrl-C stops an answer, Ctrl-D ends it all.

    Example: aichats-worker chat --history trip.jsonl
    """
    from aichats_worker.commands.asking import Asker
    from aichats_worker.commands.chat import Chat, History

    with ending():
        chat = Chat(
            Asker(settings_of(server, context), tenant),
            History.read(history, system),
            {"model": model, "temperature": temperature, "timeout": timeout},
        )
        chat.run()


@app.command()
def cancel(request_id: RequestId, tenant: Tenant = "default", server: Server = None, context: Context = None) -> None:
    """Stop a request or a job, running or queued.

    Example: aichats-worker cancel order-7
    """
    from aichats_worker.commands.asking import Asker

    if not finish(Asker(settings_of(server, context), tenant).cancel(request_id)):
        fail(f"nobody runs or holds {request_id}, or it has ended")
    typer.echo("cancelled")
