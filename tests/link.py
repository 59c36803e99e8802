"""A TCP link between a worker and its broker that can be slow, silent or cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 16 * 1024


class Link:
    """Forwards to a port of this machine. `url` is for the worker.

    Attributes:
        flowing: Cleared, nothing is forwarded any more, either way, and no connection is closed: a partition.
        up: Cleared, the same for what the worker says alone; it still hears the broker.
        down: Cleared, the same for what the broker says.
        delay_seconds: How long each piece is on its way, either way: another continent.
        bytes_per_second: How fast the worker's bytes are forwarded, over all connections; None for at once.
    """

    def __init__(self, port: int) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.up = asyncio.Event()
        self.up.set()
        self.down = asyncio.Event()
        self.down.set()
        self.bytes_per_second: float | None = None
        self.delay_seconds = 0.0
        self.url = ""
        self._port = port
        self._writers: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def inject(self, line: bytes) -> None:
        """Say something to the workers in the broker's name."""
        for worker, _ in self._writers:
            worker.write(line)

    def cut(self) -> None:
        """Cut every connection, as when a machine is gone."""
        for pair in self._writers:
            for writer in pair:
                writer.transport.abort()
        self._writers.clear()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # also where the broker is down

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port, limit=CHUNK_BYTES)
            self._writers.append((writer, far_writer))
            try:
                await asyncio.gather(self._pump(reader, far_writer, self.up), self._pump(far_reader, writer, self.down))
            finally:
                far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self.flowing.wait()
            await way.wait()
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if way is self.up and self.bytes_per_second:
                await asyncio.sleep(len(data) / self.bytes_per_second)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one side has ended: so does the other

    async def close(self) -> None:
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def linked(port: int) -> AsyncIterator[Link]:
    """Run a link to `port`."""
    link = Link(port)
    server = await asyncio.start_server(link.connected, "127.0.0.1", 0, limit=CHUNK_BYTES)
    link.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        await link.close()
