"""`JobHandle`: work that is stored, and what came of it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from aichats_client.completion import Completion, GeneratedImage, completed
from aichats_client.errors import service_error
from aichats_client.reading import TextStream
from aichats_schemas.events import Error, StreamEvent

if TYPE_CHECKING:
    from aichats_client.client import Client


class JobHandle:
    """A job of a tenant; made by `Client.submit` and `Client.job`. Leaving its stream does not stop it: `cancel` does.

    It is read from its beginning each time, as often as is liked, while it is queued, runs, or has ended (for 15
    minutes). A worker that dies, or that serves the record and goes, is not noticed.

    Attributes:
        id: Its name within the tenant.
    """

    def __init__(self, client: "Client", job_id: str) -> None:
        self.id = job_id
        self._client = client
        self._newest = 0  # the highest attempt that was seen: what it replaced is not shown again

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    def text(self, *, on_restart: Callable[[], object] | None = None) -> TextStream:
        """Read a text job as it is made: `async for piece in job.text()`.

        Args:
            on_restart: Called where another attempt replaces all pieces that were yielded; without it that is raised
                as `Restarted`, and reading again begins with the newest attempt.
        """
        return TextStream(self._current(), on_restart)

    async def result(self) -> Completion:
        """Wait for its end, and return what it came to. Bound it with asyncio.timeout: the job goes on all the same.

        Raises:
            ServiceError: The job failed, was cancelled, or is not there.
            NoWorker, Stalled: No worker had a word about it for the client's `patience_seconds`.
        """
        return await completed(self._current())

    async def image(self) -> GeneratedImage:
        """Wait for an image job's image. Raises as `result`."""
        return (await self.result()).image

    async def events(self, *, after: tuple[int, int] | None = None) -> AsyncGenerator[StreamEvent, None]:
        """Yield all events of all attempts, each once, after `(attempt, seq)` where it is given. Raises as `result`.

        A higher `attempt` replaces what came before. Events with attempt 0 say that it still waits.
        """
        following = await self._client.following(self.id)
        async with aclosing(following.events(after)) as events:
            async for event in events:
                self._newest = max(self._newest, event.attempt)
                if isinstance(event, Error):
                    raise service_error(event.data, self.id)
                yield event

    async def cancel(self) -> bool:
        """Stop it, running or queued. False where it has ended, or is not there."""
        return await self._client.cancel(self.id)

    async def _current(self) -> AsyncGenerator[StreamEvent, None]:
        """Yield the events but those of attempts that were replaced when this began."""
        newest = self._newest
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.attempt == 0 or event.attempt >= newest:
                    yield event
