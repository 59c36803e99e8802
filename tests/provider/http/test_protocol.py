"""What aiohttp is spared, and that nothing is lost by it."""

import asyncio
from functools import partial

import aiohttp  # noqa: TID251 - what it does by itself is what is tested
from aiohttp.client_proto import ResponseHandler  # noqa: TID251

from aichats_worker.provider.http.protocol import Connector, Protocol
from tests.provider.wire import HOLD, wire

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS_MAX = 50
KEPT_CHUNKS = 16384  # of a body, before aiohttp reads no more


def chunked(chunk: bytes, count: int) -> bytes:
    return HEAD + b"%x\r\n%b\r\n" % (len(chunk), chunk) * count + b"0\r\n\r\n"


class Seen:
    """What connections of a kind were told, in their order: how many bytes came, and None for each pause."""

    def __init__(self, kind: type[ResponseHandler]) -> None:
        self.parsed: list[int | None] = []
        seen = self

        class Watched(kind):  # type: ignore[misc, valid-type]
            def data_received(self, data: bytes) -> None:
                seen.parsed.append(len(data))
                super().data_received(data)

            def pause_reading(self) -> None:
                seen.parsed.append(None)
                super().pause_reading()

        self._kind = Watched

    async def read(self, url: str, *, pause: float = 0) -> bytes:
        """Everything that an answer holds, with a pause before each read."""
        connector = aiohttp.TCPConnector()
        connector._factory = partial(self._kind, loop=asyncio.get_running_loop())  # type: ignore[assignment]
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
            body = b""
            while data := await response.content.readany():
                body += data
                await asyncio.sleep(pause)
            return body


async def test_aiohttp_parses_nothing_again_for_each_chunk_that_is_taken() -> None:
    """Where this fails, provider/http/protocol.py may go."""
    async with wire(lambda _: [chunked(b"hello", CHUNKS_MAX)]) as server:
        seen = Seen(ResponseHandler)
        assert await seen.read(server.url) == b"hello" * CHUNKS_MAX
    assert seen.parsed.count(0) >= CHUNKS_MAX


async def test_what_was_not_paused_is_not_resumed() -> None:
    async with wire(lambda _: [chunked(b"hello", CHUNKS_MAX)]) as server:
        seen = Seen(Protocol)
        assert await seen.read(server.url) == b"hello" * CHUNKS_MAX
    assert 0 not in seen.parsed


async def test_what_was_paused_is_resumed() -> None:
    large = bytes(range(256)) * 4096
    async with wire(lambda _: [chunked(large, 8)]) as server:
        seen = Seen(Protocol)
        assert await seen.read(server.url, pause=0.01) == large * 8
    assert None in seen.parsed, "more was sent than is kept"
    assert 0 in seen.parsed, "what was left of a read is parsed once there is room"


async def test_what_the_parser_holds_back_comes_though_nothing_more_arrives() -> None:
    """Its own pause outlives that of the connection: here the last chunk of a read is one too many to be kept."""
    seen = Seen(Protocol)
    chunk = b"9\r\ndata: x\n\n\r\n"
    rest = chunk * 1000 + b"0\r\n\r\n"
    async with wire(lambda _: [HEAD + chunk, 0.2, chunk * KEPT_CHUNKS, 0.5, rest, HOLD]) as server:
        async with asyncio.timeout(10):
            assert await seen.read(server.url, pause=0.4) == b"data: x\n\n" * (1 + KEPT_CHUNKS + 1000)
    assert None in seen.parsed


async def test_the_workers_connections_speak_so() -> None:
    connector = Connector()
    try:
        assert isinstance(connector._factory(), Protocol)
    finally:
        await connector.close()
