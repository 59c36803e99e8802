"""The streams and consumers of jobs: what they are, and how they are made or brought up to date."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from aichats_schemas.subjects import KINDS, QUEUE, Kind, Subjects

log = structlog.get_logger(__name__)

RESULTS_MAX_AGE_SECONDS: Final = 15 * 60
DUPLICATES_SECONDS: Final = 15 * 60
RESULTS_DUPLICATES_SECONDS: Final = 120  # the server's default: events carry no message ids
MAX_WAITING: Final = 4096  # pull requests at once: two for each pod
GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the streams hold. What is over is refused (jobs), or the oldest drops out (results, dead letters)."""

    jobs_max: int = 100_000
    jobs_max_bytes: int = GIB
    results_max_bytes: int = GIB
    dead_max_bytes: int = GIB
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between what is there and what is wanted.

    Attributes:
        what: The stream or consumer.
        field: The setting; empty where the whole thing is missing.
        old: What is there.
        new: What is wanted.
        refusal: Why it is not changed, or None.
    """

    what: str
    field: str
    old: Any = None
    new: Any = None
    refusal: str | None = None

    def __str__(self) -> str:
        if not self.field:
            return f"{self.what}: make it"
        sentence = f"{self.what}: {self.field} {_plain(self.old)} -> {_plain(self.new)}"
        return f"{sentence} (refused: {self.refusal})" if self.refusal else sentence


class ProvisionRefused(Exception):
    """A change would lose data; nothing was changed. The message has a line for each."""


def consumer_name(kind: Kind) -> str:
    """Return the durable consumer of a kind."""
    return f"{QUEUE}-{kind}"


def stream_configs(subjects: Subjects, limits: Limits) -> list[StreamConfig]:
    """Return what the three streams are to be."""
    return [
        StreamConfig(
            name=subjects.jobs_stream,
            subjects=[subjects.job(kind) for kind in KINDS],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,  # a full queue is an error for the submitter
            discard_new_per_subject=True,  # and so is a second job of the same tenant and id
            max_msgs_per_subject=1,
            max_msgs=limits.jobs_max,
            max_bytes=limits.jobs_max_bytes,
            duplicate_window=DUPLICATES_SECONDS,
            num_replicas=limits.replicas,
        ),
        StreamConfig(
            name=subjects.out_stream,
            subjects=[subjects.out()],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_age=RESULTS_MAX_AGE_SECONDS,
            max_bytes=limits.results_max_bytes,
            duplicate_window=RESULTS_DUPLICATES_SECONDS,
            allow_direct=True,
            num_replicas=limits.replicas,
        ),
        StreamConfig(
            name=subjects.dead_stream,
            subjects=[subjects.dead(kind) for kind in KINDS],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_bytes=limits.dead_max_bytes,
            duplicate_window=DUPLICATES_SECONDS,
            allow_direct=True,
            num_replicas=limits.replicas,
        ),
    ]


def consumer_config(subjects: Subjects, kind: Kind, *, ack_wait_seconds: float) -> ConsumerConfig:
    """Return what the consumer of a kind is to be."""
    return ConsumerConfig(
        durable_name=consumer_name(kind),
        filter_subject=subjects.job(kind),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait_seconds,
        max_deliver=-1,  # the record counts the attempts
        max_ack_pending=-1,  # the workers' slots bound what is in work
        max_waiting=MAX_WAITING,
    )


_STREAM_FIELDS: Final = (
    "subjects", "retention", "storage", "discard", "discard_new_per_subject", "max_msgs_per_subject", "max_msgs",
    "max_bytes", "max_age", "duplicate_window", "num_replicas", "allow_direct",
)  # fmt: skip
_CONSUMER_FIELDS: Final = ("filter_subject", "ack_policy", "ack_wait", "max_deliver", "max_ack_pending")
_FIXED: Final = ("retention", "storage")  # the server cannot change them: the stream would have to be made anew


class Provisioner:
    """Makes the streams and consumers, or brings them up to date.

    Args:
        js: JetStream, with rights to manage streams.
        subjects: Below the worker's prefix.
        ack_wait_seconds: The consumers'.
        limits: None leaves the limits and replicas of streams that are there as they are.
    """

    def __init__(
        self,
        js: JetStreamContext,
        subjects: Subjects,
        *,
        ack_wait_seconds: float,
        limits: Limits | None = None,
    ) -> None:
        self._js = js
        self._subjects = subjects
        self._ack_wait = ack_wait_seconds
        self._limits = limits

    async def changes(self) -> list[Change]:
        """Return what differs from what is wanted. Changes nothing."""
        found: list[Change] = []
        for config in stream_configs(self._subjects, self._limits or Limits()):
            found += await self._stream_changes(config)
        for kind in KINDS:
            found += await self._consumer_changes(self._consumer(kind))
        return found

    async def apply(self) -> list[Change]:
        """Make everything as it is wanted, and return what was changed. Safe where many do it at once.

        Raises:
            ProvisionRefused: A change would lose data; nothing was changed.
        """
        changes = await self.changes()
        refused = [change for change in changes if change.refusal]
        if refused:
            raise ProvisionRefused("\n".join(map(str, refused)))
        changed = {change.what for change in changes}
        for config in stream_configs(self._subjects, self._limits or Limits()):
            if config.name in changed:
                await self._apply_stream(config, changes)
        for kind in KINDS:
            if f"{self._subjects.jobs_stream}/{consumer_name(kind)}" in changed:
                await self._js.add_consumer(self._subjects.jobs_stream, self._consumer(kind))
        return changes

    def _consumer(self, kind: Kind) -> ConsumerConfig:
        return consumer_config(self._subjects, kind, ack_wait_seconds=self._ack_wait)

    async def _apply_stream(self, config: StreamConfig, changes: Sequence[Change]) -> None:
        if any(change.what == config.name and not change.field for change in changes):
            await self._js.add_stream(config)
            return
        # What is there keeps all that we do not name: an update with defaults would reset it.
        info = await self._js.stream_info(str(config.name))
        updates = {change.field: change.new for change in changes if change.what == config.name}
        await self._js.update_stream(info.config.evolve(**updates))

    async def _stream_changes(self, wanted: StreamConfig) -> list[Change]:
        name = str(wanted.name)
        try:
            info = await self._js.stream_info(name)
        except NotFoundError:
            return [Change(name, "")]
        kept = () if self._limits else ("max_msgs", "max_bytes", "num_replicas")
        fields = [field for field in _STREAM_FIELDS if field not in kept]
        held = {"max_msgs": info.state.messages, "max_bytes": info.state.bytes}
        return [
            Change(name, field, old, new, _refusal(field, new, held))
            for field, old, new in _differences(fields, info.config, wanted)
        ]

    async def _consumer_changes(self, wanted: ConsumerConfig) -> list[Change]:
        what = f"{self._subjects.jobs_stream}/{wanted.durable_name}"
        try:
            info = await self._js.consumer_info(self._subjects.jobs_stream, str(wanted.durable_name))
        except NotFoundError:
            return [Change(what, "")]
        return [Change(what, *difference) for difference in _differences(_CONSUMER_FIELDS, info.config, wanted)]


def _differences(fields: Sequence[str], old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    pairs = [(field, getattr(old, field), getattr(new, field)) for field in fields]
    return [(field, was, new) for field, was, new in pairs if new is not None and _plain(was) != _plain(new)]


def _refusal(field: str, new: Any, held: dict[str, int]) -> str | None:
    if field in _FIXED:
        return "the stream would have to be deleted and made anew, with all that is in it"
    if field in held and 0 < new < held[field]:
        return f"it holds {held[field]} now, which would be lost"
    return None


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, list):
        return sorted(value)
    return value or 0 if isinstance(value, bool | int | float) or value is None else value
