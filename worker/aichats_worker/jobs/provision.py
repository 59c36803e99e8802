"""Makes the streams and consumers of jobs, or brings them up to date; changes nothing that is not named."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from nats.js.errors import APIError, NotFoundError

from aichats_schemas.subjects import KINDS
from aichats_worker.broker.bus import Bus
from aichats_worker.jobs.streams import Choices, wanted_consumer, wanted_streams
from aichats_worker.jobs.wanted import CLOSED_MAX_BYTES, Change, Config, Wanted, is_closed

API_TIMEOUT_SECONDS: Final = 5.0
TRIES_MAX: Final = 10
TEMPORARY: Final = 503
# Another worker was faster: what it made is looked at again.
_MADE_BY_ANOTHER: Final = (10058, 10148, 10013)
_WAYS_OUT: Final = {
    10047: "; `aichats-worker provision` takes --jobs-max-bytes, --results-max-bytes and --dead-max-bytes",
    10065: "; two streams cannot have the same subjects: delete the other one, or take another WORKER_SUBJECT_PREFIX",
    10074: "; --replicas asks for more servers than there are",
}


class ProvisionRefused(Exception):
    """Something cannot be made or changed, or a change would lose data. The message has a line for each."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the broker has.

    Attributes:
        infos: Of each stream and consumer what the broker says; None where it is missing.
        changes: What differs from what is wanted.
    """

    infos: Mapping[str, Mapping[str, Any] | None]
    changes: list[Change]

    @property
    def missing(self) -> list[str]:
        """The streams and consumers that are not there."""
        return [change.what for change in self.changes if not change.field]

    @property
    def refused(self) -> list[Change]:
        """What has to be changed and cannot be."""
        return [change for change in self.changes if change.refusal]

    @property
    def paused(self) -> list[str]:
        """The consumers that an operator has paused, and until when."""
        infos = ((what, info) for what, info in self.infos.items() if info and info.get("paused"))
        return [f"{what} is paused until {info['config'].get('pause_until')}" for what, info in infos]

    def config(self, wanted: Wanted) -> Config | None:
        """What is there; None where nothing is."""
        info = self.infos[wanted.what]
        return None if info is None else dict(info["config"])

    def fields(self, wanted: Wanted) -> Config:
        """What has to be changed in what is there."""
        return {change.field: change.new for change in self.changes if change.what == wanted.what and change.field}


class Provisioner:
    """Makes the streams and consumers, or brings them up to date.

    The order is: records, dead letters, then the queue, which takes no job until its consumers are there. Whoever
    comes after one that failed half way finds a queue that refuses jobs, and goes on.

    Args:
        bus: Where; with rights to manage streams.
        choices: The operator's; what is not chosen stays as it is.
        timeout_seconds_max: The longest budget of a job, which its record must outlive.
        ack_wait_seconds: Of the consumers, where they are made.
    """

    def __init__(
        self, bus: Bus, choices: Choices | None = None, *, timeout_seconds_max: float, ack_wait_seconds: float
    ) -> None:
        choices = choices or Choices()
        self._bus = bus
        self._streams = wanted_streams(bus.subjects, choices, timeout_seconds_max=timeout_seconds_max)
        self._consumers = tuple(
            wanted_consumer(bus.subjects, kind, choices, ack_wait_seconds=ack_wait_seconds) for kind in KINDS
        )

    async def look(self) -> Look:
        """Return what is there and what differs. Changes nothing.

        Raises:
            nats.errors.Error: The broker does not say.
        """
        wanted = (*self._streams, *self._consumers)
        infos = await asyncio.gather(*(self._info(one) for one in wanted))
        changes = [change for one, info in zip(wanted, infos, strict=True) for change in one.changes(info)]
        return Look({one.what: info for one, info in zip(wanted, infos, strict=True)}, changes)

    async def apply(self) -> list[Change]:
        """Make everything as it is wanted, and return what was changed. Safe where many do it at once.

        Raises:
            ProvisionRefused: The broker refuses, or a change would lose data; then nothing was changed.
            nats.errors.Error: The broker does not answer.
        """
        changed: dict[str, Change] = {}
        for _ in range(TRIES_MAX):
            look = await self.look()
            if look.refused:
                raise ProvisionRefused("\n".join(map(str, look.refused)))
            if not look.changes:
                return list(changed.values())
            changed |= {str(change): change for change in look.changes}
            try:
                await self._make(look)
            except APIError as error:
                if error.err_code not in _MADE_BY_ANOTHER:
                    raise
        raise ProvisionRefused("somebody else changes the streams at the same time; try again")

    async def _make(self, look: Look) -> None:
        for stream in self._streams:
            await self._make_stream(stream, look)
        for consumer in self._consumers:
            await self._make_consumer(consumer, look)
        queue = self._streams[-1]
        config = (await self._info(queue) or {"config": {}})["config"]
        if is_closed(config):
            max_bytes = queue.config["max_bytes"]
            await self._put(queue.what, f"STREAM.UPDATE.{queue.stream}", config | {"max_bytes": max_bytes})

    async def _make_stream(self, wanted: Wanted, look: Look) -> None:
        config = look.config(wanted)
        if config is None:
            closed = {"max_bytes": CLOSED_MAX_BYTES} if wanted is self._streams[-1] else {}
            begins = _anew() if wanted.numbered else {}
            await self._put(wanted.what, f"STREAM.CREATE.{wanted.stream}", wanted.config | begins | closed)
            return
        fields = look.fields(wanted)
        if is_closed(config):
            fields.pop("max_bytes", None)
        if fields:
            await self._put(wanted.what, f"STREAM.UPDATE.{wanted.stream}", config | fields)

    async def _make_consumer(self, wanted: Wanted, look: Look) -> None:
        config, fields = look.config(wanted), look.fields(wanted)
        if config is not None and not fields:
            return
        # `create` never changes what another one made in the meantime, `update` never makes what somebody deleted.
        config, action = (wanted.config, "create") if config is None else (config | fields, "update")
        request = {"stream_name": wanted.stream, "config": config, "action": action}
        subject = f"CONSUMER.CREATE.{wanted.stream}.{wanted.name}.{wanted.always['filter_subject']}"
        await self._put(wanted.what, subject, request)

    async def _info(self, wanted: Wanted) -> Mapping[str, Any] | None:
        call = f"CONSUMER.INFO.{wanted.stream}.{wanted.name}" if wanted.name else f"STREAM.INFO.{wanted.stream}"
        try:
            return await self._request(call)
        except NotFoundError:
            return None

    async def _put(self, what: str, call: str, payload: Config) -> None:
        try:
            await self._request(call, payload)
        except APIError as error:
            if error.code == TEMPORARY or error.err_code in _MADE_BY_ANOTHER:
                raise
            way_out = _WAYS_OUT.get(error.err_code or 0, "")
            raise ProvisionRefused(f"{what}: {error.description}{way_out}") from None

    async def _request(self, call: str, payload: Config | None = None) -> dict[str, Any]:
        """Ask the broker's API in its own words: nats-py's classes drop the settings that they do not know."""
        body = b"" if payload is None else orjson.dumps(payload)
        answer = await self._bus.nc.request(self._bus.api(call), body, timeout=API_TIMEOUT_SECONDS)
        said: dict[str, Any] = orjson.loads(answer.data)
        if "error" in said:
            raise APIError.from_error(said["error"])
        return said


def _anew() -> Config:
    """Begin with a number that no stream of this name has had: it is deleted while jobs run, and made again.

    A job is told from others by its number in the queue, by the broker too, which takes an old queue's acknowledgement
    for one of the new queue; and a record's fence is a number. By microseconds, which JSON's readers hold exactly and
    no queue catches up with; two clocks that differ make two numbers as well.
    """
    return {"first_seq": time.time_ns() // 1000}
