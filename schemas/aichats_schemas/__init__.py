"""The wire contract `ai.v1` as Python: what a requester and the worker say to each other over NATS.

Other services may import this package. It needs pydantic alone and imports nothing of `aichats_worker`.
"""

from aichats_schemas.events import (
    AskEvent,
    Done,
    DoneData,
    Error,
    ErrorCode,
    ErrorData,
    Image,
    ImageData,
    ImageEvent,
    ReasoningEvent,
    Response,
    Result,
    ResultData,
    ResultImage,
    Status,
    StreamEvent,
    TextEvent,
    Timing,
    Usage,
    parse_event,
)
from aichats_schemas.requests import ImageRequest, Message, TextRequest
from aichats_schemas.subjects import PROTOCOL, Kind, Mode, Subjects

__version__ = "0.1.0"

__all__ = [
    "PROTOCOL",
    "AskEvent",
    "Done",
    "DoneData",
    "Error",
    "ErrorCode",
    "ErrorData",
    "Image",
    "ImageData",
    "ImageEvent",
    "ImageRequest",
    "Kind",
    "Message",
    "Mode",
    "ReasoningEvent",
    "Response",
    "Result",
    "ResultData",
    "ResultImage",
    "Status",
    "StreamEvent",
    "Subjects",
    "TextEvent",
    "TextRequest",
    "Timing",
    "Usage",
    "__version__",
    "parse_event",
]
