"""`Client`: ask for texts and images, submit jobs and come back for them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Final, Self, Unpack

from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from aichats_client.completion import Completion, GeneratedImage, completed
from aichats_client.connecting import LOCAL, Connects, closed, connected, connection_of
from aichats_client.context import Context, read_context
from aichats_client.errors import NoWorker, Stalled, service_error
from aichats_client.following import Following
from aichats_client.job import JobHandle
from aichats_client.options import AnyOptions, ImageOptions, TextOptions, asked
from aichats_client.reading import TextStream
from aichats_client.stream import STALL_SECONDS, cancel, stream
from aichats_client.submitting import submit_job
from aichats_schemas.events import Done, Error, StreamEvent
from aichats_schemas.subjects import PROTOCOL, Kind, Subjects, is_token, new_id

# The worker keeps the deadline and says what took the time. Only where it does not say so, we do.
GRACE_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 120.0


class Client:
    """A requester. Connects when it is first used, or on `async with`, and closes what it opened.

    Args:
        servers: One URL or several; or a connection of nats-py, or FastStream's NatsBroker, which are left open.
        tenant: Whose requests these are: the last token of their subjects.
        context: The name of a context of the `nats` command line, for the servers and for who we are there.
        prefix: What the workers' subjects start with.
        patience_seconds: How long a job's stream waits while no worker has a word about it.

    Raises:
        ValueError: The tenant cannot be a token of a subject.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | NatsClient | Connects | None = None,
        *,
        tenant: str = "default",
        context: str | None = None,
        prefix: str = PROTOCOL,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        if not is_token(tenant):
            raise ValueError("a tenant is 1 to 64 of A-Z, a-z, 0-9, _ and -")
        self.tenant = tenant
        self.subjects = Subjects(prefix)
        self._given = servers
        self._context = context
        self._patience_seconds = patience_seconds
        self._nc: NatsClient | None = None
        self._connecting = asyncio.Lock()
        self._running: set[str] = set()

    async def __aenter__(self) -> Self:
        await self.connection()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connection(self) -> NatsClient:
        """Return the connection, which is opened where it is not yet.

        Raises:
            NoBroker: None of the servers answers, or they refuse us.
            ContextError: There is no such context.
        """
        async with self._connecting:
            if self._nc is None:
                self._nc = await self._open()
        return self._nc

    async def close(self) -> None:
        """Stop what still runs, and close the connection if it is our own."""
        for request_id in list(self._running):
            await self._leave(request_id)
        nc, self._nc = self._nc, None
        if nc is not None and self._is_own:
            await closed(nc)

    def text(self, prompt: str | None = None, /, **options: Unpack[TextOptions]) -> TextStream:
        """Ask for a text, and read it as it comes: `async for piece in client.text("…")`. Nothing is sent before that.

        Raises:
            TypeError, ValueError: An option is none, or wrong.
        """
        return TextStream(self._asked("text", asked("text", prompt, options)))

    async def ask(self, prompt: str | None = None, /, **options: Unpack[TextOptions]) -> str:
        """Ask for a text, and return the whole of it. `complete` has its usage and more.

        Raises:
            ClientError: There is no answer.
        """
        return (await self.complete("text", prompt, **options)).text

    async def image(self, prompt: str | None = None, /, **options: Unpack[ImageOptions]) -> GeneratedImage:
        """Ask for an image.

        Raises:
            ClientError: There is no answer.
        """
        return (await self.images(prompt, **options))[0]

    async def images(self, prompt: str | None = None, /, **options: Unpack[ImageOptions]) -> list[GeneratedImage]:
        """Ask for `n` images.

        Raises:
            ClientError: There is no answer.
        """
        completion = await self.complete("image", prompt, **options)
        return completion.images or [completion.image]

    async def complete(self, kind: Kind, prompt: str | None = None, /, **options: Unpack[AnyOptions]) -> Completion:
        """Ask for a text or for images, and return the whole answer with its usage, model and times.

        Raises:
            ClientError: There is no answer.
        """
        return await completed(self._asked(kind, asked(kind, prompt, options)))

    async def submit(
        self,
        kind: Kind,
        prompt: str | None = None,
        /,
        *,
        id: str | None = None,  # noqa: A002 - the contract's own word
        **options: Unpack[AnyOptions],
    ) -> JobHandle:
        """Submit a job: when this returns it is stored, and survives workers and brokers.

        Args:
            kind: `text` or `image`.
            prompt: As of `text` and `image`.
            id: Names the job for good: a second submit under it runs nothing. Without one it gets one that nobody has.
            options: As of `text` and `image`.

        Raises:
            JobExists: A job of this id is queued or running.
            QueueFull: The queue takes no more.
            NoWorker: No queue is there.
            Stalled: No word whether it is stored; submit it again under the same id.
        """
        job = self.job(id or new_id())
        await submit_job(
            await self.connection(), self.subjects.job(kind, self.tenant, job.id), asked(kind, prompt, options)
        )
        return job

    def job(self, id: str) -> JobHandle:  # noqa: A002 - the contract's own word
        """Come back to a job, of this process or of another."""
        if not is_token(id):
            raise ValueError("an id is 1 to 64 of A-Z, a-z, 0-9, _ and -")
        return JobHandle(self, id)

    async def cancel(self, id: str) -> bool:  # noqa: A002 - the contract's own word
        """Stop a request of this tenant, running or queued. False where nobody runs or holds it, or it has ended.

        Raises:
            NoWorker: There is no worker.
            ClientError: It could not be found out.
        """
        return await cancel(await self.connection(), id, tenant=self.tenant, subjects=self.subjects)

    async def following(self, id: str) -> Following:  # noqa: A002 - the contract's own word
        """Return what reads a job's record."""
        return Following(await self.connection(), self.tenant, id, self.subjects, self._patience_seconds)

    @property
    def _is_own(self) -> bool:
        return self._given is None or isinstance(self._given, str | Sequence)

    async def _open(self) -> NatsClient:
        context = read_context(self._context) if self._context else Context()
        given = self._given if self._given is not None else context.url or LOCAL
        if isinstance(given, str):
            given = [url.strip() for url in given.split(",")]
        if not isinstance(given, Sequence):
            return await connection_of(given)
        # Of the tenant's own: a user that may only subscribe there needs no setting (docs/rights.md).
        return await connected(given, context, context.inbox_prefix or f"_INBOX.{self.tenant}")

    async def _asked(self, kind: Kind, body: dict[str, object]) -> AsyncGenerator[StreamEvent, None]:
        """Yield the events of a request. Whoever leaves before the final one stops it at the worker."""
        nc, request_id = await self.connection(), new_id()
        timeout = body.get("timeout_seconds")
        seconds = float(str(timeout)) + GRACE_SECONDS if timeout is not None else float("inf")
        until = time.monotonic() + seconds
        events = stream(
            nc, kind, body, tenant=self.tenant, request_id=request_id,
            stall_seconds=min(STALL_SECONDS, seconds), subjects=self.subjects,
        )  # fmt: skip
        self._running.add(request_id)
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Done | Error):
                        self._running.discard(request_id)
                    if isinstance(event, Error):
                        raise service_error(event.data, event.id)
                    yield event
                    if time.monotonic() > until and request_id in self._running:
                        raise Stalled(f"no end within {seconds:g} s, though the worker should have ended it")
        except NoWorker:
            self._running.discard(request_id)
            raise
        finally:
            await self._leave(request_id)

    async def _leave(self, request_id: str) -> None:
        """Cancel a request that has not ended. Without waiting for the answer: nothing hangs on it."""
        if request_id not in self._running:
            return
        self._running.discard(request_id)
        nc = self._nc
        if nc is not None and nc.is_connected:
            with suppress(NatsError):
                await nc.publish(self.subjects.cancel(self.tenant, request_id), b"", reply=nc.new_inbox())
