"""Every fault that the simulator knows, and what the contract's section 4 makes of it."""

from collections.abc import AsyncIterator

import pytest

from aichats_worker.errors import WorkerError
from aichats_worker.provider.http.route import Timeouts
from aichats_worker.simulator.answers import image
from aichats_worker.simulator.images import B64_FORMS
from aichats_worker.simulator.oddities import ODDITIES
from aichats_worker.simulator.openai import AFTER_FINISH, USAGES
from aichats_worker.simulator.refusing import CODES, DATE_SECONDS, ERROR_FORMS, WAIT_SECONDS, WAITS
from aichats_worker.simulator.server import Simulator
from tests.provider.asking import Asked, ask, collect, draw, make, pictures

# The code of the contract for each code of the simulator.
TOLD = {
    "invalid_value": "invalid_request", "context_length_exceeded": "too_large", "content_filter": "content_filtered",
    "content_policy_violation": "content_filtered", "moderation_blocked": "content_filtered",
    "invalid_api_key": "misconfigured", "insufficient_credits": "quota_exhausted", "permission_denied": "misconfigured",
    "key_limit_exceeded": "quota_exhausted", "model_not_found": "misconfigured",
    "request_timeout": "provider_unavailable",
    "conflict": "invalid_request", "request_too_large": "too_large", "unsupported_media_type": "invalid_request",
    "unprocessable_entity": "invalid_request", "inputs_too_long": "too_large", "too_early": "provider_unavailable",
    "rate_limit_exceeded": "rate_limited", "insufficient_quota": "quota_exhausted",
    "billing_not_active": "quota_exhausted",
    "server_error": "provider_unavailable", "bad_gateway": "provider_unavailable", "overloaded": "provider_unavailable",
    "gateway_timeout": "provider_unavailable",
}  # fmt: skip
# What an oddity does to the text of three words; nothing, where it is not here.
TEXTS = {
    "surrogate": "Hello\ufffd from the", "bad-utf8": "Hello \ufffdfrom the",
    "big": "Hello from" + "x" * 2 * 1024 * 1024 + " the",
}  # fmt: skip


@pytest.fixture(params=["aichats", "openai"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def provider(kind: str, simulator: Simulator) -> AsyncIterator[Asked]:
    one = make(kind, simulator.url, timeouts=Timeouts(stall=5))
    yield one
    await one.close()


@pytest.fixture
async def openai(simulator: Simulator) -> AsyncIterator[Asked]:
    one = make("openai", simulator.url, timeouts=Timeouts(stall=5))
    yield one
    await one.close()


async def failing(provider: Asked, prompt: str) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await collect(provider, ask(prompt))
    return caught.value


@pytest.mark.parametrize("code", CODES)
async def test_a_code_is_told_as_whose_fault_it_is(provider: Asked, code: str) -> None:
    assert (await failing(provider, f"[sim: code={code}]")).code.value == TOLD[code]


@pytest.mark.parametrize("code", ["context_length_exceeded", "content_filter", "insufficient_quota", "server_error"])
async def test_inside_a_200_a_code_means_the_same(openai: Asked, code: str) -> None:
    assert (await failing(openai, f"[sim: answer=json-error code={code}]")).code.value == TOLD[code]
    assert (await failing(openai, f"[sim: error-after=0 code={code}]")).code.value == TOLD[code]
    assert (await failing(openai, f"[sim: words=3 pause=0 error-after=2 code={code}]")).code.value == "interrupted"


@pytest.mark.parametrize("form", ERROR_FORMS)
async def test_a_fault_is_known_in_every_shape(openai: Asked, form: str) -> None:
    assert (await failing(openai, f"[sim: code=context_length_exceeded error-form={form}]")).code.value == "too_large"


@pytest.mark.parametrize("wait", WAITS)
async def test_a_wait_is_understood_in_every_form(provider: Asked, wait: str) -> None:
    error = await failing(provider, f"[sim: status=429 retry-after={wait}]")
    seconds = DATE_SECONDS if wait == "date" else WAIT_SECONDS
    assert error.retry_after_ms is not None
    assert (seconds - 6) * 1000 < error.retry_after_ms <= seconds * 1000


@pytest.mark.parametrize("name", ODDITIES)
async def test_an_oddity_costs_nothing_of_the_answer(provider: Asked, name: str, kind: str) -> None:
    text, finish = await collect(provider, ask(f"[sim: words=3 pause=0 odd={name}]"))
    mine = ODDITIES[name].dialect in (kind, "both")
    assert text == (TEXTS.get(name, "Hello from the") if mine else "Hello from the")
    assert finish.finish_reason == "stop"


@pytest.mark.parametrize(
    "how", ["lines=crlf", "lines=cr", "lines=several", "write=1", "done=off", "sized", "idle-close=0"]
)
async def test_how_an_answer_travels_changes_nothing_of_it(provider: Asked, how: str) -> None:
    for _ in range(2):
        assert (await collect(provider, ask(f"[sim: words=3 pause=0 {how}]")))[0] == "Hello from the"


@pytest.mark.parametrize("how", ["gzip", "header-bytes=9000", "header-bytes=30000", "redirect=same"])
async def test_what_nobody_asked_for_is_no_fault(openai: Asked, how: str) -> None:
    assert (await collect(openai, ask(f"[sim: words=3 pause=0 {how}]")))[0] == "Hello from the"


@pytest.mark.parametrize("what", AFTER_FINISH)
async def test_after_the_finish_reason_nothing_is_a_fault(openai: Asked, what: str) -> None:
    text, finish = await collect(openai, ask(f"[sim: words=3 pause=0 after-finish={what}]"))
    assert text.startswith("Hello from the")
    assert finish.finish_reason == "stop"


@pytest.mark.parametrize("usage", [usage for usage in USAGES if usage != "never"])
async def test_a_usage_is_found_wherever_it_is_told(openai: Asked, usage: str) -> None:
    _, finish = await collect(openai, ask(f"[sim: words=3 pause=0 usage={usage}]"))
    assert finish.usage is not None
    assert (finish.usage.output_tokens, finish.usage.estimated) == (3, False)


async def test_a_stale_connection_costs_no_failure(openai: Asked, simulator: Simulator) -> None:
    await collect(openai, ask("[sim: words=1 idle-cut]"))
    assert (await collect(openai, ask("[sim: words=1]")))[0] == "Hello"


@pytest.mark.parametrize("form", [form for form in B64_FORMS if form != "broken"])
async def test_base64_is_read_in_every_form(openai: Asked, form: str) -> None:
    picture = await draw(openai, ask(f"[sim: bytes=5000 source=b64 b64={form}]"))
    assert picture.data == image("png", 5000)


@pytest.mark.parametrize("how", ["image-status=503 image-times=1", "image-cut-after=9 image-times=1",
                                 "image-redirects=3", "image-key", "image-signed"])  # fmt: skip
async def test_an_image_that_is_made_is_made_once(openai: Asked, simulator: Simulator, how: str) -> None:
    picture = await draw(openai, ask(f"[sim: bytes=5000 {how}]"))
    assert picture.data == image("png", 5000)
    assert [request.method for request in simulator.requests].count("POST") == 1


async def test_every_image_comes(openai: Asked) -> None:
    assert len(await pictures(openai, ask("[sim: images=3 bytes=900]"))) == 3
