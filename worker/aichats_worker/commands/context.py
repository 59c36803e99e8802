"""Contexts of the `nats` command line: where NATS_CONTEXT names one, it says what no variable does. For commands."""

import os
from pathlib import Path
from typing import Any, Final

import orjson

from aichats_worker.errors import SetupError

# What the `nats` command line calls it, and what we do.
_FIELDS: Final = {
    "url": "nats_url",
    "creds": "nats_creds",
    "nkey": "nats_nkey",
    "user": "nats_user",
    "password": "nats_password",
    "token": "nats_token",
    "ca": "nats_ca",
    "cert": "nats_cert",
    "key": "nats_key",
    "tls_first": "nats_tls_first",
    "jetstream_domain": "nats_js_domain",
    "inbox_prefix": "nats_inbox_prefix",
}
# Who one is comes whole from one place: a variable's token goes with no context's user.
_IDENTITY: Final = {"nats_creds", "nats_nkey", "nats_user", "nats_password", "nats_token"}


def from_context(name: str, named: set[str]) -> dict[str, Any]:
    """Return the settings that a context gives.

    Args:
        name: Of the context.
        named: The settings that a variable or an option names: they win.

    Raises:
        SetupError: There is no such context, or it cannot be read.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = home / "nats" / "context" / f"{name}.json"
    if Path(name).name != name:
        raise SetupError(f"NATS_CONTEXT {name} is no name of a context")
    try:
        content = orjson.loads(path.read_bytes())
    except OSError:
        raise SetupError(
            f"NATS_CONTEXT {name}: there is no context of this name; `nats context ls` shows them"
        ) from None
    except ValueError:
        raise SetupError(f"NATS_CONTEXT {name}: its file holds no JSON") from None
    if not isinstance(content, dict):
        raise SetupError(f"NATS_CONTEXT {name}: its file holds no context")
    given = {ours: content[theirs] for theirs, ours in _FIELDS.items() if content.get(theirs)}
    dropped = named | (_IDENTITY if named & _IDENTITY else set())
    return {setting: _expanded(value) for setting, value in given.items() if setting not in dropped}


def _expanded(value: Any) -> Any:
    """Paths may begin with `~`, as the `nats` command line takes them."""
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value
