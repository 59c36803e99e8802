"""`aichats-worker provision` and `dead`: what operators do with the streams."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from rich.console import Console
from rich.table import Table

from aichats_schemas.subjects import Subjects
from aichats_worker import wiring
from aichats_worker.broker.bus import Bus
from aichats_worker.broker.connecting import connect
from aichats_worker.commands.manners import Refused
from aichats_worker.jobs.letters import DeadLetter, DeadLetters
from aichats_worker.jobs.provision import Limits, Provisioner, ProvisionRefused
from aichats_worker.settings import Settings

JETSTREAM_TIMEOUT_SECONDS = 5.0


@asynccontextmanager
async def _jetstream(settings: Settings) -> AsyncIterator[tuple[Client, JetStreamContext]]:
    nc = await connect(wiring.access(settings))
    try:
        yield nc, nc.jetstream(timeout=JETSTREAM_TIMEOUT_SECONDS)
    finally:
        await nc.close()


@asynccontextmanager
async def _letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    async with _jetstream(settings) as (nc, js):
        yield DeadLetters(Bus(nc, js, Subjects(settings.worker_subject_prefix)))


async def provision(settings: Settings, limits: Limits, *, dry_run: bool) -> list[str]:
    """Make or update the streams and consumers. Returns a line for each change.

    Raises:
        Refused: A change would lose data; nothing was changed.
    """
    async with _jetstream(settings) as (_, js):
        provisioner = Provisioner(
            js,
            Subjects(settings.worker_subject_prefix),
            ack_wait_seconds=settings.worker_ack_wait_seconds,
            max_deliver=settings.worker_max_deliver,
            limits=limits,
        )
        try:
            changes = await (provisioner.changes() if dry_run else provisioner.apply())
        except ProvisionRefused as error:
            raise Refused(str(error)) from None
    return [str(change) for change in changes]


async def dead_list(settings: Settings, *, as_json: bool) -> None:
    """Print all dead letters, oldest first."""
    async with _letters(settings) as letters:
        found = [letter async for letter in letters.all()]
    if as_json:
        for letter in found:
            print(json.dumps(_row(letter)))  # noqa: T201 - lines for a program to read
        return
    table = Table("number", "kind", "tenant", "id", "code", "attempts", "time", "reason", box=None)
    for letter in found:
        row = _row(letter)
        table.add_row(*(str(row[name]) for name in row))
    Console().print(table if found else "there are no dead letters")


async def dead_show(settings: Settings, number: int) -> dict[str, Any]:
    """Return one dead letter, whole."""
    async with _letters(settings) as letters:
        letter = await _get(letters, number)
    return _row(letter) | {"headers": letter.headers, "body": letter.body.decode("utf-8", "replace")}


async def dead_retry(settings: Settings, number: int) -> str:
    """Submit a dead letter's job again, and drop the letter. Returns the job's id."""
    async with _letters(settings) as letters:
        letter = await _get(letters, number)
        await letters.retry(letter)
    return letter.id


async def dead_drop(settings: Settings, number: int) -> str:
    """Forget a dead letter. Returns the job's id."""
    async with _letters(settings) as letters:
        letter = await _get(letters, number)
        await letters.drop(letter)
    return letter.id


async def _get(letters: DeadLetters, number: int) -> DeadLetter:
    try:
        return await letters.get(number)
    except NotFoundError:
        raise Refused(f"there is no dead letter {number}; `aichats-worker dead list` shows them") from None


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "number": letter.seq,
        "kind": letter.kind,
        "tenant": letter.tenant,
        "id": letter.id,
        "code": letter.code,
        "attempts": letter.attempts,
        "time": letter.time,
        "reason": letter.reason,
    }
