"""Ask the worker from Python.

    async with Client("nats://127.0.0.1:4222", tenant="team-a") as ai:
        async for piece in ai.text("Say hi"):
            print(piece, end="")

`Client` and `JobHandle` are for everybody; `sync` is for scripts without an event loop. Below them, `stream`, `resume`,
`ask`, `submit` and `cancel` give the contract's events as they are. It needs the schemas, nats-py and pydantic alone.
"""

from aichats_client import errors, sync
from aichats_client.answer import Answer, collect
from aichats_client.client import Client
from aichats_client.completion import Completion, GeneratedImage
from aichats_client.context import Context, ContextError, read_context
from aichats_client.errors import (
    BadResponseError,
    CancelledByRequesterError,
    ChallengeError,
    ClientError,
    ContentFilteredError,
    CutOff,
    DeadlineExceededError,
    DuplicateError,
    ExpiredError,
    ForbiddenError,
    Gap,
    IncompleteAnswer,
    InternalError,
    InterruptedAnswerError,
    InvalidRequestError,
    JobExists,
    MisconfiguredError,
    ModelNotFoundError,
    NoBroker,
    NoWorker,
    OverloadedError,
    ProviderUnavailableError,
    QueueFull,
    QuotaExhaustedError,
    RateLimitedError,
    Restarted,
    ServiceError,
    ShuttingDownError,
    Stalled,
    TooLargeError,
)
from aichats_client.job import JobHandle
from aichats_client.options import AnyOptions, ImageOptions, TextOptions
from aichats_client.reading import TextStream
from aichats_client.stream import ask, cancel, resume, stream, submit

__all__ = [
    "Answer",
    "AnyOptions",
    "BadResponseError",
    "CancelledByRequesterError",
    "ChallengeError",
    "Client",
    "ClientError",
    "Completion",
    "ContentFilteredError",
    "Context",
    "ContextError",
    "CutOff",
    "DeadlineExceededError",
    "DuplicateError",
    "ExpiredError",
    "ForbiddenError",
    "Gap",
    "GeneratedImage",
    "ImageOptions",
    "IncompleteAnswer",
    "InternalError",
    "InterruptedAnswerError",
    "InvalidRequestError",
    "JobExists",
    "JobHandle",
    "MisconfiguredError",
    "ModelNotFoundError",
    "NoBroker",
    "NoWorker",
    "OverloadedError",
    "ProviderUnavailableError",
    "QueueFull",
    "QuotaExhaustedError",
    "RateLimitedError",
    "Restarted",
    "ServiceError",
    "ShuttingDownError",
    "Stalled",
    "TextOptions",
    "TextStream",
    "TooLargeError",
    "ask",
    "cancel",
    "collect",
    "errors",
    "read_context",
    "resume",
    "stream",
    "submit",
    "sync",
]  # fmt: skip
