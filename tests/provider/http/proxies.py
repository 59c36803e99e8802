"""Two small real proxies: HTTP (plain requests and CONNECT) and SOCKS5, with and without credentials."""

import asyncio
import base64
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Proxy:
    """What a proxy saw: `targets` as the client named them. Give it `auth` as "user:password" to demand that."""

    def __init__(
        self, auth: str = "", names: dict[str, str] | None = None, refuse: bytes = b"", silent: bool = False
    ) -> None:
        self.auth = auth
        self.names = names or {}  # a name server of the proxy's own
        self.refuse = refuse  # sent instead of an answer
        self.silent = silent  # accepts, and says nothing
        self.targets: list[tuple[str, int]] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def relay(self, reader: Reader, writer: Writer, host: str, port: int, first: bytes) -> None:
        far_reader, far_writer = await asyncio.open_connection(self.names.get(host, host), port)
        try:
            far_writer.write(first)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            await _abort(far_writer)

    async def http(self, reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        if self.refuse:
            writer.write(self.refuse)
            return
        wanted = b"Proxy-Authorization: Basic " + base64.b64encode(self.auth.encode())
        if self.auth and wanted not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            self.targets.append((host, int(port)))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self.relay(reader, writer, host, int(port), b"")
        else:
            parts = urlsplit(target)
            self.targets.append((parts.hostname or "", parts.port or 80))
            path = target.partition(parts.netloc)[2].encode()
            first = head.replace(target.encode(), path, 1)
            await self.relay(reader, writer, *self.targets[-1], first)

    async def socks(self, reader: Reader, writer: Writer) -> None:
        _, count = await reader.readexactly(2)
        await reader.readexactly(count)
        if self.refuse:
            writer.write(self.refuse)
            return
        writer.write(b"\x05\x02" if self.auth else b"\x05\x00")
        if self.auth:
            _, length = await reader.readexactly(2)
            user = await reader.readexactly(length)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            if f"{user.decode()}:{password.decode()}" != self.auth:
                writer.write(b"\x01\x01")
                return
            writer.write(b"\x01\x00")
        _, _, _, kind = await reader.readexactly(4)
        if kind == 1:
            host = ".".join(map(str, await reader.readexactly(4)))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        self.targets.append((host, port))
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await self.relay(reader, writer, host, port, b"")

    def serving(self, handler: Callable[[Reader, Writer], Awaitable[None]]) -> Callable[[Reader, Writer], None]:
        def connected(reader: Reader, writer: Writer) -> None:
            task = asyncio.ensure_future(self._serve(handler, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return connected

    async def _serve(
        self, handler: Callable[[Reader, Writer], Awaitable[None]], reader: Reader, writer: Writer
    ) -> None:
        try:
            await (asyncio.Event().wait() if self.silent else handler(reader, writer))
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            await _abort(writer)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _abort(writer: Writer) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def _pump(reader: Reader, writer: Writer) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


@asynccontextmanager
async def running(proxy: Proxy, kind: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """Run `proxy` as `http` or `socks`."""
    server = await asyncio.start_server(proxy.serving(getattr(proxy, kind)), "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
