"""What the simulator was asked: each request as it came, and how often the same came before. No I/O."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

_COUNTED_MAX: Final = 10_000


@dataclass
class Received:
    """One request as it came.

    Attributes:
        method: GET or POST.
        path: With the query.
        headers: By name in lower case.
        body: As bytes.
        peer: The client's address and port: two requests with the same one came over one connection.
        ended: Set when the simulator has done with it.
        closed_early: The client closed the connection before the answer's end.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: Any
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    closed_early: bool = False

    @cached_property
    def asked(self) -> dict[str, Any]:
        """The body as JSON; empty where it is none."""
        try:
            asked = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return asked if isinstance(asked, dict) else {}

    @cached_property
    def content(self) -> str:
        """The prompt; empty where the body holds none."""
        try:
            if "prompt" in self.asked:
                return str(self.asked["prompt"])
            content = (self.asked.get("messagesHistory") or self.asked["messages"])[-1]["content"]
            if isinstance(content, list):
                return " ".join(str(part.get("text", "")) for part in content)
            return str(content)
        except (LookupError, TypeError, AttributeError):
            return ""

    @property
    def key(self) -> str:
        """The key it brought, as a bearer token or as Azure's `api-key`."""
        return self.headers.get("api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")


class Tally:
    """Counts what comes again; of very many things, it forgets those that came first."""

    def __init__(self) -> None:
        self._counts: OrderedDict[Hashable, int] = OrderedDict()

    def count(self, thing: Hashable) -> int:
        """Return how often it has come, this time included."""
        self._counts[thing] = self._counts.get(thing, 0) + 1
        if len(self._counts) > _COUNTED_MAX:
            self._counts.popitem(last=False)
        return self._counts[thing]
