import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aichats_worker import wiring
from aichats_worker.errors import (
    BadResponse,
    Cancelled,
    Challenge,
    DeadlineExceeded,
    Interrupted,
    InvalidRequest,
    Misconfigured,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from aichats_worker.provider.door import Door, DoorPolicy
from aichats_worker.provider.http.route import Timeouts
from aichats_worker.provider.openai.site import ModelTable
from aichats_worker.settings import load_settings
from aichats_worker.simulator.server import HOLD, Simulator
from tests.provider.asking import ask, collect, draw, make

Open = Callable[..., Door]


@pytest.fixture
async def open_door(simulator: Simulator) -> AsyncIterator[Open]:
    doors: list[Door] = []

    def one(kind: str = "aichats", **options: Any) -> Door:
        doors.append(Door(make(kind, simulator.url), DoorPolicy(**{"retry_base_seconds": 0.001, **options})))
        return doors[-1]

    yield one
    for door in doors:
        await door.close()


def soon() -> float:
    return asyncio.get_running_loop().time() + 10


HELLO = "[sim: words=1]"


@pytest.mark.parametrize("kind", ["aichats", "openai"])
async def test_a_failure_before_the_first_byte_is_tried_again(open_door: Open, simulator: Simulator, kind: str) -> None:
    simulator.script(status=503)
    simulator.script(status=503)
    assert (await collect(open_door(kind), ask(HELLO)))[0] == "Hello"
    assert len(simulator.requests) == 3


async def test_an_image_is_tried_again_too(open_door: Open, simulator: Simulator) -> None:
    simulator.script(status=503)
    assert (await draw(open_door(), ask("a cat"))).mime == "image/png"


async def test_calls_are_bounded(open_door: Open, simulator: Simulator) -> None:
    with pytest.raises(ProviderUnavailable):
        await collect(open_door(calls_max=2), ask("[sim: status=503]"))
    assert len(simulator.requests) == 2


@pytest.mark.parametrize(
    "prompt", ["[sim: answer=html]", "[sim: answer=challenge]", "[sim: status=404]", "[sim: status=400]"]
)
async def test_what_another_try_would_not_mend_is_not_tried_again(
    open_door: Open, simulator: Simulator, prompt: str
) -> None:
    with pytest.raises((BadResponse, Challenge, Misconfigured, InvalidRequest)):
        await collect(open_door(), ask(prompt))
    assert len(simulator.requests) == 1


async def test_after_the_first_content_nothing_is_tried_again(open_door: Open, simulator: Simulator) -> None:
    with pytest.raises(Interrupted):
        await collect(open_door(), ask("[sim: cut-after=1 pause=0.01]"))
    assert len(simulator.requests) == 1


async def test_an_answer_that_the_provider_breaks_off_counts_against_it(open_door: Open, simulator: Simulator) -> None:
    door = open_door()
    with pytest.raises(Interrupted) as broken:
        await collect(door, ask("[sim: cut-after=1 pause=0.01]"))
    assert (dict(door.calls), broken.value.provider) == ({("text", "interrupted"): 1}, "aichats")
    simulator.script(b"data: one\n", HOLD)
    stalling = Door(make("aichats", simulator.url, timeouts=Timeouts(stall=0.1)))
    with pytest.raises(DeadlineExceeded) as stalled:
        await collect(stalling, ask(HELLO))
    await stalling.close()
    assert (dict(stalling.calls), stalled.value.provider) == ({("text", "deadline_exceeded"): 1}, "aichats")


async def test_an_answer_that_its_requester_ends_counts_as_left(open_door: Open) -> None:
    """An error that is thrown into the answer from outside says nothing of the provider."""
    door = open_door()
    with pytest.raises(Cancelled) as cancelled:
        async with door.text(ask(HELLO)):
            raise Cancelled("by the requester")
    assert dict(door.calls) == {("text", "left"): 1}
    assert cancelled.value.provider != "aichats"


async def test_a_429_is_waited_for_where_it_is_short(open_door: Open, simulator: Simulator) -> None:
    simulator.script(status=429, headers={"Retry-After": "0.05"})
    began = asyncio.get_running_loop().time()
    assert (await collect(open_door(), ask(HELLO)))[0] == "Hello"
    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_a_429_of_more_than_five_seconds_is_told(open_door: Open, simulator: Simulator) -> None:
    with pytest.raises(RateLimited) as told:
        await collect(open_door(), ask("[sim: status=429 retry-after=6]"))
    assert told.value.retry_after_ms == 6000
    assert len(simulator.requests) == 1


async def test_a_wait_that_does_not_fit_the_deadline_is_not_begun(open_door: Open, simulator: Simulator) -> None:
    deadline = asyncio.get_running_loop().time() + 1.5
    with pytest.raises(RateLimited):
        await collect(open_door(), ask("[sim: status=429 retry-after=2]", deadline=deadline))
    assert len(simulator.requests) == 1


async def test_the_circuit_opens_and_the_provider_is_asked_no_more(open_door: Open, simulator: Simulator) -> None:
    door = open_door(calls_max=1, circuit_failures=2)
    provider: Any = door._provider
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await collect(door, ask("[sim: status=500]"))
    assert door.working is provider.working is False
    with pytest.raises(ProviderUnavailable) as refused:
        await collect(door, ask(HELLO))
    assert refused.value.retry_after_ms is not None
    assert (await draw(door, ask("a cat"))).mime == "image/png"  # images have a circuit of their own
    assert len([request for request in simulator.requests if request.method == "POST"]) == 3


@pytest.mark.parametrize("prompt", ["[sim: answer=challenge]", "[sim: answer=none tries=0]"])
async def test_a_challenge_or_an_empty_quota_opens_it_at_once_and_a_probe_closes_it(
    open_door: Open, simulator: Simulator, prompt: str
) -> None:
    door = open_door(circuit_open_seconds=0.5)
    with pytest.raises((Challenge, QuotaExhausted)):
        await collect(door, ask(prompt))
    with pytest.raises(ProviderUnavailable):
        await collect(door, ask(HELLO))
    async with asyncio.timeout(30):
        while not door.working:
            await asyncio.sleep(0.01)
    assert (await collect(door, ask(HELLO)))[0] == "Hello"
    assert len(simulator.requests) == 2


async def test_a_cancelled_probe_does_not_leave_the_circuit_half_open(open_door: Open, simulator: Simulator) -> None:
    door = open_door(circuit_open_seconds=0.001)
    with pytest.raises(Challenge):
        await collect(door, ask("[sim: answer=challenge]"))
    await asyncio.sleep(0.002)
    simulator.script(HOLD)
    probe = asyncio.create_task(collect(door, ask("hi")))
    await simulator.received(2)
    with pytest.raises(ProviderUnavailable):
        await collect(door, ask(HELLO))
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    await simulator.requests[1].ended.wait()
    assert simulator.requests[1].closed_early
    assert (await collect(door, ask(HELLO)))[0] == "Hello"


async def test_a_requests_own_proxy_has_a_circuit_of_its_own(open_door: Open) -> None:
    door = open_door(calls_max=1, circuit_failures=1)
    with pytest.raises(ProviderUnavailable):
        await collect(door, ask(HELLO, proxy="http://127.0.0.1:1"))
    with pytest.raises(ProviderUnavailable) as refused:
        await collect(door, ask(HELLO, proxy="http://127.0.0.1:1"))
    assert refused.value.retry_after_ms is not None
    assert door.working
    assert (await collect(door, ask(HELLO)))[0] == "Hello"


async def test_closing_a_text_early_closes_the_connection_and_gives_the_turn_back(
    open_door: Open, simulator: Simulator
) -> None:
    door = open_door(concurrent_calls=1)
    async with door.text(ask("[sim: stall-after=1]")) as answer:
        assert answer.first == "Hello"
    await simulator.requests[0].ended.wait()
    assert simulator.requests[0].closed_early
    assert (await collect(door, ask(HELLO, deadline=soon())))[0] == "Hello"


async def test_without_limits_nobody_waits_whatever_a_429_says(open_door: Open, simulator: Simulator) -> None:
    door = open_door(calls_max=1)
    held = [asyncio.create_task(collect(door, ask("[sim: stall-after=1]", deadline=soon()))) for _ in range(50)]
    with pytest.raises(RateLimited):
        await collect(door, ask("[sim: status=429 retry-after=60]", deadline=soon()))
    assert (await collect(door, ask(HELLO, deadline=soon())))[0] == "Hello"
    while len(simulator.requests) < 52:
        await asyncio.sleep(0.001)
    assert not any(call.done() for call in held)
    for call in held:
        call.cancel()
    await asyncio.gather(*held, return_exceptions=True)


async def test_concurrent_calls_are_limited_towards_the_provider(open_door: Open, simulator: Simulator) -> None:
    door = open_door(concurrent_calls=2)
    calls = [asyncio.create_task(collect(door, ask("[sim: words=3 pause=0.01]", deadline=soon()))) for _ in range(6)]
    most = 0
    while not all(call.done() for call in calls):
        most = max(most, sum(not request.ended.is_set() for request in simulator.requests))
        await asyncio.sleep(0.001)
    assert {call.result()[0] for call in calls} == {"Hello from the"}
    assert most == 2


@pytest.mark.parametrize("name", ["aichats", "openai"])
async def test_the_settings_open_the_provider_that_they_name(simulator: Simulator, name: str) -> None:
    settings = load_settings(
        worker_providers=name,
        aichats_url=simulator.url,
        openai_base_url=f"{simulator.url}/v1",
        openai_api_key="sk-secret",
    )
    provider = wiring.provider(settings)
    assert provider.working
    assert (await collect(provider, ask(HELLO)))[0] == "Hello"
    assert (await draw(provider, ask("a cat"))).mime == "image/png"
    path, authorization = simulator.requests[0].path, simulator.requests[0].headers.get("authorization")
    expected = {"aichats": ("/chat/send2/", None), "openai": ("/v1/chat/completions", "Bearer sk-secret")}
    assert (path, authorization) == expected[name]
    await provider.close()


async def test_openai_gets_its_own_names_of_the_models(simulator: Simulator) -> None:
    provider = make("openai", simulator.url, models=ModelTable({"gpt-4": "llama3"}, {"dalle": "flux"}))
    await collect(provider, ask(HELLO))
    await draw(provider, ask("a cat"))
    await provider.close()
    assert b'"model":"llama3"' in simulator.requests[0].body
    assert b'"model":"flux"' in simulator.requests[1].body
