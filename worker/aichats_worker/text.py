"""Making text safe to show."""

import re

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


def ascii_line(text: str, max_chars: int) -> str:
    """Return `text` as one line of printable ASCII, cut at `max_chars`: what a header's value may hold."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:max_chars])
