"""What a provider says instead of an answer, read: its status, its codes, its words, and for how long to wait. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from aichats_schemas.requests import OPTION_NAMES
from aichats_worker.errors import (
    BadResponse,
    Challenge,
    InvalidRequest,
    Misconfigured,
    ProviderUnavailable,
    WorkerError,
)
from aichats_worker.provider.decoding.lenient import loads
from aichats_worker.provider.faults import SENTENCES, Leaf, leaf_of
from aichats_worker.provider.http.failures import PROXY_CREDENTIALS
from aichats_worker.provider.waits import retry_after_ms

HEAD_MAX_BYTES: Final = 64 * 1024
_MESSAGE_MAX_CHARS: Final = 4096
# What a provider calls a field of the request, and what its requester does.
_FIELDS: Final[dict[str, str]] = {
    **{name: name for name in (*sorted(OPTION_NAMES), "messages", "prompt")},
    "max_completion_tokens": "max_tokens",
    "response_format": "json",
}
# As a sentence names one. Without the quotes `stop`, `size` and `n` would be words like others.
_QUOTED: Final = re.compile(rf"[\"'`]({'|'.join(_FIELDS)})(?:[.\[][^\"'`]{{0,64}})?[\"'`]")

# What bot checks have in common. Words such as "cloudflare" alone are not here: its plain error pages hold them too.
_CHALLENGES: Final = (
    b"captcha", b"cf-chl", b"cf_chl", b"challenge-platform", b"challenge-form", b"turnstile", b"just a moment",
    b"checking your browser", b"verify you are human", b"are you a robot", b"not a robot", b"attention required",
    b"ddos-guard", b"enable javascript and cookies", b"/_incapsula_", b"datadome", b"px-captcha", b"bot check",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SettingNames:
    """The settings that an operator has to look at, by their variables' names.

    Attributes:
        url: Where the calls go.
        key: What they are let in with.
        models: What the models are called; empty where no setting says it.
    """

    url: str
    key: str
    models: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What came instead of an answer.

    Attributes:
        status: The HTTP status, or the one that an error object inside a 200 names; None for neither.
        words: The codes and types of its error object.
        message: The error object's own sentence, in lower case. Never shown.
        wait_ms: For how long it asks to wait.
        field: The request's field that it says is wrong; empty where it names none that a requester knows.
        is_challenge: It is a page with a bot check.
    """

    status: int | None
    words: tuple[str, ...] = ()
    message: str = ""
    wait_ms: int | None = None
    field: str = ""
    is_challenge: bool = False

    def leaf(self) -> Leaf:
        """Return whose fault it is, and which."""
        return Challenge if self.is_challenge else leaf_of(self.status, self.words, self.message)

    def error(self, names: SettingNames) -> WorkerError:
        """Return it as the error that the requester is told."""
        leaf = self.leaf()
        wait = self.wait_ms if leaf.retryable else None
        if self.status == 407:
            return ProviderUnavailable(PROXY_CREDENTIALS)
        return leaf(self._sentence(leaf, names), retry_after_ms=wait)

    def _sentence(self, leaf: Leaf, names: SettingNames) -> str:
        if leaf is Misconfigured:
            return self._misconfigured(names)
        if leaf is Challenge:
            return f"the provider asks for a captcha instead of answering; its operator has to look at {names.key}"
        if leaf is ProviderUnavailable and self.status is not None:
            return f"the provider failed with status {self.status}; try again later"
        if leaf is InvalidRequest and self.field:
            return f"{self.field}: {SENTENCES[leaf]}"
        return SENTENCES[leaf]

    def _misconfigured(self, names: SettingNames) -> str:
        status = self.status or 0
        if 300 <= status < 400:
            return f"the provider redirects the call to another place; set {names.url} to where it leads"
        if status in (401, 403, 498) or set(self.words) & {"invalidapikey", "apikeyinvalid", "authenticationerror"}:
            return f"the provider does not accept the worker's credentials; check {names.key}"
        both = f"{names.url} and {names.models}" if names.models else names.url
        said = f" (status {status})" if status else ""
        return f"the provider does not know the address or the model{said}; check {both}"


def refusal_of(status: int, headers: Mapping[str, str], head: bytes) -> Refusal:
    """Read an answer with another status than 2xx.

    Args:
        status: The HTTP status.
        headers: Of the answer.
        head: The beginning of its body.
    """
    body = _json(head)
    said = refusal_in(body) if isinstance(body, dict) else None
    if said is None:
        plain = "" if _is_html(headers, head) else head[:_MESSAGE_MAX_CHARS].decode("utf-8", "replace").lower()
        said = Refusal(None, message=plain)
    return replace(
        said,
        status=status,
        wait_ms=retry_after_ms(headers, body, said.message),
        is_challenge=status != 429 and is_challenge(headers, head),
    )


def refusal_in(body: dict[str, Any]) -> Refusal:
    """Read an error object, or a body around one: its own status and codes say what it is."""
    error = body.get("error") if body.get("error") is not None else body
    places = [place for place in (error, body) if isinstance(place, dict)]
    named = [place.get(name) for place in places for name in ("code", "type", "status", "statusCode", "status_code")]
    statuses = [number for value in named if (number := _status(value)) is not None]
    words = tuple(_word(value) for value in named if isinstance(value, str) and _status(value) is None)
    texts = [place.get(name) for place in places for name in ("message", "detail", "error")]
    texts += [error] if isinstance(error, str) else []
    sentence = " ".join(text if isinstance(text, str) else str(text)[:_MESSAGE_MAX_CHARS] for text in texts if text)
    message = sentence[:_MESSAGE_MAX_CHARS].lower()
    return Refusal(
        status=next(iter(statuses), None),
        words=_inner_words(places) + words,
        message=message,
        wait_ms=retry_after_ms({}, body, message),
        field=_field(places, message),
    )


def _field(places: list[dict[str, Any]], message: str) -> str:
    """Find the field that is wrong: `param` says it, or a path in it; relays keep the sentence alone."""
    for place in places:
        param = place.get("param")
        if isinstance(param, str) and (name := re.split(r"[.\[]", param, maxsplit=1)[0]) in _FIELDS:
            return _FIELDS[name]
    found = _QUOTED.search(message)
    return _FIELDS[found[1]] if found else ""


def _inner_words(places: list[dict[str, Any]]) -> tuple[str, ...]:
    """Azure's `innererror.code` and Google's `details[].reason` are more special than what stands around them."""
    inner = [place.get("innererror") for place in places]
    details = [one for place in places if isinstance(place.get("details"), list) for one in place["details"][:10]]
    found = [one.get(name) for one in [*inner, *details] if isinstance(one, dict) for name in ("code", "reason")]
    return tuple(_word(value) for value in found if isinstance(value, str))


def _status(value: object) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 300 <= value <= 599 else None


def _word(value: str) -> str:
    return re.sub(r"[^a-z0-9]", "", value[:64].lower())


def no_answer(headers: Mapping[str, str], head: bytes, names: SettingNames) -> WorkerError:
    """Return what a body with status 200 means in which there is no answer."""
    if is_challenge(headers, head):
        return Refusal(200, is_challenge=True).error(names)
    if not head.strip():
        return BadResponse("the provider sent an empty answer; try again")
    if _is_html(headers, head):
        return BadResponse(f"the provider sent a web page instead of an answer; check {names.url}, or try again later")
    body = _json(head)
    if isinstance(body, dict):
        return refusal_in(body).error(names)
    return BadResponse("the provider sent something that is not in its format; try again later")


def is_challenge(headers: Mapping[str, str], head: bytes) -> bool:
    """Say whether this is a page with a captcha or another bot check. It is recognised, never solved."""
    if headers.get("cf-mitigated") == "challenge":
        return True
    if not _is_html(headers, head):
        return False
    page = head.lower()
    return any(mark in page for mark in _CHALLENGES)


def _is_html(headers: Mapping[str, str], head: bytes) -> bool:
    return "html" in headers.get("Content-Type", "").lower() or head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _json(head: bytes) -> Any:
    try:
        return loads(head)
    except ValueError:
        return None
