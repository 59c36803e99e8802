"""`aichats-worker submit`: one job, or a file of them."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aichats_client import Client, ClientError
from aichats_schemas.subjects import KINDS, Kind, is_token, new_id
from aichats_worker.commands.asking import Asker, check
from aichats_worker.commands.ending import Unusable, told
from aichats_worker.commands.manners import console, out
from aichats_worker.commands.naming import as_typed

AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Order:
    """A job to be submitted.

    Attributes:
        kind: `text` or `image`.
        id: Its name.
        prompt: None where there are messages.
        options: The rest, by the client's names.
    """

    kind: Kind
    id: str
    prompt: str | None
    options: dict[str, Any]

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """Read a job as a line of a file has it.

        Raises:
            Unusable: A field is wrong; the sentence names it.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        kind, job_id = given.pop("kind", "text"), given.pop("id", None) or new_id()
        if kind not in KINDS:
            raise Unusable("kind: must be text or image")
        if not isinstance(job_id, str) or not is_token(job_id):
            raise Unusable("id: must be 1 to 64 of A-Z, a-z, 0-9, _ and -")
        if "timeout_seconds" in given:
            given["timeout"] = given.pop("timeout_seconds")
        prompt = given.pop("prompt", None)
        check(kind, prompt, given)
        return cls(kind, job_id, prompt, given)


def orders_in(path: Path) -> list[Order]:
    """Read a file of JSON lines; a line may be a string, which is the prompt of a text. Nothing is submitted yet.

    Raises:
        Unusable: A line is wrong; the sentence names it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} cannot be read as text: {type(error).__name__}") from None
    orders: dict[str, Order] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            order = _order(f"{path}:{number}", line)
            if order.id in orders:
                raise Unusable(f"{path}:{number}: id: {order.id} is in a line before this one as well")
            orders[order.id] = order
    if not orders:
        raise Unusable(f"{path} holds no job")
    return list(orders.values())


def _order(where: str, line: str) -> Order:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise Unusable(f"{where}: is no JSON: {error}") from None
    try:
        return Order.read(fields if isinstance(fields, dict) else {"prompt": fields})
    except Unusable as error:
        raise Unusable(f"{where}: {error}") from None


async def submit_all(asker: Asker, orders: list[Order]) -> int:
    """Submit jobs, and print the id of each when it is stored. Returns how many were not taken, and says why."""
    columns = (TextColumn("submitting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    turns = asyncio.Semaphore(AT_ONCE)
    async with asker.client() as ai:
        hidden = len(orders) == 1 or not sys.stderr.isatty()
        # What is printed meanwhile would go to the bar's console instead, and an ids' file would stay empty.
        with Progress(*columns, console=console(), disable=hidden, redirect_stdout=False) as progress:
            task = progress.add_task("", total=len(orders))

            async def one(order: Order) -> bool:
                async with turns:
                    taken = await _submitted(ai, order, progress)
                progress.advance(task)
                return taken

            taken = await asyncio.gather(*(one(order) for order in orders))
    return taken.count(False)


async def _submitted(ai: Client, order: Order, progress: Progress) -> bool:
    try:
        await ai.submit(order.kind, order.prompt, id=order.id, **order.options)
    except ClientError as error:
        progress.console.print(f"{order.id}: {as_typed(told(error)[0])}", markup=False, soft_wrap=True)
        return False
    out(f"{order.id}\n")
    return True
