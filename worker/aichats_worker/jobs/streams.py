"""The streams and consumers of jobs: which there are, and what they are to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aichats_schemas.subjects import KINDS, QUEUE, Kind, Subjects
from aichats_worker.jobs.wanted import Config, Wanted, nanoseconds

GIB: Final = 1024**3
JOBS_MAX: Final = 100_000
RESULTS_MAX_AGE_SECONDS: Final = 15 * 60
RECORD_OUTLIVES: Final = 1.5  # budgets: a record that is gone fences nothing, and a job may come back for so long
DEAD_MAX_AGE_SECONDS: Final = 30 * 24 * 3600
DEAD_DUPLICATES_SECONDS: Final = 15 * 60  # for a letter that is written again because nobody confirmed the first
# The least that the broker takes. Message ids are shared by all tenants: one could make another's job vanish.
JOBS_DUPLICATES_SECONDS: Final = 0.1
MAX_WAITING: Final = 4096  # pull requests at once: two for each pod


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
        numbered=True,
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
        numbered=True,
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
    numbered: bool = False,
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
        numbered=numbered,
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
