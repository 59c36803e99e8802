"""Making text safe to show."""


def ascii_line(text: str, max_chars: int) -> str:
    """Return `text` as one line of printable ASCII, cut at `max_chars`: what a header's value may hold."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:max_chars])
