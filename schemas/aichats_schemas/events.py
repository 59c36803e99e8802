"""What the worker publishes on a reply subject (contract, sections 3 and 4).

After the last event (`done`, `result` or `error`) comes one message of zero bytes, the sentinel, and nothing after it.
A client ignores event types and fields that it does not know.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from aichats_schemas.subjects import CoreMode, Kind


class ErrorCode(StrEnum):
    """The code of an `error` event."""

    INVALID_REQUEST = "invalid_request"
    FORBIDDEN = "forbidden"
    MODEL_NOT_FOUND = "model_not_found"
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    TOO_LARGE = "too_large"
    CONTENT_FILTERED = "content_filtered"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "quota_exhausted"
    CANCELLED = "cancelled"
    INTERNAL = "internal"
    BAD_RESPONSE = "bad_response"
    MISCONFIGURED = "misconfigured"
    CHALLENGE = "challenge"
    INTERRUPTED = "interrupted"
    OVERLOADED = "overloaded"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    SHUTTING_DOWN = "shutting_down"
    DEADLINE_EXCEEDED = "deadline_exceeded"


class _Shape(BaseModel):
    # An answer's own text and bytes stay out of a repr: those end in logs.
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


def _example(data: Any, **envelope: Any) -> ConfigDict:
    """Show an event as it is on the wire, in the JSON Schema and in what is made of it."""
    kind = envelope.pop("type")
    example = {"type": kind, "data": data, "id": "r9", "attempt": 1, "seq": 0} | envelope
    return ConfigDict(json_schema_extra={"examples": [example]})


class _Event(_Shape):
    id: str = Field(description="The request's id.")
    attempt: int = Field(
        ge=0, description="1 for a request; a job counts from 1 on. A higher attempt replaces what a lower one said."
    )
    seq: int = Field(ge=0, description="0, 1, 2 … within one (id, attempt): a gap is a loss.")


class Timing(_Shape):
    """Milliseconds: queue wait, until the first content from the provider, and in all."""

    queued_ms: int = Field(description="Until it was begun.")
    first_ms: int = Field(description="Until the provider's first content.")
    total_ms: int = Field(description="In all.")


class ImageData(_Shape):
    """One part of an image. Each part's `b64` decodes by itself; join the decoded parts."""

    index: int = Field(ge=0, description="Which image, from 0.")
    part: int = Field(ge=0, description="Which part of it, from 0.")
    parts: int = Field(ge=1, description="How many parts it has.")
    mime: str = Field(description="Read from the image's own bytes.")
    bytes: int = Field(ge=0, description="Size of the whole image.")
    sha256: str = Field(description="Of the whole image, in hexadecimal.")
    b64: str = Field(repr=False, description="This part, in base64.")


class Usage(_Shape):
    """What an answer used, in tokens.

    Where the provider names no numbers they are estimated: 4 characters a token.
    """

    input_tokens: int = Field(ge=0, description="Of the request.")
    output_tokens: int = Field(ge=0, description="Of the answer.")
    estimated: bool = Field(description="Counted by the worker, since the provider named no numbers.")


class DoneData(_Shape):
    """How a request ended well."""

    finish_reason: str = Field(description="`stop`, `length` or `content_filter`.")
    last_seq: int = Field(description="This event's own `seq`.")
    model: str = Field(description="The requested name.")
    provider: dict[str, Any] | None = Field(
        default=None,
        description="Who answered: `name`, `model` as that provider calls it, and `tries_left` where it said so.",
    )
    usage: Usage | None = Field(default=None, description="In tokens.")
    metadata: dict[str, str] | None = Field(default=None, repr=False, description="The request's own, as it was sent.")
    ignored: list[str] | None = Field(default=None, description="Fields of the request that are not known here.")
    timing: Timing = Field(description="In milliseconds.")


class ResultImage(_Shape):
    """A whole image of a `result`."""

    mime: str = Field(description="Read from the image's own bytes.")
    bytes: int = Field(description="Its size.")
    sha256: str = Field(description="Of its bytes, in hexadecimal.")
    b64: str = Field(repr=False, description="Its bytes, in base64.")


class ResultData(DoneData):
    """The whole answer to an `ask`: `text` or `images`, with the fields of `done`."""

    text: str | None = Field(default=None, repr=False, description="The whole text.")
    reasoning: str | None = Field(default=None, repr=False, description="Only where the request asked for it.")
    images: list[ResultImage] | None = Field(default=None, description="The whole images.")


class ErrorData(_Shape):
    """Why there is no answer, and whether to try again. A code that this version does not know stays a string."""

    code: ErrorCode | str = Field(union_mode="left_to_right", description="One of the error codes.")
    message: str = Field(description="What to do next, in words.")
    retryable: bool = Field(description="Whether trying again may help.")
    retry_after_ms: int | None = Field(default=None, description="When trying again may help, from now.")
    usage: Usage | None = Field(default=None, description="Where part of an answer was made.")


_IMAGE_EXAMPLE = {
    "index": 0,
    "part": 0,
    "parts": 1,
    "mime": "image/gif",
    "bytes": 42,
    "sha256": "ef1955ae757c8b966c83248350331bd3a30f658ced11f387f8ebf05ab3368629",
    "b64": "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7",
}
_ENDED = {
    "model": "gpt-4",
    "provider": {"name": "aichats", "model": "gpt-4", "tries_left": 29},
    "usage": {"input_tokens": 12, "output_tokens": 88, "estimated": False},
    "timing": {"queued_ms": 1, "first_ms": 210, "total_ms": 1800},
}
_ERROR_EXAMPLE = {
    "code": "rate_limited",
    "message": "the provider allows no more calls for now; try again later",
    "retryable": True,
    "retry_after_ms": 2000,
}


class Status(_Event):
    """Still at work: sent when 0.8 s pass in silence. A job's record has some of its own."""

    model_config = _example("working", type="status", seq=3)

    type: Literal["status"] = "status"
    data: str = Field(description="`working`; of a job also `started`, `retrying`, `given_back`.")


class Response(_Event):
    """A piece of text; join in `seq` order."""

    model_config = _example("Hel", type="response", seq=3)

    type: Literal["response"] = "response"
    data: str = Field(repr=False)


class ReasoningEvent(_Event):
    """A piece of the model's reasoning, only where the request asked for it; no part of the answer."""

    model_config = _example("The user greets me.", type="reasoning")

    type: Literal["reasoning"] = "reasoning"
    data: str = Field(repr=False)


class Image(_Event):
    """A part of an image."""

    model_config = _example(_IMAGE_EXAMPLE, type="image")

    type: Literal["image"] = "image"
    data: ImageData


class Done(_Event):
    """The final event of an answer."""

    model_config = _example({"finish_reason": "stop", "last_seq": 7, **_ENDED}, type="done", seq=7)

    type: Literal["done"] = "done"
    data: DoneData


class Result(_Event):
    """The whole answer to an `ask`."""

    model_config = _example({"text": "Hello!", "finish_reason": "stop", "last_seq": 0, **_ENDED}, type="result")

    type: Literal["result"] = "result"
    data: ResultData


class Error(_Event):
    """The final event of a request that failed."""

    model_config = _example(_ERROR_EXAMPLE, type="error", seq=2)

    type: Literal["error"] = "error"
    data: ErrorData


StreamEvent = Annotated[
    Status | Response | ReasoningEvent | Image | Done | Result | Error,
    Field(discriminator="type", title="StreamEvent"),
]
# Which of them answer what.
TextEvent = Annotated[Status | Response | ReasoningEvent | Done | Error, Field(discriminator="type", title="TextEvent")]
ImageEvent = Annotated[Status | Image | Done | Error, Field(discriminator="type", title="ImageEvent")]
AskEvent = Annotated[Result | Error, Field(discriminator="type", title="AskEvent")]
EVENTS: Final[Mapping[tuple[CoreMode, Kind], Any]] = {
    ("req", "text"): TextEvent,
    ("req", "image"): ImageEvent,
    ("ask", "text"): AskEvent,
    ("ask", "image"): AskEvent,
}


@cache
def _adapter() -> TypeAdapter[StreamEvent]:
    """Made when it is first needed: a worker reads no events."""
    return TypeAdapter(StreamEvent)


def parse_event(payload: bytes) -> StreamEvent:
    """Turn one message of a reply subject into its event.

    Args:
        payload: The message's body; not the sentinel, which has zero bytes.

    Raises:
        pydantic.ValidationError: It is no event of this version.
    """
    return _adapter().validate_json(payload)
