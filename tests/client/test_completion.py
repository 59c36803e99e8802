"""Images that are saved, and answers that are whole."""

import hashlib
import stat
from base64 import b64encode
from pathlib import Path

import pytest

from aichats_client import Answer, GeneratedImage, IncompleteAnswer
from aichats_schemas import Image, ImageData

PNG = GeneratedImage(b"png", "image/png")


@pytest.mark.parametrize(
    ("asked", "written"),
    [("cat", "cat.png"), ("cat.png", "cat.png"), ("cat.JPG", "cat.JPG"), ("v1.2", "v1.2.png"), ("a.jpeg", "a.jpeg")],
)
def test_the_name_gets_a_suffix_where_it_has_none_of_an_image(tmp_path: Path, asked: str, written: str) -> None:
    assert PNG.save(tmp_path / asked) == tmp_path / written
    assert [path.name for path in tmp_path.iterdir()] == [written]
    assert (tmp_path / written).read_bytes() == b"png"


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        PNG.save(tmp_path / "cat")
    assert (tmp_path / "cat.png").read_bytes() == b"mine"
    (tmp_path / "cat.png").chmod(0o600)
    PNG.save(tmp_path / "cat", overwrite=True)
    assert (tmp_path / "cat.png").read_bytes() == b"png"
    assert stat.S_IMODE((tmp_path / "cat.png").stat().st_mode) == 0o600


def test_a_folder_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PNG.save(tmp_path / "no" / "cat")
    assert list(tmp_path.iterdir()) == []


def part(index: int, number: int, parts: int, whole: bytes, piece: bytes) -> Image:
    digest = hashlib.sha256(whole).hexdigest()
    return Image(id="r", attempt=1, seq=0, data=ImageData(
        index=index, part=number, parts=parts, mime="image/png", bytes=len(whole), sha256=digest,
        b64=b64encode(piece).decode(),
    ))  # fmt: skip


def test_images_stand_in_their_own_order_whichever_is_whole_first() -> None:
    answer = Answer()
    for event in (part(1, 0, 1, b"two", b"two"), part(0, 1, 2, b"one", b"e"), part(0, 0, 2, b"one", b"on")):
        answer.add(event)
    assert answer.images == [b"one", b"two"]


def test_parts_that_join_to_something_else_are_an_error() -> None:
    with pytest.raises(IncompleteAnswer):
        Answer().add(part(0, 0, 1, b"one", b"two"))
