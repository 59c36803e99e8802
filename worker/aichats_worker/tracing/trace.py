"""What the rooms tell of a request at work. Nobody hears it, and nothing is kept, until somebody listens."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

from aichats_schemas.events import Usage
from aichats_schemas.subjects import Kind, Mode
from aichats_worker.errors import WorkerError


class Traced(Protocol):
    """What is looked at of a call."""

    @property
    def mode(self) -> Mode:
        """`req`, `ask` or `job`."""

    @property
    def kind(self) -> Kind:
        """`text` or `image`."""

    @property
    def tenant(self) -> str:
        """Whose it is."""

    @property
    def id(self) -> str:
        """The request's id."""

    @property
    def attempt(self) -> int:
        """1 in core."""

    @property
    def headers(self) -> Mapping[str, str]:
        """As they came: `traceparent` and `tracestate` say whose trace it is part of."""

    @property
    def body(self) -> bytes:
        """How long it is."""

    @property
    def problem(self) -> str | None:
        """What is wrong with tenant or id."""


class RequestTrace:
    """A request's part of a trace. This one is part of none."""

    __slots__ = ()

    @property
    def trace_id(self) -> str | None:
        """Of the trace, in hexadecimal, for the log; None where there is none."""
        return None

    def ended(self, outcome: str, error: WorkerError | None, usage: Usage | None) -> None:
        """Take note of what came of it."""


class CallTrace:
    """A provider's part of a trace. This one is part of none."""

    __slots__ = ()

    def first(self) -> None:
        """The first piece of the answer is there."""

    def failed(self, error: WorkerError) -> None:
        """The answer ends here, by the provider's doing."""

    def again(self, error: WorkerError, seconds: float) -> None:
        """The provider is asked once more, after so many seconds."""

    def finished(self, reason: str, model: str, usage: Usage | None) -> None:
        """The answer is whole: why it ended, what the provider calls its model, and what it counted."""


UNTRACED: Final = CallTrace()


class Listener(Protocol):
    """Whoever makes a trace of it."""

    def request(self, call: Traced, queued_seconds: float, origin: str) -> AbstractContextManager[RequestTrace]:
        """Follow a request until the block ends."""

    def asking(
        self, provider: str, kind: Kind, model: str | None, options: Mapping[str, Any]
    ) -> AbstractContextManager[CallTrace]:
        """Follow a provider's answer until the block ends."""

    def carrier(self) -> dict[str, str]:
        """Return the headers by which another worker goes on with the request's trace."""


_listener: Listener | None = None
_UNHEARD = nullcontext(RequestTrace())
UNASKED: Final = nullcontext(UNTRACED)


def listen(listener: Listener | None) -> None:
    """Tell `listener` from here on; None for nobody. Like the log, it is the process's: it belongs to no room."""
    global _listener  # noqa: PLW0603
    _listener = listener


def request(call: Traced, queued_seconds: float, origin: str) -> AbstractContextManager[RequestTrace]:
    """Follow a request, or one attempt of a job, until the block ends. What is done inside belongs to it.

    Args:
        call: As it came.
        queued_seconds: How long it has waited.
        origin: What all attempts of a job, and no others, have in common; empty in core.
    """
    return _UNHEARD if _listener is None else _listener.request(call, queued_seconds, origin)


def asking(
    provider: str, kind: Kind, model: str | None, options: Mapping[str, Any]
) -> AbstractContextManager[CallTrace]:
    """Follow a provider's answer, all its tries together, until the block ends.

    Args:
        provider: Who is asked.
        kind: For what.
        model: The name that the request gave.
        options: Of the request; the prompt is none of them.
    """
    return UNASKED if _listener is None else _listener.asking(provider, kind, model, options)


def carrier() -> dict[str, str]:
    """Return the headers by which another worker goes on with this request's trace; none where nobody listens."""
    return {} if _listener is None else _listener.carrier()
