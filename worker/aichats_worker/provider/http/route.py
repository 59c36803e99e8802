"""How providers are reached: timeouts, proxies, TLS."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # typeshed lacks it

from yarl import URL

from aichats_worker.errors import Misconfigured
from aichats_worker.urls import check_proxy

_HOSTS_MAX: Final = 256
Tls = Callable[[], ssl.SSLContext | None]


def _system() -> None:
    """Whom the system trusts."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The phases of a call's deadline, in seconds.

    Attributes:
        connect: DNS, TCP, the proxy and TLS, until the request's headers are out.
        first_byte: From there to the first byte of the answer's body.
        stall: Between two reads of it.
        image: As first_byte, for a call that makes images; 0 for the request's own deadline.
    """

    connect: float = 10
    first_byte: float = 60
    stall: float = 30
    image: float = 0


@dataclass(frozen=True, slots=True)
class Environment:
    """What the process's environment says of proxies, as other programs read it: HTTPS_PROXY and NO_PROXY."""

    https_proxy: str = field(default="", repr=False)
    no_proxy: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """How calls go out.

    Attributes:
        proxy: The operator's proxy, http(s):// or socks5(h)://, for calls that name none.
        environment: Holds where `proxy` is None.
        timeouts: The phases of each call.
        tls: Returns the context of the next connection, for a private authority or a client certificate; None for the
            system's.
    """

    proxy: str | None = field(default=None, repr=False)
    environment: Environment = Environment()
    timeouts: Timeouts = Timeouts()
    tls: Tls = _system

    def proxy_for(self, url: URL | str, asked: str | None) -> str | None:
        """Return the proxy of a call to `url`; None for none.

        Raises:
            Misconfigured: HTTPS_PROXY is no proxy's URL.
        """
        if chosen := asked or self.proxy:
            return chosen
        if not self.environment.https_proxy:
            return None
        return _of_environment(self.environment, *_place(str(url)))


@lru_cache(maxsize=_HOSTS_MAX)
def _place(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


@lru_cache(maxsize=_HOSTS_MAX)
def _of_environment(environment: Environment, scheme: str, host: str) -> str | None:
    proxy = environment.https_proxy
    if scheme != "https" or proxy_bypass_environment(host, {"no": environment.no_proxy}):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        check_proxy(proxy)
    except ValueError as error:
        raise Misconfigured(f"HTTPS_PROXY {error}; correct it, or set PROVIDER_PROXY") from None
    return proxy
