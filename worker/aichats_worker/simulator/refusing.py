"""Answers that are none: statuses, error objects in several servers' shapes, waits in every form, pages. No I/O."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final

from aichats_worker.simulator.directives import Dialect, Directives

WAIT_SECONDS: Final = 7  # what each named form of `retry-after` says, but `date`
DATE_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Fault:
    """An error's own words.

    Attributes:
        status: The HTTP status that belongs to it.
        type: The error's type, in OpenAI's words.
        message: What people read.
    """

    status: int
    type: str
    message: str


# Of several codes with one status, the first is the one that `status` alone means.
CODES: Final[dict[str, Fault]] = {
    "invalid_value": Fault(400, "invalid_request_error", "Invalid value for a parameter."),
    "context_length_exceeded": Fault(
        400,
        "invalid_request_error",
        "This model's maximum context length is 8192 tokens. Your messages had 9001 tokens.",
    ),
    "content_filter": Fault(
        400, "invalid_request_error", "The response was filtered: the prompt met the content policy."
    ),
    "content_policy_violation": Fault(
        400, "image_generation_user_error", "Your request was rejected by the safety system."
    ),
    "moderation_blocked": Fault(400, "image_generation_user_error", "Your request was rejected by the safety system."),
    "invalid_api_key": Fault(401, "invalid_request_error", "Incorrect API key provided."),
    "insufficient_credits": Fault(402, "insufficient_credits", "Insufficient balance."),
    "permission_denied": Fault(403, "permission_error", "This key may not use this model."),
    "key_limit_exceeded": Fault(403, "key_limit_exceeded", "Key limit exceeded."),
    "model_not_found": Fault(
        404, "invalid_request_error", "The model does not exist, or you do not have access to it."
    ),
    "request_timeout": Fault(408, "timeout", "The request timed out."),
    "conflict": Fault(409, "conflict_error", "The resource was updated by another request."),
    "request_too_large": Fault(413, "invalid_request_error", "The request body is too large."),
    "unsupported_media_type": Fault(415, "invalid_request_error", "The content type must be application/json."),
    "unprocessable_entity": Fault(422, "validation", "Input validation error: a field has the wrong type."),
    "inputs_too_long": Fault(422, "validation", "`inputs` tokens + `max_new_tokens` must be <= 4096."),
    "too_early": Fault(425, "too_early", "The server does not want to risk a replay."),
    "rate_limit_exceeded": Fault(429, "requests", "Rate limit reached for requests."),
    "insufficient_quota": Fault(429, "insufficient_quota", "You exceeded your current quota."),
    "billing_not_active": Fault(429, "billing_not_active", "Your account is not active."),
    "server_error": Fault(500, "server_error", "The server had an error while processing your request."),
    "bad_gateway": Fault(502, "upstream_error", "Provider disconnected."),
    "overloaded": Fault(503, "overloaded_error", "The model is overloaded."),
    "gateway_timeout": Fault(504, "timeout", "The upstream did not answer."),
}
_OF_STATUS: Final = {fault.status: code for code, fault in reversed(CODES.items())}
PAGES: Final[dict[str, tuple[str, str, str]]] = {
    "challenge": (
        "a bot check's page",
        "text/html; charset=utf-8",
        "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Solve the captcha.</body></html>",
    ),
    "html": (
        "another web page",
        "text/html; charset=utf-8",
        "<!DOCTYPE html><html><body><h1>Down for maintenance</h1></body></html>",
    ),
    "json-error": (
        "an error object, with status 200 if no other is said",
        "application/json",
        '{"error":{"message":"Something went wrong","code":500}}',
    ),
    "prose": ("a sentence", "text/event-stream", "An internal server error occurred."),
    "empty": ("an empty body", "text/event-stream", ""),
}
# Answers that a dialect makes by itself.
ANSWERS: Final = {name: does for name, (does, _, _) in PAGES.items()} | {
    "none": "no word, and what ends an answer",
    "refusal": "the model refuses: `refusal` in place of content",
    "azure-filter": "400 as Azure's content filter says it, with its reasons",
    "json": "the whole answer as one JSON object, though a stream was asked",
    "cut": "no HTTP answer: the connection is cut",
}
ERROR_FORMS: Final[dict[str, tuple[str, Callable[[int, str, Fault], Any]]]] = {
    "openai": (
        "`error` with message, type, param, code",
        lambda _, code, fault: {"error": {"message": fault.message, "type": fault.type, "param": None, "code": code}},
    ),
    "openrouter": (
        "the status as `error.code`, more in `metadata`",
        lambda status, code, fault: {"error": {"message": fault.message, "code": status, "metadata": {"raw": code}}},
    ),
    "flat": (
        "message, type and code at the top, as vLLM and Mistral had it",
        lambda _, code, fault: {"object": "error", "message": fault.message, "type": fault.type, "code": code},
    ),
    "string": (
        "`error` is a sentence, beside `error_type`, as TGI and Ollama have it",
        lambda _, __, fault: {"error": fault.message, "error_type": fault.type},
    ),
    "detail": ("`detail`, as FastAPI has it", lambda _, code, fault: {"detail": f"{code}: {fault.message}"}),
    "list": (
        "a list with one error, as Gemini's compatible endpoint has it",
        lambda status, code, fault: [{"error": {"code": status, "message": fault.message, "status": code.upper()}}],
    ),
}
WAITS: Final = {
    "date": f"Retry-After as a date, in {DATE_SECONDS} s",
    "body": "in the body alone, as `retry_after`",
    "ms": "`retry-after-ms`",
    "reset": "`x-ratelimit-reset-requests: 7s`",
    "epoch": "`X-RateLimit-Reset`, in milliseconds since 1970",
    "message": "in the error's sentence: try again in 7s",
    "retry-info": "Google's RetryInfo with `retryDelay`",
}


def status_of(wanted: Directives) -> int:
    """Return the status that is meant: said, or the one that belongs to the error's code; 200 without either."""
    if wanted.status:
        return wanted.status
    return fault_of(wanted)[1].status if wanted.code and not wanted.answer and wanted.error_after < 0 else 200


def fault_of(wanted: Directives) -> tuple[str, Fault]:
    """Return the error's code and words: of the code that is said, else of the status."""
    code = wanted.code or _OF_STATUS.get(wanted.status, "server_error" if wanted.status in (0, 200) else "refused")
    return code, CODES.get(code, Fault(wanted.status or 400, code, "Refused."))


def error_body(wanted: Directives) -> bytes:
    """Return an error object as JSON, in the shape that is wanted."""
    code, fault = fault_of(wanted)
    _, form = ERROR_FORMS.get(wanted.error_form, ERROR_FORMS["openai"])
    status = wanted.status if wanted.status not in (0, 200) else fault.status
    return json.dumps(form(status, code, fault)).encode()


def refused(wanted: Directives, dialect: Dialect) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an answer that is none."""
    if wanted.answer == "azure-filter":
        content_type, body = "application/json", json.dumps(_AZURE_FILTER).encode()
    elif wanted.answer in PAGES and not (wanted.answer == "json-error" and wanted.code):
        _, content_type, page = PAGES[wanted.answer]
        body = page.encode()
    elif wanted.answer and wanted.answer != "json-error":
        content_type, body = "text/plain", f"The simulator knows no answer={wanted.answer}.".encode()
    else:
        plain = dialect == "aichats" and not wanted.code
        content_type, body = "application/json", b'{"error":"refused"}' if plain else error_body(wanted)
    headers, told = _wait(wanted)
    return {"Content-Type": content_type, **headers}, told or body


def _wait(wanted: Directives) -> tuple[dict[str, str], bytes]:
    """Return the headers that say when to come back, or the body that does."""
    now, form = datetime.now(UTC), wanted.retry_after
    again = f"Rate limit reached. Please try again in {WAIT_SECONDS}s."
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{WAIT_SECONDS}s"}
    bodies: dict[str, Any] = {
        "body": {"error": {"message": "too many requests", "retry_after": WAIT_SECONDS}},
        "message": {"error": {"message": again, "type": "requests", "param": None, "code": "rate_limit_exceeded"}},
        "retry-info": [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota", "details": [info]}}],
    }
    headers = {
        "date": {"Retry-After": format_datetime(now + timedelta(seconds=DATE_SECONDS), usegmt=True)},
        "ms": {"retry-after-ms": str(WAIT_SECONDS * 1000)},
        "reset": {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{WAIT_SECONDS}s"},
        "epoch": {"X-RateLimit-Reset": str(int((now.timestamp() + WAIT_SECONDS) * 1000))},
    }
    if form in bodies:
        return {}, json.dumps(bodies[form]).encode()
    return headers.get(form, {"Retry-After": form} if form else {}), b""


_AZURE_FILTER: Final = {
    "error": {
        "message": "The response was filtered due to the prompt triggering the content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"violence": {"filtered": True, "severity": "high"}},
        },
    }
}
