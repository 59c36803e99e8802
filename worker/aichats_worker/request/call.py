"""One request as it came over NATS, and what it asks for: pure, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import orjson
from nats.aio.msg import Msg
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aichats_schemas.requests import MODELS, OPTION_NAMES, ImageRequest, TextRequest
from aichats_schemas.subjects import MSG_ID, REPLY_TO, Kind, Mode, is_token, new_id
from aichats_worker.errors import Forbidden, InvalidRequest, ModelNotFound, TooLarge, WorkerError
from aichats_worker.provider import ChatMessage, Offers
from aichats_worker.telemetry.account import Account
from aichats_worker.urls import check_proxy

METADATA_ENTRIES_MAX = 16
METADATA_KEY_MAX_CHARS = 64
METADATA_VALUE_MAX_CHARS = 256
PROXY_MAX_CHARS = 2048
STOP_MAX_CHARS = 256
IGNORED_NAMED_MAX = 10
PROBLEMS_NAMED_MAX = 10
SHOWN_MAX_CHARS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What this worker accepts: characters of all prompts together, messages, seconds, and whether a proxy."""

    prompt_max_chars: int
    messages_max: int
    timeout_seconds_max: float
    allow_proxy: bool


@dataclass(slots=True)  # not frozen: one for each request
class Call:
    """One request as it came; what its body holds, and whether it is valid, is found out by the executor.

    Nobody changes it. To make one that is frozen takes four times as long, and so for all that each request has one of.

    Attributes:
        mode: `req`, `ask` or `job`.
        kind: `text` or `image`.
        tenant: From the subject.
        id: The request's id; one of the worker's own where none, or no valid one, was sent.
        reply_to: Where the events go; empty for a job that names none.
        body: The message's body.
        headers: The message's headers, exact case.
        attempt: 1 in core; of a job the number that its record says, 0 before.
        problem: What is wrong with the subject or the id, or None.
    """

    mode: Mode
    kind: Kind
    tenant: str
    id: str
    reply_to: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    attempt: int = 1
    problem: str | None = None

    def account(self) -> Account:
        """Begin the account of this call."""
        return Account(
            mode=self.mode,
            kind=self.kind,
            tenant=self.tenant if self.problem is None else None,
            id=self.id,
            attempt=self.attempt,
            correlation_id=self.headers.get("correlation_id"),
        )

    def of_attempt(self, attempt: int) -> "Call":
        """Return the same call as another attempt."""
        return replace(self, attempt=attempt)


def core_call(message: Msg, mode: Mode, kind: Kind) -> Call:
    """Read a `req` or an `ask`: its tenant is the last token of the subject, its id the `Nats-Msg-Id` header."""
    tenant = message.subject.rpartition(".")[2]
    headers = message.headers or {}
    request_id = headers.get(MSG_ID) or new_id()
    problem = _token_problem(tenant, request_id)
    return Call(
        mode=mode,
        kind=kind,
        tenant=tenant,
        id=request_id if problem is None or is_token(request_id) else new_id(),
        reply_to=message.reply,
        body=message.data,
        headers=headers,
        problem=problem,
    )


def job_call(subject: str, kind: Kind, *, headers: Mapping[str, str], body: bytes) -> Call:
    """Read a job by its parts: tenant and id are the last two tokens of its subject, the reply subject is a header.

    Its attempt is 0 until its record says which one this is.
    """
    tenant, request_id = subject.split(".")[-2:]
    return Call(
        mode="job",
        kind=kind,
        tenant=tenant,
        id=request_id if is_token(request_id) else new_id(),
        reply_to=headers.get(REPLY_TO, ""),
        body=body,
        headers=headers,
        attempt=0,
        problem=_token_problem(tenant, request_id),
    )


def _token_problem(tenant: str, request_id: str) -> str | None:
    if is_token(tenant) and is_token(request_id):
        return None
    wrong = [name for name, value in (("tenant", tenant), ("id", request_id)) if not is_token(value)]
    return f"{' and '.join(wrong)}: must be 1 to 64 of A-Z, a-z, 0-9, _ and -"


def read_request(call: Call, limits: Limits, offers: Offers) -> TextRequest | ImageRequest:
    """Turn a call's body into the request it holds.

    Args:
        call: As it came.
        limits: What is accepted.
        offers: The models there are, and what they can honour.

    Raises:
        InvalidRequest: Subject, id or body is wrong, or an option that nobody can honour; names each wrong field.
        ModelNotFound: Another model than the ones there are, which it lists.
        TooLarge: A limit was passed.
        Forbidden: It names a proxy, and the worker allows none.
    """
    if call.problem is not None:
        raise InvalidRequest(call.problem)
    try:
        models = offers[call.kind]
        request = MODELS[call.kind].model_validate_json(_as_json(call.body), context={"models": models})
    except ValidationError as error:
        raise _typed(error) from None
    _check_limits(request, limits)
    if request.options or request.ignored:
        _check_options(request, models[model_of(request, models)])
    return request


def model_of(request: TextRequest | ImageRequest, models: Mapping[str, object]) -> str:
    """Return the model that a request names, or the first one there is."""
    return request.model if request.model is not None else _first(models)


def conversation_of(request: TextRequest | ImageRequest) -> tuple[ChatMessage, ...]:
    """Return what a request asks as messages: a prompt is one message of the user's. Never empty."""
    if request.messages is None:
        return (ChatMessage("user", request.prompt or ""),)
    return tuple([ChatMessage(message.role, message.content) for message in request.messages])


def ignored_by(request: TextRequest | ImageRequest) -> tuple[str, ...]:
    """Return the fields that were sent and mean nothing here, as they may be shown."""
    return tuple([_shown(name) for name in request.ignored[:IGNORED_NAMED_MAX]]) if request.ignored else ()


def _first(models: Mapping[str, object]) -> str:
    for model in models:
        return model
    raise ModelNotFound("model: not found; there is none of this kind")


def _check_options(request: TextRequest | ImageRequest, honoured: tuple[frozenset[str], ...]) -> None:
    """What nobody behind the model can honour is refused by its name, and so is an option of the other kind."""
    asked = request.options.keys()
    others = [name for name in request.ignored if name in OPTION_NAMES]
    refused = sorted(min((asked - names for names in honoured), key=len, default=asked) | set(others))
    if refused:
        raise InvalidRequest("; ".join(f"{name}: no provider of this model can honour it" for name in refused))


def _as_json(body: bytes) -> bytes:
    """Plain UTF-8 text is the prompt; JSON is what begins with a brace."""
    body = body.removeprefix(b"\xef\xbb\xbf")  # some Windows tools send a byte order mark
    stripped = body.lstrip(b" \t\r\n")
    if stripped.startswith(b"{"):
        return stripped
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"body: not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise InvalidRequest("body: is empty; send a prompt as plain text, or a JSON object with prompt or messages")
    return orjson.dumps({"prompt": text})


def _typed(error: ValidationError) -> WorkerError:
    details = error.errors(include_url=False, include_context=False)
    if [(detail["loc"], detail["type"]) for detail in details] == [(("model",), "value_error")]:
        return ModelNotFound(_problem(details[0]["loc"], details[0]))
    found = InvalidRequest(_named([_problem(detail["loc"], detail) for detail in details]))
    found.logged = _named([_problem(detail["loc"][:1], detail) for detail in details])  # what is below it may be theirs
    return found


def _named(problems: list[str]) -> str:
    named, more = "; ".join(problems[:PROBLEMS_NAMED_MAX]), len(problems) - PROBLEMS_NAMED_MAX
    return f"{named}; and {more} more" if more > 0 else named


def _problem(loc: tuple[int | str, ...], detail: ErrorDetails) -> str:
    where = ".".join(_shown(str(part)) for part in loc) or "body"
    return f"{where}: {detail['msg'].removeprefix('Value error, ')}"


def _shown(text: str) -> str:
    """A requester's own word inside a message: short and without control characters."""
    safe = "".join(char if char.isprintable() else "?" for char in text[: SHOWN_MAX_CHARS + 1])
    return safe if len(safe) <= SHOWN_MAX_CHARS else f"{safe[:SHOWN_MAX_CHARS]}..."


def _check_limits(request: TextRequest | ImageRequest, limits: Limits) -> None:
    chars = len(request.prompt or "")
    if request.messages is not None:
        _at_most("messages", "messages", len(request.messages), limits.messages_max)
        chars = sum([len(message.content) for message in request.messages])
    _at_most("prompt", "characters", chars, limits.prompt_max_chars)
    for stop in request.options.get("stop", ()):
        _at_most("stop", "characters", len(stop), STOP_MAX_CHARS)
    if request.metadata:
        _check_metadata(request.metadata)
    if request.timeout_seconds is not None and request.timeout_seconds > limits.timeout_seconds_max:
        raise InvalidRequest(f"timeout_seconds: must be at most this worker's maximum, {limits.timeout_seconds_max:g}")
    if request.proxy is not None:
        _check_proxy(request.proxy, limits)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    _at_most("metadata", "entries", len(metadata), METADATA_ENTRIES_MAX)
    for key, value in metadata.items():
        _at_most("metadata key", "characters", len(key), METADATA_KEY_MAX_CHARS)
        try:
            _at_most(f"metadata.{_shown(key)}", "characters", len(value), METADATA_VALUE_MAX_CHARS)
        except TooLarge as error:
            error.logged = "metadata: a value is too long"
            raise


def _at_most(name: str, unit: str, sent: int, limit: int) -> None:
    if sent > limit:
        raise TooLarge(f"{name}: at most {limit} {unit} are accepted, {sent} were sent")


def _check_proxy(proxy: str, limits: Limits) -> None:
    if not limits.allow_proxy:
        raise Forbidden("proxy: this worker allows none; leave it out or ask its operator")
    _at_most("proxy", "characters", len(proxy), PROXY_MAX_CHARS)
    try:
        check_proxy(proxy)
    except ValueError as error:
        raise InvalidRequest(f"proxy: {error}") from None
