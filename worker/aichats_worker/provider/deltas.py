"""From an HTTP answer to deltas: one loop for every dialect, so that every dialect fails in the same way."""

from collections.abc import AsyncGenerator
from typing import Final, Protocol

from aichats_worker.errors import BadResponse, DeadlineExceeded, Interrupted, ProviderUnavailable, WorkerError
from aichats_worker.provider import Finish
from aichats_worker.provider.http.upstream import Answer
from aichats_worker.provider.lines import LineTooLong
from aichats_worker.provider.refusals import HEAD_MAX_BYTES, no_answer, refusal

_CUT: Final = "the provider stopped in the middle of its answer; try again"


class Decoder(Protocol):
    """Bytes in, deltas out, no I/O.

    Attributes:
        ended: Nothing that follows is looked at: the answer's end was read, or too much that is no answer.
        stray: The beginning of what is not in the dialect, at most STRAY_MAX_BYTES: what came instead of an answer.
        broke_off: If the body ended now, the answer would not have ended as it should.
    """

    ended: bool
    stray: bytearray
    broke_off: bool

    def feed(self, data: bytes) -> str:
        """Return the text of all lines that `data` completes, joined; empty where it completes none."""

    def finish(self) -> str:
        """Complete the last line: the body ended as HTTP says it should."""

    def end(self) -> Finish:
        """Say how the answer ended."""

    def nothing(self) -> WorkerError | None:
        """Say why there was no text, where the dialect has words for it."""


async def deltas(answer: Answer, decoder: Decoder) -> AsyncGenerator[str | Finish, None]:
    """Yield the text of an answer as it arrives, and one Finish.

    Raises:
        WorkerError: Why there is no answer, or Interrupted where it was cut after its first delta. A stall keeps its
            name: DeadlineExceeded.
    """
    if answer.status != 200:
        raise await _refused(answer)
    started = False
    try:
        while not decoder.ended and (data := await answer.read()):
            if text := decoder.feed(data):
                started = True
                yield text
        if decoder.ended:
            await answer.settle()
        elif text := decoder.finish():
            started = True
            yield text
    except LineTooLong:
        raise _broken(BadResponse("the provider sent a line that is too long; try again"), started=started) from None
    except (ProviderUnavailable, BadResponse) as error:
        raise _broken(error, started=started) from None
    if not started:
        raise decoder.nothing() or no_answer(answer.headers, bytes(decoder.stray))
    if decoder.broke_off:
        raise Interrupted(_CUT)
    yield decoder.end()


def _broken(error: WorkerError, *, started: bool) -> WorkerError:
    return Interrupted(_CUT) if started else error


async def _refused(answer: Answer) -> WorkerError:
    try:
        head = await answer.head(HEAD_MAX_BYTES)
    except (ProviderUnavailable, BadResponse, DeadlineExceeded):
        head = b""  # the status alone says enough
    return refusal(answer.status, answer.headers, head) or no_answer(answer.headers, head)
