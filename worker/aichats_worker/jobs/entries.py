"""What is stored of a job, event by event, and whose each is. Pure, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from aichats_schemas.subjects import SERVICE_ERROR, SERVICE_ERROR_CODE
from aichats_worker.jobs.messages import StoredMessage

MARK: Final = "Ai-Job"  # the header by which an event says whose it is
RETRYING: Final = "retrying"
GIVEN_BACK: Final = "given_back"
OWN_HEADERS: Final = (SERVICE_ERROR, SERVICE_ERROR_CODE)


@dataclass(frozen=True, slots=True)
class Mark:
    """What each event says of its job.

    Attributes:
        kind: `text` or `image`.
        job: The job's place in the queue's stream.
        failed: How many attempts have failed; one that comes again after an error is counted in its last event.
        delivery: Under which delivery the attempt runs; 0 where nobody was delivered it.
        writer: Under which hold on the record it was written: two may send the same event.
    """

    kind: str
    job: int
    failed: int
    delivery: int
    writer: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.job}.{self.failed}.{self.delivery}.{self.writer}"


def read_mark(headers: Mapping[str, str]) -> Mark | None:
    """Return whose event it is; None for what is no event of a worker's."""
    parts = headers.get(MARK, "").split(".")
    if len(parts) != 5 or not all(part.isdigit() for part in parts[1:4]):
        return None
    return Mark(parts[0], int(parts[1]), int(parts[2]), int(parts[3]), parts[4])


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored event, and what its mark says.

    Attributes:
        seq: Its place in the stream.
        mark: Whose it is.
        type: The event's.
        data: The event's.
        attempt: The event's.
        number: The event's own `seq`.
        payload: The event as it is stored.
        headers: Its own headers, without the broker's and the mark.
    """

    seq: int
    mark: Mark
    type: str
    data: Any = field(repr=False)
    attempt: int
    number: int
    payload: bytes = field(repr=False)
    headers: Mapping[str, str] | None = field(repr=False)

    @property
    def is_end(self) -> bool:
        """Whether the job has had its end."""
        return self.type in ("done", "error")

    @property
    def comes_again(self) -> bool:
        """Whether its attempt was closed, and the job waits for the next one."""
        return self.type == "status" and self.data in (RETRYING, GIVEN_BACK)


def read_entry(message: StoredMessage) -> Entry | None:
    """Read a stored event; None for a message that no worker has stored.

    JetStream acknowledges a job to whatever subject its submitter names as the reply, past all permissions: a record's
    subject as well.
    """
    mark = read_mark(message.headers)
    if mark is None:
        return None
    event = orjson.loads(message.data)
    return Entry(
        seq=message.seq,
        mark=mark,
        type=event["type"],
        data=event["data"],
        attempt=event["attempt"],
        number=event["seq"],
        payload=message.data,
        headers=own_headers(message.headers),
    )


def own_headers(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return what of a stored event's headers belongs to the event."""
    return {name: value for name, value in (headers or {}).items() if name in OWN_HEADERS} or None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands.

    Attributes:
        entry: Its last event; None where there is none.
        seq: Its last message's place in the stream, which the next one has to name; 0 where there is none.
    """

    entry: Entry | None = None
    seq: int = 0
