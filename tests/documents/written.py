"""The pages of docs that are made from the code; `make docs` writes them, and a test compares."""

import asyncio
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aichats_client.errors import ServiceError
from aichats_schemas.events import ErrorCode, StreamEvent
from aichats_worker.app import App
from aichats_worker.commands.line import app as command_line
from aichats_worker.errors import WorkerError
from aichats_worker.settings import Settings, settings_without_environment
from aichats_worker.simulator.broker import embedded_nats_server
from aichats_worker.telemetry.logs import configure_logging
from tests.chart.written import secret_names, settings_schema
from tests.processes import ROOT

DOCS: Final = ROOT / "docs"
MADE: Final = "<!-- Made by `make docs`; a test compares. -->"
GROUPS: Final = {
    "NATS_": ("The broker", "The `nats` command line has the same names. Paths are read again at each connect."),
    "WORKER_": ("The worker", "What it serves, how much at once, and for how long."),
    "PROVIDER_": ("Every provider", "These hold for all providers."),
    "AICHATS_": ("ai-chats.org", "For the provider `aichats`."),
    "OPENAI_": ("An OpenAI-compatible server", "For the provider `openai`; [Providers](providers.md) has examples."),
}
METRICS_ABOUT: Final = """\
`/metrics` on `WORKER_HTTP_PORT`, for Prometheus. A histogram's samples end in `_bucket`, `_sum` and `_count`; times are
in seconds. What can be counted begins at 0 when the worker starts, so that the first of its kind is a rise. No label
holds a tenant, an id or a subject: who asked is in [the log](logs.md) alone. [Runbook](runbook.md) says what to do.

- `mode` is `req`, `ask` or `job`; `kind` is `text` or `image`.
- `outcome` of a request is `done`, an [error code](errors.md), or one of three that nobody is told: `gone` (nobody
  listened any more), `handed_over` (another worker had room and answers it), `lost` (somebody else has written to the
  job's record). Of a provider's call it is `answered`, `left` (the request ended first) or an error code.
- `fault` is whose it was: `requester`, `operator`, `provider` or `worker`.
- What the queue holds (`aichats_jobs_waiting`, `_taken`, `_oldest_seconds`) is the broker's word, the same at each
  worker: take `max`, not `sum`."""
CIRCUIT: Final = {"none": "no", "counts": "counts", "opens": "opens"}
SETTINGS_ABOUT: Final = """\
A worker reads its settings from environment variables, once, at its start. An empty variable counts as not set. A wrong
one ends the start with one sentence and exit status 2. A variable that looks like a setting and is none is warned of,
with the name that was meant. `aichats-worker doctor` shows what is in force. Secrets are never shown or
logged."""
EVENTS_ABOUT: Final = """\
Each message on a reply subject is one JSON object. `type` says what it is. After `done`, `result` or `error` comes one
message of zero bytes, the sentinel, and nothing after it. Ignore types and fields that you do not know: newer workers
may have more."""


def page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", MADE, *parts]) + "\n"


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    names = head.split(" | ")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings_page() -> str:
    """Every setting, by whom it is for."""
    parts = [SETTINGS_ABOUT]
    defaults, schema = Settings.model_construct().masked(), settings_schema()
    for prefix, (title, about) in GROUPS.items():
        rows = [
            [f"`{name}`", default(defaults[name]), "a secret" if name in secret_names() else bounds(schema[name]), says]
            for name, says in described(prefix)
        ]
        parts.append(f"## {title}\n\n{about}\n\n{table('Variable | Default | May be | Meaning', rows)}")
    parts.append(
        "## OpenTelemetry\n\n`OTEL_*` are OpenTelemetry's own variables. Without an endpoint there is no tracing."
    )
    return page("Settings", *parts)


def described(prefix: str) -> list[tuple[str, str]]:
    return [
        (name.upper(), field.description or "")
        for name, field in Settings.model_fields.items()
        if name.upper().startswith(prefix)
    ]


def default(shown: str) -> str:
    return f"`{shown.removesuffix('.0')}`" if shown else "none"


def bounds(schema: dict[str, Any]) -> str:
    """What a setting may be, in words."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if isinstance(value, str))
    kind = {"integer": "a whole number", "number": "a number"}.get(schema.get("type", ""), "text")
    if "exclusiveMinimum" in schema:
        kind += f" above {schema['exclusiveMinimum']:g}"
    if "minimum" in schema:
        kind += f" from {schema['minimum']:g}"
    return kind + (f" to {schema['maximum']:g}" if "maximum" in schema else "")


def errors_page() -> str:
    """Every code."""
    leaves = {leaf.code: leaf for leaf in WorkerError.__subclasses__()}
    raised = {each.known_code: each.__name__ for each in ServiceError.__subclasses__()}
    rows = [
        [
            f"`{code}`", str(leaf.number), "yes" if leaf.retryable else "no", leaf.fault, CIRCUIT[leaf.circuit],
            sentence(leaf), f"`{raised[code]}`",
        ]
        for code, leaf in ((code, leaves[code]) for code in ErrorCode)
    ]  # fmt: skip
    return page(
        "Errors",
        "A failure is one `error` event, and never text of an answer. `retryable` says whether trying again may help, "
        "and `retry_after_ms` when. *Whose* decides what follows: the requester's own mistake is never tried again, "
        "and never counts against the provider. *Circuit* says what the failure means for the provider: failures that "
        "*count* stop the calls to it after some in a row, one that *opens* at once. The last column is the exception "
        "of `aichats_client`.",
        table("Code | Number | Try again | Whose | Circuit | When | In Python", rows),
        "`deadline_exceeded` names its phase: `queue`, `connect`, `first_byte`, `stall` or `total`. Of these, "
        "`connect` and `first_byte` count against the provider. A job is not tried again after `queue` or `total`.",
    )


def sentence(of: object) -> str:
    return " ".join((of.__doc__ or "").strip().partition("\n\n")[0].split())


def events_page() -> str:
    """Every event with the fields of its data."""
    union, *_ = get_args(StreamEvent)
    models = list(get_args(union))
    parts = [
        EVENTS_ABOUT,
        '```json\n{"type":"response","data":"Hel","id":"r9","attempt":1,"seq":3}\n```',
        "## All events have\n\n"
        + fields({name: field for name, field in models[0].model_fields.items() if name in ("id", "attempt", "seq")}),
    ]
    for model in models:
        kind, data = model.model_fields["type"].default, model.model_fields["data"]
        about = f"## {kind}\n\n{sentence(model)}"
        if inner := inside(data.annotation):
            parts.append(f"{about} `data` is:\n\n{tree(inner)}")
        else:
            parts.append(f"{about} `data` is text{': ' + data.description if data.description else '.'}")
    return page("Events", *parts)


def tree(model: type[BaseModel], prefix: str = "") -> str:
    return table("Field | Is | Meaning", rows_of(model, prefix))


def rows_of(model: type[BaseModel], prefix: str) -> list[list[str]]:
    rows = []
    for name, field in model.model_fields.items():
        rows.append([f"`{prefix}{name}`", *meaning(field)])
        if inner := inside(field.annotation):
            rows += rows_of(inner, f"{prefix}{name}{'[]' if is_list(field.annotation) else ''}.")
    return rows


def fields(of: dict[str, FieldInfo]) -> str:
    return table("Field | Is | Meaning", [[f"`{name}`", *meaning(field)] for name, field in of.items()])


def meaning(field: FieldInfo) -> list[str]:
    kinds = [kind for kind in members(field.annotation) if kind is not type(None)]
    said = " or ".join(dict.fromkeys(map(word, kinds)))
    return [said if field.is_required() else f"{said}, or absent", field.description or ""]


def word(kind: Any) -> str:
    if is_list(kind):
        return "a list"
    if inside(kind) is not None or getattr(kind, "__origin__", kind) is dict:
        return "an object"
    return {int: "a whole number", bool: "true or false"}.get(kind, "text")


def members(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if isinstance(annotation, types.UnionType) else [annotation]


def is_list(annotation: Any) -> bool:
    return any(getattr(kind, "__origin__", None) is list for kind in members(annotation))


def inside(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds, by itself or in a list."""
    kinds = [inner for kind in members(annotation) for inner in (kind, *get_args(kind))]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def commands_page() -> str:
    """Every command with its options."""
    group: Any = typer.main.get_command(command_line)
    parts = [
        "`aichats-worker COMMAND --help` says the same. A command finds the broker by `--server`, by the `NATS_…` "
        "variables, or by a context of the `nats` command line. " + str(group.epilog),
        *(command(f"aichats-worker {name}", each) for name, each in group.commands.items()),
    ]
    return page("Command line", *parts)


def command(name: str, of: Any, level: str = "##") -> str:
    about, _, example = of.help.partition("Example: ")
    parts = [f"{level} {name}", " ".join(about.replace("\n\n", " ").split())]
    parts += ["Example: " + ", then ".join(f"`{line.strip()}`" for line in example.split("; "))] if example else []
    if hasattr(of, "commands"):
        return "\n\n".join([*parts, *(command(f"{name} {sub}", each, "###") for sub, each in of.commands.items())])
    context = of.make_context(name, [], resilient_parsing=True)
    records = filter(None, (each.get_help_record(context) for each in of.params))
    rows = [[f"`{spelled.replace('|', ', ')}`", says] for spelled, says in records]  # a bar would end a cell
    return "\n\n".join([*parts, table("Argument or option | Meaning", rows)] if rows else parts)


def metrics_page(registry: Any) -> str:
    """Every metric of a worker that serves everything.

    Args:
        registry: Of a worker that has started and serves jobs.
    """
    names = sorted({(each.name, kind(each), each.documentation) for each in described_families(registry)})
    labels = labels_of(registry)
    rows = [
        [
            f"`{name}{'_total' if what == 'counter' else ''}`",
            what,
            ", ".join(f"`{each}`" for each in labels[name]),
            says,
        ]
        for name, what, says in names
    ]
    ours = [row for row in rows if row[0].startswith("`aichats")]
    others = [row for row in rows if row not in ours]
    head = "Metric | Is | Labels | Meaning"
    return page(
        "Metrics",
        METRICS_ABOUT,
        f"## The worker's own\n\n{table(head, ours)}",
        f"## The process\n\nAs every Prometheus client has them.\n\n{table(head, others)}",
    )


def kind(family: Any) -> str:
    return str(family.type)


def collectors(registry: Any) -> list[Any]:
    return list(dict.fromkeys(registry._collector_to_names))


def described_families(registry: Any) -> list[Any]:
    return [family for collector in collectors(registry) for family in collector.collect()]


def labels_of(registry: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for collector in collectors(registry):
        for family in collector.collect():
            found[family.name] = list(
                getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", None) or ()
            )
    return found


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "events.md": events_page,
    "commands.md": commands_page,
}


async def _metrics() -> str:
    """The metrics of a worker that is started for this."""
    with TemporaryDirectory() as folder:
        async with embedded_nats_server(Path(folder)) as url:
            worker = App(settings_without_environment(nats_url=url, worker_http_port=0))
            await worker.start()
            await worker.jobs_served()
            made = metrics_page(worker.telemetry.registry)
            await worker.drain()
            return made


if __name__ == "__main__":
    configure_logging("warning", "auto")
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), "utf-8")
    (DOCS / "metrics.md").write_text(asyncio.run(_metrics()), "utf-8")
