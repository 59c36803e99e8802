"""`aichats-worker top`: the workers, what they do, and what waits."""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from pydantic_core import from_json
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from aichats_schemas.subjects import KINDS, SERVICE, Kind, Subjects
from aichats_worker.commands.asking import Asker
from aichats_worker.commands.manners import out
from aichats_worker.jobs.streams import consumer_name
from aichats_worker.settings import Settings

ANSWERS_WAIT_SECONDS: Final = 0.5  # nobody says how many workers there are
JETSTREAM_TIMEOUT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker as it tells of itself (the services API's STATS).

    Attributes:
        id: Its instance.
        version: Its software's.
        requests: How many it has answered.
        errors: How many of them ended in an error.
        average_ms: From receipt to end.
        first_event_ms: From receipt to the first piece of an answer, on average; None where there was none yet.
        in_flight: What runs now, jobs too, by kind.
        capacity: How much may run at once, by kind.
        per_second: Requests since the last look; None at the first one.
        provider_working: False while its circuit is open.
        models: That it offers.
    """

    id: str
    version: str
    requests: int
    errors: int
    average_ms: int
    first_event_ms: int | None
    in_flight: dict[str, int]
    capacity: dict[str, int]
    per_second: float | None
    provider_working: bool
    models: str

    @classmethod
    def read(cls, stats: dict[str, Any], before: "Seen | None", seconds: float) -> Self:
        """Read a worker's STATS, next to what it was `seconds` ago."""
        endpoints, metadata = stats.get("endpoints", []), stats.get("metadata", {})
        requests = sum(each.get("num_requests", 0) for each in endpoints)
        spent = sum(each.get("processing_time", 0) for each in endpoints)
        return cls(
            id=stats["id"],
            version=stats.get("version", ""),
            requests=requests,
            errors=sum(each.get("num_errors", 0) for each in endpoints),
            average_ms=round(spent / max(requests, 1) / 1e6),
            first_event_ms=_first_event_ms([each.get("data", {}) for each in endpoints]),
            in_flight=_by_kind(metadata, "in_flight"),
            capacity=_by_kind(metadata, "capacity"),
            per_second=round(max(0, requests - before.requests) / seconds, 1) if before else None,
            provider_working=metadata.get("provider_working") != "false",
            models=", ".join(filter(None, (metadata.get("models_text"), metadata.get("models_image")))),
        )


def _first_event_ms(endpoints: list[dict[str, int]]) -> int | None:
    """Return the mean over endpoints, each with as many answers as it counts."""
    count = sum(each.get("num_first_events", 0) for each in endpoints)
    spent = sum(each.get("num_first_events", 0) * each.get("average_first_event_time", 0) for each in endpoints)
    return round(spent / count / 1e6) if count else None


def _by_kind(metadata: dict[str, str], name: str) -> dict[str, int]:
    """Return what metadata says of each kind; nothing of a worker that does not say it."""
    return {kind: int(metadata[f"{name}_{kind}"]) for kind in KINDS if f"{name}_{kind}" in metadata}


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the queue holds of one kind.

    Attributes:
        kind: `text` or `image`.
        waits: Jobs that no worker has fetched yet.
        taken: Jobs that run, or wait for their next attempt.
        retried: Of those, how many were delivered before.
    """

    kind: Kind
    waits: int
    taken: int
    retried: int


async def top(settings: Settings, every_seconds: float, *, once: bool, as_json: bool) -> None:
    """Show it until this is cancelled; once, where nobody could watch it change."""
    live = (
        None
        if as_json or once or not sys.stdout.isatty()
        else Live(console=Console(highlight=False), auto_refresh=False)
    )
    async with Asker(settings).client() as ai:
        nc, before, looked = await ai.connection(), dict[str, Seen](), time.monotonic()
        js = nc.jetstream(domain=settings.nats_js_domain, timeout=JETSTREAM_TIMEOUT_SECONDS)
        with live or Console(quiet=True):
            while True:
                stats, queue = await asyncio.gather(_stats(nc), _queue(js, ai.subjects))
                now = time.monotonic()
                seen = [Seen.read(each, before.get(each["id"]), now - looked) for each in stats]
                before, looked = {each.id: each for each in seen}, now
                _show(live, seen, queue, as_json=as_json)
                if once or (live is None and not as_json):
                    return
                await asyncio.sleep(every_seconds)


def _show(live: Live | None, seen: list[Seen], queue: list[Waiting], *, as_json: bool) -> None:
    if as_json:
        out(json.dumps({"workers": [asdict(one) for one in seen], "queue": [asdict(one) for one in queue]}) + "\n")
    elif live is not None:
        live.update(_page(seen, queue), refresh=True)
    else:
        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(_page(seen, queue))


def _page(seen: list[Seen], queue: list[Waiting]) -> Group:
    columns = ("worker", "version", *KINDS, "requests", "errors", "per s", "first event", "average", "circuit")
    workers = Table(*columns, box=None)
    for one in sorted(seen, key=lambda one: one.id):
        circuit = "closed" if one.provider_working else "[red]open[/red]"
        first = None if one.first_event_ms is None else f"{one.first_event_ms} ms"
        running = [f"{one.in_flight.get(kind, '?')} of {one.capacity.get(kind, '?')}" for kind in KINDS]
        cells = (*running, one.requests, one.errors, one.per_second, first, f"{one.average_ms} ms")
        workers.add_row(one.id[:8], one.version, *("" if cell is None else str(cell) for cell in cells), circuit)
    jobs = Table("queue", "waits", "taken", "of those, retried", box=None)
    for waiting in queue:
        jobs.add_row(waiting.kind, str(waiting.waits), str(waiting.taken), str(waiting.retried))
    models = sorted({one.models for one in seen if one.models})
    says = f"{len(seen)} worker{'s' if len(seen) != 1 else ''}" + (f"; models: {'; '.join(models)}" if models else "")
    return Group(says, workers if seen else "", jobs if queue else "There is no queue, or this user may not see it.")


async def _stats(nc: NatsClient) -> list[dict[str, Any]]:
    """Ask all workers, and return what came within a moment."""
    inbox, found = nc.new_inbox(), list[dict[str, Any]]()

    async def heard(message: Any) -> None:
        if message.data:  # without a worker the broker itself answers, with nothing
            found.append(from_json(message.data))

    subscription = await nc.subscribe(inbox, cb=heard)
    await nc.publish(f"$SRV.STATS.{SERVICE}", b"", reply=inbox)
    await asyncio.sleep(ANSWERS_WAIT_SECONDS)
    await subscription.unsubscribe()
    return found


async def _queue(js: JetStreamContext, subjects: Subjects) -> list[Waiting]:
    found = []
    for kind in KINDS:
        try:
            info = await js.consumer_info(subjects.jobs_stream, consumer_name(kind))
        except (NatsError, TimeoutError):
            continue
        found.append(Waiting(kind, info.num_pending or 0, info.num_ack_pending or 0, info.num_redelivered or 0))
    return found
