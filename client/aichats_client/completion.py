"""What a request came to, and images that can be saved."""

import os
import tempfile
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aichats_client.answer import Answer
from aichats_client.errors import CutOff, IncompleteAnswer
from aichats_schemas.events import Done, DoneData, StreamEvent

SUFFIXES: Final = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/avif": ".avif",
}


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """A whole image, checked against its size and hash.

    Attributes:
        data: Its bytes.
        mime: What they are, `image/png` for example.
    """

    data: bytes = field(repr=False)
    mime: str

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it to a file, and return the file's path. Nobody ever sees half an image there.

        Args:
            path: Gets a suffix that says what the image is, unless it ends in that of an image already.
            overwrite: Replace a file that is there.

        Raises:
            FileExistsError: There is such a file, and `overwrite` was not asked for.
        """
        path = self.path(path)
        with path.open("ab" if overwrite else "xb"):
            mode = path.stat().st_mode  # the umask's, or that of the file which is replaced
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(self.data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            if not overwrite:
                path.unlink(missing_ok=True)
            raise
        return path

    def path(self, path: str | Path) -> Path:
        """Return where `save` would write to."""
        path = Path(path)
        known = {*SUFFIXES.values(), ".jpeg"}
        return path if path.suffix.lower() in known else path.with_name(path.name + SUFFIXES.get(self.mime, ".bin"))


@dataclass(frozen=True, slots=True)
class Completion:
    """What a request came to. As a string it is its text.

    Attributes:
        text: The whole text; empty for images.
        images: The images in their order; empty for a text.
        reasoning: The model's, where it was asked for.
        done: How it ended: `finish_reason`, `model`, `provider`, `usage`, `metadata`, `timing`.
    """

    text: str = field(repr=False)
    images: list[GeneratedImage]
    reasoning: str = field(repr=False)
    done: DoneData

    def __str__(self) -> str:
        return self.text

    @property
    def image(self) -> GeneratedImage:
        """The only image, or the first one.

        Raises:
            IncompleteAnswer: There is none.
        """
        if not self.images:
            raise IncompleteAnswer("the answer holds no image")
        return self.images[0]


async def completed(events: AsyncIterable[StreamEvent]) -> Completion:
    """Read events to their end. Of attempts that were replaced nothing is left.

    Raises:
        IncompleteAnswer: An image's parts do not join to what they say they are.
        CutOff: There is no `done`.
    """
    answer = Answer()
    async for event in events:
        answer.add(event)
    if not isinstance(answer.end, Done):
        raise CutOff("the answer ended without its final event")
    pairs = zip(answer.images, answer.mimes, strict=True)
    images = [GeneratedImage(data, mime) for data, mime in pairs]
    return Completion(answer.text, images, answer.reasoning, answer.end.data)
