"""What somebody sees on a terminal, while standard output has the answer alone."""

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aichats_worker.app import App
from aichats_worker.commands.ending import STATUS_INTERRUPTED
from tests.commands.test_commands import RUN_TIMEOUT_SECONDS
from tests.jobs.test_jobs import Broker, StartJobs, broker, start_jobs
from tests.processes import ROOT, NatsServer

__all__ = ["broker", "start_jobs"]
HIDDEN, SHOWN, UP = b"\x1b[?25l", b"\x1b[?25h", b"\x1b[1A"  # the cursor, as ECMA-48 and xterm have it


@dataclass
class Watched:
    """A command, and the terminal that it writes to."""

    process: asyncio.subprocess.Process
    terminal: asyncio.StreamReader
    seen: bytes = b""

    async def shows(self, words: str, *, times: int = 1) -> None:
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            while self.seen.count(words.encode()) < times:
                piece = await self.terminal.read(4096)
                assert piece, f"it ended, and showed {self.seen!r}"
                self.seen += piece

    async def ends(self) -> int:
        """Its status, once it has ended; what it shows until then is read, since a terminal holds little."""
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            reading = asyncio.ensure_future(self._read_on())
            status = await self.process.wait()
            await asyncio.wait([reading])
            reading.exception()  # Linux ends a terminal whose other side is closed with an error
            return status

    async def _read_on(self) -> None:
        while piece := await self.terminal.read(4096):
            self.seen += piece


@asynccontextmanager
async def watched(*arguments: str, on: str) -> AsyncIterator[Watched]:
    """Run a command whose `on`, stdout or stderr, is a terminal, and the other one a pipe."""
    main, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aichats_worker", *arguments),
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=terminal if on == "stdout" else asyncio.subprocess.PIPE,
        stderr=terminal if on == "stderr" else asyncio.subprocess.PIPE,
    )
    os.close(terminal)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(main, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        yield Watched(process, reader)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        transport.close()


async def test_a_spinner_says_what_is_waited_for(worker: App, nats_server: NatsServer) -> None:
    async with watched("ask", "[sim: delay=1 words=1]", "-s", nats_server.url, on="stderr") as ask:
        await ask.shows("waiting for the first word")
        assert await ask.ends() == 0
        assert ask.process.stdout is not None
        assert await ask.process.stdout.read() == b"Hello\n"


async def test_a_bar_shows_how_many_jobs_are_submitted(broker: Broker, start_jobs: StartJobs, tmp_path: Path) -> None:
    await start_jobs()
    (tmp_path / "jobs.jsonl").write_text("".join(f'{{"id": "job-{n}", "prompt": "hi"}}\n' for n in range(3)))
    file = str(tmp_path / "jobs.jsonl")
    async with watched("submit", "-f", file, "-s", broker.server.url, on="stderr") as submit:
        await submit.shows("3/3")
        assert await submit.ends() == 0
        assert submit.process.stdout is not None
        assert sorted((await submit.process.stdout.read()).split()) == [b"job-0", b"job-1", b"job-2"]


async def test_top_draws_again_until_ctrl_c_which_gives_the_cursor_back(worker: App, nats_server: NatsServer) -> None:
    async with watched("top", "--every", "0.2", "-s", nats_server.url, on="stdout") as top:
        await top.shows(f" {worker.discovery.id[:8]} ")
        await top.shows("1 worker; models: gpt-4, dalle", times=2)
        assert UP in top.seen, "a picture stands in the place of the one before"
        assert top.seen.count(HIDDEN) == 1
        assert SHOWN not in top.seen
        top.process.send_signal(signal.SIGINT)
        assert await top.ends() == STATUS_INTERRUPTED
        assert top.seen.rpartition(SHOWN)[0], "the cursor is seen again"
        assert HIDDEN not in top.seen.rpartition(SHOWN)[2]
        assert top.process.stderr is not None
        assert await top.process.stderr.read() == b""


async def test_a_text_may_be_shown_where_an_image_may_not(
    broker: Broker, start_jobs: StartJobs, tmp_path: Path
) -> None:
    await start_jobs()
    file = tmp_path / "jobs.jsonl"
    file.write_text(
        '{"id": "a-text", "prompt": "[sim: words=1]"}\n{"id": "an-image", "kind": "image", "prompt": "a cat"}\n',
        "utf-8",
    )
    async with watched("submit", "-f", str(file), "-s", broker.server.url, on="stderr") as submit:
        assert await submit.ends() == 0
    async with watched("result", "a-text", "-o", "-", "-s", broker.server.url, on="stdout") as result:
        await result.shows("Hello")
        assert await result.ends() == 0
    async with watched("result", "an-image", "-o", "-", "-s", broker.server.url, on="stderr") as result:
        assert await result.ends() == 0, "a pipe takes it"
    async with watched("result", "an-image", "-o", "-", "-s", broker.server.url, on="stdout") as result:
        assert await result.ends() == 2
        assert result.process.stderr is not None
        assert b"does not belong on a terminal" in await result.process.stderr.read()
