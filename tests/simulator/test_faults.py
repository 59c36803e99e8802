"""Each fault that a prompt can ask for, seen by a client that knows HTTP and nothing else."""

import asyncio
import base64
import json
import zlib
from email.utils import parsedate_to_datetime

import aiohttp  # noqa: TID251 - the simulator is looked at from outside
import pytest

from aichats_worker.simulator.answers import image
from aichats_worker.simulator.directives import Dialect, directives
from aichats_worker.simulator.images import B64_FORMS
from aichats_worker.simulator.oddities import ODDITIES
from aichats_worker.simulator.openai import AFTER_FINISH
from aichats_worker.simulator.refusing import ANSWERS, CODES, ERROR_FORMS, WAITS
from aichats_worker.simulator.server import Simulator
from tests.simulator.calling import Called, Caller

CUT_ERRORS = (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


@pytest.mark.parametrize("code", CODES)
async def test_a_code_has_its_status_and_stands_in_the_body(call: Caller, code: str) -> None:
    for answer in (await call.chat(f"[sim: code={code}]"), await call.aichats(f"[sim: code={code}]")):
        assert answer.status == CODES[code].status
        assert answer.json["error"]["code"] == code
        assert answer.json["error"]["message"] == CODES[code].message


@pytest.mark.parametrize("form", ERROR_FORMS)
async def test_an_error_has_the_shape_that_is_wanted(call: Caller, form: str) -> None:
    answer = await call.chat(f"[sim: code=context_length_exceeded error-form={form}]")
    assert answer.status == 400
    assert CODES["context_length_exceeded"].message in json.dumps(answer.json)


async def test_an_error_in_a_200_is_one(call: Caller) -> None:
    answer = await call.chat("[sim: answer=json-error code=content_filter]")
    assert (answer.status, answer.json["error"]["code"]) == (200, "content_filter")
    answer = await call.chat("[sim: words=3 pause=0 error-after=2 code=bad_gateway error-form=openrouter]")
    assert (answer.status, answer.text) == (200, "Hello from")
    assert answer.chunks[-1]["error"]["code"] == 502
    assert b"[DONE]" not in answer.body


async def test_the_site_has_prose_for_an_error_in_the_middle(call: Caller) -> None:
    answer = await call.aichats("[sim: words=3 pause=0 error-after=1]")
    assert answer.body == b"data: Hello\n\nAn internal server error occurred."


async def test_azures_filter_names_its_reason(call: Caller) -> None:
    answer = await call.chat("[sim: answer=azure-filter]")
    assert (answer.status, answer.json["error"]["innererror"]["code"]) == (400, "ResponsibleAIPolicyViolation")


async def test_a_refusal_has_no_content(call: Caller) -> None:
    answer = await call.chat("[sim: answer=refusal]")
    assert answer.text == ""
    assert any("refusal" in choice["delta"] for chunk in answer.chunks for choice in chunk["choices"])
    message = (await call.chat("[sim: answer=refusal]", stream=False)).json["choices"][0]["message"]
    assert (message["content"], bool(message["refusal"])) == (None, True)


@pytest.mark.parametrize("reason", ["length", "content_filter", "error"])
async def test_a_finish_reason_is_what_is_wanted(call: Caller, reason: str) -> None:
    answer = await call.chat(f"[sim: words=1 finish={reason}]")
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == reason


async def test_the_end_can_lack_its_marks(call: Caller) -> None:
    assert b"[DONE]" not in (await call.chat("[sim: words=1 done=off]")).body
    assert (await call.chat("[sim: words=1 finish=none]")).chunks[-1]["choices"][0]["finish_reason"] is None
    assert (await call.chat("[sim: words=1 tries=none]")).body.endswith(b'"finish_reason": null}]}\n\n')


@pytest.mark.parametrize("wait", WAITS)
async def test_a_wait_has_each_form(call: Caller, wait: str) -> None:
    answer = await call.chat(f"[sim: status=429 retry-after={wait}]")
    assert answer.status == 429
    said = {name.lower(): value for name, value in answer.headers.items()}
    assert ("7" in answer.body.decode()) == (wait in ("body", "message", "retry-info"))
    if wait == "date":
        assert parsedate_to_datetime(said["retry-after"]).tzinfo is not None
    if wait in ("ms", "reset", "epoch"):
        name = {"ms": "retry-after-ms", "reset": "x-ratelimit-reset-requests", "epoch": "x-ratelimit-reset"}[wait]
        assert said[name][:1].isdigit()


async def test_a_bracket_can_hold_for_one_dialect_alone(call: Caller) -> None:
    prompt = "[sim: only=aichats status=503] [sim: words=1]"
    assert (await call.aichats(prompt)).status == 503
    assert (await call.chat(prompt)).text == "Hello"


async def test_a_bracket_can_hold_for_the_first_calls_alone(call: Caller) -> None:
    prompt = "[sim: times=2 status=503] [sim: words=1]"
    assert [(await call.chat(prompt)).status for _ in range(4)] == [503, 503, 200, 200]
    assert (await call.chat(prompt + " ")).status == 503


@pytest.mark.parametrize(
    ("answer", "status"), [(name, 400 if name == "azure-filter" else 200) for name in ANSWERS if name != "cut"]
)
async def test_every_answer_that_is_none_comes_in_both_dialects(call: Caller, answer: str, status: int) -> None:
    for called in (await call.chat(f"[sim: answer={answer}]"), await call.aichats(f"[sim: answer={answer}]")):
        assert called.status == status


async def test_a_connection_can_be_cut_before_anything(call: Caller) -> None:
    with pytest.raises(CUT_ERRORS):
        await call.chat("[sim: answer=cut]")


@pytest.mark.parametrize("dialect", ["aichats", "openai"])
@pytest.mark.parametrize("name", ODDITIES)
async def test_an_oddity_comes_with_the_second_word(call: Caller, name: str, dialect: Dialect) -> None:
    prompt = f"[sim: words=3 pause=0 odd={name}]"
    plain = "[sim: words=3 pause=0]"
    ask = call.chat if dialect == "openai" else call.aichats
    odd, usual = (await ask(prompt)).body, (await ask(plain)).body
    assert (odd != usual) == (ODDITIES[name].dialect in (dialect, "both"))
    assert b"the" in odd, "the answer goes on"


async def test_oddities_can_come_together(call: Caller) -> None:
    body = (await call.chat("[sim: words=2 pause=0 odd=bom,comment,no-delta]")).body
    assert body.startswith(b"\xef\xbb\xbf")
    assert b": OPENROUTER" in body
    assert b"content_filter_results" in body


async def test_lines_end_as_wanted(call: Caller) -> None:
    usual = (await call.aichats("[sim: words=2 pause=0]")).body
    assert (await call.aichats("[sim: words=2 pause=0 lines=crlf]")).body == usual.replace(b"\n", b"\r\n")
    assert (await call.aichats("[sim: words=2 pause=0 lines=cr]")).body == usual.replace(b"\n", b"\r")
    several = await call.chat("[sim: words=1 pause=0 lines=several]")
    events = several.body.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")[:-1]
    assert min(event.count(b"data:") for event in events) > 3
    joined = b"".join(line.removeprefix(b"data: ") for line in events[1].split(b"\n"))
    assert json.loads(joined)["choices"][0]["delta"] == {"content": "Hello"}


async def test_a_body_can_be_compressed_unasked(call: Caller) -> None:
    answer = await call.chat("[sim: words=3 pause=0 gzip]")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert Called(200, {}, zlib.decompress(answer.body, wbits=31)).text == "Hello from the"


async def test_a_header_can_be_long(call: Caller) -> None:
    assert len((await call.chat("[sim: words=1 header-bytes=9000]")).headers["x-long"]) == 9000


async def test_bytes_can_come_one_by_one(call: Caller) -> None:
    assert (await call.chat("[sim: words=2 pause=0 write=1]")).text == "Hello from"


async def test_silence_can_have_comments(call: Caller) -> None:
    answer = await call.chat("[sim: words=1 first-byte=0.1 heartbeat=0.02]")
    assert answer.body.startswith(b": ping\n\n" * 3)


async def test_redirects_lead_to_the_answer(call: Caller, simulator: Simulator) -> None:
    for redirect, host in (("same", "127.0.0.1"), ("other", "localhost")):
        prompt = f"[sim: words=1 redirect={redirect}]"
        answer = await call.chat(prompt)
        location = answer.headers["Location"]
        assert (answer.status, location.split(":")[1]) == (307, f"//{host}")
        path = location.partition(str(simulator.port))[2]
        asked = {"messages": [{"role": "user", "content": prompt}], "stream": True}
        assert (await call.post(path, asked)).text == "Hello"
    answer = await call.chat("[sim: redirect=loop status=308]")
    assert (answer.status, "redirected=1" in answer.headers["Location"]) == (308, True)


@pytest.mark.parametrize("what", [name for name in AFTER_FINISH if name not in ("hold", "heartbeats", "cut")])
async def test_something_can_follow_the_finish_reason(call: Caller, what: str) -> None:
    usual = (await call.chat("[sim: words=1]")).chunks
    answer = await call.chat(f"[sim: words=1 after-finish={what}]")
    assert len(answer.chunks) == len(usual) + 1


@pytest.mark.parametrize("what", ["hold", "heartbeats", "cut"])
async def test_the_end_of_the_body_can_fail_after_the_finish_reason(
    simulator: Simulator, http: aiohttp.ClientSession, what: str
) -> None:
    asked = {"stream": True, "messages": [{"role": "user", "content": f"[sim: words=1 after-finish={what}]"}]}
    seen = b""
    async with http.post(f"{simulator.url}/v1/chat/completions", json=asked) as answer:
        while b'"stop"' not in seen:
            seen += await answer.content.readany()
        if what == "cut":
            with pytest.raises(CUT_ERRORS):
                await answer.read()
        elif what == "heartbeats":
            while b": ping" not in seen:
                seen += await answer.content.readany()
        answer.close()
    assert b"[DONE]" not in seen
    await simulator.requests[0].ended.wait()


async def test_a_silence_holds_until_the_client_goes(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    asked = {"stream": True, "messages": [{"role": "user", "content": "[sim: words=2 stall-after=1]"}]}
    async with http.post(f"{simulator.url}/v1/chat/completions", json=asked) as answer:
        seen = b""
        while b"Hello" not in seen:
            seen += await answer.content.readany()
        answer.close()
    await simulator.requests[0].ended.wait()
    assert simulator.closed_early == 1


async def test_an_idle_connection_closes_unannounced(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    call = Caller(http, simulator)
    answer = await call.chat("[sim: words=1 idle-close=0]")
    assert "Connection" not in answer.headers
    async with asyncio.timeout(5):
        while simulator.connections_open:
            await asyncio.sleep(0.01)


async def test_the_next_request_over_a_stale_connection_is_cut(call: Caller, simulator: Simulator) -> None:
    await call.chat("[sim: words=1 idle-cut]")
    with pytest.raises(CUT_ERRORS):
        await call.chat("[sim: words=1]")
    assert (await call.chat("[sim: words=1]")).status == 200
    peers = [request.peer for request in simulator.requests]
    assert peers[0] == peers[1] != peers[2]


@pytest.mark.parametrize("form", [form for form in B64_FORMS if form != "broken"])
async def test_base64_comes_in_each_form(call: Caller, form: str) -> None:
    b64 = (await call.images(f"[sim: bytes=5000 source=b64 b64={form}]")).json["data"][0]["b64_json"]
    plain = b64.partition(",")[2] or b64
    plain = "".join(plain.split()).replace("-", "+").replace("_", "/")
    assert base64.b64decode(plain + "=" * (-len(plain) % 4)) == image("png", 5000)


async def test_a_download_can_hiccup(call: Caller) -> None:
    url = (await call.images("[sim: image-status=503 image-times=2]")).json["data"][0]["url"]
    assert [(await call.get(url)).status for _ in range(3)] == [503, 503, 200]
    other = (await call.images("[sim: image-cut-after=9 image-times=1]")).json["data"][0]["url"]
    with pytest.raises(CUT_ERRORS):
        await call.get(other)
    assert (await call.get(other)).body == image("png", 0)


async def test_a_download_can_need_the_key(call: Caller) -> None:
    url = (await call.images("[sim: image-key]")).json["data"][0]["url"]
    assert (await call.get(url)).status == 401
    assert (await call.get(url, Authorization="Bearer any")).status == 200


async def test_a_signed_address_is_one_byte_for_byte(call: Caller) -> None:
    url = (await call.images("[sim: image-signed]")).json["data"][0]["url"]
    assert (await call.get(url)).status == 200
    assert (await call.get(url.replace("%2b", "%2B"))).status == 403
    assert (await call.get(url.replace("1+2", "1%202"))).status == 403


async def test_a_download_redirects_as_often_as_wanted(call: Caller) -> None:
    target = (await call.images("[sim: image-redirects=2]")).json["data"][0]["url"]
    for _ in range(2):
        answer = await call.get(target)
        assert answer.status == 302
        target = answer.headers["Location"]
    assert (await call.get(target)).body == image("png", 0)


async def test_more_images_can_come_than_were_asked_for(call: Caller) -> None:
    assert len((await call.images("[sim: images=3]")).json["data"]) == 3
    assert (await call.images("[sim: images=0]")).json["data"] == []


def test_a_later_bracket_wins_where_two_hold() -> None:
    prompt = "[sim: words=3 only=openai] [sim: words=2 only=aichats] [sim: times=1 pause=9]"
    assert directives(prompt, "openai").words == 3
    assert directives(prompt, "aichats").words == 2
    assert [directives(prompt, call=call).pause for call in (1, 2)] == [9, 0.05]
