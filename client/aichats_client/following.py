"""A job's record, read to its end whatever happens to the workers that serve it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from aichats_client.errors import CutOff, Gap, NoWorker, ServiceError, Stalled, service_error
from aichats_client.stream import resume
from aichats_schemas.events import Done, Error, StreamEvent
from aichats_schemas.subjects import Subjects

# A worker that serves a record says something each 0.8 s.
SILENCE_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 0.25
GAPS_MAX: Final = 3  # in one place: then what is missing does not come any more

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Following:
    """Who follows which job, and how patiently.

    Attributes:
        nc: A connection to the broker.
        tenant: The job's.
        id: The job's.
        subjects: Below the workers' prefix.
        patience_seconds: How long no worker may have a word about the job: longer than the consumers' `ack_wait`.
    """

    nc: NatsClient
    tenant: str
    id: str
    subjects: Subjects
    patience_seconds: float

    async def events(self, after: Place | None = None) -> AsyncGenerator[StreamEvent, None]:
        """Yield the job's events after `(attempt, seq)`, each once, up to its final one, which may be an `error`.

        Raises:
            ServiceError: The record cannot be read: there is none, or no longer the whole of it.
            NoWorker, Stalled: No word about the job for longer than `patience_seconds`.
            Gap: An event is missing for good.
        """
        place, heard, gaps = after, time.monotonic(), 0
        while True:
            before, lost = place, Exception()
            try:
                async with aclosing(self._served(place)) as events:
                    async for event in events:
                        heard = time.monotonic()
                        place = (event.attempt, event.seq) if event.attempt else place
                        yield event
                        if event.attempt and isinstance(event, Done | Error):
                            return
            except (Stalled, CutOff, NoWorker, Gap, NatsError, ServiceError) as error:
                if isinstance(error, ServiceError) and not error.retryable:
                    raise
                lost = error
            gaps = gaps + 1 if isinstance(lost, Gap) and place == before else 0
            if gaps >= GAPS_MAX or time.monotonic() - heard > self.patience_seconds:
                raise self._given_up(lost) from lost
            await asyncio.sleep(AGAIN_SECONDS)

    async def _served(self, after: Place | None) -> AsyncGenerator[StreamEvent, None]:
        """Yield what one worker has to say. Its own error, which is not the job's, is raised."""
        events = resume(
            self.nc, self.id, tenant=self.tenant, after=after, stall_seconds=SILENCE_SECONDS, subjects=self.subjects
        )
        async with aclosing(events):
            async for event in events:
                if event.attempt == 0 and isinstance(event, Error):
                    raise service_error(event.data, self.id)
                yield event

    def _given_up(self, lost: Exception) -> Exception:
        if isinstance(lost, NoWorker | Gap):
            return lost
        return Stalled(f"no word about job {self.id} for {self.patience_seconds:g} s; it may still be queued: {lost}")
