"""A provider that fails as the plan says. Each call of a job has a text of its own, so that a splice is seen."""

import asyncio
import base64
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from benchmarks.chaos.plan import SLOW, Job

PROMPT: Final = "chaos "
FILLING: Final = "fill "  # and for how long, in seconds: a core request
HALF: Final = 0.5
STATUSES: Final = {"503": 503, "429": 429, "400": 400, "413": 413}


def words(job: Job, call: int) -> list[str]:
    """Return what the provider says at a job's call of this number, from 1 on."""
    return [f"{job.id}.{call}.{number};" for number in range(job.words)]


def picture(job: Job, call: int) -> bytes:
    """Return the image that it draws at that call: its type is right, and it is no other call's."""
    return b"GIF89a" + f"{job.id}.{call}".encode() * 100


class Provider:
    """Speaks as ai-chats.org.

    Attributes:
        calls: By a job's id, what the provider did at each of its calls.
        url: The origin.
    """

    def __init__(self, jobs: Sequence[Job], silence_seconds: float) -> None:
        self.calls: dict[str, list[str]] = defaultdict(list)
        self.url = ""
        self._silence_seconds = silence_seconds
        self._jobs = {job.id: job for job in jobs}
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stop, and close all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked: Any = orjson.loads(await request.read())
        prompt = asked["messagesHistory"][-1]["content"]
        if prompt.startswith(FILLING):
            await asyncio.sleep(float(prompt.removeprefix(FILLING)))
            return web.Response(text="data: full\n\n", content_type="text/event-stream")
        job = self._jobs[prompt.removeprefix(PROMPT)]
        calls = self.calls[job.id]
        outcome = job.outcomes[len(calls)] if len(calls) < len(job.outcomes) else "ok"
        calls.append(outcome)
        if outcome in STATUSES:
            headers = {"Retry-After": "1"} if outcome == "429" else {}
            return web.json_response({"error": {"message": "as planned"}}, status=STATUSES[outcome], headers=headers)
        if outcome == SLOW:
            await asyncio.sleep(self._silence_seconds)
            outcome = "ok"
        if job.kind == "image":
            return await self._draw(request, job, len(calls), outcome)
        return await self._stream(request, job, words(job, len(calls)), outcome)

    async def _draw(self, request: web.Request, job: Job, call: int, outcome: str) -> web.StreamResponse:
        await asyncio.sleep(job.pause)
        if outcome != "ok" and request.transport is not None:
            request.transport.abort()
        return web.json_response({"data": [{"b64_json": base64.b64encode(picture(job, call)).decode()}]})

    async def _stream(self, request: web.Request, job: Job, said: list[str], outcome: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        try:
            await response.prepare(request)
            for number, word in enumerate(said):
                if outcome != "ok" and number >= HALF * len(said):
                    return await self._break(request, response, outcome)
                await response.write(f"data: {word}\n\n".encode())
                await asyncio.sleep(job.pause)
            if outcome != "ok":
                return await self._break(request, response, outcome)
            await response.write(b"event: trylimit\ndata: 29\n\n")
        except ConnectionError:
            pass  # a worker that was killed reads no answer
        return response

    async def _break(self, request: web.Request, response: web.StreamResponse, outcome: str) -> web.StreamResponse:
        if outcome == "stall":
            await asyncio.Event().wait()  # until the client goes
        if request.transport is not None:
            request.transport.abort()
        return response
