"""Making text safe to show."""

import re
from urllib.parse import urlsplit

_USERINFO = re.compile(r"(?<=://)[^/\s]*@")


def masked_url(url: str) -> str:
    """Return `url` without its credentials, query and fragment.

    A bare token before the host (`nats://token@host`) is a credential as well.
    """
    masked = _USERINFO.sub("***@", url)
    parts = urlsplit(masked)
    return parts._replace(query="", fragment="").geturl() if parts.scheme else masked


def ascii_line(text: str, max_chars: int) -> str:
    """Return `text` as one line of printable ASCII, cut at `max_chars`: what a header's value may hold."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:max_chars])
