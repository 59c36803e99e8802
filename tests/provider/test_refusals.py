"""Whose fault it is: contract 4 as a table, with what providers really send."""

import json
from typing import Any

import pytest

from aichats_schemas import ErrorCode
from aichats_worker.provider.refusals import SettingNames, no_answer, refusal_in, refusal_of

NAMES = SettingNames("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_TEXT_MODELS")


def refused(status: int, error: Any = None, **headers: str) -> Any:
    head = b"" if error is None else json.dumps(error).encode()
    return refusal_of(status, headers, head).error(NAMES)


def said(**error: Any) -> dict[str, Any]:
    return {"error": error}


TABLE = [
    (400, "invalid_request"), (409, "invalid_request"), (411, "invalid_request"), (415, "invalid_request"),
    (422, "invalid_request"), (413, "too_large"), (401, "misconfigured"), (403, "misconfigured"),
    (404, "misconfigured"), (405, "misconfigured"), (301, "misconfigured"), (302, "misconfigured"),
    (308, "misconfigured"), (402, "quota_exhausted"), (429, "rate_limited"), (408, "provider_unavailable"),
    (425, "provider_unavailable"), (500, "provider_unavailable"), (502, "provider_unavailable"),
    (529, "provider_unavailable"), (418, "bad_response"),
]  # fmt: skip
SENT = [
    # 400 by a healthy server: the requester's own fault
    (400, said(message="maximum context length is 8192 tokens.", code="context_length_exceeded"), "too_large"),
    (400, said(message="exceeds the available context size", type="exceed_context_size_error"), "too_large"),
    (500, said(message="prompt is too long: 9001 tokens > 8192 maximum", type="server_error"), "too_large"),
    (422, said(message="`inputs` tokens + `max_new_tokens` must be <= 4096", type="validation"), "too_large"),
    (400, said(message="The response was filtered", code="content_filter", status=400), "content_filtered"),
    (400, said(code="moderation_blocked", type="image_generation_user_error", message="x"), "content_filtered"),
    (400, said(message="x", innererror={"code": "ResponsibleAIPolicyViolation"}), "content_filtered"),
    (403, said(code=403, message="Your model requires moderation and your input was flagged"), "content_filtered"),
    (400, said(message="Unsupported value", type="invalid_request_error", param="temperature"), "invalid_request"),
    (400, {"message": ["stream should not exist"], "statusCode": 400}, "invalid_request"),
    (422, {"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]}, "invalid_request"),
    # money
    (402, said(message="Insufficient Balance", type="unknown_error", code="invalid_request_error"), "quota_exhausted"),
    (403, said(message="Key limit exceeded", code=403), "quota_exhausted"),
    (429, said(message="x", code="insufficient_quota"), "quota_exhausted"),
    (429, said(message="x", type="billing_not_active"), "quota_exhausted"),
    (429, said(message="x", type="exceeded_current_quota_error"), "quota_exhausted"),
    (429, said(message="You exceeded your current quota", status="RESOURCE_EXHAUSTED"), "rate_limited"),
    # the operator's
    (404, said(message='model "gpt-4" not found, try pulling it first', type="api_error"), "misconfigured"),
    (400, said(status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]), "misconfigured"),
    (400, said(message="x", code="DeploymentNotFound"), "misconfigured"),
    (404, "404 page not found", "misconfigured"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code"), TABLE)
def test_a_status_alone_says_whose_fault_it_is(status: int, code: str) -> None:
    error = refused(status)
    assert error.code == code


@pytest.mark.parametrize(("status", "body", "code"), SENT)
def test_an_errors_own_words_are_more_special_than_its_status(status: int, body: Any, code: str) -> None:
    error = refused(status, body)
    assert error.code == code
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (said(code=429, message="x"), "rate_limited"),
        (said(code="429", message="x"), "rate_limited"),
        (said(code=502, message="Provider disconnected"), "provider_unavailable"),
        (said(status=400, code="content_filter"), "content_filtered"),
        (said(type="BadRequestError", code=400, message="x"), "invalid_request"),
        (said(type="invalid_request_error", message="x"), "invalid_request"),
        (said(type="rate_limit_error"), "rate_limited"),
        (said(type="overloaded_error"), "provider_unavailable"),
        ({"object": "error", "message": "x", "code": 404}, "misconfigured"),
        (said(message="Something went wrong"), "bad_response"),
        ({"error": "x"}, "bad_response"),
        (said(code=True, type=7, status=[], param={}), "bad_response"),
    ],
)
def test_an_error_inside_a_200_is_judged_by_the_status_or_code_that_it_names(error: Any, code: str) -> None:
    assert refusal_in(error).error(NAMES).code == code
    assert no_answer({}, json.dumps(error).encode(), NAMES).code == code


def test_only_what_may_be_tried_again_says_when() -> None:
    assert refused(429, **{"Retry-After": "2"}).retry_after_ms == 2000
    assert refused(503, said(message="try again in 20s")).retry_after_ms == 20_000
    assert refused(400, said(message="try again in 20s")).retry_after_ms is None


def test_a_message_names_the_setting_that_is_in_use_and_nothing_of_the_provider() -> None:
    key, url = refused(401, said(message="Incorrect API key provided: sk-1")), refused(404, said(message="no m1"))
    assert "OPENAI_API_KEY" in key.message
    assert "OPENAI_BASE_URL and OPENAI_TEXT_MODELS" in url.message
    assert "redirects" in refused(307, Location="https://elsewhere.example.org").message
    challenge = refusal_of(403, {"Content-Type": "text/html"}, b"<title>Just a moment...</title>").error(NAMES)
    assert challenge.code == ErrorCode.CHALLENGE
    assert "AICHATS" not in challenge.message
    for error in (key, url, challenge):
        assert not any(word in error.message for word in ("sk-1", "m1", "elsewhere"))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (said(message="x", param="temperature"), "temperature"),
        (said(message="x", param="messages[0].content"), "messages"),
        (said(message="x", param="max_completion_tokens"), "max_tokens"),
        (said(message="Invalid 'messages.0.content': too short", param=None), "messages"),
        # OpenAI's words through a relay that drops `param`, LiteLLM's own, and those of vLLM and of FastAPI
        (said(message="OpenAIException - Unsupported value: 'temperature'", param=None), "temperature"),
        (said(message="UnsupportedParamsError: x does not support parameters: ['top_p'], for model=o1"), "top_p"),
        (said(message="`response_format` needs a guided decoding backend"), "json"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]}, "seed"),
    ],
)  # fmt: skip
def test_a_refused_option_is_named_where_it_is_one_of_ours(body: Any, named: str) -> None:
    assert refused(400, body).message.startswith(f"{named}: ")


@pytest.mark.parametrize(
    "body", [said(message="x", param="secret"), said(message="'secret' is wrong, stop it at once"), said(param=[1])]
)
def test_what_is_none_of_ours_is_not_named(body: Any) -> None:
    message = refused(400, body).message
    assert message.startswith("the provider refused the request as wrong")
    assert "secret" not in message


def test_each_fault_says_what_it_means_for_the_circuit() -> None:
    effects = {code: refused(status).circuit for status, code in TABLE}
    assert effects == {
        "invalid_request": "none", "too_large": "none", "misconfigured": "opens", "quota_exhausted": "opens",
        "rate_limited": "none", "provider_unavailable": "counts", "bad_response": "counts",
    }  # fmt: skip
    assert {refused(status).fault for status in (400, 413, 422)} == {"requester"}
