"""Content encodings: unpacked wherever the network cuts, in steps, or refused."""

import gzip
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aichats_worker.provider.decoding.packing import STEP_MAX_BYTES, Unpacking, is_packed


def without_header(data: bytes) -> bytes:
    pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return pack.compress(data) + pack.flush()


PACKS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "its old name": ("X-GZIP", gzip.compress),
    "gzip in parts": ("gzip", lambda data: b"".join(gzip.compress(data[at : at + 5]) for at in range(0, len(data), 5))),
    "deflate": ("deflate", zlib.compress),
    "deflate without its header": ("deflate", without_header),
    "with something behind it": ("gzip", lambda data: gzip.compress(data) + b"\x00" * 9),
}


def unpacked(encoding: str, pieces: list[bytes]) -> list[bytes]:
    unpacking, found = Unpacking(encoding), []
    for piece in pieces:
        unpacking.feed(piece)
        while plain := unpacking.more():
            found.append(plain)
    return found


@pytest.mark.fuzz
@pytest.mark.parametrize(("encoding", "pack"), PACKS.values(), ids=PACKS)
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_any_cut_gives_the_same_bytes(
    encoding: str, pack: Callable[[bytes], bytes], data: bytes, cuts: list[int]
) -> None:
    packed = pack(data)
    places = sorted({0, len(packed), *(cut % (len(packed) + 1) for cut in cuts)})
    pieces = [packed[start:end] for start, end in pairwise(places)]
    assert b"".join(unpacked(encoding, pieces)) == data


def test_a_bomb_is_unpacked_in_steps() -> None:
    steps = unpacked("gzip", [gzip.compress(bytes(10 * STEP_MAX_BYTES + 7))])
    assert sum(map(len, steps)) == 10 * STEP_MAX_BYTES + 7
    assert max(map(len, steps)) == STEP_MAX_BYTES


def test_many_empty_parts_are_no_way_to_break_it() -> None:
    assert b"".join(unpacked("gzip", [gzip.compress(b"") * 5000 + gzip.compress(b"x")])) == b"x"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "compress", "nonsense"])
def test_what_nobody_knows_is_refused(encoding: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        unpacked(encoding, [b"x"])


@pytest.mark.parametrize(
    "data", [b"Hello", b"\x1f\x8b no", gzip.compress(b"Hello there", mtime=0)[:-8] + b"\xff" * 8], ids=range(3)
)
def test_what_is_not_packed_as_it_says_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="unpacked"):
        unpacked("gzip", [data])


def test_identity_is_no_packing() -> None:
    assert [is_packed(name) for name in ("", " Identity ", "gzip", "br")] == [False, False, True, True]
