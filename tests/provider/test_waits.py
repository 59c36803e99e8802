from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from aichats_worker.provider.waits import WAIT_MAX_MS, retry_after_ms

SOON = datetime.now(UTC) + timedelta(hours=2)  # longer than any run of these tests


@pytest.mark.parametrize(
    ("headers", "body", "message", "seconds"),
    [
        ({"Retry-After": "2"}, None, "", 2),
        ({"Retry-After": "0.5"}, None, "", 0.5),
        ({"retry-after-ms": "250", "Retry-After": "9"}, None, "", 0.25),  # Azure, OpenAI
        ({"Retry-After": "20s"}, None, "", 20),
        ({"x-ratelimit-reset-requests": "6m0s"}, None, "", 360),  # OpenAI
        ({"x-ratelimit-reset-tokens": "120ms"}, None, "", 0.12),
        ({"x-ratelimit-reset-requests": "1h", "x-ratelimit-remaining-requests": "5",
          "x-ratelimit-reset-tokens": "3s", "x-ratelimit-remaining-tokens": "0"}, None, "", 3),
        ({}, {"retry_after": 7}, "", 7),
        ({}, {"error": {"retry_after_ms": 300}}, "", 0.3),
        ({}, {"detail": {"retryAfter": "4"}}, "", 4),
        ({}, {"error": {"metadata": {"headers": {"Retry-After": "8"}}}}, "", 8),  # OpenRouter
        ({}, {"error": {"details": [{"@type": "x"}, {"@type": "y.RetryInfo", "retryDelay": "3s"}]}}, "", 3),  # Gemini
        ({}, [{"error": {"retryDelay": "3.5s"}}], "", 3.5),
        ({}, None, "Please try again in 20s. Visit the page", 20),  # OpenAI
        ({}, None, "rate limit reached. please try again in 6m0s.", 360),
        ({}, None, "Please try again in 17.5ms", 0.0175),
        ({}, None, "Please retry after 5 seconds.", 5),  # Azure
        ({}, None, "Please retry in 1 minute", 60),
        ({}, None, "try again in 40 milliseconds", 0.04),
        ({}, None, "wait 1 hour", 3600),
    ],
)  # fmt: skip
def test_a_wait_is_understood_in_every_form(headers: dict[str, str], body: Any, message: str, seconds: float) -> None:
    assert retry_after_ms(headers, body, message) == int(seconds * 1000)


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": format_datetime(SOON, usegmt=True)},
        {"Retry-After": SOON.isoformat()},
        {"X-RateLimit-Reset": SOON.strftime("%Y-%m-%dT%H:%M:%SZ")},
        {"X-RateLimit-Reset": str(int(SOON.timestamp()))},  # GitHub
        {"X-RateLimit-Reset": str(int(SOON.timestamp() * 1000))},  # OpenRouter
    ],
)
def test_a_time_of_the_clock_is_a_wait_from_now(headers: dict[str, str]) -> None:
    wait = retry_after_ms(headers, None)
    assert wait is not None
    assert 0 < wait <= 7_200_000


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({}, None, ""),
        ({"Retry-After": "soon"}, None, "try again later, in a while"),
        ({"Retry-After": "Mon, 01 Jan 2026 00:00:00 +99999999999999999999"}, None, ""),
        ({}, {"retry_after": True, "error": None}, ""),
        ({}, {"retry_after": float("nan")}, ""),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "59"}, None, ""),
    ],
)
def test_what_says_no_wait_is_none(headers: dict[str, str], body: Any, message: str) -> None:
    assert retry_after_ms(headers, body, message) is None


def test_a_wait_is_at_most_a_day_and_a_body_is_not_searched_for_ever() -> None:
    assert retry_after_ms({"Retry-After": "1e30"}, None) == WAIT_MAX_MS
    deep: Any = {"retry_after": 1}
    for _ in range(50):
        deep = {"a": deep}
    assert retry_after_ms({}, deep) is None
    assert retry_after_ms({}, [[{"a": 1}] * 1000] * 1000) is None
