"""A text that is read while it is made: never a splice of two attempts."""

from collections.abc import AsyncGenerator

import pytest

from aichats_client import Restarted, TextStream
from aichats_schemas import Done, Response, Status, StreamEvent
from aichats_schemas.events import DoneData, Timing


def end(attempt: int) -> StreamEvent:
    timing = Timing(queued_ms=0, first_ms=0, total_ms=0)
    return Done(
        id="r", attempt=attempt, seq=9, data=DoneData(finish_reason="stop", last_seq=9, model="m", timing=timing)
    )


def reading(*attempts: list[str], restarts: list[int] | None = None) -> TextStream:
    """The stream of a job whose attempts said these pieces; the last one ends well."""

    async def events() -> AsyncGenerator[StreamEvent, None]:
        for number, pieces in enumerate(attempts, 1):
            yield Status(id="r", attempt=0, seq=0, data="working")
            yield Status(id="r", attempt=number, seq=0, data="started")
            for seq, piece in enumerate(pieces, 1):
                yield Response(id="r", attempt=number, seq=seq, data=piece)
        yield end(len(attempts))

    return TextStream(events(), None if restarts is None else lambda: restarts.append(1))


@pytest.mark.parametrize(
    "attempts",
    [
        [["Hel", "lo", " you"]],
        [["Hel"], ["Hel", "lo", " you"]],
        [["Hel", "lo"], ["H", "ello y", "ou"]],
        [["Hello"], ["He"], ["Hello", " you"]],
        [[], [], ["Hello you"]],
        [["Hello you"], ["Hello", " you"]],
    ],
)
async def test_an_attempt_that_says_the_same_goes_on_where_the_last_one_broke_off(attempts: list[list[str]]) -> None:
    assert [piece async for piece in reading(*attempts)] != []
    assert "".join([piece async for piece in reading(*attempts)]) == "Hello you"


@pytest.mark.parametrize("attempts", [[["Hel"], ["Hi", " you"]], [["Hello"], ["Help"]], [["Hello you"], ["Hello"]]])
async def test_an_attempt_that_says_something_else_is_told_and_never_spliced(attempts: list[list[str]]) -> None:
    with pytest.raises(Restarted):
        [piece async for piece in reading(*attempts)]
    restarts: list[int] = []
    said: list[str] = []
    told = 0
    async for piece in reading(*attempts, restarts=restarts):
        if len(restarts) > told:
            said, told = [], len(restarts)
        said.append(piece)
    assert restarts == [1]
    assert "".join(said) == "".join(attempts[-1])


async def test_a_whole_answer_is_that_of_the_last_attempt() -> None:
    completion = await reading(["Hel"], ["Hi", " you"]).completion()
    assert str(completion) == completion.text == "Hi you"
    assert completion.done.finish_reason == "stop"
