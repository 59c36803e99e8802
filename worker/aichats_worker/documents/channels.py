"""Every subject that requesters use, for AsyncAPI: what is sent there, and what comes back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from aichats_schemas.events import EVENTS, StreamEvent
from aichats_schemas.requests import MODELS
from aichats_schemas.subjects import (
    DEAD_ATTEMPTS,
    DEAD_CODE,
    DEAD_LEFT_OUT,
    DEAD_REASON,
    DEAD_TIME,
    KINDS,
    MSG_ID,
    REPLY_TO,
    SERVICE,
    SERVICE_ERROR,
    SERVICE_ERROR_CODE,
    CoreMode,
    Kind,
    Subjects,
)
from aichats_worker.control.resume import ResumeRequest

REPLY: Final = "$message.header#/reply"
SENTINEL: Final = "After the last event comes one message of zero bytes, the sentinel, and nothing after it."
ALLOWED: Final = "1 to 64 of A-Z, a-z, 0-9, _ and -"
PARAMETERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "tenant": {"description": f"Whose request it is, `default` where there is only one: {ALLOWED}."},
    "id": {"description": f"The job's or request's id: {ALLOWED}."},
    "verb": {"description": "What is asked.", "enum": ["PING", "INFO", "STATS"]},
}

_TRACE: Final = {
    "correlation_id": "The requester's own mark. It is in the worker's log.",
    "traceparent": "W3C trace context: the worker's spans are part of that trace.",
    "tracestate": "W3C trace context.",
}
REQUEST_HEADERS: Final = {MSG_ID: f"The request's id, else the worker makes one: {ALLOWED}."} | _TRACE
JOB_HEADERS: Final = {REPLY_TO: "An inbox that gets a copy of each event once it is stored."} | _TRACE
EVENT_HEADERS: Final = {
    SERVICE_ERROR: "On `error` alone: its message, ASCII, at most 200 characters.",
    SERVICE_ERROR_CODE: "On `error` alone: its number.",
}
DEAD_HEADERS: Final = {
    DEAD_REASON: "Why it was given up, a sentence.",
    DEAD_CODE: "The error's code.",
    DEAD_ATTEMPTS: "How many attempts there were.",
    DEAD_TIME: "When, RFC 3339.",
    DEAD_LEFT_OUT: "What of the job did not fit: `body`, `headers`, `tenant`, joined by commas.",
}


_ANSWERED: Final[dict[CoreMode, str]] = {
    "req": "The events as they come.",
    "ask": "The whole answer as one event.",
}


class CancelAnswer(BaseModel):
    """The one answer to a cancel: `cancelled`, or `error` where it could not be found out."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"cancelled": True}]})

    cancelled: bool | None = Field(default=None, description="True: its end is `cancelled`, now. Never a guess.")
    error: str | None = Field(default=None, description="The broker's streams do not answer; ask again.")


Empty = Annotated[None, Field(title="Empty", description="Zero bytes.")]
ServiceAnswer = Annotated[
    dict[str, Any],
    Field(title="ServiceAnswer", description="As ADR-32 has it: `name`, `id`, `version`, `metadata`, and more."),
]


@dataclass(frozen=True, slots=True)
class AnswerChannel:
    """What comes back.

    Attributes:
        schema: Of each message.
        says: What there is to know.
        location: Where the message that asks names the subject: an AsyncAPI runtime expression.
        headers: What each is for, by name.
    """

    schema: Any
    says: str
    location: str = REPLY
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Channel:
    """A subject.

    Attributes:
        name: As the document calls it.
        subject: The pattern; each `*` is one of `parameters`, in order.
        schema: Of what is sent there.
        says: What there is to know.
        headers: What each is for, by name.
        parameters: What the pattern's wildcards are.
        answer: What comes back; None where the worker is the one who sends.
        served: FastStream serves it, and knows all but its answer.
    """

    name: str
    subject: str
    schema: Any
    says: str
    headers: Mapping[str, str] = field(default_factory=dict)
    parameters: tuple[str, ...] = ("tenant", "id")
    answer: AnswerChannel | None = None
    served: bool = False


def channels(subjects: Subjects, *, jobs: bool) -> Iterator[Channel]:
    """Give all of them; those of jobs only where jobs are served."""
    for kind in KINDS:
        yield from _core(subjects, kind)
    if jobs:
        for kind in KINDS:
            yield from _jobs(subjects, kind)
        yield _record(subjects)
        yield _resume(subjects)
    yield _cancel(subjects)
    yield _service()


def _core(subjects: Subjects, kind: Kind) -> Iterator[Channel]:
    for mode, says in _ANSWERED.items():
        answer = AnswerChannel(EVENTS[mode, kind], f"{says} {SENTINEL}", headers=EVENT_HEADERS)
        subject, name = subjects.request(mode, kind), f"{mode}-{kind}"
        yield Channel(name, subject, MODELS[kind], "", REQUEST_HEADERS, ("tenant",), answer=answer, served=True)


def _jobs(subjects: Subjects, kind: Kind) -> Iterator[Channel]:
    yield Channel(
        f"job-{kind}",
        subjects.job(kind),
        MODELS[kind],
        "A job, submitted with a JetStream publish; the acknowledgement says that it is stored. It survives restarts "
        "of workers and brokers. Its events are read through `resume`; the header `reply_to` names who gets a copy. "
        f"`aichats-worker submit` and `nats pub --jetstream {subjects.job(kind, 'default', 'r9')} 'Say hi'` do it.",
        JOB_HEADERS,
        answer=AnswerChannel(
            StreamEvent, f"A copy of each event once it is stored. {SENTINEL}", f"$message.header#/{REPLY_TO}",
            EVENT_HEADERS,
        ),
    )  # fmt: skip
    yield Channel(
        f"dead-{kind}",
        subjects.dead(kind),
        MODELS[kind],
        "A job that was given up, as it was submitted, with the reason. `aichats-worker dead` works on them.",
        DEAD_HEADERS,
    )


def _record(subjects: Subjects) -> Channel:
    return Channel(
        "record",
        subjects.out(),
        StreamEvent,
        "All events of a job, as JetStream stores them. They are read through `resume`: a plain subscription also sees "
        "what the stream refuses.",
        EVENT_HEADERS,
    )


def _resume(subjects: Subjects) -> Channel:
    return Channel(
        "resume",
        subjects.resume(),
        ResumeRequest,
        "Read a job's events again from a point on, then go on live.",
        parameters=("tenant",),
        answer=AnswerChannel(
            StreamEvent,
            f"The record's events after that point, in order of `(attempt, seq)`, then the live ones. {SENTINEL}",
            headers=EVENT_HEADERS,
        ),
    )


def _cancel(subjects: Subjects) -> Channel:
    return Channel(
        "cancel",
        subjects.cancel(),
        Empty,
        "Stop a request, running or queued. The body is empty. "
        f"`nats req {subjects.cancel('default', 'r9')} ''` does it.",
        answer=AnswerChannel(CancelAnswer, "One answer within a second. No responders: there is no worker."),
    )


def _service() -> Channel:
    return Channel(
        "service",
        f"$SRV.*.{SERVICE}",
        Empty,
        "The NATS services API: who is there, what it serves, and how much it has done. `nats micro ls`, `info` and "
        "`stats` ask here.",
        parameters=("verb",),
        answer=AnswerChannel(ServiceAnswer, "One answer of each worker."),
    )
