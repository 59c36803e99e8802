"""A headless Chromium, spoken to by its own protocol: real pages, without a package for it."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

START_TIMEOUT_SECONDS = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def executable() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        async for message in self._socket:
            answer: dict[str, Any] = message.json()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
        raise AssertionError("the browser has gone")

    async def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")


@asynccontextmanager
async def opened(path: str, folder: Path, url: str) -> AsyncIterator[Page]:
    """Open a page in a browser of its own."""
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
    ]
    process = await asyncio.create_subprocess_exec(
        path,
        *(*options, f"--user-data-dir={folder}", url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                socket = await session.ws_connect(await _tab(process, session, url), max_msg_size=0)
            yield Page(socket)
    finally:
        process.kill()
        await process.communicate()


async def _tab(process: asyncio.subprocess.Process, session: aiohttp.ClientSession, url: str) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        if found := re.search(rb"DevTools listening on ws://([^/]+)/", line):
            break
    else:
        raise AssertionError("the browser does not start")
    while True:
        async with session.get(f"http://{found[1].decode()}/json/list") as answer:
            tabs = await answer.json()
        for tab in tabs:
            if tab["type"] == "page" and tab["url"].startswith(url):
                return str(tab["webSocketDebuggerUrl"])
        await asyncio.sleep(0.1)
