"""What aiohttp is spared, and that nothing is lost by it."""

import asyncio
from contextlib import suppress
from functools import partial

import aiohttp  # noqa: TID251 - what it does by itself is what is tested
import pytest
from aiohttp.client_proto import ResponseHandler  # noqa: TID251

from aichats_worker.provider.http.protocol import Body, Connector, Protocol
from tests.direct.test_corridor import until
from tests.provider.wire import CLOSE, HOLD, wire

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS_MAX = 50
KEPT_CHUNKS = 16384  # of a body, before no more is read
KEPT_BYTES = 512 * 1024  # the same


def chunked(chunk: bytes, count: int) -> bytes:
    return HEAD + b"%x\r\n%b\r\n" % (len(chunk), chunk) * count + b"0\r\n\r\n"


def session_of(kind: type[ResponseHandler]) -> aiohttp.ClientSession:
    """A session whose connections are of a kind."""
    connector = aiohttp.TCPConnector()
    connector._factory = partial(kind, loop=asyncio.get_running_loop())
    return aiohttp.ClientSession(connector=connector)


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

        self.kind = Watched

    async def read(self, url: str, *, pause: float = 0) -> bytes:
        """Everything that an answer holds, with a pause before each read."""
        async with session_of(self.kind) as session, session.get(url) as response:
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
    seen, full, taken = Seen(Protocol), asyncio.Event(), asyncio.Event()
    chunk = b"9\r\ndata: x\n\n\r\n"
    rest = chunk * 1000 + b"0\r\n\r\n"
    async with (
        asyncio.timeout(10),
        wire(lambda _: [HEAD + chunk * KEPT_CHUNKS, full, chunk, taken, rest, HOLD]) as server,
        session_of(seen.kind) as session,
        session.get(server.url) as response,
    ):
        await until(lambda: len(response.content._buffer) >= KEPT_CHUNKS)
        full.set()
        await until(lambda: None in seen.parsed)
        body = await response.content.readany()
        taken.set()
        while data := await response.content.readany():
            body += data
        assert body == b"data: x\n\n" * (KEPT_CHUNKS + 1 + 1000)


async def test_aiohttp_keeps_account_of_chunks_that_nobody_asks_for() -> None:
    """Where this fails, Body may go."""
    async with (
        wire(lambda _: [chunked(b"hello", CHUNKS_MAX), HOLD]) as server,
        session_of(ResponseHandler) as session,
        session.get(server.url) as response,
    ):
        await response.content.wait_eof()
        assert len(response.content._http_chunk_splits or ()) == CHUNKS_MAX


async def test_what_http_cut_is_joined_when_it_is_read() -> None:
    rest = chunked(b"hello", CHUNKS_MAX).removeprefix(HEAD)
    async with (
        wire(lambda _: [HEAD + b"1\r\n>\r\n", 0.1, rest, HOLD]) as server,
        session_of(Protocol) as session,
        session.get(server.url) as response,
    ):
        assert type(response.content) is Body
        await response.content.wait_eof()
        assert await response.content.read(3) == b">he"
        assert await response.content.readany() == (b"hello" * CHUNKS_MAX)[2:]
        assert await response.content.readany() == b""


async def test_a_body_is_read_by_one_and_not_once_its_connection_is_closed_here() -> None:
    session = session_of(Protocol)
    async with wire(lambda _: [HEAD + b"1\r\n>\r\n", HOLD]) as server, session.get(server.url) as response:
        body = response.content
        assert body._http_chunk_splits is None, "no account is kept of what came with the head either"
        assert await body.readany() == b">"
        reading = asyncio.ensure_future(body.readany())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="somebody else"):
            await body.readany()
        reading.cancel()
        await asyncio.wait([reading])
        await session.close()
        with pytest.raises(RuntimeError, match="closed"):
            await body.readany()


async def read_to_the_cut(kind: type[ResponseHandler]) -> bytes:
    """All that is given out of a body that is cut while nobody reads it."""
    async with (
        wire(lambda _: [HEAD + b"1\r\n>\r\n", 0.1, b"5\r\nhello\r\n5\r\nhe", CLOSE]) as server,
        session_of(kind) as session,
        session.get(server.url) as response,
    ):
        async with asyncio.timeout(5):
            while response.content.exception() is None:
                await asyncio.sleep(0.01)
        came = b""
        with suppress(aiohttp.ClientPayloadError):
            while data := await response.content.readany():
                came += data
        return came


async def test_what_came_before_a_cut_is_given_out_first() -> None:
    assert await read_to_the_cut(Protocol) == b">hellohe"
    assert await read_to_the_cut(ResponseHandler) == b"", "where this fails, readany() may go"


@pytest.mark.parametrize("chunk", [b"y\n", b"data: " + b"x" * 100 + b"\n\n"], ids=["small", "large"])
async def test_a_body_that_is_read_slowly_is_bounded_by_its_bytes_and_its_chunks(chunk: bytes) -> None:
    count = 3 * KEPT_BYTES // len(chunk)
    async with (
        wire(lambda _: [HEAD, 0.1, chunked(chunk, count).removeprefix(HEAD), HOLD]) as server,
        session_of(Protocol) as session,
        session.get(server.url) as response,
    ):
        await asyncio.sleep(0.5)
        held = response.content.total_bytes
        assert await response.content.read() == chunk * count
    assert held <= min(KEPT_BYTES + len(chunk), len(chunk) * (KEPT_CHUNKS + 2))


async def test_the_workers_connections_speak_so() -> None:
    connector = Connector()
    try:
        assert isinstance(connector._factory(), Protocol)
    finally:
        await connector.close()
