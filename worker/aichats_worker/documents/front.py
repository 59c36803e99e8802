"""The worker's own page: what it is, whether requests reach it, and why not. As text for whoever has no browser."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aichats_schemas import __version__
from aichats_schemas.subjects import SERVICE
from aichats_worker.documents.html import page, table, tag
from aichats_worker.health import WELL

LINKS: Final = {
    "/livez": "whether the process can go on",
    "/readyz": "whether requests reach it, as JSON",
    "/metrics": "for Prometheus",
    "/docs/asyncapi": "what to send and what comes back; also as /docs/asyncapi.json and .yaml",
}


@dataclass(frozen=True, slots=True)
class FrontPage:
    """How a worker stands.

    Attributes:
        ready: Whether requests reach it.
        checks: What was looked at, and `ok` or what is wrong.
        facts: What it is, by name.
    """

    ready: bool
    checks: Mapping[str, str]
    facts: Mapping[str, Any]

    @property
    def _title(self) -> str:
        return f"{SERVICE} {__version__}"

    @property
    def _state(self) -> str:
        troubles = [said for said in self.checks.values() if said != WELL]
        if self.ready:
            return f"ready, but {'; '.join(troubles)}" if troubles else "ready"
        return f"not ready: {'; '.join(troubles)}"

    def html(self) -> bytes:
        """Return the page."""
        links = (tag("li", tag("a", path, href=path), f": {what}") for path, what in LINKS.items())
        checks = [
            (name, tag("span", said, class_="good" if said == WELL else "bad")) for name, said in self.checks.items()
        ]
        facts = [(name, str(value)) for name, value in self.facts.items()]
        return page(
            self._title,
            tag("h1", self._title),
            tag("p", "Streams text and images from ai-chats.org to each request's own reply subject, over NATS."),
            tag("p", tag("strong", self._state, class_="good" if self.ready else "bad")),
            tag("ul", *links),
            table(("Check", ""), checks),
            table(("This worker", ""), facts),
        )

    def text(self) -> bytes:
        """Return the same for a terminal."""
        rows = [*self.checks.items(), ("", ""), *self.facts.items(), ("", ""), *LINKS.items()]
        lines = [f"{self._title}: {self._state}", "", *(f"{name:<18} {said}".rstrip() for name, said in rows)]
        return ("\n".join(lines) + "\n").encode()
