"""HTML that needs nothing from elsewhere: no script, no address, one style whose hash the browser is told."""

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from typing import Final

_CODE: Final = re.compile(r"`([^`]+)`")

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --mark: #0a7d4f; --bad: #c0392b; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem 1.5rem 4rem; }
h1 { margin: .5rem 0; } h2 { margin: 2.5rem 0 .25rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem; } p { margin: .4rem 0; } a { color: inherit; }
h2 a { text-decoration: none; } h2 a:hover { text-decoration: underline; }
code, pre { font: 14px/1.45 ui-monospace, monospace; } code { overflow-wrap: anywhere; }
p code, td code, li code { background: var(--soft); border-radius: 3px; padding: 0 .25em; }
pre { background: var(--soft); border-radius: 6px; padding: .6rem .8rem; margin: .4rem 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-size: .85rem; } th:first-child, td:first-child { width: 14rem; } ul { padding-left: 1.2rem; margin: .4rem 0; }
.way { font-size: .8rem; font-weight: normal; border: 1px solid var(--line); border-radius: 1em; padding: .1em .7em; }
.address { font-size: 1.05rem; } .good { color: var(--mark); } .bad { color: var(--bad); }
nav ul { columns: 14rem; list-style: none; padding: 0; }
"""

# What a browser may do with these pages: show them, with this style. Nothing is loaded, run, sent or framed.
HEADERS: Final = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; "
    f"style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Markup(str):
    """HTML as it is: whatever else is a string is escaped."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str) -> Markup:
    """Return an element. Text and attributes are escaped; a class is `class_`."""
    written = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Return elements and texts one behind the other, the texts escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def prose(text: str) -> Markup:
    """Return a sentence in which what stands in backticks is code."""
    return Markup(_CODE.sub(r"<code>\1</code>", escape(text, quote=False)))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Return a table, nothing where it has no rows."""
    if not rows:
        return Markup()
    head = tag("tr", *(tag("th", text) for text in heads))
    return tag("table", head, *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))


def page(title: str, *body: str) -> bytes:
    """Return a whole page."""
    head = joined(
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width">'),
        tag("title", title),
        Markup(f"<style>{STYLE}</style>"),
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{joined(*body)}</body></html>\n'.encode()
