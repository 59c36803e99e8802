"""What a request asks for: its body, read and checked. Pure, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aichats_schemas.requests import MODELS, OPTION_NAMES, ImageRequest, TextRequest
from aichats_worker.errors import Forbidden, InvalidRequest, ModelNotFound, TooLarge, WorkerError
from aichats_worker.provider import ChatMessage, Offers
from aichats_worker.request.call import Call
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
class Asked:
    """What a request asks for, checked.

    Attributes:
        messages: The conversation in order, at least one message: a prompt is one of the user's.
        model: One that there is: the first one where none is named.
        timeout_seconds: The whole budget in seconds, queue wait included; None for as long as the worker allows.
        proxy: For this request alone, or None.
        metadata: To be echoed, or None.
        options: What it asks for beside the prompt, by the names on the wire.
        ignored: The fields that were sent and mean nothing here, as they may be shown.
    """

    messages: tuple[ChatMessage, ...] = field(repr=False)
    model: str
    timeout_seconds: float | None = None
    proxy: str | None = field(default=None, repr=False)
    metadata: dict[str, str] | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ignored: tuple[str, ...] = field(default=(), repr=False)


def read_request(call: Call, limits: Limits, offers: Offers) -> Asked:
    """Read a call's body.

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
    models = offers[call.kind]
    body = call.body.removeprefix(b"\xef\xbb\xbf")  # some Windows tools send a byte order mark
    json = body.lstrip(b" \t\r\n")
    prompt = _prompt_alone(json) if json.startswith(b"{") else _prompt_itself(body)
    if prompt is not None:
        asked = Asked((ChatMessage("user", prompt),), _first(models))
        _check_limits(asked, limits)
        return asked
    try:
        request = MODELS[call.kind].model_validate_json(json, context={"models": models})
    except ValidationError as error:
        raise _typed(error) from None
    asked = _asked(request, models)
    _check_limits(asked, limits)
    _check_options(request, models[asked.model])
    return asked


def _prompt_itself(body: bytes) -> str:
    """Read plain UTF-8 text, which is the prompt; JSON is what begins with a brace."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"body: not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise InvalidRequest("body: is empty; send a prompt as plain text, or a JSON object with prompt or messages")
    return text


def _prompt_alone(json: bytes) -> str | None:
    """Return the prompt where it is all that is sent, as mostly: what the schema says of that takes no schema.

    A tenth of the way to a short answer's first piece was the look at all the fields that are not there. What cannot
    be read here, or is no prompt, is the schema's to name. Of two prompts both take the last one.
    """
    try:
        sent = orjson.loads(json)
    except orjson.JSONDecodeError:
        return None
    prompt = sent.get("prompt") if len(sent) == 1 else None
    return prompt if isinstance(prompt, str) and prompt.strip() else None


def _asked(request: TextRequest | ImageRequest, models: Mapping[str, object]) -> Asked:
    messages: tuple[ChatMessage, ...] = (ChatMessage("user", request.prompt or ""),)
    if request.messages is not None:
        messages = tuple([ChatMessage(message.role, message.content) for message in request.messages])
    return Asked(
        messages,
        request.model if request.model is not None else _first(models),
        timeout_seconds=request.timeout_seconds,
        proxy=request.proxy,
        metadata=request.metadata,
        options=request.options,
        ignored=tuple([_shown(name) for name in request.ignored[:IGNORED_NAMED_MAX]]),
    )


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


def _check_limits(asked: Asked, limits: Limits) -> None:
    messages = asked.messages
    _at_most("messages", "messages", len(messages), limits.messages_max)
    _at_most("prompt", "characters", sum([len(message.content) for message in messages]), limits.prompt_max_chars)
    for stop in asked.options.get("stop", ()):
        _at_most("stop", "characters", len(stop), STOP_MAX_CHARS)
    if asked.metadata:
        _check_metadata(asked.metadata)
    if asked.timeout_seconds is not None and asked.timeout_seconds > limits.timeout_seconds_max:
        raise InvalidRequest(f"timeout_seconds: must be at most this worker's maximum, {limits.timeout_seconds_max:g}")
    if asked.proxy is not None:
        _check_proxy(asked.proxy, limits)


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
