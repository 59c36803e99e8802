"""How a request can end: an answer, a failure that the requester is told, or nothing more."""

import time
from dataclasses import dataclass, field
from typing import Any

from aichats_schemas.events import Usage
from aichats_worker.errors import Abandoned, WorkerError
from aichats_worker.provider import Finish


@dataclass(slots=True)  # not frozen: one for each request
class Completed:
    """A request that ended well: what its final event says. Times in seconds of the event loop."""

    model: str
    finish: Finish
    metadata: dict[str, str] | None = field(repr=False)
    queued: float
    started: float
    ignored: tuple[str, ...] = ()

    @property
    def usage(self) -> Usage | None:
        """In tokens."""
        return self.finish.usage

    @property
    def provider(self) -> str:
        """Who answered."""
        return self.finish.provider

    def data(self, *, last_seq: int, first: float | None) -> dict[str, Any]:
        """Return the `data` of the final event.

        Args:
            last_seq: That event's own number.
            first: When the first piece of the answer came; None where there was none.
        """
        data: dict[str, Any] = {"finish_reason": self.finish.finish_reason, "last_seq": last_seq, "model": self.model}
        who = {"name": self.finish.provider, "model": self.finish.model, "tries_left": self.finish.tries_left}
        if provider := {name: said for name, said in who.items() if said not in (None, "")}:
            data["provider"] = provider
        if self.finish.usage is not None:
            data["usage"] = self.finish.usage.model_dump()
        if self.metadata:
            data["metadata"] = self.metadata
        if self.ignored:
            data["ignored"] = list(self.ignored)
        return data | {"timing": self._timing(first)}

    def _timing(self, first: float | None) -> dict[str, int]:
        """Milliseconds since the start; without any content, the first is the end."""
        now = time.monotonic()
        return {
            "queued_ms": round(self.queued * 1000),
            "first_ms": round(((first or now) - self.started) * 1000),
            "total_ms": round((now - self.started + self.queued) * 1000),
        }


Outcome = Completed | WorkerError | Abandoned
