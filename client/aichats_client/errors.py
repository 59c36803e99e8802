"""What a requester may have to catch.

ClientError
├── NoBroker           the servers cannot be reached, or refuse us
├── NoWorker           nobody serves the subject
├── Stalled            nothing came for longer than a worker is ever silent
├── Gap                an event is missing
├── CutOff             the stream ended without its final event
├── IncompleteAnswer   an image's parts do not join to what they say they are
├── Restarted          a job's text began anew after pieces of it were read
├── JobExists          a job of this id is queued or running
├── QueueFull          the queue takes no more jobs
└── ServiceError       the worker's own answer is an error: one class below it for each code of the contract
"""

from typing import ClassVar, Final

from aichats_schemas.events import ErrorData, Usage


class ClientError(Exception):
    """There is no answer.

    Attributes:
        retryable: Whether the same request may succeed when it is sent again.
        retry_after: How many seconds to wait before that, where somebody said so.
        usage: The tokens of what was made of an answer; None where nothing was, or nobody said.
    """

    retryable: bool = False
    retry_after: float | None = None
    usage: Usage | None = None


class NoBroker(ClientError):
    """The servers cannot be reached, or refuse us."""

    retryable = True


class NoWorker(ClientError):
    """Nobody serves the subject, or all that do are full."""

    retryable = True


class Stalled(ClientError):
    """Nothing came for longer than a worker is ever silent: the stream was cut."""

    retryable = True


class Gap(ClientError):
    """An event is missing: `seq` did not grow by one."""

    retryable = True


class CutOff(ClientError):
    """The stream ended without its final event."""

    retryable = True


class IncompleteAnswer(ClientError):
    """An image's parts do not join to what they say they are."""

    retryable = True


class Restarted(ClientError):
    """Another attempt replaces a job's text of which pieces were read already. Read it again from its beginning."""

    retryable = True


class JobExists(ClientError):
    """A job of this tenant and id is queued or running already: `Client.job` comes back to it.

    Attributes:
        job_id: The job's name.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(f"a job {job_id} is queued or running already; Client.job comes back to it")
        self.job_id = job_id


class QueueFull(ClientError):
    """The queue takes no more jobs at the moment."""

    retryable = True


class ServiceError(ClientError):
    """The worker's own answer is an error; of a code that this version does not know, where it is no subclass.

    Attributes:
        data: All that the worker said.
        code: The contract's name of the failure.
        message: What to do next.
        request_id: The request's id, which the worker's log has as well.
    """

    known_code: ClassVar[str] = ""

    def __init__(self, data: ErrorData, request_id: str = "") -> None:
        super().__init__(f"{data.code}: {data.message}")
        self.data = data
        self.code = data.code
        self.message = data.message
        self.retryable = data.retryable
        self.retry_after = data.retry_after_ms / 1000 if data.retry_after_ms is not None else None
        self.usage = data.usage
        self.request_id = request_id


class InvalidRequestError(ServiceError):
    """A field of the request is missing or wrong, or the provider refused it as wrong: the message names each."""

    known_code = "invalid_request"


class ForbiddenError(ServiceError):
    """A proxy where the worker allows none."""

    known_code = "forbidden"


class ModelNotFoundError(ServiceError):
    """Another model than the ones there are, which the message lists."""

    known_code = "model_not_found"


class DuplicateError(ServiceError):
    """A request of the same tenant and id is running."""

    known_code = "duplicate"


class ExpiredError(ServiceError):
    """What is left of the job's record is not the whole of it."""

    known_code = "expired"


class TooLargeError(ServiceError):
    """A limit was passed: the message has its name, its value and what was sent."""

    known_code = "too_large"


class ContentFilteredError(ServiceError):
    """The provider refuses to answer this prompt."""

    known_code = "content_filtered"


class RateLimitedError(ServiceError):
    """The provider is asked too often."""

    known_code = "rate_limited"


class QuotaExhaustedError(ServiceError):
    """The provider's account has nothing left."""

    known_code = "quota_exhausted"


class CancelledByRequesterError(ServiceError):
    """Somebody of this tenant cancelled the request."""

    known_code = "cancelled"


class InternalError(ServiceError):
    """A defect of the worker's: its operator finds the cause in the log under the request's id."""

    known_code = "internal"


class BadResponseError(ServiceError):
    """What the provider answered is not in its own format."""

    known_code = "bad_response"


class MisconfiguredError(ServiceError):
    """The operator's key, URL or model is wrong."""

    known_code = "misconfigured"


class ChallengeError(ServiceError):
    """The provider wants to see a person: a captcha or bot check came instead of an answer."""

    known_code = "challenge"


class InterruptedAnswerError(ServiceError):
    """The provider's answer broke off after its first piece."""

    known_code = "interrupted"


class OverloadedError(ServiceError):
    """All workers are full."""

    known_code = "overloaded"


class ProviderUnavailableError(ServiceError):
    """The provider cannot be reached, or fails."""

    known_code = "provider_unavailable"


class ShuttingDownError(ServiceError):
    """The worker is going away."""

    known_code = "shutting_down"


class DeadlineExceededError(ServiceError):
    """The time was not enough: the message names where it went."""

    known_code = "deadline_exceeded"


_BY_CODE: Final[dict[str, type[ServiceError]]] = {each.known_code: each for each in ServiceError.__subclasses__()}


def service_error(data: ErrorData, request_id: str = "") -> ServiceError:
    """Return an `error` event's data as the exception of its code."""
    return _BY_CODE.get(data.code, ServiceError)(data, request_id)
