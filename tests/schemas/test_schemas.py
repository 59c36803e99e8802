"""The wire contract as code: what other services import and what non-Python teams read."""

import ast
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

import aichats_schemas
from aichats_schemas import ErrorCode, Subjects, parse_event
from aichats_schemas.__main__ import json_schemas
from aichats_schemas.subjects import is_reply_subject, is_token
from tests.processes import ROOT

EVENTS = [
    {"type": "status", "data": "working"},
    {"type": "response", "data": "Hel"},
    {
        "type": "image",
        "data": {"index": 0, "part": 0, "parts": 1, "mime": "image/png", "bytes": 3, "sha256": "00", "b64": "AAAA"},
    },
    {
        "type": "done",
        "data": {
            "finish_reason": "stop",
            "last_seq": 0,
            "model": "gpt-4",
            "timing": {"queued_ms": 1, "first_ms": 2, "total_ms": 3},
        },
    },
    {
        "type": "result",
        "data": {
            "text": "Hello",
            "finish_reason": "stop",
            "last_seq": 0,
            "model": "gpt-4",
            "timing": {"queued_ms": 1, "first_ms": 2, "total_ms": 3},
        },
    },
    {"type": "error", "data": {"code": "internal", "message": "m", "retryable": True, "retry_after_ms": 5}},
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["type"])
def test_each_event_is_told_apart_by_its_type_and_survives_the_way(event: dict[str, object]) -> None:
    envelope = event | {"id": "r9", "attempt": 1, "seq": 0, "a_field_of_tomorrow": 1}
    parsed = parse_event(json.dumps(envelope).encode())
    assert parsed.type == event["type"]
    assert parse_event(parsed.model_dump_json().encode()) == parsed


def test_an_event_of_an_unknown_type_is_refused_by_this_version() -> None:
    with pytest.raises(ValidationError):
        parse_event(b'{"type":"audio","data":"","id":"r","attempt":1,"seq":0}')


def test_an_error_code_of_tomorrow_stays_a_string() -> None:
    event = parse_event(
        b'{"type":"error","data":{"code":"new","message":"m","retryable":true},"id":"r","attempt":1,"seq":0}'
    )
    assert isinstance(event, aichats_schemas.Error)
    assert event.data.code == "new"
    assert not isinstance(event.data.code, ErrorCode)


@pytest.mark.parametrize("name", sorted(json_schemas()))
def test_the_committed_json_schemas_are_current(name: str) -> None:
    committed = json.loads((ROOT / "schemas" / "aichats_schemas" / "json" / name).read_text(encoding="utf-8"))
    assert committed == json_schemas()[name], "run `make schemas`"


def test_schemas_import_nothing_of_the_worker() -> None:
    for path in Path(aichats_schemas.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("aichats_worker", "aichats_client", "nats")], (
                path
            )


def test_the_subjects_are_the_contracts() -> None:
    subjects = Subjects()
    assert subjects.request("req", "text", "default") == "ai.v1.req.text.default"
    assert subjects.request("ask", "image") == "ai.v1.ask.image.*"
    assert subjects.job("text", "t", "r9") == "ai.v1.job.text.t.r9"
    assert subjects.out("t", "r9") == "ai.v1.out.t.r9"
    assert subjects.dead("image", "t", "r9") == "ai.v1.dead.image.t.r9"
    assert subjects.cancel("t", "r9") == "ai.v1.ctl.cancel.t.r9"
    assert subjects.resume("t") == "ai.v1.ctl.resume.t"
    assert subjects.internal("cancel", "t", "r9") == "ai.v1.int.cancel.t.r9"


@pytest.mark.parametrize("subject", ["_INBOX.a", "_INBOX.abc.1", "_R_.x.y", "_INBOX.team-a.B_9"])
def test_an_inbox_is_a_reply_subject(subject: str) -> None:
    assert is_reply_subject(subject)


NO_INBOX = ["", "_INBOX", "_INBOX.", "_INBOX..a", "_INBOX.a.", "_INBOX.*", "_INBOX.>", "_INBOX.a b", "_INBOX.a\n"]
NO_INBOX += [
    "x._INBOX.a",
    "_INBOXES.a",
    "$JS.API.STREAM.PURGE.X",
    "$SYS.a",
    "ai.v1.req.text.default",
    f"_INBOX.{'a' * 249}",
]


@pytest.mark.parametrize("subject", NO_INBOX)
def test_anything_else_is_none(subject: str) -> None:
    assert not is_reply_subject(subject)


def test_a_strict_tenant_is_answered_at_its_own_inbox_or_through_an_import() -> None:
    assert is_reply_subject("_INBOX.one.x", tenant="one")
    assert is_reply_subject("_R_.x", tenant="one")
    assert not is_reply_subject("_INBOX.two.x", tenant="one")
    assert not is_reply_subject("_INBOX.one", tenant="one")


@pytest.mark.parametrize("value", ["a", "A-9_z", "a" * 64])
def test_a_token_is_letters_digits_underscore_and_dash(value: str) -> None:
    assert is_token(value)


@pytest.mark.parametrize("value", ["", "a" * 65, "a b", "a.b", "*", ">", "a\n", "é"])
def test_what_is_no_token(value: str) -> None:
    assert not is_token(value)
