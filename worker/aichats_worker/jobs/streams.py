"""What the streams and consumers of jobs are to be, and what differs in those that are there. Pure: asks nobody."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from aichats_schemas.subjects import KINDS, QUEUE, Kind, Subjects

Config = dict[str, Any]  # as the broker's API has it: durations in nanoseconds

GIB: Final = 1024**3
JOBS_MAX: Final = 100_000
RESULTS_MAX_AGE_SECONDS: Final = 15 * 60
RECORD_OUTLIVES: Final = 1.5  # budgets: a record that is gone fences nothing, and a job may come back for so long
DEAD_MAX_AGE_SECONDS: Final = 30 * 24 * 3600
DEAD_DUPLICATES_SECONDS: Final = 15 * 60  # for a letter that is written again because nobody confirmed the first
# The least that the broker takes. Message ids are shared by all tenants: one could make another's job vanish.
JOBS_DUPLICATES_SECONDS: Final = 0.1
MAX_WAITING: Final = 4096  # pull requests at once: two for each pod
# A queue that takes nothing: it is made so, and opened once its consumers are there.
CLOSED_MAX_BYTES: Final = 1

_DURATIONS: Final = ("max_age", "duplicate_window", "ack_wait")
# The broker cannot change these: the stream or consumer would have to be made anew.
_FIXED: Final = ("retention", "storage", "ack_policy", "deliver_policy", "deliver_subject")
_ANEW: Final = "it would have to be deleted and made anew"


def nanoseconds(seconds: float) -> int:
    """Turn seconds into what the broker's API takes."""
    return round(seconds * 1e9)


def consumer_name(kind: Kind) -> str:
    """Return the durable consumer of a kind."""
    return f"{QUEUE}-{kind}"


@dataclass(frozen=True, slots=True)
class Choices:
    """What an operator chose. None leaves what is there as it is, and takes the default where something is made.

    Attributes:
        jobs_max: Jobs that may wait; more are refused.
        jobs_max_bytes: The same in bytes.
        results_max_bytes: Records of jobs; the oldest events drop out.
        dead_max_bytes: Dead letters; the oldest drop out.
        dead_max_age_seconds: How long a dead letter is kept.
        replicas: Copies of each stream.
        ack_wait_seconds: The consumers'.
    """

    jobs_max: int | None = None
    jobs_max_bytes: int | None = None
    results_max_bytes: int | None = None
    dead_max_bytes: int | None = None
    dead_max_age_seconds: float | None = None
    replicas: int | None = None
    ack_wait_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between what is there and what is wanted.

    Attributes:
        what: The stream or consumer.
        field: The setting; empty where the whole thing is missing.
        old: What is there.
        new: What is wanted.
        refusal: Why it is not changed, or None.
        note: Why it is wanted, where that is not plain.
    """

    what: str
    field: str
    old: Any = None
    new: Any = None
    refusal: str | None = None
    note: str = ""

    def __str__(self) -> str:
        sentence = f"{self.what}: make it" if not self.field else f"{self.what}: {self.field} {self._step()}"
        sentence += f" ({self.note})" if self.note else ""
        return f"{sentence} (refused: {self.refusal})" if self.refusal else sentence

    def _step(self) -> str:
        return " -> ".join(_shown(self.field, value) for value in (self.old, self.new))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one stream or consumer is to be. All that is not named here is the operator's, and stays as it is.

    Attributes:
        stream: Its stream.
        name: The consumer; empty for the stream itself.
        prefix: Of the subjects that may be its own.
        always: Holds whoever made it.
        first: Holds where it is made; afterwards it is the operator's.
        chosen: The operator's choice now.
        least: May be more, or 0 for no bound.
        note: Why, where that is not plain.
    """

    stream: str
    name: str
    prefix: str
    always: Config
    first: Config
    chosen: Config
    least: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def what(self) -> str:
        """How it is called in sentences."""
        return f"{self.stream}/{self.name}" if self.name else self.stream

    @property
    def config(self) -> Config:
        """What it is made of."""
        return self.always | self.first | dict(self.least) | self.chosen

    def changes(self, info: Mapping[str, Any] | None) -> list[Change]:
        """Return what differs in the broker's description of it; None where it is missing."""
        if info is None:
            return [Change(self.what, "", note=self.note)]
        return [
            Change(self.what, name, old, new, self._refusal(name, old, new, info), self._why(name))
            for name, old, new in self._differences(info["config"])
        ]

    def _why(self, name: str) -> str:
        return self.note if name in self.least else ""

    def _differences(self, config: Config) -> Iterator[tuple[str, Any, Any]]:
        for name, new in (self.always | self.chosen).items():
            if _plain(config.get(name)) != _plain(new):
                yield name, config.get(name), new
        for name, least in self.least.items():
            if 0 < config.get(name, 0) < least:
                yield name, config[name], least
        if is_closed(config) and "max_bytes" not in self.chosen:
            yield "max_bytes", CLOSED_MAX_BYTES, self.first["max_bytes"]

    def _refusal(self, name: str, old: Any, new: Any, info: Mapping[str, Any]) -> str | None:
        if name in _FIXED:
            return _ANEW if self.name else f"{_ANEW}, with all that is in it"
        if name == "subjects" and not _all_ours(old, self.prefix):
            return "they are not this prefix's: the stream is somebody else's, and is left as it is"
        return _loss(name, new, info)


def wanted_streams(subjects: Subjects, choices: Choices, *, timeout_seconds_max: float) -> tuple[Wanted, ...]:
    """Return the streams in the order in which they are made: the queue last, since a job needs the others."""
    return (
        _records(subjects, choices, timeout_seconds_max),
        _letters(subjects, choices),
        _queue(subjects, choices),
    )


def _records(subjects: Subjects, choices: Choices, timeout_seconds_max: float) -> Wanted:
    age = max(RESULTS_MAX_AGE_SECONDS, RECORD_OUTLIVES * timeout_seconds_max)
    longer = f"a record must outlive its job, which may take {timeout_seconds_max:g} s: it is kept for {age:g} s"
    return _stream(
        subjects,
        subjects.out_stream,
        {"subjects": [subjects.out()], "retention": "limits", "discard": "old", "allow_direct": True},
        {"max_bytes": GIB},
        {"max_bytes": choices.results_max_bytes, "num_replicas": choices.replicas},
        least={"max_age": nanoseconds(age)},
        note=longer if age > RESULTS_MAX_AGE_SECONDS else "",
    )


def _letters(subjects: Subjects, choices: Choices) -> Wanted:
    kept = choices.dead_max_age_seconds
    window = min(DEAD_DUPLICATES_SECONDS, kept or DEAD_DUPLICATES_SECONDS)  # the broker takes none above max_age
    return _stream(
        subjects,
        subjects.dead_stream,
        {"subjects": [subjects.dead(kind) for kind in KINDS], "retention": "limits", "discard": "old"}
        | {"allow_direct": True},
        {"max_bytes": GIB, "max_age": nanoseconds(DEAD_MAX_AGE_SECONDS), "duplicate_window": nanoseconds(window)},
        {
            "max_bytes": choices.dead_max_bytes,
            "max_age": None if kept is None else nanoseconds(kept),
            "duplicate_window": None if kept is None else nanoseconds(window),
            "num_replicas": choices.replicas,
        },
    )


def _queue(subjects: Subjects, choices: Choices) -> Wanted:
    return _stream(
        subjects,
        subjects.jobs_stream,
        {
            "subjects": [subjects.job(kind) for kind in KINDS],
            "retention": "workqueue",
            "discard": "new",  # a full queue is an error for the submitter
            "discard_new_per_subject": True,  # and so is a second job of the same tenant and id
            "max_msgs_per_subject": 1,
            "max_age": 0,  # a job that vanishes has no end
            "duplicate_window": nanoseconds(JOBS_DUPLICATES_SECONDS),
        },
        {"max_msgs": JOBS_MAX, "max_bytes": GIB},
        {"max_msgs": choices.jobs_max, "max_bytes": choices.jobs_max_bytes, "num_replicas": choices.replicas},
    )


def _stream(
    subjects: Subjects,
    name: str,
    always: Config,
    first: Config,
    chosen: Config,
    *,
    least: Mapping[str, int] | None = None,
    note: str = "",
) -> Wanted:
    return Wanted(
        stream=name,
        name="",
        prefix=subjects.prefix,
        always={"name": name, "storage": "file"} | always,
        first={"num_replicas": 1} | first,
        chosen={key: value for key, value in chosen.items() if value is not None},
        least=least or {},
        note=note,
    )


def wanted_consumer(subjects: Subjects, kind: Kind, choices: Choices, *, ack_wait_seconds: float) -> Wanted:
    """Return what the consumer of a kind is to be."""
    name, chosen = consumer_name(kind), choices.ack_wait_seconds
    return Wanted(
        stream=subjects.jobs_stream,
        name=name,
        prefix=subjects.prefix,
        always={
            "durable_name": name,
            "filter_subject": subjects.job(kind),
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "deliver_subject": None,
            "max_deliver": -1,  # the record counts the attempts
        },
        first={
            # Afterwards it stays: a worker that changed it would take the leases of those that run.
            "ack_wait": nanoseconds(ack_wait_seconds),
            "max_ack_pending": -1,  # the workers' slots bound what is in work
            "max_waiting": MAX_WAITING,
        },
        chosen={} if chosen is None else {"ack_wait": nanoseconds(chosen)},
    )


def is_closed(config: Config) -> bool:
    """Say whether a stream was left closed by somebody who could not make all that belongs to it."""
    return config.get("max_bytes") == CLOSED_MAX_BYTES


def _all_ours(subjects: list[str] | None, prefix: str) -> bool:
    return bool(subjects) and all(subject.startswith(f"{prefix}.") for subject in subjects or ())


def _loss(name: str, new: Any, info: Mapping[str, Any]) -> str | None:
    state = info.get("state", {})
    held = {"max_msgs": "messages", "max_bytes": "bytes"}
    if name in held and 0 < new < state[held[name]]:
        return f"it holds {state[held[name]]} {held[name]} now, some of which would be lost"
    if name == "max_age" and new and state["messages"]:
        age = (_time(info["ts"]) - _time(state["first_ts"])).total_seconds()
        if nanoseconds(age) > new:
            return f"its oldest message is {age / 86400:.1f} days old, and would be lost"
    return None


def _time(text: str) -> datetime:
    # Nanoseconds and Z, of which Python 3.11 reads no more than six digits.
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or 0


def _shown(name: str, value: Any) -> str:
    if name in _DURATIONS:
        return f"{(value or 0) / 1e9:.12g} s"
    return ", ".join(value) if isinstance(value, list) else str(_plain(value))
