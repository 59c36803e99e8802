"""`aichats-worker jobs`: what is in the queue."""

import json
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final, Literal, cast

from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from aichats_schemas.events import parse_event
from aichats_schemas.subjects import KINDS, Kind, Subjects
from aichats_worker.commands.asking import Asker
from aichats_worker.commands.ending import Refused
from aichats_worker.commands.manners import out
from aichats_worker.jobs.streams import consumer_name
from aichats_worker.settings import Settings

JETSTREAM_TIMEOUT_SECONDS: Final = 5.0
State = Literal["waits", "runs", "comes again"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A job that is in the queue.

    Attributes:
        kind: `text` or `image`.
        tenant: Whose it is.
        id: Its name.
        state: What it does now.
        attempt: The one that runs, or the last one; 0 for none yet.
        age_seconds: Since it was submitted.
        bytes: Size of the request.
    """

    kind: Kind
    tenant: str
    id: str
    state: State
    attempt: int
    age_seconds: float
    bytes: int


async def show_jobs(settings: Settings, limit: int, *, as_json: bool) -> None:
    """Print the jobs that are in the queue, oldest first, and how many there are."""
    async with Asker(settings).client() as ai:
        js = (await ai.connection()).jetstream(domain=settings.nats_js_domain, timeout=JETSTREAM_TIMEOUT_SECONDS)
        try:
            total = (await js.stream_info(ai.subjects.jobs_stream)).state.messages
        except NotFoundError:
            raise Refused("there is no queue: a worker makes it, or `aichats-worker provision`") from None
        listed = [job async for job in _first(_listed(js, ai.subjects), limit)]
    if as_json:
        out("".join(json.dumps(asdict(job)) + "\n" for job in listed))
        return
    table = Table("kind", "tenant", "id", "state", "attempt", "age", "bytes", box=None)
    for job in listed:
        age = f"{job.age_seconds:.0f} s"
        table.add_row(job.kind, job.tenant, job.id, job.state, str(job.attempt or ""), age, str(job.bytes))
    if listed:
        Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    rest = f", of which {len(listed)} are shown" if total > len(listed) else ""
    out(f"{total} job{'s' if total != 1 else ''} in the queue{rest}\n")


async def _first(jobs: AsyncGenerator[Listed, None], limit: int) -> AsyncGenerator[Listed, None]:
    async with aclosing(jobs):
        async for job in jobs:
            yield job
            limit -= 1
            if not limit:
                return


async def _listed(js: JetStreamContext, subjects: Subjects) -> AsyncGenerator[Listed, None]:
    taken = {kind: await _delivered(js, subjects, kind) for kind in KINDS}
    seq, pattern = 1, f"{subjects.prefix}.job.>"
    while True:
        try:
            message = await js.get_msg(subjects.jobs_stream, seq=seq, subject=pattern, next=True)
        except NotFoundError:
            return
        seq = int(message.seq or 0) + 1
        yield await _job(js, subjects, message, taken)


async def _delivered(js: JetStreamContext, subjects: Subjects, kind: Kind) -> int:
    try:
        info = await js.consumer_info(subjects.jobs_stream, consumer_name(kind))
    except NotFoundError:
        return 0
    return info.delivered.stream_seq if info.delivered else 0


async def _job(js: JetStreamContext, subjects: Subjects, message: RawStreamMsg, taken: Mapping[Kind, int]) -> Listed:
    kind, tenant, job_id = str(message.subject).split(".")[-3:]
    attempt, last = await _last_event(js, subjects, tenant, job_id)
    state: State = "runs" if int(message.seq or 0) <= taken[cast("Kind", kind)] else "waits"
    if state == "runs" and last in ("retrying", "given_back"):
        state = "comes again"
    age = (datetime.now(UTC) - message.time).total_seconds() if message.time else 0.0
    return Listed(cast("Kind", kind), tenant, job_id, state, attempt, round(age, 1), len(message.data or b""))


async def _last_event(js: JetStreamContext, subjects: Subjects, tenant: str, job_id: str) -> tuple[int, str]:
    """Return the attempt of what a job's record ends with, and what a `status` says there."""
    try:
        message = await js.get_last_msg(subjects.out_stream, subjects.out(tenant, job_id))
        event = parse_event(message.data or b"")
    except (NotFoundError, ValidationError):
        return 0, ""
    return event.attempt, event.data if event.type == "status" else ""
