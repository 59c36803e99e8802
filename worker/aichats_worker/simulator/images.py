"""Images: the JSON that holds them or says where they are, and the addresses where they are fetched. No I/O."""

import base64
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from aichats_worker.simulator.answers import SIDE, image
from aichats_worker.simulator.asked import ImagesAsked
from aichats_worker.simulator.directives import Directives

FOLDER: Final = "/images/"
_SIGNATURE: Final = "sig=a%2Fb%2bc%3D%3D&at=2026-01-01T00%3A00%3a00Z&x=1+2"  # no two URL libraries write this alike
B64_FORMS: Final[dict[str, tuple[str, Callable[[bytes], str]]]] = {
    "plain": ("as base64 is", lambda data: base64.b64encode(data).decode()),
    "wrapped": (
        "lines of 76 characters",
        lambda data: "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 76)) + "\n",
    ),
    "url-safe": ("`-` and `_` for `+` and `/`", lambda data: base64.urlsafe_b64encode(data).decode()),
    "unpadded": ("without `=`", lambda data: base64.b64encode(data).decode().rstrip("=")),
    "data-url": ("a data: URL", lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}"),
    "broken": ("no base64", lambda _: "this is *no* base64"),
}


@dataclass(frozen=True, slots=True)
class Download:
    """One image to be fetched, and how that goes; it travels in the address.

    Attributes:
        size: In bytes; 0 for its natural size.
        kind: As the directive `type`.
        width: In pixels.
        height: In pixels.
        status: 200 for the image.
        redirects: How many are still to come.
        stall_after: In bytes; -1 for never.
        cut_after: In bytes; -1 for never.
        times: How many downloads fail so; 0 for all.
        key: The call's key is needed.
        signed: The address must come back as it was given.
        serial: Tells the images of different calls apart.
    """

    size: int = 0
    kind: str = "png"
    width: int = SIDE
    height: int = SIDE
    status: int = 200
    redirects: int = 0
    stall_after: int = -1
    cut_after: int = -1
    times: int = 0
    key: int = 0
    signed: int = 0
    serial: int = 0

    @classmethod
    def of(cls, wanted: Directives, asked: ImagesAsked, serial: int) -> Self:
        """What the directives want."""
        return cls(
            size=wanted.bytes,
            kind=wanted.type,
            status=wanted.image_status,
            redirects=wanted.image_redirects,
            stall_after=wanted.image_stall_after,
            cut_after=wanted.image_cut_after,
            times=wanted.image_times,
            width=asked.width,
            height=asked.height,
            key=int(wanted.image_key),
            signed=int(wanted.image_signed),
            serial=serial,
        )

    @classmethod
    def at(cls, target: str) -> Self | None:
        """Read a request's target; None where the signature is wanted and is not there byte for byte."""
        parts = urlsplit(target)
        size, _, kind = parts.path.removeprefix(FOLDER).partition(".")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()} | {"size": size}
        numbers: dict[str, Any] = {
            name: int(query[name]) for name in _NUMBERS if query.get(name, "").lstrip("-").isdecimal()
        }
        download = replace(cls(kind=kind), **numbers)
        return None if download.signed and not target.endswith(_SIGNATURE) else download

    def target(self) -> str:
        """The path and the query."""
        query = {name: getattr(self, name) for name in _NUMBERS if name != "size"}
        return f"{FOLDER}{self.size}.{self.kind}?{urlencode(query)}{'&' + _SIGNATURE if self.signed else ''}"

    def redirected(self) -> Self:
        """The same after one more redirect."""
        return replace(self, redirects=self.redirects - 1)

    def content(self) -> bytes:
        """The image."""
        return image(self.kind, self.size, self.width, self.height)


_NUMBERS: Final = tuple(one.name for one in fields(Download) if one.name != "kind")


def located(wanted: Directives, asked: ImagesAsked, origin: str, serial: int) -> dict[str, Any]:
    """Return the JSON that says where the images are, or holds them.

    Args:
        wanted: The directives.
        asked: What the call asks for.
        origin: Where this simulator was asked.
        serial: Of the call.
    """
    count = 0 if wanted.source == "none" else wanted.images if wanted.images >= 0 else asked.n
    entry = _entry(wanted, asked, origin, serial)
    return {"created": int(time.time()), "data": [entry] * count}


def _entry(wanted: Directives, asked: ImagesAsked, origin: str, serial: int) -> dict[str, Any]:
    download = Download.of(wanted, asked, serial)
    source = wanted.source or ("b64" if asked.b64 or wanted.b64 != "plain" else "url")
    if source == "b64":
        _, form = B64_FORMS.get(wanted.b64, B64_FORMS["plain"])
        return {"b64_json": form(download.content())}
    if source == "data":
        return {"url": f"data:image/png;base64,{base64.b64encode(download.content()).decode()}"}
    return {"url": wanted.image_url or origin + download.target(), "revised_prompt": "a picture from the simulator"}
