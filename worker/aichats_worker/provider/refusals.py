"""What a provider says instead of an answer: its status, its headers and the beginning of its body, as an error."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from aichats_worker.errors import BadResponse, Challenge, ProviderUnavailable, QuotaExhausted, RateLimited, WorkerError
from aichats_worker.provider.http.failures import PROXY_CREDENTIALS

HEAD_MAX_BYTES: Final = 64 * 1024
_RETRY_MAX_MS: Final = 24 * 3600 * 1000
# What bot checks have in common. Words such as "cloudflare" alone are not here: its plain error pages hold them too.
_CHALLENGES: Final = (
    b"captcha", b"cf-chl", b"cf_chl", b"challenge-platform", b"challenge-form", b"turnstile", b"just a moment",
    b"checking your browser", b"verify you are human", b"are you a robot", b"not a robot", b"attention required",
    b"ddos-guard", b"enable javascript and cookies", b"/_incapsula_", b"datadome", b"px-captcha", b"bot check",
)  # fmt: skip
_CHALLENGE = "the provider asks for a captcha instead of answering; renew AICHATS_COOKIE and AICHATS_USER_AGENT"


def refusal(status: int, headers: Mapping[str, str], head: bytes) -> WorkerError | None:  # noqa: PLR0911 - a table
    """Return what an answer with another status than 200 means; None for 200, whose body has to say.

    Args:
        status: The HTTP status.
        headers: Of the answer.
        head: The beginning of its body.
    """
    if status == 200:
        return None
    wait = retry_after_ms(headers, head)
    if status == 429:
        if b'"insufficient_quota"' in head:
            return QuotaExhausted("the provider says that its quota is used up; check the plan of its account")
        return RateLimited("the provider limits how often it is asked; try again later", retry_after_ms=wait)
    if is_challenge(headers, head):
        return Challenge(_CHALLENGE)
    if status == 407:
        return ProviderUnavailable(PROXY_CREDENTIALS)
    if status >= 500:
        return ProviderUnavailable(f"the provider failed with status {status}; try again later", retry_after_ms=wait)
    return BadResponse(f"the provider refused the request with status {status}; check its URL and credentials")


def no_answer(headers: Mapping[str, str], head: bytes) -> WorkerError:
    """Return what a body with status 200 means in which there is no answer."""
    if is_challenge(headers, head):
        return Challenge(_CHALLENGE)
    if not head.strip():
        return BadResponse("the provider sent an empty answer; try again")
    if _is_html(headers, head):
        return BadResponse("the provider sent a web page instead of an answer; check its URL, or try again later")
    if head.lstrip()[:1] in (b"{", b"["):
        return BadResponse("the provider sent an error instead of an answer; try again later")
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


def retry_after_ms(headers: Mapping[str, str], head: bytes) -> int | None:
    """Return how long the provider asks to wait, in milliseconds: `Retry-After` in seconds or as a date, or the body.

    At most a day; None where nothing is said.
    """
    seconds = _seconds(headers.get("Retry-After", "").strip())
    if seconds is None:
        seconds = _seconds_of_body(head)
    if seconds is None or math.isnan(seconds):
        return None
    return int(max(0, min(seconds * 1000, _RETRY_MAX_MS)))


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        pass
    try:
        date = parsedate_to_datetime(str(value))
    except ValueError:
        return None
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()


def _seconds_of_body(head: bytes) -> float | None:
    try:
        body: Any = json.loads(head)
    except (ValueError, RecursionError):
        return None
    places = [body, *(body.get(name) for name in ("error", "data", "detail"))] if isinstance(body, dict) else []
    for place in places:
        if isinstance(place, dict):
            for name, scale in (("retry_after_ms", 0.001), ("retry_after", 1), ("retryAfter", 1), ("retry-after", 1)):
                seconds = _seconds(place.get(name))
                if seconds is not None:
                    return seconds * scale
    return None
