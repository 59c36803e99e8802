"""What is known of a run from outside: what requesters were told, and what the streams hold in the end."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from nats.aio.client import Client

TENANT: Final = "chaos"
READ_SECONDS: Final = 60.0
NOTHING: Final = (0, -1)

Event = dict[str, Any]
SENTINEL: Final[Event] = {"type": "(no event)", "attempt": 0, "seq": 0, "data": None}  # has no place in a record
Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stored:
    """One event of a record, and when the broker stored it, in seconds of its clock."""

    event: Event
    time: float

    @property
    def point(self) -> Point:
        """Its place."""
        return place(self.event)


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    kind: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Cancel:
    """One cancel request, and what was replied.

    Attributes:
        id: The job.
        sent: When.
        answer: true, false, error, nobody (there is no worker), or None where nothing came.
        replied: When that was known.
        calm: No fault was near.
        by_old_leader: A broker was cut off or frozen, and may have said what it knew before.
    """

    id: str
    sent: float
    answer: str | None = None
    replied: float = 0.0
    calm: bool = False
    by_old_leader: bool = False


@dataclass
class Reading:
    """What one reader got of one job, over all the times that it asked.

    Attributes:
        id: The job.
        events: In the order in which they came, without those that stand outside of it.
        asked: How often it asked.
        ended: It got the final event.
        wrong: What nothing excuses.
        point: The last event's place.
        refused: When it was told that there is no such job; 0 for never.
        by_old_leader: It was, while a broker was cut off or frozen, and may have said what it knew before.
    """

    id: str
    events: list[Event] = field(default_factory=list)
    asked: int = 0
    ended: bool = False
    wrong: list[str] = field(default_factory=list)
    point: Point = NOTHING
    refused: float = 0.0
    by_old_leader: bool = False


@dataclass
class Copied:
    """What came on a job's `reply_to`, the sentinel too, and when the last of it did."""

    events: list[Event] = field(default_factory=list)
    last: float = 0.0


@dataclass
class Evidence:
    """All of it.

    Attributes:
        sent: When a job was first published, by its id.
        acked: When its acknowledgement came.
        twice: Jobs that were submitted a second time, since it was not known whether they are stored.
        cancels: All cancels.
        readings: All live readings.
        copies: What came on a job's `reply_to`.
        bursts: What became of core requests.
        replays: The readings after the run, one for each job.
        records: Jobs' events as AIOUT has them.
        letters: Jobs' dead letters as AIDEAD has them.
        calls: What the provider did at each call.
        calm: Jobs in whose life core NATS lost and held nothing.
        left: Jobs that are still queued.
        wrong: What is wrong beside all jobs.
        story: What happened: from when to when, and what.
    """

    sent: dict[str, float] = field(default_factory=dict)
    acked: dict[str, float] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)
    cancels: list[Cancel] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    copies: dict[str, Copied] = field(default_factory=lambda: defaultdict(Copied))
    bursts: Counter[str] = field(default_factory=Counter)
    replays: list[Reading] = field(default_factory=list)
    records: dict[str, list[Stored]] = field(default_factory=dict)
    letters: dict[str, list[Letter]] = field(default_factory=dict)
    calls: dict[str, list[str]] = field(default_factory=dict)
    calm: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    story: list[tuple[float, float, str]] = field(default_factory=list)

    def span(self, job: str) -> tuple[float, float]:
        """Return from when to when something was heard of a job, with some time behind it."""
        times = [stored.time for stored in self.records.get(job, ())] + [self.copies[job].last, self.sent[job]]
        return self.sent[job], max(times) + 1


def place(event: Event) -> Point:
    """Return an event's `(attempt, seq)`."""
    return event["attempt"], event["seq"]


def is_end(event: Event) -> bool:
    """Say whether it is a final event."""
    return event["type"] in ("done", "error")


def follows(event: Event, before: Point) -> bool:
    """Say whether it may come next: the same attempt's next one, or the first one of the next attempt."""
    attempt, seq = before
    return place(event) in ((attempt, seq + 1), (attempt + 1, 0)) and place(event) > (0, 0)


def attempts(record: list[Stored]) -> Iterator[list[Event]]:
    """Yield the events of each attempt."""
    found: dict[int, list[Event]] = defaultdict(list)
    for stored in record:
        found[stored.event["attempt"]].append(stored.event)
    yield from (found[number] for number in sorted(found))


async def read_records(nc: Client) -> dict[str, list[Stored]]:
    """Read all records out of AIOUT, without the worker."""
    found: dict[str, list[Stored]] = defaultdict(list)
    for message in await _held(nc, "AIOUT", f"ai.v1.out.{TENANT}.*"):
        event = orjson.loads(message.data) if message.data else SENTINEL
        found[message.subject.rpartition(".")[2]].append(Stored(event, message.metadata.timestamp.timestamp()))
    return found


async def read_letters(nc: Client) -> dict[str, list[Letter]]:
    """Read all dead letters out of AIDEAD."""
    found: dict[str, list[Letter]] = defaultdict(list)
    for message in await _held(nc, "AIDEAD", f"ai.v1.dead.*.{TENANT}.*"):
        kind = message.subject.split(".")[3]
        found[message.subject.rpartition(".")[2]].append(Letter(kind, dict(message.headers or {}), message.data))
    return found


async def _held(nc: Client, stream: str, subject: str) -> list[Any]:
    """Return all messages of a stream.

    Raises:
        nats.errors.TimeoutError: It says that there are more than it gives.
    """
    js = nc.jetstream(timeout=READ_SECONDS)
    total = (await js.stream_info(stream)).state.messages
    subscription: Any = await js.subscribe(subject, ordered_consumer=True)
    found = [await subscription.next_msg(timeout=READ_SECONDS) for _ in range(total)]
    await subscription.unsubscribe()
    return found
