"""`aichats-worker provision` and `dead`: what operators do with the streams."""

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from nats.js.errors import NotFoundError

from aichats_schemas.subjects import Subjects
from aichats_worker.commands.connection import connected
from aichats_worker.commands.ending import Refused
from aichats_worker.settings import Settings
from aichats_worker.starting import hidden

with hidden("rich"):  # as in running.py: a tenth of the command's start
    from aichats_worker.broker.bus import Bus
    from aichats_worker.jobs.letters import DeadLetter, DeadLetters, RetryRefused
    from aichats_worker.jobs.provision import Provisioner, ProvisionRefused
    from aichats_worker.jobs.streams import Choices

JETSTREAM_TIMEOUT_SECONDS = 5.0


# What `dead list` shows, and how wide; the reason takes the rest of a terminal's line, and is whole in a pipe.
COLUMNS = {"number": 7, "kind": 5, "tenant": 12, "id": 34, "code": 20, "attempts": 8, "time": 24}


@asynccontextmanager
async def _bus(settings: Settings) -> AsyncIterator[Bus]:
    domain = settings.nats_js_domain
    async with connected(settings) as nc:
        js = nc.jetstream(domain=domain, timeout=JETSTREAM_TIMEOUT_SECONDS)
        yield Bus(nc, js, Subjects(settings.worker_subject_prefix), domain=domain)


@asynccontextmanager
async def _letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    async with _bus(settings) as bus:
        yield DeadLetters(bus)


async def provision(settings: Settings, choices: Choices, *, dry_run: bool) -> list[str]:
    """Make or update the streams and consumers. Returns a line for each change.

    Raises:
        Refused: Something cannot be made, or a change would lose data.
    """
    async with _bus(settings) as bus:
        provisioner = Provisioner(
            bus,
            choices,
            timeout_seconds_max=settings.worker_timeout_seconds_max,
            ack_wait_seconds=settings.worker_ack_wait_seconds,
        )
        try:
            changes = (await provisioner.look()).changes if dry_run else await provisioner.apply()
        except ProvisionRefused as error:
            raise Refused(str(error)) from None
    return [str(change) for change in changes]


async def dead_list(settings: Settings, *, as_json: bool) -> None:
    """Print all dead letters as they are read, oldest first, a line for each."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    found = False
    try:
        async with _letters(settings) as letters, aclosing(letters.all()) as all_letters:
            async for letter in all_letters:
                if not (found or as_json):
                    print(_line(dict(zip(COLUMNS, COLUMNS, strict=True)) | {"reason": "reason"}, width))  # noqa: T201
                found = True
                print(json.dumps(_row(letter)) if as_json else _line(_row(letter), width))  # noqa: T201 - lines for a program to read
        if not (found or as_json):
            print("there are no dead letters")  # noqa: T201
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(row: dict[str, Any], width: int | None) -> str:
    cells = [f"{row[name]!s:<{columns}}" for name, columns in COLUMNS.items()]
    return "  ".join([*cells, str(row["reason"])])[:width]


async def dead_show(settings: Settings, number: int) -> dict[str, Any]:
    """Return one dead letter, whole."""
    async with _letters(settings) as letters:
        letter = await _get(letters, number)
    return _row(letter) | {"headers": letter.headers, "body": letter.body.decode("utf-8", "replace")}


async def dead_retry(settings: Settings, number: int) -> str:
    """Submit a dead letter's job again, and drop the letter. Returns the job's id.

    Raises:
        Refused: It cannot be submitted again; the letter stays.
    """
    async with _letters(settings) as letters:
        letter = await _get(letters, number)
        try:
            await letters.retry(letter)
        except RetryRefused as error:
            raise Refused(str(error)) from None
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
