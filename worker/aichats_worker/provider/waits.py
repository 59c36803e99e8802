"""For how long a provider asks to wait, in every form that providers use for it. Pure."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

WAIT_MAX_MS: Final = 24 * 3600 * 1000
_PLACES_MAX: Final = 200
_DEPTH_MAX: Final = 4

# Names of headers and of fields in a body, without - and _, and what one unit of a bare number is in seconds.
_NAMES: Final[dict[str, float]] = {
    "retryafterms": 0.001,
    "retryafter": 1,
    "retryafterseconds": 1,
    "retrydelay": 1,  # Google's RetryInfo: "3s"
}
_RESETS: Final[dict[str, str]] = {  # and the header that says whether it is this limit that was reached
    "xratelimitresetrequests": "xratelimitremainingrequests",
    "xratelimitresettokens": "xratelimitremainingtokens",
    "xratelimitreset": "xratelimitremaining",
    "ratelimitreset": "ratelimitremaining",
}
_UNITS: Final[dict[str, float]] = {"ms": 0.001, "mi": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = r"\d+(?:\.\d+)?\s*(?:ms|milliseconds?|sec(?:ond)?s?|s|min(?:ute)?s?|m|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])"
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|mi(?=l)|[smhd])[a-z]*", re.IGNORECASE)
_DURATIONS: Final = re.compile(r"^(?:\d+(?:\.\d+)?\s*(?:ms|[smhd])\s*)+$", re.IGNORECASE)
_SENTENCE: Final = re.compile(
    rf"(?:try again|retry|wait|reset)\w*(?: again)?(?: in| after| for)?(?: about)? ((?:{_PART}\s*)+)", re.IGNORECASE
)


def retry_after_ms(headers: Mapping[str, str], body: object, message: str = "") -> int | None:
    """Return the wait in milliseconds, at most a day; None where nothing is said.

    Args:
        headers: Of the answer.
        body: Its JSON, read; None where it is none.
        message: The body's own sentence.
    """
    names = {_plain(name): value for name, value in headers.items()}
    for seconds in (_named(names), _in_body(body), _in_sentence(message), _resets(names)):
        if seconds is not None and not math.isnan(seconds):
            return int(max(0, min(seconds * 1000, WAIT_MAX_MS)))
    return None


def _plain(name: object) -> str:
    return str(name).lower().replace("-", "").replace("_", "")


def _named(fields: Mapping[str, object]) -> float | None:
    for name, unit in _NAMES.items():
        if (seconds := _seconds(fields.get(name), unit)) is not None:
            return seconds
    return None


def _resets(fields: Mapping[str, object]) -> float | None:
    """Of several limits the one that was reached counts; where none says so, the longest."""
    waits = [
        seconds
        for name, remaining in _RESETS.items()
        if str(fields.get(remaining, "0")).strip() in ("0", "0.0")
        and (seconds := _seconds(fields.get(name), 1)) is not None
    ]
    return max(waits, default=None)


def _in_body(body: object) -> float | None:
    for place in _objects(body):
        fields = {_plain(name): value for name, value in place.items()}
        for seconds in (_named(fields), _resets(fields)):
            if seconds is not None:
                return seconds
    return None


def _objects(body: object) -> Iterator[dict[str, Any]]:
    """Give the objects of a body, the outer ones first; as many and as deep as an error has any business to be."""
    places, seen = [(body, 0)], 0
    while places and seen < _PLACES_MAX:
        place, depth = places.pop(0)
        seen += 1
        if isinstance(place, dict):
            yield place
            inner: list[Any] = list(place.values())
        else:
            inner = place if isinstance(place, list) else []
        if depth < _DEPTH_MAX:
            places += [(one, depth + 1) for one in inner[:_PLACES_MAX] if isinstance(one, dict | list)]


def _in_sentence(message: str) -> float | None:
    found = _SENTENCE.search(message)
    return _duration(found[1]) if found else None


def _duration(text: str) -> float:
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in _DURATION.findall(text))


def _seconds(value: object, unit: float) -> float | None:
    """Read a number of `unit`s, a duration such as `6m0s`, a date, or a time since 1970 in seconds or milliseconds."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return _since_now(float(value), unit)
    except (ValueError, OverflowError):
        pass
    text = str(value).strip()[:64]
    if _DURATIONS.match(text):
        return _duration(text)
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(ValueError, OverflowError):
            date = read(text)
            return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return None


def _since_now(number: float, unit: float) -> float:
    now = datetime.now(UTC).timestamp()
    if now / 2 < number < now * 2:
        return number - now
    if now / 2 < number / 1000 < now * 2:
        return number / 1000 - now
    return number * unit
