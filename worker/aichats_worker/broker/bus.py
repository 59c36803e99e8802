"""What every room needs of the broker, as one thing."""

from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.js import JetStreamContext

from aichats_schemas.subjects import ReplyRule, Subjects


@dataclass(frozen=True, slots=True)
class Bus:
    """The connection, and what holds for all that goes over it.

    Attributes:
        nc: The connection. Events go out through it without FastStream, which costs 4 to 9 times as much for each.
        js: JetStream on it.
        subjects: The subjects and streams below the worker's prefix.
        rule: Where something may be published at all.
        domain: The JetStream domain of the streams; None for that of the server.
    """

    nc: Client
    js: JetStreamContext
    subjects: Subjects = field(default_factory=Subjects)
    rule: ReplyRule = field(default_factory=ReplyRule)
    domain: str | None = None

    def api(self, call: str) -> str:
        """Return the subject of a JetStream API call, such as `STREAM.INFO.AIJOBS`, in the streams' domain."""
        return f"$JS.{self.domain}.API.{call}" if self.domain else f"$JS.API.{call}"
