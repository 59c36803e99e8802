"""Reading URLs that people set, and showing them without what is secret in them."""

import re
from urllib.parse import SplitResult, unquote, urlsplit

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_SCHEME = re.compile(r"(?:nats|tls|wss?|https?|socks5h?)://")


def masked_url(url: str) -> str:
    """Return `url` without its credentials, query and fragment: nothing before the last `@` but a scheme.

    A bare token before the host (`nats://token@host`) is a credential as well. A password may hold what ends a host
    elsewhere (`/`, `?`, `#`, `://`), and a URL of NATS may have no scheme.
    """
    scheme = _SCHEME.match(url)
    shown = scheme[0] if scheme else ""
    _, at, place = url[len(shown) :].rpartition("@")
    place = re.split(r"[?#]", place, maxsplit=1)[0]
    return f"{shown}***@{place}" if at else f"{shown}{place}"


def masked_urls(urls: str) -> str:
    """Return comma-separated URLs, each without its credentials; a password may hold a comma."""
    parts = urls.split(",")
    # A part without an @ before one with an @ but no scheme may be the first half of a password.
    torn = [
        "@" not in part and "@" in after and not _SCHEME.match(after.strip())
        for part, after in zip(parts, [*parts[1:], ""], strict=True)
    ]
    return ",".join("***" if is_torn else masked_url(part.strip()) for part, is_torn in zip(parts, torn, strict=True))


def check_proxy(url: str) -> None:
    """Raise ValueError unless `url` is a proxy that the worker can use. The message never holds the URL."""
    parts = split_url(url)
    if parts.scheme not in PROXY_SCHEMES:
        raise ValueError(f"must start with one of {', '.join(f'{scheme}://' for scheme in PROXY_SCHEMES)}")
    if not parts.hostname:
        raise ValueError("must name a host")


def split_url(url: str) -> SplitResult:
    """Split a URL; what Python says of one that it cannot split repeats parts of it, a password's too.

    Raises:
        ValueError: It cannot be split. The message never holds the URL.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL whose host and port can be read; % and two digits stand for a sign") from None
    return parts


def without_credentials(url: str) -> tuple[str, str | None, str | None]:
    """Split a server's URL into the URL alone, and its user and password, %-decoded; a user alone is a token."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    userinfo, at, place = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    return (
        parts._replace(netloc=place).geturl(),
        unquote(user) if at else None,
        unquote(password) if colon else None,
    )
