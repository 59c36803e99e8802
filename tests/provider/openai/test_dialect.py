"""What servers that speak OpenAI's dialect really send. Sources stand beside the cases."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aichats_schemas.events import Usage
from aichats_worker.errors import ContentFiltered, TooLarge
from aichats_worker.provider.decoding.lines import LINE_MAX_BYTES, STRAY_MAX_BYTES, LineTooLong
from aichats_worker.provider.openai.dialect import OpenAIDecoder
from tests.provider.wire import delta


def event(chunk: Any) -> bytes:
    return b"data: " + (chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()) + b"\n\n"


def stream(*chunks: Any) -> bytes:
    return b"".join(chunk if isinstance(chunk, bytes) else event(chunk) for chunk in chunks)


def decode(body: bytes, cuts: list[int] | None = None) -> tuple[str, OpenAIDecoder]:
    decoder, text, start = OpenAIDecoder(), "", 0
    for end in [*sorted(cuts or []), len(body)]:
        text += decoder.feed(body[start:end])
        start = end
    text += decoder.finish()
    assert decoder.finish() == ""
    return text, decoder


def parts(*content: Any) -> Any:
    return {"choices": [{"delta": {"content": list(content)}}]}


SAID = (delta("", role="assistant"), delta("Hello"), delta(" there"))
STOP = delta(None, "stop")
DONE = b"data: [DONE]\n\n"
WHOLE = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello there"}}]}

HELLO_THERE: dict[str, list[Any]] = {
    # openai/openai-python#1677: Azure's asynchronous content filter
    "a choice without delta": [*SAID[:2], {"choices": [{"index": 0, "finish_reason": None}]}, SAID[2], STOP, DONE],
    "delta null": [*SAID, {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}, DONE],
    "prompt_filter_results first": [{"prompt_filter_results": [{}], "choices": []}, *SAID, STOP, DONE],
    # langchain-ai/langchain#27886, gradio-app/gradio#11755
    "no choices": [*SAID[:2], {"usage": {"total_tokens": 9}}, SAID[2], STOP, DONE],
    "choices null": [*SAID, STOP, {"choices": None}, DONE],
    "choices that are none": [*SAID, {"choices": ["x"]}, {"choices": {"a": 1}}, STOP, DONE],
    "error null": [*[chunk | {"error": None} for chunk in [*SAID, STOP]], DONE],
    "ping events": [SAID[1], b'event: ping\ndata: {"type":"ping"}\n\n', SAID[2], STOP, DONE],
    # omnigent-ai/omnigent#1474: relays keep long answers alive so
    "empty data": [b"data: \n\n", *SAID, b"data:\n\n", STOP, DONE],
    "comments": [b": OPENROUTER PROCESSING\n\n", *SAID, b":\n\n", STOP, DONE],
    "data that is no object": [b"data: 5\n\ndata: null\n\ndata: ping\n\n", *SAID, STOP, DONE],
    "fields that nobody knows": [b"retry: 3000\nid: 7\nfoo: bar\n\n", *SAID, STOP, DONE],
    # mistral: content as parts
    "content as parts": [delta(), parts({"type": "text", "text": "Hello"}), parts(" the", {"text": "re"}), STOP, DONE],
    "content of another kind": [*SAID, {"choices": [{"delta": {"content": {"a": 1}}}]}, STOP, DONE],
    "tool calls null": [delta("", tool_calls=None, refusal=None), *SAID, STOP, DONE],
    "Infinity": [*SAID, b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"x":Infinity}\n\n', DONE],
    "several answers": [*SAID, {"choices": [{"index": 1, "delta": {"content": "other"}}]}, STOP, DONE],
    # the standard of server-sent events
    "byte order mark": [b"\xef\xbb\xbf", *SAID, STOP, DONE],
    "no space after the colon": [stream(*SAID, STOP).replace(b"data: ", b"data:"), DONE],
    "LF alone between events": [stream(*SAID, STOP, DONE).replace(b"\n\n", b"\n")],
    "CR LF": [stream(*SAID, STOP, DONE).replace(b"\n", b"\r\n")],
    "CR": [stream(*SAID, STOP, DONE).replace(b"\n", b"\r")],
    "an object over several data lines": [
        stream(*SAID).replace(b', "choices', b',\ndata: "choices').replace(b'"index"', b'\ndata: "index"'), STOP, DONE,
    ],
    "no end mark": [*SAID, STOP],
    "no finish reason": [*SAID, DONE],
    "no last newline": [stream(*SAID, STOP)[:-2]],
    "more after the end mark": [*SAID, STOP, DONE, delta("late")],
    # NousResearch/hermes-agent#21535: the whole answer although a stream was asked
    "one object": [json.dumps(WHOLE).encode()],
    "one object over many lines": [json.dumps(WHOLE, indent=2).encode()],
    "one object as data": [WHOLE, DONE],
    # Perplexity: beside the deltas, all that they said until now
    "message beside delta": [*[chunk | {"choices": [chunk["choices"][0] | {"message": {"content": "Hello there"}}]}
                               for chunk in [*SAID, STOP]], DONE],
    "message behind the deltas": [*SAID, WHOLE, DONE],
    "one object with an empty delta": [
        json.dumps({"choices": [WHOLE["choices"][0] | {"delta": {"role": "assistant", "content": ""}}]}).encode(),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", HELLO_THERE)
def test_what_adds_nothing_is_skipped_wherever_the_network_cuts(name: str) -> None:
    body = stream(*HELLO_THERE[name])
    text, decoder = decode(body)
    assert (text, decoder.failure, decoder.broke_off) == ("Hello there", None, False)
    assert {decode(body, [at])[0] for at in range(len(body) + 1)} == {"Hello there"}
    assert decode(body, list(range(len(body))))[0] == "Hello there"


def raw(content: bytes) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"' + content + b'"}}]}\n\n'


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([rb"ok ", rb"\ud83d", rb"\ude00 and more"], "ok \U0001f600 and more"),  # elizaOS/eliza#30904
        ([rb"ok ", rb"\ud83d", b"", rb"\ude00"], "ok \U0001f600"),
        ([rb"ok ", rb"\ud83d and more"], "ok � and more"),
        ([rb"ok ", rb"\ud83d", b"plain"], "ok �plain"),
        ([rb"ok \ud83d"], "ok �"),
        ([rb"\ude00 ok"], "� ok"),
        ([b"ok ", b"\xf0\x9f\x98", b" and more"], "ok � and more"),  # mlc-ai/mlc-llm#1142
        ([rb"a\u0000b \ud83d\ude00"], "a\0b \U0001f600"),
        ([b"a\tb\x01"], "a\tb\x01"),
    ],
)
def test_one_odd_character_costs_at_most_that_character(parts: list[bytes], text: str) -> None:
    body = stream(*map(raw, parts), STOP, DONE)
    assert decode(body)[0] == text
    assert {decode(body, [at])[0] for at in range(len(body) + 1)} == {text}


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("stop", "stop"), ("eos", "stop"), ("tool_calls", "stop"), ("x" * 2_000_000, "stop"), ("length", "length"),
        ("MAX_TOKENS", "length"), ("content_filter", "content_filter"), ("SAFETY", "content_filter"),
    ],
)  # fmt: skip
def test_a_finish_reason_becomes_one_of_three(reason: str, told: str) -> None:
    _, decoder = decode(stream(*SAID, delta(None, reason), DONE))
    assert decoder.end().finish_reason == told


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [{"delta": {}, "finish_reason": "error"}]},
        {"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "x"}}]},
        {"error": {"code": 502, "message": "x"}, "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]},
        {"error": {"message": "x"}}, {"error": "x"}, {"error": {}}, {"object": "error", "message": "x", "code": 400},
        b'event: error\ndata: {"message":"x"}\n\n', b'error: {"code":500,"message":"x"}\n\n',
    ],
)  # fmt: skip
def test_an_error_is_a_failure_and_no_good_end(last: Any) -> None:
    text, decoder = decode(stream(*SAID, last, DONE))
    assert text == "Hello there"
    assert decoder.failure is not None
    assert decoder.broke_off


def test_an_object_that_cannot_be_read_at_all_ends_the_answer() -> None:
    text, decoder = decode(stream(*SAID, b'data: {"choices":[{"delta":\n\n', STOP, DONE))
    assert (text, decoder.ended, decoder.broke_off) == ("Hello there", True, True)


def test_nothing_of_the_same_event_is_read_behind_what_cannot_be_read() -> None:
    text, decoder = decode(stream(*SAID, b'data: {"choices":[{"delta":\n', delta("late", "stop"), DONE))
    assert (text, decoder.ended, decoder.broke_off) == ("Hello there", True, True)


def test_an_error_line_is_judged_by_its_own_code() -> None:
    said = {
        "code": 400,
        "message": "the request exceeds the available context size",
        "type": "exceed_context_size_error",
    }
    _, decoder = decode(b"error: " + json.dumps(said).encode() + b"\n\n")
    assert decoder.failure is not None
    assert decoder.failure.leaf() is TooLarge


@pytest.mark.parametrize(
    ("chunk", "used"),
    [
        ({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}}, (3, 5)),
        ({"choices": [], "usage": {"input_tokens": 3, "output_tokens": 5}}, (3, 5)),
        ({"choices": [], "usage": {"prompt_tokens": 3}}, (3, 0)),
        ({"choices": [], "usage": None}, None),
        ({"choices": [], "usage": {"prompt_tokens": "many"}}, None),
        ({"choices": [], "usage": [1]}, None),
        ({"choices": [], "usage": {"prompt_tokens": None, "input_tokens": 3, "completion_tokens": 5}}, (3, 5)),
        ({"choices": [], "usage": {"prompt_tokens": True, "completion_tokens": -1}}, None),
        ({"choices": [], "usage": {"prompt_tokens": 2**63, "completion_tokens": 5}}, (0, 5)),
        (b'data: {"x":NaN,"usage":{"prompt_tokens":%s,"completion_tokens":5}}\n\n' % (b"9" * 30), (0, 5)),
    ],
)
def test_the_usage_is_read_where_there_is_one(chunk: Any, used: tuple[int, int] | None) -> None:
    usage = decode(stream(*SAID, STOP, chunk, DONE))[1].end().usage
    assert usage == (used and Usage(input_tokens=used[0], output_tokens=used[1], estimated=False))


@pytest.mark.parametrize(
    "thought",
    [
        delta(None, reasoning_content="Hmm"), delta(None, reasoning="Hmm"),
        delta(None, reasoning="Hmm", reasoning_content="Hmm"),
        {"choices": [{"delta": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hmm"}]}]}}]},
    ],
)  # fmt: skip
def test_reasoning_is_kept_apart_from_the_answer(thought: Any) -> None:
    text, decoder = decode(stream(thought, *SAID, STOP, DONE))
    assert (text, decoder.thoughts) == ("Hello there", "Hmm")


@pytest.mark.parametrize("last", [delta(None, "content_filter"), delta(None, "stop", refusal="I cannot help with it.")])
def test_no_text_and_a_filter_is_content_filtered(last: Any) -> None:
    text, decoder = decode(stream(delta(""), last, DONE))
    assert text == ""
    assert isinstance(decoder.nothing(), ContentFiltered)
    assert not decoder.silent


def test_no_text_because_the_tokens_went_into_reasoning_is_an_end() -> None:
    _, decoder = decode(stream(delta(None, reasoning_content="Hmm"), delta(None, "length"), DONE))
    assert decoder.silent
    assert decoder.end().finish_reason == "length"


def test_a_delta_of_any_size_up_to_the_bound_is_read_and_a_longer_line_refused() -> None:
    large = "x" * 3_000_000
    assert decode(stream(delta(large), STOP), [100, 1_000_000])[0] == large
    many_lines = b"{" + (b" " * 1023 + b"\n") * (LINE_MAX_BYTES // 1024 + 1)
    unended = (b"data: {" + b" " * LINE_MAX_BYTES, many_lines, b"data: {\n" * 500_000)
    for body in unended:
        with pytest.raises(LineTooLong):
            OpenAIDecoder().feed(body)


def test_what_is_not_the_dialect_is_kept_only_up_to_a_bound() -> None:
    decoder = OpenAIDecoder()
    for _ in range(100):
        decoder.feed(b"prose " * 1000 + b"\n")
    assert len(decoder.stray) == STRAY_MAX_BYTES
    assert decoder.ended


PARTS = st.sampled_from([
    b"data: ", b"data: {", b"{", b"}", b"\r", b"\n", b"\n\n", b"[DONE]", b"\xef\xbb\xbf", b"\xff", b"event: error\n",
    *map(event, [*SAID, STOP]), raw(rb"\ud83d"), raw(rb"\ude00"), DONE,
])  # fmt: skip


@pytest.mark.fuzz
@given(st.lists(PARTS | st.binary(max_size=6)), st.lists(st.integers(0, 400), max_size=8))
def test_any_cut_of_any_bytes_gives_the_same_answer(parts: list[bytes], cuts: list[int]) -> None:
    body = b"".join(parts)
    whole, one = decode(body)
    pieces, other = decode(body, [min(at, len(body)) for at in cuts])
    assert pieces == whole
    for name in ("ended", "complete", "broke_off", "failure", "usage", "thoughts", "stray", "silent"):
        assert getattr(other, name) == getattr(one, name), name
    whole.encode()  # valid Unicode, always
