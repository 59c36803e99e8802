"""How commands print texts, and where they put images."""

import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aichats_client import Completion, GeneratedImage, ServiceError, TextStream
from aichats_client.completion import SUFFIXES
from aichats_schemas.events import StreamEvent
from aichats_worker.commands.ending import Refused, Unusable
from aichats_worker.commands.manners import console, out

if TYPE_CHECKING:
    from collections.abc import Iterable

STDOUT: Final = Path("-")
NAMES_MAX: Final = 10_000


async def print_pieces(stream: TextStream, waiting: str) -> str:
    """Print a text as it comes, and a spinner on a terminal until it begins. Returns what was printed."""
    pieces: list[str] = []
    with console().status(waiting) as spinner:
        try:
            async with stream:
                async for piece in stream:
                    spinner.stop()
                    out(piece)
                    pieces.append(piece)
        finally:
            if pieces and not pieces[-1].endswith("\n"):
                out("\n")
    return "".join(pieces)


async def print_reasoning(events: AsyncGenerator[StreamEvent, None]) -> None:
    """Print a text as it comes, and before it what the model thought, on standard error."""
    last = ""
    async with aclosing(events):
        async for event in events:
            if event.type == "reasoning":
                sys.stderr.write(event.data)
                sys.stderr.flush()
            elif event.type == "response":
                if not last:
                    sys.stderr.write("\n")
                out(event.data)
                last = event.data
    if last and not last.endswith("\n"):
        out("\n")


@dataclass(frozen=True, slots=True)
class Output:
    """Where images go, and a job's text where a path was given.

    Attributes:
        path: A file, an image's with or without a suffix; `-` for standard output; None for a name that is free.
        overwrite: Replace files that are there.
    """

    path: Path | None = None
    overwrite: bool = False

    @property
    def file(self) -> Path | None:
        """The path, where it is a file's."""
        return self.path if self.path != STDOUT else None

    def check(self, count: int, *, as_json: bool = False, maybe_text: bool = False) -> None:
        """See that `count` images can be written, or perhaps a text, before anything is asked.

        Raises:
            Unusable: They cannot, or standard output would get JSON as well.
        """
        if self.path == STDOUT:
            if as_json:
                raise Unusable("standard output takes the answer or --json, not both: give -o a name")
            if not maybe_text:  # else it is known once it is there, and write() looks
                self._check_stdout(count)
            return
        folder = (self.path or Path("image")).parent
        if not folder.is_dir():
            raise Unusable(f"there is no directory {folder}")
        if self.path is None or self.overwrite:
            return
        if maybe_text and self.path.exists():
            raise Unusable(f"{self.path} is there already; --force replaces it")
        for name in self._names(count):
            taken = [path for path in (GeneratedImage(b"", mime).path(name) for mime in SUFFIXES) if path.exists()]
            if taken:
                raise Unusable(f"{taken[0]} is there already; --force replaces it")

    @staticmethod
    def _check_stdout(count: int) -> None:
        if count > 1:
            raise Unusable("standard output takes one image: give -o a name")
        if sys.stdout.isatty():
            raise Unusable("an image does not belong on a terminal: give -o a name, or pipe it on")

    def write(self, images: list[GeneratedImage]) -> list[str]:
        """Write images. Returns a line for each, for the person who asked; none for standard output."""
        if self.path == STDOUT:
            self._check_stdout(len(images))
            sys.stdout.buffer.write(images[0].data)
            sys.stdout.buffer.flush()
            return []
        names: Iterable[Path | None] = self._names(len(images)) or [None] * len(images)
        saved = [(image, self._saved(image, name)) for image, name in zip(images, names, strict=True)]
        return [f"{path} ({image.mime}, {len(image.data)} bytes)" for image, path in saved]

    def write_text(self, text: str) -> list[str]:
        """Write a text to the file that was named. Returns a line for the person who asked; none without a file."""
        if self.file is None:
            return []
        data = text.encode()
        try:
            with self.file.open("wb" if self.overwrite else "xb") as file:
                file.write(data)
        except FileExistsError:
            raise Refused(f"{self.file} is there already; --force replaces it") from None
        return [f"{self.file} (text/plain, {len(data)} bytes)"]

    def _saved(self, image: GeneratedImage, name: Path | None) -> Path:
        if name is None:
            return _under_a_free_name(image)
        try:
            return image.save(name, overwrite=self.overwrite)
        except FileExistsError as error:
            raise Refused(f"{error.filename} is there already; --force replaces it") from None

    def _names(self, count: int) -> list[Path]:
        if self.path is None or count == 1:
            return [self.path] if self.path else []
        suffix = self.path.suffix if self.path.suffix.lower() in SUFFIXES.values() else ""
        stem = self.path.name.removesuffix(suffix)
        return [self.path.with_name(f"{stem}-{number}{suffix}") for number in range(1, count + 1)]


def _under_a_free_name(image: GeneratedImage) -> Path:
    for number in range(1, NAMES_MAX):
        try:
            return image.save(f"image-{number}" if number > 1 else "image")
        except FileExistsError:
            continue
    raise Refused(f"{NAMES_MAX} names are taken here: give -o one")


def print_completion(completion: Completion, output: Output, *, as_json: bool = False) -> None:
    """Print a text, or save what goes to files and print where it is; with `as_json` as one object."""
    text = completion.text if not completion.text or completion.text.endswith("\n") else f"{completion.text}\n"
    written = output.write(completion.images) if completion.images else output.write_text(text)
    saved = bool(completion.images) or output.file is not None
    if as_json:
        answer = {"written": written} if saved else {"text": completion.text}
        out(json.dumps(answer | completion.done.model_dump(exclude_none=True), ensure_ascii=False) + "\n")
    else:
        out("".join(f"{line}\n" for line in written) if saved else text)


@contextmanager
def failing_as_json(as_json: bool) -> Iterator[None]:
    """Print what the worker answers in place of the answer as a line of JSON too, where JSON was asked for."""
    try:
        yield
    except ServiceError as error:
        if as_json:
            data = error.data.model_dump(exclude_none=True)
            out(json.dumps({"type": "error", "id": error.request_id, "data": data}, ensure_ascii=False) + "\n")
        raise
