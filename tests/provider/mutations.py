"""The corpus, spoiled: what a broken relay, a young server or a bad line makes of a real answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import strategies as st

from tests.provider.recorded import Recorded, everything

CORPUS = everything()
_SCALAR = re.compile(rb'null|true|-?\d+|"[^"\\]{0,40}"')
_VALUES = st.sampled_from([
    b"null", b"true", b"0", b"-1", b"1e400", b"-0.0", b"NaN", b"Infinity",
    b"9" * 400, b'""', b'"x"', b"[]", b"{}", b"[[]]",
    b'"\\ud83d"', b'"\\udc00"', b'"\xff"', b'"\\u0000"', b'"' + b"y" * 70_000 + b'"', b"[" * 5000, b'{"a":' * 2000,
    b'{"message":{"message":[1]},"code":{"code":1},"type":[2]}', b'"stop"', b'"error"',
    b'"content_filter"', b'"429"', b"429",
])  # fmt: skip
_NOISE = st.sampled_from([
    b"\n", b"\n\n", b"\r", b"\r\n", b"data:", b"data: ", b"data: [DONE]\n\n", b"event: error\n", b"event: ping\n",
    b": ping\n",
    b"\xef\xbb\xbf", b"\x00", b"\xff", b"{", b"}", b'"', b"\\", b"<html>", b"data: {}\n\n", b'data: {"error":{}}\n\n',
    b'data: {"error":null}\n\n', b"id: 1\n", b"\xc3", b"\xf0\x9f", b"retry: x\n", b"data: null\n\n", b"data: [1]\n\n",
])  # fmt: skip

Mutation = Callable[[bytes], bytes]
_PLACE = st.integers(0, 2**16)


def _delete(at: int, length: int) -> Mutation:
    return lambda body: body[: _in(body, at)] + body[_in(body, at) + length :]


def _repeat(at: int, length: int) -> Mutation:
    def spoiled(body: bytes) -> bytes:
        start = _in(body, at)
        return body[: start + length] + body[start:]

    return spoiled


def _insert(at: int, noise: bytes) -> Mutation:
    return lambda body: body[: _in(body, at)] + noise + body[_in(body, at) :]


def _truncate(at: int) -> Mutation:
    return lambda body: body[: _in(body, at)]


def _value(at: int, value: bytes) -> Mutation:
    """Another JSON value in the place of one."""

    def spoiled(body: bytes) -> bytes:
        places = list(_SCALAR.finditer(body))
        if not places:
            return body
        place = places[at % len(places)]
        return body[: place.start()] + value + body[place.end() :]

    return spoiled


def _drop_event(at: int) -> Mutation:
    def spoiled(body: bytes) -> bytes:
        events = body.split(b"\n\n")
        del events[at % len(events)]
        return b"\n\n".join(events)

    return spoiled


def _splice(at: int, other: Recorded) -> Mutation:
    return lambda body: body[: _in(body, at)] + other.body


def _in(body: bytes, at: int) -> int:
    return at % (len(body) + 1)


MUTATIONS = st.one_of(
    st.builds(_delete, _PLACE, st.integers(1, 40)),
    st.builds(_repeat, _PLACE, st.integers(1, 200)),
    st.builds(_insert, _PLACE, _NOISE | st.binary(max_size=6)),
    st.builds(_truncate, _PLACE),
    st.builds(_value, _PLACE, _VALUES),
    st.builds(_value, _PLACE, _VALUES),
    st.builds(_drop_event, _PLACE),
    st.builds(_splice, _PLACE, st.sampled_from(CORPUS)),
)


@dataclass(frozen=True)
class Spoiled:
    """A spoiled answer.

    Attributes:
        recorded: With the spoiled body, and perhaps another status.
        cuts: Where the bytes are cut, as shares of the length in thousandths.
    """

    recorded: Recorded
    cuts: tuple[int, ...]

    def pieces(self, whole: bytes) -> list[bytes]:
        """`whole` in pieces that join to it."""
        places = sorted({0, len(whole), *(len(whole) * cut // 1000 for cut in self.cuts)})
        return [whole[start:end] for start, end in pairwise(places)]


@st.composite
def answers_of(draw: st.DrawFn, dialect: str) -> Spoiled:
    """An answer of the corpus in that dialect after one to four mutations, in one to six pieces."""
    recorded = draw(st.sampled_from([one for one in CORPUS if one.dialect == dialect]))
    body = recorded.body
    for mutation in draw(st.lists(MUTATIONS, min_size=1, max_size=4)):
        body = mutation(body)
    status = draw(st.sampled_from([recorded.status] * 8 + [200, 204, 400, 429, 503]))
    cuts = draw(st.lists(st.integers(0, 1000), max_size=5))
    return Spoiled(replace(recorded, body=body, status=status), tuple(cuts))
