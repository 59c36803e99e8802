"""Several providers in order: the first that works and can honour a request answers it."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import structlog

from aichats_schemas.subjects import KINDS, Kind
from aichats_worker.errors import InvalidRequest, WorkerError, without_frames
from aichats_worker.provider import Begun, Offers, Pictures, Question, Texts
from aichats_worker.provider.circuit import CircuitOpen
from aichats_worker.provider.door import Door

log = structlog.get_logger(__name__)


class Doors:
    """A provider of several, each behind a door of its own.

    Where one fails before its first delta, by anything but the requester's fault, the next one is asked, within the
    same deadline. Only the last one is asked more than once: another provider is a better second try than the same one.

    Args:
        doors: In order.

    Attributes:
        failovers: How many requests went on to another provider, by the name of the one that failed, and kind.
    """

    def __init__(self, doors: Sequence[Door]) -> None:
        self.doors = tuple(doors)
        self.failovers: Counter[tuple[str, Kind]] = Counter()

    @property
    def working(self) -> bool:
        """False while none of them would be asked."""
        return any(door.working for door in self.doors)

    @property
    def not_asked(self) -> list[str]:
        """What is not asked of any of them for a while."""
        return [what for door in self.doors for what in door.not_asked]

    @cached_property
    def offers(self) -> Offers:
        """Everybody's models, the first provider's first; behind each the options of all who have it."""
        merged: dict[Kind, dict[str, tuple[frozenset[str], ...]]] = {kind: {} for kind in KINDS}
        for door in self.doors:
            for kind, models in door.offers.items():
                for model, honoured in models.items():
                    merged[kind][model] = merged[kind].get(model, ()) + honoured
        return merged

    def text(self, question: Question) -> Texts:
        """Wait until an answer has begun: text as it arrives, and one Finish."""
        return self._asked("text", question)

    def images(self, question: Question) -> Pictures:
        """Wait until an answer has begun: each image, and one Finish."""
        return self._asked("image", question)

    async def close(self) -> None:
        """Close all connections."""
        for door in self.doors:
            await door.close()

    @asynccontextmanager
    async def _asked(self, kind: Kind, question: Question) -> AsyncIterator[Begun[Any]]:
        told: WorkerError | None = None
        doors = self._in_turn(kind, question)
        for door, is_last in zip(doors, [*[False] * (len(doors) - 1), True], strict=True):
            ask, has_begun = (door.text if kind == "text" else door.images), False
            try:
                async with ask(question, calls_max=None if is_last else 1) as answer:
                    has_begun = True
                    yield answer
                    return
            except WorkerError as error:
                if has_begun or error.fault == "requester":
                    raise
                log.warning(
                    "provider failed",
                    provider=door.name,
                    kind=kind,
                    code=error.code,
                    reason=error.logged,
                    next=not is_last,
                )
                self.failovers[door.name, kind] += not is_last
                told = _better(told, without_frames(error))
        assert told is not None  # noqa: S101 - there is at least one door
        raise told

    def _in_turn(self, kind: Kind, question: Question) -> list[Door]:
        """Who can honour the question and has a closed circuit; where nobody has, the first says for how long."""
        able = [door for door in self.doors if _can(door, kind, question)]
        if not able:
            raise InvalidRequest("no provider can honour the request; leave out some of its options")
        return [door for door in able if door.is_closed(kind, question)] or able[:1]


def _can(door: Door, kind: Kind, question: Question) -> bool:
    models = door.offers[kind]
    honoured = models.get(question.model, ()) if question.model is not None else next(iter(models.values()), ())
    return any(question.options.keys() <= options for options in honoured)


def _better(told: WorkerError | None, error: WorkerError) -> WorkerError:
    """Of two failures, tell the one that says most of what to do: one that can be tried again, and the later one."""
    if told is None or isinstance(told, CircuitOpen):
        return error
    return told if isinstance(error, CircuitOpen) or (told.retryable and not error.retryable) else error
