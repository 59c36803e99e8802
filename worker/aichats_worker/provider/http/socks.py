"""SOCKS proxies: socks5 resolves names here, socks5h at the proxy."""

import asyncio
import socket
import ssl as tls
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from aiohttp.client_proto import ResponseHandler
from aiohttp_socks import ProxyConnector, ProxyType
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError
from python_socks.async_.asyncio.v2 import Proxy

from aichats_worker.errors import ProviderUnavailable
from aichats_worker.provider.http.addresses import public_address
from aichats_worker.provider.http.failures import LATE, NAME_UNKNOWN, PROXY_REFUSED, PROXY_UNREACHABLE
from aichats_worker.provider.http.protocol import Protocol, Telling

SOCKS_PORT = 1080
FAILURES: Final[dict[type[Exception], str]] = {
    ProxyConnectionError: PROXY_UNREACHABLE,
    ProxyError: PROXY_REFUSED,
    ProxyTimeoutError: LATE,
}


class _Protocol(Protocol):
    """Keeps the stream's writer alive: when it is collected, it closes the transport (Python 3.11.5 and later)."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(asyncio.get_running_loop())
        self._writer = writer


class SocksConnector(Telling, ProxyConnector):
    """Connects through one SOCKS5 proxy.

    aiohttp-socks can leave the resolving to python-socks, but then nobody sees the address before it is connected to.
    So socks5 resolves here, the address is judged, and that same address goes to the proxy.

    Args:
        url: socks5:// or socks5h://, with or without credentials.
        guarded: Connect to public addresses only. With socks5h the proxy's network is what decides.
        timeout: Seconds; a little more than the caller's own, so that the caller's fires first.
    """

    def __init__(self, url: str, *, guarded: bool, timeout: float) -> None:
        parts = urlsplit(url)
        self._resolve_here = parts.scheme == "socks5"
        self._guarded = guarded
        self._timeout = timeout + 5
        super().__init__(
            host=parts.hostname or "",
            port=parts.port or SOCKS_PORT,
            proxy_type=ProxyType.SOCKS5,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            limit=0,
        )

    async def _connect_via_proxy(
        self, host: str, port: int, ssl: tls.SSLContext | None = None, timeout: float | None = None
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        proxy = Proxy(
            proxy_type=ProxyType.SOCKS5,
            host=self._proxy_host,
            port=self._proxy_port,
            username=self._proxy_username,
            password=self._proxy_password,
            rdns=True,  # what is not resolved by now, the proxy resolves
        )
        target = await self._resolved(host, port) if self._resolve_here else host
        try:
            stream = await proxy.connect(target, port, timeout=timeout or self._timeout)
        except tuple(FAILURES) as error:
            raise ProviderUnavailable(FAILURES[type(error)]) from None
        try:
            if ssl is not None:
                stream = await stream.start_tls(hostname=host.rstrip("."), ssl_context=ssl)
        except BaseException:
            stream.writer.transport.abort()
            raise
        transport: Any = stream.writer.transport
        protocol = _Protocol(stream.writer)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return transport, protocol

    async def _resolved(self, host: str, port: int) -> str:
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            # aiohttp would make an OSError like any other of it.
            raise ProviderUnavailable(NAME_UNKNOWN) from None
        addresses = [str(info[4][0]) for info in infos]
        return public_address(addresses) if self._guarded else addresses[0]
