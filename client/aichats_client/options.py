"""What may be asked for besides a prompt, by the contract's names (section 2)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

from aichats_schemas.requests import Message
from aichats_schemas.subjects import Kind


class _Options(TypedDict, total=False):
    messages: Sequence[Mapping[str, str] | Message]
    model: str
    timeout: float
    metadata: Mapping[str, str]
    proxy: str


class TextOptions(_Options, total=False):
    """Of a text: `messages` in place of the prompt; `timeout` in seconds, for the whole answer."""

    temperature: float
    top_p: float
    max_tokens: int
    stop: str | Sequence[str]
    seed: int
    json: bool
    reasoning: bool


class ImageOptions(_Options, total=False):
    """Of an image: `size` as "1024x1024"; `n` images."""

    size: str
    quality: str
    n: int


class AnyOptions(TextOptions, ImageOptions, total=False):
    """Of either."""


_NAMES: Final[dict[Kind, frozenset[str]]] = {
    "text": frozenset(TextOptions.__annotations__ | _Options.__annotations__),
    "image": frozenset(ImageOptions.__annotations__ | _Options.__annotations__),
}


def asked(kind: Kind, prompt: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's body.

    Raises:
        TypeError: There is no such option for this kind.
        ValueError: Not exactly one of prompt and messages is given, or the timeout is not above 0.
    """
    if unknown := sorted(set(options) - _NAMES[kind]):
        raise TypeError(f"{kind} takes no option {', '.join(unknown)}; there are {', '.join(sorted(_NAMES[kind]))}")
    if (prompt is None) == (options.get("messages") is None):
        raise ValueError("give exactly one of a prompt and messages")
    given = {name: value for name, value in options.items() if value is not None}
    timeout = given.pop("timeout", None)
    if timeout is not None:
        if timeout <= 0:
            raise ValueError("timeout must be above 0")
        given["timeout_seconds"] = timeout
    return ({} if prompt is None else {"prompt": prompt}) | given
