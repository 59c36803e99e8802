"""Calling the simulator as any HTTP client does."""

import json
from dataclasses import dataclass
from typing import Any

import aiohttp  # noqa: TID251 - the simulator is looked at from outside
from yarl import URL

from aichats_worker.simulator.server import Simulator


@dataclass(frozen=True)
class Called:
    """What came back, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def chunks(self) -> list[Any]:
        """The JSON of each data line but `[DONE]`."""
        lines = [line[5:].strip() for line in self.body.split(b"\n") if line.startswith(b"data:")]
        return [json.loads(line) for line in lines if line not in (b"", b"[DONE]")]

    @property
    def text(self) -> str:
        """What the deltas of an OpenAI stream say."""
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices") or []]
        return "".join((choice.get("delta") or {}).get("content") or "" for choice in choices)


class Caller:
    """Calls one simulator."""

    def __init__(self, session: aiohttp.ClientSession, simulator: Simulator) -> None:
        self.session = session
        self.simulator = simulator

    async def aichats(self, prompt: str, kind: str = "chat") -> Called:
        asked = {"type": kind, "messagesHistory": [{"from": "you", "content": prompt}]}
        return await self.post("/chat/send2/", asked)

    async def chat(self, prompt: str, *, stream: bool = True, **more: Any) -> Called:
        asked = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": stream, **more}
        return await self.post("/v1/chat/completions", asked)

    async def images(self, prompt: str, **more: Any) -> Called:
        return await self.post("/v1/images/generations", {"prompt": prompt, **more})

    async def post(self, path: str, asked: Any, **headers: str) -> Called:
        async with self.session.post(
            self.simulator.url + path, json=asked, headers=headers, allow_redirects=False
        ) as answer:
            return Called(answer.status, dict(answer.headers), await answer.read())

    async def get(self, target: str, **headers: str) -> Called:
        """GET a path, or a whole address byte for byte."""
        url = target if target.startswith("http") else self.simulator.url + target
        async with self.session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as answer:
            return Called(answer.status, dict(answer.headers), await answer.read())
