"""Several providers in order: failing over costs the requester nothing but time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aichats_worker.errors import Interrupted, InvalidRequest, Misconfigured, ProviderUnavailable
from aichats_worker.provider.door import Door, DoorPolicy
from aichats_worker.provider.doors import Doors
from aichats_worker.provider.openai.site import ModelTable
from aichats_worker.simulator.server import Simulator
from tests.provider.asking import ask, collect, draw, make
from tests.provider.wire import HELLO, Asked, Wire, refused, wire

POLICY = DoorPolicy(calls_max=2, circuit_failures=2, circuit_open_seconds=60, retry_base_seconds=0.001)


@pytest.fixture
async def answers() -> dict[str, Callable[[Asked], list[Any]]]:
    """What the second provider says."""
    return {"now": lambda _: [HELLO]}


@pytest.fixture
async def second(answers: dict[str, Callable[[Asked], list[Any]]]) -> AsyncIterator[Wire]:
    async with wire(lambda asked: [*answers["now"](asked)]) as server:
        yield server


@pytest.fixture
async def doors(simulator: Simulator, second: Wire) -> AsyncIterator[Doors]:
    """ai-chats.org first, then a server that knows one model more."""
    models = ModelTable({"gpt-4": "m", "fast": "f"}, {})
    providers = [make("aichats", simulator.url), make("openai", second.url, models=models)]
    both = Doors([Door(provider, POLICY) for provider in providers])
    yield both
    await both.close()


@pytest.mark.parametrize("fault", ["status=503", "status=429 retry-after=60", "answer=challenge", "answer=html",
                                   "status=401", "status=402", "answer=none tries=0", "cut-after=0"])  # fmt: skip
async def test_where_the_first_fails_before_its_first_delta_the_next_is_asked(
    doors: Doors, simulator: Simulator, fault: str
) -> None:
    text, finish = await collect(doors, ask(f"[sim: {fault}]"))
    assert (text, finish.provider, finish.model) == ("Hello", "openai", "m")
    assert len(simulator.requests) == 1


async def test_the_first_answers_where_it_can(doors: Doors, second: Wire) -> None:
    text, finish = await collect(doors, ask("[sim: words=1]"))
    assert (text, finish.provider) == ("Hello", "aichats")
    assert not second.asked


@pytest.mark.parametrize("fault", ["status=400", "status=413", "status=422"])
async def test_the_requesters_own_fault_goes_no_further(doors: Doors, second: Wire, fault: str) -> None:
    with pytest.raises(Exception) as told:  # noqa: PT011 - three classes, one fault
        await collect(doors, ask(f"[sim: {fault}]"))
    assert getattr(told.value, "fault", None) == "requester"
    assert not second.asked


async def test_after_the_first_delta_nothing_is_spliced(doors: Doors, second: Wire) -> None:
    with pytest.raises(Interrupted):
        await collect(doors, ask("[sim: cut-after=1 pause=0.02]"))
    assert not second.asked


async def test_a_circuit_that_is_open_is_passed_by_without_a_call(doors: Doors, simulator: Simulator) -> None:
    await collect(doors, ask("[sim: answer=challenge]"))
    assert (await collect(doors, ask("[sim: words=1]")))[1].provider == "openai"
    assert len(simulator.requests) == 1
    assert doors.working


async def test_who_cannot_honour_a_request_is_not_asked(doors: Doors, simulator: Simulator, second: Wire) -> None:
    assert (await collect(doors, ask("hi", model="fast")))[1].model == "f"
    assert (await collect(doors, ask("hi", model="gpt-4", options={"temperature": 0.5})))[1].provider == "openai"
    assert (await draw(doors, ask("a cat"))).mime == "image/png"
    with pytest.raises(InvalidRequest):
        await draw(doors, ask("a cat", options={"n": 2}))
    assert {request.method for request in simulator.requests} == {"POST", "GET"}
    assert len(second.asked) == 2


async def test_the_last_one_is_asked_again_and_its_failure_is_told(
    doors: Doors, second: Wire, answers: dict[str, Any]
) -> None:
    answers["now"] = lambda _: [refused("503 Service Unavailable", message="x")]
    with pytest.raises(ProviderUnavailable):
        await collect(doors, ask("[sim: status=503]"))
    assert len(second.asked) == POLICY.calls_max


async def test_of_two_failures_the_one_that_can_be_tried_again_is_told(doors: Doors, answers: dict[str, Any]) -> None:
    answers["now"] = lambda _: [refused("401 Unauthorized", message="x")]
    with pytest.raises(ProviderUnavailable):
        await collect(doors, ask("[sim: status=503]"))
    with pytest.raises((ProviderUnavailable, Misconfigured)):
        await collect(doors, ask("[sim: status=503]"))
    assert not doors.doors[1].working


async def test_where_all_circuits_are_open_the_wait_is_told(doors: Doors, answers: dict[str, Any]) -> None:
    answers["now"] = lambda _: [refused("401 Unauthorized", message="x")]
    with pytest.raises(Misconfigured):
        await collect(doors, ask("[sim: answer=challenge]"))
    assert not doors.working
    with pytest.raises(ProviderUnavailable) as told:
        await collect(doors, ask("hi"))
    assert told.value.retry_after_ms


async def test_what_is_offered_is_what_all_offer(doors: Doors) -> None:
    assert list(doors.offers["text"]) == ["gpt-4", "fast"]
    assert [bool(options) for options in doors.offers["text"]["gpt-4"]] == [False, True]
    assert list(doors.offers["image"]) == ["dalle"]


async def test_leaving_early_closes_the_connection_of_whoever_answers(doors: Doors, simulator: Simulator) -> None:
    async with doors.text(ask("[sim: stall-after=1]")) as answer:
        assert answer.first == "Hello"
    async with asyncio.timeout(5):
        await simulator.requests[0].ended.wait()
    assert simulator.requests[0].closed_early
