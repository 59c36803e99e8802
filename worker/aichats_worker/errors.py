"""How a request can fail: one leaf for each code of the contract, section 4.

WorkerError
├── InvalidRequest, Forbidden, ModelNotFound, Duplicate, Expired, TooLarge     the requester's
├── ContentFiltered, Cancelled     the requester's, too
├── QuotaExhausted, Misconfigured, Challenge     the operator's
├── RateLimited, BadResponse, Interrupted, ProviderUnavailable, DeadlineExceeded     the provider's
└── Overloaded, ShuttingDown, Internal     the worker's

Abandoned     nobody is to be answered any more: not an error of the wire
├── RequesterGone
├── HandedOver
└── JobLost

SetupError     the operator has to change something: ends the start, or a command
"""

from typing import ClassVar, Literal, TypeVar

from aichats_schemas.events import ErrorCode, Usage

Phase = Literal["queue", "connect", "first_byte", "stall", "total"]
Fault = Literal["requester", "operator", "provider", "worker"]
CircuitEffect = Literal["none", "counts", "opens"]
_Outcome = TypeVar("_Outcome")


class WorkerError(Exception):
    """A failure that the requester is told, once, as an `error` event.

    Args:
        message: Says what to do next. Holds nothing internal: no trace, path, credential, cookie or provider body.
        retry_after_ms: When trying again may help, in milliseconds from now.

    Attributes:
        fault: Whose it is. The requester's is never tried again, here or at another provider.
        circuit: What it says of the provider: nothing, a failure that counts, or one that opens the circuit at once.
        usage: What the part of an answer that was made has used; None where none was made.
        provider: Who was asked when it happened; None for nobody.
        logged: The message as the log has it: without what a requester has named itself.
    """

    code: ClassVar[ErrorCode]
    number: ClassVar[int]
    retryable: ClassVar[bool]
    fault: ClassVar[Fault]
    circuit: CircuitEffect = "none"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.usage: Usage | None = None
        self.provider: str | None = None
        self.logged = message


class InvalidRequest(WorkerError):
    """The body or the subject is wrong; the message names each field and the reason."""

    code, number, retryable = ErrorCode.INVALID_REQUEST, 400, False
    fault = "requester"


class Forbidden(WorkerError):
    """The request names a proxy, and this worker allows none."""

    code, number, retryable = ErrorCode.FORBIDDEN, 403, False
    fault = "requester"


class ModelNotFound(WorkerError):
    """There is no such model; the message lists the models there are."""

    code, number, retryable = ErrorCode.MODEL_NOT_FOUND, 404, False
    fault = "requester"


class Duplicate(WorkerError):
    """The same tenant and id is already running on this worker."""

    code, number, retryable = ErrorCode.DUPLICATE, 409, False
    fault = "requester"


class Expired(WorkerError):
    """`resume`: what it asks for is no longer stored."""

    code, number, retryable = ErrorCode.EXPIRED, 410, False
    fault = "requester"


class TooLarge(WorkerError):
    """A limit was passed; the message names it, its value, and what was sent."""

    code, number, retryable = ErrorCode.TOO_LARGE, 413, False
    fault = "requester"


class ContentFiltered(WorkerError):
    """The provider refuses to answer this prompt."""

    code, number, retryable = ErrorCode.CONTENT_FILTERED, 422, False
    fault = "requester"


class RateLimited(WorkerError):
    """The provider said 429: too many calls."""

    code, number, retryable = ErrorCode.RATE_LIMITED, 429, True
    fault = "provider"


class QuotaExhausted(WorkerError):
    """No tries are left, or the account or the key is spent."""

    code, number, retryable = ErrorCode.QUOTA_EXHAUSTED, 429, False
    fault = "operator"
    circuit = "opens"


class Cancelled(WorkerError):
    """The requester cancelled."""

    code, number, retryable = ErrorCode.CANCELLED, 499, False
    fault = "requester"


class Internal(WorkerError):
    """A defect of the worker. Its log has the cause, the message has not."""

    code, number, retryable = ErrorCode.INTERNAL, 500, True
    fault = "worker"


class BadResponse(WorkerError):
    """What came is not in the provider's format."""

    code, number, retryable = ErrorCode.BAD_RESPONSE, 502, True
    fault = "provider"
    circuit = "counts"


class Misconfigured(WorkerError):
    """The operator's key, URL or model is wrong; the message says which setting."""

    code, number, retryable = ErrorCode.MISCONFIGURED, 502, False
    fault = "operator"
    circuit = "opens"


class Challenge(WorkerError):
    """A captcha or bot check came instead of an answer."""

    code, number, retryable = ErrorCode.CHALLENGE, 502, False
    fault = "operator"
    circuit = "opens"


class Interrupted(WorkerError):
    """The answer was cut after its first piece, or ended in an error."""

    code, number, retryable = ErrorCode.INTERRUPTED, 502, True
    fault = "provider"


class Overloaded(WorkerError):
    """All slots are taken."""

    code, number, retryable = ErrorCode.OVERLOADED, 503, True
    fault = "worker"


class ProviderUnavailable(WorkerError):
    """The provider cannot be reached, answers 408, 425 or 5xx, or is not asked for a while (its circuit is open)."""

    code, number, retryable = ErrorCode.PROVIDER_UNAVAILABLE, 503, True
    fault = "provider"
    circuit = "counts"


class ShuttingDown(WorkerError):
    """The worker stops, and its drain time ran out."""

    code, number, retryable = ErrorCode.SHUTTING_DOWN, 503, True
    fault = "worker"


class DeadlineExceeded(WorkerError):
    """A deadline passed; the message names its phase.

    Args:
        phase: Where the time went.
        seconds: The bound that passed, in seconds.
    """

    code, number, retryable = ErrorCode.DEADLINE_EXCEEDED, 504, True
    fault = "provider"

    def __init__(self, phase: Phase, seconds: float) -> None:
        super().__init__(f"deadline exceeded in phase {phase} after {seconds:g} s: {_ADVICE[phase]}")
        self.phase = phase
        self.circuit = "counts" if phase in ("connect", "first_byte") else "none"


_ADVICE: dict[Phase, str] = {
    "queue": "the request waited too long before it could start; try again later or with a larger timeout_seconds",
    "connect": "the provider could not be reached in time; try again later",
    "first_byte": "the provider did not start to answer in time; try again later",
    "stall": "the provider stopped in the middle of the answer; try again",
    "total": "the answer took too long; try again with a larger timeout_seconds",
}


class Abandoned(Exception):
    """Nothing more is published for this request, no end either.

    Attributes:
        usage: What the part of an answer that was made has used; None where none was made.
    """

    label: ClassVar[str]
    usage: Usage | None = None


class RequesterGone(Abandoned):
    """Nobody listens on the reply subject any more."""

    label = "gone"


class HandedOver(Abandoned):
    """Another worker had room, and answers it."""

    label = "handed_over"


class JobLost(Abandoned):
    """Somebody else has written to the job's record: it is theirs."""

    label = "lost"


class SetupError(Exception):
    """What the operator set cannot be used; the message is one sentence that names the setting."""


def without_frames(outcome: _Outcome) -> _Outcome:
    """Have an error that was caught let go of the frames that it has passed: they hold the answer, and often the error.

    Nothing would free them but the garbage collector, which looks at numbers and not at how large an image is. What is
    no error comes back as it is.
    """
    error: object = outcome
    while isinstance(error, BaseException):
        before = error.__cause__ or error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = before
    return outcome
