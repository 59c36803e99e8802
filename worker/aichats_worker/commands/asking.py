"""What a requester does, for people: ask, and come back for jobs."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from aichats_client import Client, JobHandle
from aichats_client.options import asked
from aichats_schemas.events import StreamEvent
from aichats_schemas.requests import ImageRequest, TextRequest
from aichats_schemas.subjects import Kind
from aichats_worker.commands.connection import connected
from aichats_worker.commands.ending import Unusable
from aichats_worker.commands.manners import console, out
from aichats_worker.commands.output import Output, failing_as_json, print_completion, print_pieces, print_reasoning
from aichats_worker.settings import Settings

Options = dict[str, Any]


def check(kind: Kind, prompt: str | None, options: Options) -> None:
    """Hold a request against the contract before anybody is asked.

    Raises:
        Unusable: A field is wrong; the sentence names it.
    """
    try:
        body = asked(kind, prompt, options)
        (ImageRequest if kind == "image" else TextRequest).model_validate(body)
    except ValidationError as error:
        says = (f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors())
        raise Unusable("; ".join(says)) from None
    except (TypeError, ValueError) as error:
        raise Unusable(str(error)) from None


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and where.

    Attributes:
        settings: How to reach the broker.
        tenant: Whose requests these are.
        as_json: Print JSON instead of the answer.
    """

    settings: Settings
    tenant: str = "default"
    as_json: bool = False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect.

        Raises:
            aichats_worker.commands.connection.Unreachable: The broker does not answer, or refuses us.
        """
        prefix = self.settings.worker_subject_prefix
        async with connected(self.settings) as nc, Client(nc, tenant=self.tenant, prefix=prefix) as ai:
            yield ai

    async def ask(self, prompt: str | None, options: Options) -> None:
        """Print a text as it comes, or its events."""
        async with self.client() as ai:
            stream = ai.text(prompt, **options)
            if self.as_json:
                await _print_events(stream.events())
            elif options.get("reasoning"):
                await print_reasoning(stream.events())
            else:
                await print_pieces(stream, "waiting for the first word")

    async def image(self, prompt: str, output: Output, options: Options) -> None:
        """Save images, and print where they are.

        Raises:
            Unusable: They could not be written; nothing was asked.
        """
        output.check(options.get("n", 1), as_json=self.as_json)
        async with self.client() as ai:
            with failing_as_json(self.as_json), console().status("waiting for the image"):
                completion = await ai.complete("image", prompt, **options)
        print_completion(completion, output, as_json=self.as_json)

    async def result(self, job_id: str, output: Output) -> None:
        """Wait for a job's end, and print what it came to."""
        output.check(1, as_json=self.as_json, maybe_text=True)
        async with self.client() as ai:
            await self._result(ai.job(job_id), output)

    async def _result(self, job: JobHandle, output: Output) -> None:
        with failing_as_json(self.as_json), console().status("waiting for the job"):
            completion = await job.result()
        print_completion(completion, output, as_json=self.as_json)

    async def resume(self, job_id: str, after: tuple[int, int] | None, output: Output) -> None:
        """Print a job's text as it is made, or its events; what goes to a file is saved at the end.

        Raises:
            Unusable: It could not be written, or there is nothing to write but events.
        """
        if output.path is not None and (self.as_json or after is not None):
            raise Unusable("-o takes the whole answer, and resume's --json and --after print parts of it: try `result`")
        output.check(1, maybe_text=True)
        async with self.client() as ai:
            job = ai.job(job_id)
            if self.as_json:
                await _print_events(job.events(after=after))
            elif after is not None:
                await _print_rest(job, after)
            elif output.file is not None:
                await self._result(job, output)
            elif not await print_pieces(job.text(on_restart=_restarted), "waiting for the job"):
                print_completion(await job.result(), output)

    async def cancel(self, request_id: str) -> bool:
        """Stop a request. False where nobody runs or holds it."""
        async with self.client() as ai:
            return await ai.cancel(request_id)


def _restarted() -> None:
    out("\n")
    console().print("[another attempt replaces what stands above]", markup=False)


async def _print_rest(job: JobHandle, after: tuple[int, int]) -> None:
    attempt, last = after[0], ""
    async with aclosing(job.events(after=after)) as events:
        async for event in events:
            if event.type == "response":
                if event.attempt > attempt:
                    _restarted()
                out(event.data)
                attempt, last = event.attempt, event.data
    if last and not last.endswith("\n"):
        out("\n")


async def _print_events(events: AsyncGenerator[StreamEvent, None]) -> None:
    with failing_as_json(True):
        async with aclosing(events):
            async for event in events:
                out(event.model_dump_json(exclude_none=True) + "\n")
