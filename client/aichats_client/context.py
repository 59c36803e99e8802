"""Contexts of the `nats` command line: where it keeps which servers there are, and who we are there."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aichats_client.errors import ClientError

_NAME: Final = re.compile(r"[\w.@+-]+\Z")
# What stands for a way to connect that is not offered here: better refused than left out in silence.
_NOT_OFFERED: Final = ("nsc", "user_jwt", "user_seed", "socks_proxy", "windows_cert_store")


class ContextError(ClientError):
    """There is no such context, or it cannot be used."""


@dataclass(frozen=True, slots=True)
class Context:
    """One context. The files are paths.

    Attributes:
        url: One or more servers, joined by commas.
        inbox_prefix: Of our own inboxes; empty for nothing said.
        jetstream_domain: Of the streams.
    """

    url: str = field(default="", repr=False)
    creds: str = ""
    nkey: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: str = ""
    cert: str = ""
    key: str = ""
    tls_first: bool = False
    inbox_prefix: str = ""
    jetstream_domain: str = ""


def read_context(name: str) -> Context:
    """Read `~/.config/nats/context/NAME.json`, or below XDG_CONFIG_HOME; a path of such a file is taken as well.

    Raises:
        ContextError: There is none of this name, or it cannot be used.
    """
    folder = _folder()
    path = Path(name) if name.startswith("/") else folder / f"{name}.json"
    if not name.startswith("/") and not _NAME.match(name):
        raise ContextError(f"{name!r} is no name of a context")
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ContextError(f"there is no context {name}; there are: {_names(folder)}") from None
    except (OSError, ValueError) as error:
        raise ContextError(f"the context {path} cannot be read: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise ContextError(f"the context {path} is no JSON object")
    if wrong := [key for key in _NOT_OFFERED if found.get(key)]:
        raise ContextError(f"the context {name} connects by {' and '.join(wrong)}, which is not offered here")
    return Context(**{key: _expanded(key, found[key]) for key in Context.__dataclass_fields__ if found.get(key)})


def _folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "nats" / "context"


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.stem for path in folder.glob("*.json"))) or "none"


def _expanded(key: str, value: Any) -> Any:
    return str(Path(value).expanduser()) if key in ("creds", "nkey", "ca", "cert", "key") else value
