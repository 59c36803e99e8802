"""From an HTTP answer to deltas: one loop for every dialect, so that every dialect fails in the same way."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from aichats_schemas.events import Usage
from aichats_worker.errors import BadResponse, DeadlineExceeded, Interrupted, WorkerError
from aichats_worker.provider import Finish, Reasoning
from aichats_worker.provider.decoding.lines import LineTooLong
from aichats_worker.provider.http.answer import SETTLE_SECONDS, HttpAnswer
from aichats_worker.provider.http.upstream import REFUSAL_SECONDS
from aichats_worker.provider.refusals import HEAD_MAX_BYTES, Refusal, SettingNames, no_answer, refusal_of

GRACE_SECONDS: Final = 2.0  # from the finish reason to the end: for the usage, the end mark and HTTP's end
_CUT: Final = "the provider stopped in the middle of its answer; try again"


class Decoder(Protocol):
    """Bytes in, deltas out, no I/O.

    Attributes:
        ended: Nothing that follows is looked at: the answer's end was read, an error, or too much that is no answer.
        complete: The provider said why its answer ended: whatever follows, it ended well.
        failure: The error that it said; None where it said none. After `complete` it is none.
        broke_off: If the body ended now, the answer would not have ended as it should.
        silent: Its end is one although there was no text.
        stray: The beginning of what is not in the dialect, at most STRAY_MAX_BYTES: what came instead of an answer.
        thoughts: Reasoning that was read and not taken yet.
        usage: What the provider counted, or None.
    """

    ended: bool
    complete: bool
    failure: Refusal | None
    stray: bytearray
    thoughts: str
    usage: Usage | None

    @property
    def broke_off(self) -> bool:
        """See above."""

    @property
    def silent(self) -> bool:
        """See above."""

    def feed(self, data: bytes) -> str:
        """Return the text of all lines that `data` completes, joined; empty where it completes none."""

    def finish(self) -> str:
        """Complete the last line: the body ended as HTTP says it should. Again, there is nothing more."""

    def end(self) -> Finish:
        """Say how the answer ended."""

    def nothing(self) -> WorkerError | None:
        """Say why there was no text, where the dialect has words for it."""


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers.

    Attributes:
        provider: Its name.
        model: What it calls the model.
        names: The settings that its operator has to look at.
        reasoning: The request asked for it.
    """

    provider: str
    model: str
    names: SettingNames
    reasoning: bool = False


async def deltas(
    call: Callable[[], Awaitable[HttpAnswer]], decoder: Decoder, who: Answering
) -> AsyncGenerator[str | Reasoning | Finish, None]:
    """Call a provider, and yield the text of its answer as it arrives, and one Finish.

    What one read of the socket completes comes at once, joined. Closing the generator closes the connection.

    Raises:
        WorkerError: Why there is no answer, or Interrupted where it was cut after its first delta. A stall keeps its
            name: DeadlineExceeded. It carries the usage where the provider said it.
    """
    with await call() as answer:
        if not answer.ok:
            raise (await refused(answer)).error(who.names)
        started = False
        try:
            while not (decoder.ended or decoder.complete):
                data = await answer.read()
                text = decoder.feed(data) if data else decoder.finish()
                if decoder.thoughts and (thoughts := _taken(decoder, who)):
                    started = True
                    yield thoughts
                if text:
                    started = True
                    yield text
                if not data:
                    break
            if decoder.failure is not None and not decoder.complete:
                raise decoder.failure.error(who.names)
            if late := await _afterwards(answer, decoder):
                started = True
                yield late
            _check(answer, decoder, who, started=started)
        except (LineTooLong, WorkerError) as error:
            raise _told(error, decoder, started=started) from None
        end = decoder.end()
        end.provider, end.model = who.provider, who.model
        yield end


def _taken(decoder: Decoder, who: Answering) -> Reasoning | None:
    """Take the reasoning that was read; None where nobody asked for it."""
    thoughts, decoder.thoughts = decoder.thoughts, ""
    return Reasoning(thoughts) if who.reasoning else None


def _check(answer: HttpAnswer, decoder: Decoder, who: Answering, *, started: bool) -> None:
    """Raise why this is no answer, or no whole one."""
    if not (started or decoder.silent):
        said = decoder.failure.error(who.names) if decoder.failure is not None else None
        raise decoder.nothing() or said or no_answer(answer.headers, bytes(decoder.stray), who.names)
    if decoder.broke_off:
        raise Interrupted(_CUT)


async def refused(answer: HttpAnswer) -> Refusal:
    """Read an answer whose status is no 2xx: that alone says enough, so its body is not waited for for long."""
    head = bytearray()
    with suppress(WorkerError, TimeoutError):
        async with asyncio.timeout(REFUSAL_SECONDS):
            while len(head) < HEAD_MAX_BYTES and (data := await answer.read()):
                head += data
    return refusal_of(answer.status, answer.headers, bytes(head[:HEAD_MAX_BYTES]))


async def _afterwards(answer: HttpAnswer, decoder: Decoder) -> str:
    """Read what may still follow a finish reason. Nothing there changes that the answer ended well."""
    texts: list[str] = []
    if decoder.complete and not decoder.ended:
        await _linger(answer, decoder, texts)
    if decoder.ended:
        await answer.settle()
    return "".join(texts)


async def _linger(answer: HttpAnswer, decoder: Decoder, texts: list[str]) -> None:
    with suppress(WorkerError, LineTooLong, TimeoutError):
        async with asyncio.timeout(GRACE_SECONDS - SETTLE_SECONDS) as timer:
            while decoder.complete and not decoder.ended:
                if decoder.usage is not None:  # then there is nothing left to wait for but the end mark
                    timer.reschedule(min(timer.when() or 0, asyncio.get_running_loop().time() + SETTLE_SECONDS))
                data = await answer.read()
                texts.append(decoder.feed(data) if data else decoder.finish())
                if not data:
                    break


def _told(error: LineTooLong | WorkerError, decoder: Decoder, *, started: bool) -> WorkerError:
    if isinstance(error, LineTooLong):
        error = BadResponse("the provider sent a line that is too long; try again")
    if started and not isinstance(error, DeadlineExceeded | Interrupted):
        error = Interrupted(_CUT, retry_after_ms=error.retry_after_ms)
    error.usage = decoder.usage
    return error
