"""`aichats-worker ask`, `image`, `cancel` and `resume`: the requester's side, for people."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import Client
from rich.console import Console

import aichats_client
from aichats_client import Answer, ClientError
from aichats_schemas.events import Error, StreamEvent
from aichats_schemas.requests import ImageRequest, TextRequest
from aichats_schemas.subjects import Kind, Subjects, new_id
from aichats_worker.commands.connection import connected
from aichats_worker.settings import Settings

SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif", "image/avif": "avif"}


class Refused(Exception):
    """The worker answered with an error; the message is for the person who asked."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and where.

    Attributes:
        settings: How to reach the broker.
        tenant: The subject's tenant.
        timeout_seconds: The whole budget of a request; None for the worker's maximum.
        as_json: Print each event as it came instead of the answer.
    """

    settings: Settings
    tenant: str
    timeout_seconds: float | None
    as_json: bool

    @property
    def subjects(self) -> Subjects:
        """Below the prefix of the settings."""
        return Subjects(self.settings.worker_subject_prefix)

    async def ask(self, prompt: str) -> None:
        """Print a text as it comes.

        Raises:
            Refused: The answer is an error.
            aichats_client.ClientError: There is no answer.
        """
        request = TextRequest(prompt=prompt, timeout_seconds=self.timeout_seconds)
        async with connected(self.settings) as nc:
            await self._printed(self._stream(nc, "text", request))

    async def resume(self, request_id: str, after: tuple[int, int] | None) -> None:
        """Print the events of a job again, and go on live."""
        async with connected(self.settings) as nc:
            events = aichats_client.resume(nc, request_id, tenant=self.tenant, after=after, subjects=self.subjects)
            await self._printed(events)

    async def cancel(self, request_id: str) -> bool:
        """Stop a request. False where nobody runs or holds it."""
        async with connected(self.settings) as nc:
            return await aichats_client.cancel(nc, request_id, tenant=self.tenant, subjects=self.subjects)

    async def image(self, prompt: str, output: Path | None, console: Console) -> str:
        """Get an image into a file, `-` for standard output. Returns what was written, for the person who asked.

        Raises:
            Refused: The answer is an error.
            aichats_client.ClientError: There is no answer.
        """
        request = ImageRequest(prompt=prompt, timeout_seconds=self.timeout_seconds)
        answer = Answer()
        async with connected(self.settings) as nc:
            with console.status("waiting for the image") as status:
                async with aclosing(self._stream(nc, "image", request)) as events:
                    async for event in events:
                        answer.add(event)
                        if event.type == "image":
                            status.update(f"part {event.data.part + 1} of {event.data.parts}")
        _ended(answer)
        return _written(answer.images[0], answer.mimes[0], output)

    async def _stream(
        self, nc: Client, kind: Kind, request: TextRequest | ImageRequest
    ) -> AsyncGenerator[StreamEvent, None]:
        """Yield the events; a request that is interrupted, by Ctrl-C say, is cancelled."""
        request_id = new_id()
        events = aichats_client.stream(
            nc, kind, request, tenant=self.tenant, request_id=request_id, subjects=self.subjects
        )
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except asyncio.CancelledError:
            with suppress(ClientError):
                await aichats_client.cancel(nc, request_id, tenant=self.tenant, subjects=self.subjects)
            raise

    async def _printed(self, events: AsyncGenerator[StreamEvent, None]) -> None:
        answer = Answer()
        async with aclosing(events):
            async for event in events:
                answer.add(event)
                if self.as_json:
                    _out(event.model_dump_json(exclude_none=True) + "\n")
                elif event.type == "response":
                    _out(event.data)
        if not self.as_json and answer.text and not answer.text.endswith("\n"):
            _out("\n")
        _ended(answer)


def _out(text: str) -> None:
    """Write as it is: no markup, no wrapping, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _ended(answer: Answer) -> None:
    if answer.end is None:
        raise Refused("the stream was cut: it ended without a final event; try again")
    if isinstance(answer.end, Error):
        error = answer.end.data
        wait = f" in {error.retry_after_ms / 1000:g} s" if error.retry_after_ms is not None else ""
        again = f"; trying again{wait} may help" if error.retryable else ""
        raise Refused(f"{error.code}: {error.message}{again}")


def _written(data: bytes, mime: str, output: Path | None) -> str:
    if output == Path("-"):
        sys.stdout.buffer.write(data)
        return ""
    path = output or Path(f"image.{SUFFIXES.get(mime, 'bin')}")
    # A file beside it first: whoever looks never sees half an image.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return f"{path} ({mime}, {len(data)} bytes)"
