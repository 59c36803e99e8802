"""Requests that are bad by the contract, made from a seed, and for each what has to become of it."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import orjson

INBOX: Final = "_INBOX.hostile"
MAX_PAYLOAD: Final = 1024 * 1024
HEADERS_MAX: Final = 1500  # of the tricks below, so that a body can be as large as the rest
NO_REPLY: Final = "no_reply"
FORBIDDEN_REPLY: Final = "forbidden_reply"

INVALID, TOO_LARGE, NOT_FOUND, FORBIDDEN = "invalid_request", "too_large", "model_not_found", "forbidden"


@dataclass(frozen=True)
class Bad:
    """One request.

    Attributes:
        number: Its own; its inbox is named by it.
        mode: `req`, `ask` or `job`.
        subject: As published.
        reply: The reply subject of a core request; of a job where its events go, empty for its own out subject.
        block: The header block, or nothing.
        body: As published.
        code: What its `error` says; empty where none may be published.
        dropped: Why it is counted as dropped; empty where it is not.
        own_id: The id it sent and gets back; empty where the worker makes one.
    """

    number: int
    mode: str
    subject: bytes
    reply: bytes
    block: bytes
    body: bytes
    code: str
    dropped: str = ""
    own_id: str = ""


class Wire:
    """A requester that checks nothing of what it publishes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        wire = cls(*await asyncio.open_connection("127.0.0.1", port))
        wire._writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
        await wire.flush()
        return wire

    def publish(self, subject: bytes, body: bytes, *, reply: bytes = b"", block: bytes = b"") -> None:
        place = subject + b" " + reply if reply else subject
        if block:
            self._writer.write(b"HPUB %b %d %d\r\n%b%b\r\n" % (place, len(block), len(block) + len(body), block, body))
        else:
            self._writer.write(b"PUB %b %d\r\n%b\r\n" % (place, len(body), body))

    async def flush(self) -> None:
        """Wait until the server has it all; it must not have complained."""
        self._writer.write(b"PING\r\n")
        async with asyncio.timeout(60):
            while (line := await self._reader.readline()) != b"PONG\r\n":
                assert line.startswith((b"INFO", b"PING")), line
                if line.startswith(b"PING"):
                    self._writer.write(b"PONG\r\n")

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def headers(*lines: bytes) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


# What nats-py cannot read at all, what the server would say itself, and what looks like one header and is another.
BLOCKS: Final = [
    b"x", b"NATS/1.0", b"NATS/1.0\r\n", b"NATS/1.0 ", b"NATS/1.0 \xff\xff\xff\r\n\r\n", b"NATS/1.0 503 \xff\r\n\r\n",
    b"\x00" * 40, b"NATS/9.9\r\nA: b\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\nA: b\r\n\r\n", headers(b"Status: 503"), headers(b"Status: 408", b"Description: x"),
    headers(b"no colon"), headers(b": no name"), headers(b"No-Value:"), headers(b"A(b): c", b'"x": y'),
    headers(b"a b: c"), headers("Nämé: x".encode(), "X: ü€😀".encode()), headers(b"X: \xff\xfe\x00"),
    headers(b"A: b\nReply-To: c\rd"), headers(*[b"X-%d: y" % number for number in range(100)]),
    headers(b"X: 1", b"X: 2", b"x: 3"), headers(b"correlation_id: " + b"c" * 1000), headers(b"traceparent: 00-0-0-zz"),
    headers(b"nats-msg-id: not the id", b"NATS-MSG-ID: neither"), headers(b"Nats-Expected-Stream: AIJOBS"),
    headers(b"X: " + b"\xff" * 1200), headers(b"Nats-Service-Error: no", b"Nats-Service-Error-Code: 200"),
    headers(b"Ai-Dead-Code: done", b"Ai-Dead-Attempts: -1"), headers(b"Nats-Msg-Id:"),
]  # fmt: skip
# Refused by JetStream itself at a submit, so for core alone.
CORE_BLOCKS: Final = [
    headers(b"Nats-Expected-Last-Sequence: 99999"), headers(b"Nats-Expected-Last-Msg-Id: x"),
    headers(b"Nats-Rollup: all"), headers(b"Nats-TTL: never"), headers(b"Nats-Expected-Stream: OTHER"),
    headers(b"X: " + b"y" * 100_000), headers(b"correlation_id: " + b"\xff" * 200_000),
]  # fmt: skip
ODD: Final = [
    b"*", b">", b"$", b"$JS", "ü".encode(), "\u202e".encode(), b"a" * 65, b"a" * 2000, b"a\x0bb", b"a\x0cb", b"\xff",
    b'a"b', b"a\\b", b"a\x00b", b"';--", b"a,b", b"a/b", b"a:b", b"{}", b"\x1b[31m", b"%s", "٣".encode(),
]  # fmt: skip
REPLIES: Final = [
    b"$JS.API.STREAM.PURGE.AIJOBS", b"ai.v1.req.text.default", b"ai.v1.dead.text.a.b",
    b"ai.v1.out.default.x", b"$SRV.PING", b"_INBOX", b"_INBOX.", b"_INBOX.>", b"_INBOX.*", b"_INBOX.a.*", b"_INBOX..a",
    b"_INBOX.a..b", b"_INBOX.a.", b"_INBOXES.a", b"_inbox.a", b"_R_", b"._INBOX.a", b"x._INBOX.a", b">", b"*",
    b"_INBOX." + b"a" * 249, b"_INBOX." + b"a." * 1000 + b"a", "_INBOX.ü".encode(), b"_INBOX.a\xff", b"_INBOX.a\x0bb",
    b"_INBOX.a\x00", b"_INBOX.a$b", b'_INBOX.a"b',
]  # fmt: skip

# As a reply subject the server itself refuses these.
REPLY_TOS: Final = [*REPLIES, b"$JS.ACK.AIJOBS.c.1.1.1.1.0", b"_R_.>", b"_R_.a b", b"_INBOX.a b", b"_INBOX.a,_INBOX.b"]

Choice = random.Random


def _plain(pick: Choice) -> tuple[bytes, str]:
    """Bodies that are not JSON."""
    junk = pick.randbytes(pick.choice([1, 10, 1000]))
    return pick.choice([
        (b"", INVALID),
        (pick.choice([b" ", b"\n", b"\t \r\n", "\u2003".encode(), b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"]) * 1, INVALID),
        (b"hi " + junk + b"\xff", INVALID),
        (b"\xc3", INVALID),
        (b"\xed\xa0\x80", INVALID),  # a surrogate by itself
        (b"\xff\xfeh\x00i\x00", INVALID),  # UTF-16
        (b" " * (MAX_PAYLOAD // 2), INVALID),
        (b"x" * pick.randint(200_001, MAX_PAYLOAD - HEADERS_MAX), TOO_LARGE),
        (b"[" * pick.randint(200_001, 500_000), TOO_LARGE),  # what does not begin with a brace is a prompt
    ])  # fmt: skip


def _broken(pick: Choice) -> tuple[bytes, str]:
    """Bodies that begin as JSON and are none."""
    deep = pick.choice([1_000, 100_000])
    whole = b'{"prompt":"hi","metadata":{"a":"b"},"timeout_seconds":5}'
    return pick.choice([
        whole[: pick.randint(1, len(whole) - 1)],
        whole + pick.choice([b"{}", b"]", b"x", b"\x00", b'"']),
        b"\xef\xbb\xbf" + whole[:-1],
        b"{" + pick.randbytes(20),
        b"{" * deep,
        b'{"prompt":' + b"[" * deep,
        b'{"prompt":"hi","x":' + b"[" * deep + b"]" * deep + b"}",
        b'{"prompt":"hi","x":' + b'{"a":' * deep + b"1" + b"}" * deep + b"}",
        b"{" + b" " * (MAX_PAYLOAD - HEADERS_MAX - 1),
        b'{"prompt":"' + b"a" * (MAX_PAYLOAD - HEADERS_MAX - 11),
        b"{'prompt':'hi'}", b'{"prompt":"hi",}', b'{prompt:"hi"}', b'{"prompt":undefined}', b'{"prompt":"a\x00b"}',
        b'{"prompt":"a\nb"}', b'{"prompt":"\xff"}', b'{"prompt":"\\ud800"}', b'{"prompt":"\\udc00\\ud800"}',
        b'{"prompt":"\\x41"}', b'{"prompt":"hi","timeout_seconds":01}', b'{"prompt":"hi","x":' + b"9" * 5000 + b"e}",
    ]), INVALID  # fmt: skip


WRONG: Final[list[bytes]] = [
    b'{}', b'{"prompt":null}', b'{"prompt":5}', b'{"prompt":["hi"]}', b'{"prompt":{"a":"hi"}}', b'{"prompt":true}',
    b'{"prompt":""}', b'{"prompt":" \\n"}', b'{"prompt":NaN}', b'{"prompt":"hi","prompt":5}', b'{"Prompt":"hi"}',
    b'{"prompt":"hi","messages":[{"role":"user","content":"hi"}]}', b'{"messages":[]}', b'{"messages":"hi"}',
    b'{"messages":{"role":"user"}}', b'{"messages":["hi"]}', b'{"messages":[null]}', b'{"messages":[[]]}',
    b'{"messages":[{"role":"root","content":"hi"}]}', b'{"messages":[{"role":"user"}]}',
    b'{"messages":[{"role":"user","content":["hi"]}]}', b'{"messages":[{"role":"user","content":" "}]}',
    b'{"prompt":"hi","timeout_seconds":0}', b'{"prompt":"hi","timeout_seconds":-1}',
    b'{"prompt":"hi","timeout_seconds":"5"}', b'{"prompt":"hi","timeout_seconds":true}',
    b'{"prompt":"hi","timeout_seconds":NaN}', b'{"prompt":"hi","timeout_seconds":Infinity}',
    b'{"prompt":"hi","timeout_seconds":1e999}', b'{"prompt":"hi","timeout_seconds":600.001}',
    b'{"prompt":"hi","timeout_seconds":' + b"9" * 400 + b"}", b'{"prompt":"hi","timeout_seconds":' + b"9" * 9999 + b"}",
    b'{"prompt":"hi","timeout_seconds":[]}', b'{"prompt":"hi","model":5}', b'{"prompt":"hi","model":["gpt-4"]}',
    b'{"prompt":"hi","proxy":""}', b'{"prompt":"hi","proxy":5}', b'{"prompt":"hi","metadata":[]}',
    b'{"prompt":"hi","metadata":"a"}', b'{"prompt":"hi","metadata":{"a":1}}', b'{"prompt":"hi","metadata":{"a":{}}}',
    b'{"prompt":"hi","metadata":{"a":null}}', b'{"messages":[' + b"1," * 20_000 + b"1]}",
    b'{"prompt":"hi","metadata":{"' + b"k" * 90_000 + b'":1}}',
    orjson.dumps({"prompt": "hi", "metadata": {f"\x1b\n{number}": number for number in range(5000)}}),
]  # fmt: skip
PASSED: Final[list[tuple[bytes, str]]] = [
    (orjson.dumps({"prompt": "a" * 200_001}), TOO_LARGE),
    (orjson.dumps({"prompt": "😀" * 200_001}), TOO_LARGE),
    (orjson.dumps({"messages": [{"role": "user", "content": "hi"}] * 257}), TOO_LARGE),
    (orjson.dumps({"messages": [{"role": "user", "content": "a" * 1000}] * 201}), TOO_LARGE),
    (orjson.dumps({"prompt": "hi", "metadata": {str(number): "" for number in range(17)}}), TOO_LARGE),
    (orjson.dumps({"prompt": "hi", "metadata": {"k" * 65: "v"}}), TOO_LARGE),
    (orjson.dumps({"prompt": "hi", "metadata": {"\r\nk": "v" * 257}}), TOO_LARGE),
    (b'{"prompt":"hi","model":"gpt-9"}', NOT_FOUND),
    (b'{"prompt":"hi","model":""}', NOT_FOUND),
    (orjson.dumps({"prompt": "hi", "model": "\x00" * 100_000}), NOT_FOUND),
    (b'{"prompt":"hi","proxy":"http://10.0.0.1:1"}', FORBIDDEN),
    (b'{"prompt":"hi","proxy":"' + b"p" * 100_000 + b'"}', FORBIDDEN),
    (b'{"prompt":"hi","proxy":"file:///etc/passwd"}', FORBIDDEN),
]
_BODIES: Final[list[Callable[[Choice], tuple[bytes, str]]]] = [
    _plain,
    _broken,
    _broken,
    lambda pick: (pick.choice(WRONG), INVALID),
    lambda pick: (pick.choice(WRONG), INVALID),
    lambda pick: pick.choice(PASSED),
]


def generate(seed: int, count: int, *, first: int = 0) -> list[Bad]:
    """Make `count` requests. Numbers and ids are each used once."""
    pick = random.Random(seed)  # noqa: S311 - not a secret: it can be run again
    return [(_job if pick.random() < 0.1 else _core)(pick, number) for number in range(first, first + count)]


def _core(pick: Choice, number: int) -> Bad:
    mode, kind = pick.choice(["req", "ask"]), pick.choice(["text", "image"])
    subject, inbox = f"ai.v1.{mode}.{kind}.t-{number % 7}".encode(), f"{INBOX}.{number}".encode()
    block = pick.choice([b"", pick.choice(BLOCKS), pick.choice(BLOCKS), pick.choice(CORE_BLOCKS)])
    body, code = pick.choice(_BODIES)(pick)
    wrong = pick.choice(["body", "body", "body", "id", "tenant", "tenant", "reply", "reply"])
    if len(body) + len(block) > MAX_PAYLOAD:
        block = b""
    if wrong == "body":
        own_id = f"r{number}" if not block and pick.random() < 0.5 else ""
        block = headers(f"Nats-Msg-Id: {own_id}".encode()) if own_id else block
        return Bad(number, mode, subject, inbox, block, body, code, own_id=own_id)
    body = pick.choice([b"hi", b'{"prompt":"hi"}', body])
    if wrong == "id":
        first = headers(b"Nats-Msg-Id: good", b"Nats-Msg-Id: " + pick.choice(ODD))  # of two, the last counts
        block = pick.choice([headers(b"Nats-Msg-Id: " + pick.choice([*ODD, b"a b", b"a.b"])), first])
        return Bad(number, mode, subject, inbox, block, body[: MAX_PAYLOAD // 2], INVALID)
    if wrong == "tenant":
        subject = b"ai.v1.%b.%b.%b" % (mode.encode(), kind.encode(), pick.choice(ODD))
        return Bad(number, mode, subject, inbox, block, body, INVALID)
    reply = pick.choice([*[b""] * 10, *REPLIES])
    return Bad(number, mode, subject, reply, block, body, "", FORBIDDEN_REPLY if reply else NO_REPLY)


def _job(pick: Choice, number: int) -> Bad:
    kind, tenant, own = pick.choice(["text", "image"]), f"t-{number % 7}", f"j{number}"
    inbox = pick.choice([b"", f"{INBOX}.{number}".encode()])
    block = pick.choice([b"", pick.choice(BLOCKS)])
    if inbox:
        block = headers(b"reply_to: " + inbox, *pick.choice(_JOB_LINES))
    body, code = pick.choice(_BODIES)(pick)
    if inbox and len(body) + len(block) > MAX_PAYLOAD:
        block = headers(b"reply_to: " + inbox)
    wrong = pick.choice(["body", "body", "body", "token", "reply"])
    if wrong == "body":
        subject = f"ai.v1.job.{kind}.{tenant}.{own}".encode()
        return Bad(number, "job", subject, inbox, block, body, code, own_id=own)
    if wrong == "token":
        # One message a subject: the other token is this one's alone.
        # nats-server 2.15 stores a job with the token `>`, but delivers it to none who asks for it later.
        odd, mine = pick.choice([one for one in ODD if one != b">"]), str(number).encode()
        place = pick.choice([odd + b"." + mine, mine + b"." + odd])
        subject = b"ai.v1.job.%b.%b" % (kind.encode(), place)
        code = INVALID if inbox else ""
        return Bad(number, "job", subject, inbox, block, b"hi", code, "" if inbox else FORBIDDEN_REPLY)
    reply = pick.choice(REPLY_TOS)
    subject = f"ai.v1.job.{kind}.{tenant}.{own}".encode()
    return Bad(number, "job", subject, reply, headers(b"reply_to: " + reply), b"hi", "", FORBIDDEN_REPLY)


_JOB_LINES: Final = [
    [], [b"Nats-Expected-Stream: AIJOBS"], [b"Status: 408"], [b"A(b): c"], [b"X: " + b"\xff" * 25_000],
    [b"X: " + b"y" * 65_000], [b"X: a\nb"], ["correlation_id: ü".encode()], [b"Nats-Msg-Id: "],
]  # fmt: skip
