"""What was tried in vain leaves nothing behind once there is an answer: its errors held the frames that held images."""

import gc
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from aichats_worker import provider
from aichats_worker.provider.door import Door, DoorPolicy
from aichats_worker.provider.doors import Doors
from aichats_worker.simulator.server import CUT, Simulator
from tests.provider.asking import ask, collect, draw, make

ROOM = str(Path(provider.__file__).parent)
POLICY = DoorPolicy(retry_base_seconds=0.001)


def frames() -> list[FrameType]:
    """Of the provider's room: those that have ended and are kept all the same."""
    return [one for one in gc.get_objects() if isinstance(one, FrameType) and ROOM in one.f_code.co_filename]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """With nobody collecting garbage. What another test has kept is none of ours."""
    gc.collect()
    gc.disable()
    try:
        before = frames()
        yield
        assert [frame for frame in frames() if not any(frame is one for one in before)] == []
    finally:
        gc.enable()


async def test_a_call_that_was_made_again_leaves_nothing(simulator: Simulator) -> None:
    door = Door(make("aichats", simulator.url), POLICY)
    simulator.script(status=503)
    simulator.script(CUT)
    assert (await collect(door, ask("[sim: words=1]")))[0] == "Hello"
    await door.close()


async def test_a_provider_that_failed_leaves_nothing_where_the_next_one_answers(simulator: Simulator) -> None:
    doors = Doors([Door(make(kind, simulator.url), POLICY) for kind in ("aichats", "openai")])
    simulator.script(status=503)
    assert (await collect(doors, ask("[sim: words=1]")))[0] == "Hello"
    await doors.close()


async def test_an_image_that_was_fetched_again_leaves_nothing(simulator: Simulator) -> None:
    one = make("openai", simulator.url)
    simulator.script(b'{"data":[{"url":"%s/images/0.png"}]}' % simulator.url.encode())
    simulator.script(b"\x89PNG\r\n\x1a\n", CUT)
    assert (await draw(one, ask("x"))).mime == "image/png"
    await one.close()
