"""The sessions that calls go out through: made when first needed, kept, and bounded."""

from collections import OrderedDict
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from aichats_worker.provider.http.addresses import guarded_socket
from aichats_worker.provider.http.protocol import Connector

SESSIONS_MAX: Final = 32
_SOCKS: Final = ("socks5", "socks5h")
# aiohttp's own 8 KiB are less than what a Content-Security-Policy or a few cookies need.
HEADER_MAX_BYTES: Final = 64 * 1024


class Session:
    """One session, how many calls are on it, and whether it goes through a SOCKS proxy, which its connector knows."""

    def __init__(self, session: aiohttp.ClientSession, *, is_socks: bool) -> None:
        self.session = session
        self.is_socks = is_socks
        self.calls = 0

    def hang_up(self) -> None:
        """Take note that a call has ended."""
        self.calls -= 1


class Sessions:
    """One session for direct calls and HTTP proxies, one for each SOCKS proxy, and their guarded twins.

    Args:
        connect_seconds: How long a connection may take, the proxy and TLS included.
    """

    def __init__(self, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._lines: OrderedDict[tuple[str | None, bool], Session] = OrderedDict()
        self._retired: list[Session] = []

    async def line(self, proxy: str | None, *, guarded: bool) -> Session:
        """Return the line for calls through `proxy`, guarded or not."""
        socks = proxy if proxy is not None and urlsplit(proxy).scheme in _SOCKS else None
        # Through an HTTP proxy the only address that we connect to is the proxy's, which the operator chose.
        key = (socks, guarded and proxy == socks)
        if key not in self._lines:
            await self._forget_idle()
            # Another call may have made it during that wait.
            if key not in self._lines:
                self._lines[key] = Session(self._open(socks, guarded=key[1]), is_socks=socks is not None)
        self._lines.move_to_end(key)
        return self._lines[key]

    def retire(self, line: Session) -> None:
        """Put no new call on this line: its idle connections are dead. Its running calls end in peace."""
        for key, one in list(self._lines.items()):
            if one is line:
                del self._lines[key]
                self._retired.append(line)

    async def close(self) -> None:
        """Close all connections."""
        while self._lines or self._retired:
            line = self._lines.popitem()[1] if self._lines else self._retired.pop()
            await line.session.close()

    def _open(self, socks: str | None, *, guarded: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._connector(socks, guarded=guarded),
            # To the moment: aiohttp rounds what is longer than the threshold up to a whole second.
            timeout=aiohttp.ClientTimeout(connect=self._connect_seconds, ceil_threshold=self._connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,  # an encoding that aiohttp does not know would cost the status: PackedAnswer does it
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
        )

    def _connector(self, socks: str | None, *, guarded: bool) -> aiohttp.TCPConnector:
        if socks is None:
            # limit=0: the worker's slots bound the calls; aiohttp would queue silently.
            return Connector(limit=0, socket_factory=guarded_socket if guarded else None)
        from aichats_worker.provider.http.socks import SocksConnector  # noqa: PLC0415 - most go through none

        return SocksConnector(socks, guarded=guarded, timeout=self._connect_seconds)

    async def _forget_idle(self) -> None:
        """Keep the sessions of requests' own proxies bounded; one that is in use stays."""
        idle = [key for key, line in self._lines.items() if not line.calls]
        # All are taken out before the first wait: another call may forget the same ones meanwhile, or begin on one.
        forgotten = [self._lines.pop(key) for key in idle[: max(0, len(self._lines) - SESSIONS_MAX + 1)]]
        forgotten += [line for line in self._retired if not line.calls]
        self._retired = [line for line in self._retired if line.calls]
        for line in forgotten:
            await line.session.close()
