"""A text that is read while it is made."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Self

from aichats_client.completion import Completion, completed
from aichats_client.errors import Restarted
from aichats_schemas.events import Done, DoneData, StreamEvent


class TextStream:
    """The pieces of a text as they come: `async for piece in …`. What fails is raised as a ClientError.

    Joined, the pieces are the text of one attempt, always. A job may need several: a piece that the next one repeats is
    not yielded again, and where that one says something else the reader is told, by `on_restart` or by `Restarted`.

    Leaving before the end, by `break` or an exception, stops a request at the worker. `async with` does so for sure in
    every Python; CPython does it without as well.

    Args:
        events: What comes, up to its final event.
        on_restart: Called where all that was yielded is to be forgotten; the new attempt's text follows.
    """

    def __init__(
        self, events: AsyncGenerator[StreamEvent, None], on_restart: Callable[[], object] | None = None
    ) -> None:
        self._events = events
        self._state = _State(on_restart)
        # It must not know this object: in a cycle, nobody would notice at once that a reader has left.
        self._pieces = _pieces(events, self._state)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    @property
    def done(self) -> DoneData | None:
        """How it ended: `finish_reason`, `usage` and more; None before that."""
        return self._state.done

    def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Yield all events as they are, instead of the pieces: reasoning, status, attempts. An `error` is raised."""
        return _noted(self._events, self._state)

    async def completion(self) -> Completion:
        """Read all to the end, and return it. Of attempts that were replaced nothing is left."""
        return await completed(self.events())

    async def aclose(self) -> None:
        """Leave: a request that still runs is stopped at the worker."""
        await self._pieces.aclose()
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _noted(events: AsyncGenerator[StreamEvent, None], state: "_State") -> AsyncGenerator[StreamEvent, None]:
    try:
        async for event in events:
            state.done = event.data if isinstance(event, Done) else state.done
            yield event
    finally:
        await events.aclose()


async def _pieces(events: AsyncGenerator[StreamEvent, None], state: "_State") -> AsyncGenerator[str, None]:
    async with aclosing(_noted(events, state)) as noted:
        async for event in noted:
            if piece := state.piece(event):
                yield piece


class _State:
    """What is known of a text so far."""

    def __init__(self, on_restart: Callable[[], object] | None) -> None:
        self.done: DoneData | None = None
        self._on_restart = on_restart
        self._text = _Repeated()

    def piece(self, event: StreamEvent) -> str:
        """Return what an event adds to the text.

        Raises:
            Restarted: It replaces what was yielded, and nobody is there to be told.
        """
        self._text.attempt(event.attempt)
        if event.type == "response":
            piece, replaces = self._text.add(event.data)
        elif event.type == "done":
            piece, replaces = self._text.end()
        else:
            return ""
        if replaces:
            self._tell()
        return piece

    def _tell(self) -> None:
        if self._on_restart is None:
            raise Restarted(
                "another attempt replaces the pieces that were read: read again from the beginning, "
                "or give on_restart, or wait for result()"
            )
        self._on_restart()


class _Repeated:
    """What was yielded, held against what a later attempt says."""

    def __init__(self) -> None:
        self._attempt = 0
        self._said: list[str] = []
        self._old = ""
        self._ahead = 0  # how much of the old text the new attempt has not repeated yet

    def attempt(self, number: int) -> None:
        """Take note of an event's attempt; 0 stands outside."""
        if number > self._attempt:
            self._attempt = number
            self._old = "".join(self._said)
            self._ahead = len(self._old)

    def add(self, data: str) -> tuple[str, bool]:
        """Return what is new of a piece, and whether it replaces all that was yielded."""
        if self._ahead:
            here = len(self._old) - self._ahead
            same = min(len(data), self._ahead)
            if data[:same] != self._old[here : here + same]:
                return self._replaced(self._old[:here] + data)
            self._ahead -= same
            data = data[same:]
        self._said.append(data)
        return data, False

    def end(self) -> tuple[str, bool]:
        """Return what is left to yield at the end, and whether it replaces all that was yielded."""
        return self._replaced(self._old[: len(self._old) - self._ahead]) if self._ahead else ("", False)

    def _replaced(self, text: str) -> tuple[str, bool]:
        self._said, self._ahead = [text], 0
        return text, True
