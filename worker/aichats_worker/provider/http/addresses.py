"""Which addresses an image may be fetched from: public ones, judged by the address that is really connected to."""

import ipaddress
import socket
from typing import Any, Final

from aichats_worker.errors import BadResponse

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "localdomain", "home.arpa")


class NotPublic(OSError):
    """The address of a connection is not public.

    An OSError, since aiohttp tries the next address after one, and breaks on anything else.
    """


def refused() -> BadResponse:
    """Return the error of an image at an address that is not allowed. It does not say which address that was."""
    return BadResponse(
        "the provider named an image at an address that is not public; try again, or allow it with "
        "PROVIDER_IMAGE_ALLOW_PRIVATE"
    )


def is_public(address: str) -> bool:
    """Say whether `address`, an IP address as text, belongs to the public internet.

    An IPv4 address inside an IPv6 one (mapped, 6to4, NAT64) is judged as what it leads to.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local)


def check_host(host: str) -> None:
    """Refuse a host that is a private address, or a name that can only mean one, before anybody resolves it.

    Where a proxy resolves names this is all that can be checked here; else `guarded_socket` and `public_address` judge
    what the name resolved to.

    Raises:
        BadResponse: It is one.
    """
    name = host.lower().rstrip(".")
    last = name.rpartition(".")[2]
    if ":" in name or last.isdigit() or last.startswith("0x"):
        # The C library takes 127.1, 0x7f.1 and 2130706433 for addresses as well; the module `ipaddress` does not.
        if not is_public(name):
            raise refused()
    elif any(name == local or name.endswith(f".{local}") for local in _LOCAL_NAMES):
        raise refused()


def guarded_socket(addr_info: tuple[Any, ...]) -> socket.socket:
    """Make the socket of a connection to a public address; for aiohttp's connector, just before it connects.

    Nothing lies between this check and the connection, so a name that resolves to something else a moment later
    (DNS rebinding) changes nothing.

    Raises:
        NotPublic: The address is not public.
    """
    family, kind, proto, _, address = addr_info
    if not is_public(address[0]):
        raise NotPublic("not public")
    return socket.socket(family, kind, proto)


def public_address(addresses: list[str]) -> str:
    """Return the first public address.

    Raises:
        BadResponse: There is none.
    """
    for address in addresses:
        if is_public(address):
            return address
    raise refused()
