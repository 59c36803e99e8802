"""A server that sends exactly the bytes that it is told, in the writes that it is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress


class Raw:
    """Answers every connection's first request with `writes`, then closes.

    Attributes:
        writes: What to send, each with a turn of the event loop after it.
        url: Where it listens.
    """

    def __init__(self) -> None:
        self.writes: Sequence[bytes] = ()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            for data in self.writes:
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


@asynccontextmanager
async def raw_server() -> AsyncIterator[Raw]:
    raw = Raw()
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield raw
