"""How an answer travels: words and faults in order, then the lines, writes and connection that are wanted."""

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from aiohttp import web

from aichats_worker.simulator.answers import CUT, HOLD, Cut, Hold, Part
from aichats_worker.simulator.directives import Dialect, Directives
from aichats_worker.simulator.oddities import with_oddities

SAYS: Final = "x-simulator"
NAME: Final = "aichats-worker"
EVENT_STREAM: Final = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_BOM: Final = b"\xef\xbb\xbf"
_LINE_ENDS: Final = {"crlf": b"\r\n", "cr": b"\r"}
_GZIP: Final = 16 + zlib.MAX_WBITS


class Stream(Protocol):
    """An answer in one dialect."""

    def opening(self) -> Sequence[Part]:
        """What comes before the first word."""

    def delta(self, word: str) -> bytes:
        """One word."""

    def error(self) -> bytes:
        """An error in the middle."""

    def ending(self) -> Sequence[Part]:
        """What comes after the last word."""


def told(stream: Stream, said: Sequence[str], wanted: Directives, dialect: Dialect) -> list[Part]:
    """Return an answer's parts, in order, with the faults that are wanted at their places."""
    parts: list[Part] = [wanted.first_byte] if wanted.first_byte else []
    parts += [_BOM] if "bom" in wanted.odd.split(",") else []
    parts += stream.opening()
    for i, word in enumerate(said):
        parts += [wanted.pause] if i else []
        parts += _faults(wanted, i)
        if wanted.error_after == i:
            return [*parts, stream.error()]
        usual = stream.delta(word)
        parts.append(with_oddities(usual, word, wanted.odd, dialect) if i == min(1, len(said) - 1) else usual)
    parts += _faults(wanted, len(said))
    return [*parts, stream.error()] if wanted.error_after >= len(said) else [*parts, *stream.ending()]


def _faults(wanted: Directives, here: int) -> list[Part]:
    found: list[Part] = [CUT] if wanted.cut_after == here else []
    return [*found, HOLD] if wanted.stall_after == here else found


def shaped(parts: Iterable[Part], wanted: Directives) -> list[Part]:
    """Return the parts with the line ends, comments, compression and sizes of writes that are wanted."""
    line_end = _LINE_ENDS.get(wanted.lines)
    made: list[Part] = []
    for part in parts:
        if isinstance(part, bytes):
            made.append(part.replace(b"\n", line_end) if line_end else part)
        elif isinstance(part, float) and 0 < wanted.heartbeat < part:
            made += [wanted.heartbeat, b": ping\n\n"] * int(part / wanted.heartbeat)
        else:
            made.append(part)
    made = _compressed(made) if wanted.gzip else made
    return _in_writes(made, wanted.write) if wanted.write > 0 else made


def _compressed(parts: list[Part]) -> list[Part]:
    packer = zlib.compressobj(wbits=_GZIP)
    packed: list[Part] = [
        packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) if isinstance(part, bytes) else part for part in parts
    ]
    return [*packed, packer.flush()]


def _in_writes(parts: list[Part], size: int) -> list[Part]:
    made: list[Part] = []
    for part in parts:
        if isinstance(part, bytes):
            made += [piece for at in range(0, len(part), size) for piece in (part[at : at + size], 0.0)]
        else:
            made.append(part)
    return made


async def send_shaped(
    request: web.Request, parts: Iterable[Part], wanted: Directives, *, status: int = 200, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send an answer as the directives want it to travel."""
    made = shaped(parts, wanted)
    more: dict[str, str] = {"Content-Encoding": "gzip"} if wanted.gzip else {}
    if wanted.sized:
        more["Content-Length"] = str(sum(len(part) for part in made if isinstance(part, bytes)))
    if wanted.header_bytes > 0:
        more["x-long"] = "x" * wanted.header_bytes
    response = await send(request, made, status=status, headers={**headers, **more})
    if wanted.idle_close >= 0 and request.transport is not None:
        await response.write_eof()
        asyncio.get_running_loop().call_later(wanted.idle_close, request.transport.close)
    return response


async def send(
    request: web.Request, parts: Iterable[Part], *, status: int = 200, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send these parts and nothing else; with Content-Length as they are, else in chunks."""
    response = web.StreamResponse(status=status, headers={SAYS: NAME, **headers})
    await response.prepare(request)
    for part in parts:
        if isinstance(part, Cut):
            cut(request)
            break
        if isinstance(part, Hold):
            await asyncio.Event().wait()
        elif isinstance(part, bytes):
            await response.write(part)
        else:
            await asyncio.sleep(part)
    return response


def cut(request: web.Request) -> None:
    """Cut the connection, without a word."""
    if request.transport is not None:
        request.transport.abort()
