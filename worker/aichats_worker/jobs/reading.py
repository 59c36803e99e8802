"""Finds the workers' events of a record, whatever else lies between them.

JetStream acknowledges a job to whatever subject its submitter names as the reply, past all permissions: a record's as
well, a thousand times a second. So nothing here asks the broker for each message, or goes on for as long as more come.
"""

from collections.abc import AsyncGenerator
from typing import Final

from aichats_worker.jobs.entries import Entry, Place, read_entry
from aichats_worker.jobs.messages import Messages

NEAR: Final = 256  # messages of the stream, of all jobs
FAR: Final = 16


async def newest(messages: Messages, subject: str, *, behind: int = 0) -> Place:
    """Return the last event of a record behind a place, and the place of its last message.

    Raises:
        nats.errors.Error: It cannot be found out.
    """
    last = await messages.last(subject)
    if last is None or last.seq <= behind:
        return Place(None, last.seq if last is not None else 0)
    entry, seq = read_entry(last), last.seq
    high, span = seq - 1, NEAR
    floor = behind + 1 if high - behind <= NEAR else await _oldest(messages, subject, behind)
    while entry is None and high >= floor:  # backwards: the last event is not far, most likely
        low = max(floor, high - span)
        async for message in messages.between(subject, low, high):
            entry = read_entry(message) or entry
            seq = max(seq, message.seq)  # the newest that is known: the next event has to name it
        high, span = low - 1, span * FAR
    return Place(entry, seq)


async def _oldest(messages: Messages, subject: str, behind: int) -> int:
    oldest = await messages.next(subject, behind + 1)
    return behind + 1 if oldest is None else oldest.seq


async def entries(messages: Messages, subject: str, first: int, last: int) -> AsyncGenerator[Entry, None]:
    """Yield the events of a record from one place up to another one, which is there, in order.

    Raises:
        nats.errors.Error: They cannot be read.
    """
    async for message in messages.between(subject, first, last):
        entry = read_entry(message)
        if entry is not None and entry.seq <= last:
            yield entry
