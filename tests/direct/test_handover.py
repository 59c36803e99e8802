"""Who gets a core request when workers fill up: the hand-over, and what is refused."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from aichats_worker.app import App
from aichats_worker.broker.patches.subscribing import settle
from aichats_worker.errors import Cancelled
from aichats_worker.request.call import Call
from aichats_worker.request.slots import RETRY_AFTER_MAX_SECONDS, Slots
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.direct.test_corridor import outcomes, until
from tests.link import linked
from tests.processes import NatsServer
from tests.requester import WAIT_SECONDS, Exchange, ask, check

REQ = "ai.v1.req.text.default"
ASK = "ai.v1.ask.text.default"
REQ_IMAGE = "ai.v1.req.image.default"
ROOM = "ai.v1.int.room.text"
SLOW = b"[sim: words=2 pause=1.5]"


async def end(exchange: Exchange) -> str:
    """How a reply ended: `done`, an error's code, or `none` where NATS said that there is nobody."""
    while not exchange.messages or exchange.messages[-1].data:
        message = await exchange.next()
        if (message.headers or {}).get("Status") == "503":
            assert len(exchange.messages) == 1, "a worker had begun"
            await exchange.leave()
            return "none"
    event: Any = check(exchange.messages)[-1]
    await exchange.leave()
    return str(event.data.code) if event.type == "error" else str(event.type)


async def has_room(nc: Client) -> bool:
    """Whether any worker is in the queue group of those with room."""
    try:
        await nc.request(ROOM, b"", timeout=5)
    except NoRespondersError:
        return False
    return True


async def until_room(nc: Client, wanted: bool) -> None:
    async with asyncio.timeout(60):
        while await has_room(nc) != wanted:
            await asyncio.sleep(0.01)


async def test_a_lone_worker_that_is_full_refuses_each_request_at_once(nc: Client, start_worker: StartWorker) -> None:
    await start_worker(worker_concurrency_max=1)
    running = await Exchange(nc).send(REQ, b"[sim: words=2 pause=2.5]")
    await running.event()
    for _ in range(3):
        async with asyncio.timeout(2):  # the slot is taken for longer
            assert await end(await Exchange(nc).send(REQ, b"hi")) == "overloaded"
    assert (await ask(nc, REQ_IMAGE, b"[sim: bytes=1000]"))[-1].type == "done", "images have slots of their own"
    assert await end(running) == "done"
    assert (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done", "a slot is free before it says that it has ended"


async def test_what_arrives_together_at_a_lone_worker_is_refused_with_the_time_to_come_back(
    nc: Client, start_worker: StartWorker
) -> None:
    worker = await start_worker(worker_concurrency_max=2)
    await ask(nc, REQ, b"[sim: words=2 pause=0.6]")  # from here on it knows how long they take
    exchanges = [await Exchange(nc).send(REQ, SLOW) for _ in range(20)]
    ends = Counter([await end(exchange) for exchange in exchanges])
    assert ends == {"done": 2, "overloaded": 18}
    refused: list[Any] = [check(e.messages)[-1] for e in exchanges if len(e.messages) == 2]
    waits = sorted(event.data.retry_after_ms for event in refused if event.type == "error")
    assert len(waits) == 18
    assert 200 <= waits[0] <= 1500, "a slot comes free about each 0.3 s: 0.6 s for one, and there are two"
    assert waits[-1] > 10 * waits[0], "they would all come back at once"
    assert outcomes(worker)["overloaded"] == 18


@pytest.mark.parametrize("subject", [REQ, ASK])
async def test_sixteen_slow_requests_fill_four_workers_of_four_slots(
    nc: Client, start_worker: StartWorker, simulator: Simulator, subject: str
) -> None:
    workers = [await start_worker(worker_concurrency_max=4) for _ in range(4)]
    for _ in range(3):
        exchanges = [await Exchange(nc).send(subject, SLOW) for _ in range(16)]
        await until(lambda: [app.slots["text"].free for app in workers] == [0, 0, 0, 0])
        wanted = "done" if subject == REQ else "result"
        assert Counter([await end(exchange) for exchange in exchanges]) == {wanted: 16}
    assert len(simulator.requests) == 48
    mode = "req" if subject == REQ else "ask"
    await until(lambda: [outcomes(app, mode=mode)["done"] for app in workers] == [12.0] * 4)
    assert sum(outcomes(app, mode=mode).get("overloaded", 0) for app in workers) == 0


async def test_as_many_requesters_as_slots_are_never_refused(nc: Client, start_worker: StartWorker) -> None:
    """Each asks again as soon as its answer has ended: by then the slot is free, and the others know."""
    workers = [await start_worker(worker_concurrency_max=2) for _ in range(3)]
    ends: Counter[str] = Counter()

    async def one() -> None:
        for _ in range(30):
            ends[await end(await Exchange(nc).send(REQ, b"[sim: words=1]"))] += 1

    await asyncio.gather(*(one() for _ in range(6)))
    assert ends == {"done": 180}
    assert all(app.slots["text"].free == 2 for app in workers)


async def full_and_free(nc: Client, start_worker: StartWorker, **settings: Any) -> tuple[App, App, Exchange]:
    """A worker whose slot is taken, and a free one."""
    full = await start_worker(worker_concurrency_max=1)
    running = await Exchange(nc).send(REQ, b"[sim: words=3 pause=1]")
    await running.event()
    free = await start_worker(**({"worker_concurrency_max": 1} | settings))
    return full, free, running


async def late(app: App, exchange: Exchange, body: bytes, headers: dict[str, str] | None = None) -> Exchange:
    """Bring a request to this worker and to no other, as the server would."""
    exchange._subscription = await exchange.nc.subscribe(exchange.inbox, cb=exchange._queue.put)
    await settle(exchange.nc)
    message = Msg(_client=app.broker.connection, subject=REQ, reply=exchange.inbox, data=body, headers=headers)
    subscription: Any = app._core._subscribers[0].subscription
    await subscription._cb(message)
    return exchange


async def test_a_request_that_comes_to_a_full_worker_is_handed_over_as_it_was(
    nc: Client, start_worker: StartWorker
) -> None:
    full, free, running = await full_and_free(nc, start_worker)
    body = b'{"prompt":"[sim: words=3]","metadata":{"order":"7"}}'
    headers = {"Nats-Msg-Id": "r9", "correlation_id": "c\tno", "traceparent": "00-aa-bb-01"}
    events: Any = await (await late(full, Exchange(nc), body, headers)).all()
    assert (events[-1].type, events[-1].id, events[-1].data.metadata) == ("done", "r9", {"order": "7"})
    assert outcomes(full).get("handed_over") == 1
    assert outcomes(free).get("done") == 1
    assert await end(running) == "done"


async def test_a_request_as_large_as_the_broker_takes_is_handed_over_as_well(
    nc: Client, start_worker: StartWorker
) -> None:
    full, free, running = await full_and_free(nc, start_worker)
    events: Any = await (await late(full, Exchange(nc), b"x" * nc.max_payload)).all()
    assert events[-1].data.code == "too_large", "the prompt has a limit, which the other worker holds it against"
    assert outcomes(free) == {"too_large": 1.0}
    assert await end(running) == "done"
    assert full.broker.connection.is_connected


async def test_a_request_whose_id_runs_on_the_full_worker_is_a_duplicate(nc: Client, start_worker: StartWorker) -> None:
    await start_worker(worker_concurrency_max=2)
    first = await Exchange(nc).send(REQ, SLOW, {"Nats-Msg-Id": "same"})
    await first.event()
    both = [await Exchange(nc).send(REQ, SLOW, {"Nats-Msg-Id": name}) for name in ("other", "same")]
    assert [await end(exchange) for exchange in both] == ["done", "duplicate"]
    assert await end(first) == "done"
    assert (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done", "the duplicate holds no slot"


OFFER = {"mode": "req", "tenant": "t", "id": "r9", "reply_to": "_INBOX.t.x", "headers": {}}


@pytest.mark.parametrize(
    "offer", [b"", b"[]", b'{"stream":"AIJOBS","seq":2}', OFFER | {"tenant": "*"}, OFFER | {"mode": "job"}]
)
async def test_no_slot_is_kept_for_what_is_no_request(nc: Client, worker: App, offer: Any) -> None:
    body = offer if isinstance(offer, bytes) else orjson.dumps(offer)
    assert (await nc.request(ROOM, body, timeout=5)).data == b""
    assert worker.slots["text"].free == worker.slots["text"].count


async def test_a_handed_over_request_may_not_name_any_subject_for_its_reply(
    nc: Client, worker: App, simulator: Simulator
) -> None:
    offer = OFFER | {"reply_to": "$JS.API.STREAM.PURGE.X"}
    place = (await nc.request(ROOM, orjson.dumps(offer), timeout=5)).data.decode()
    await nc.request(f"ai.v1.int.take.{place}", b"hi", timeout=5)
    count = worker.telemetry.registry.get_sample_value
    await until(lambda: count("aichats_requests_dropped_total", {"reason": "forbidden_reply"}) == 1)
    assert worker.slots["text"].free == worker.slots["text"].count
    assert simulator.requests == []


async def test_no_slot_is_kept_for_whoever_only_asks_and_one_place_takes_one_request(nc: Client, worker: App) -> None:
    place = (await nc.request(ROOM, orjson.dumps(OFFER), timeout=5)).data.decode()
    assert worker.slots["text"].free == worker.slots["text"].count
    listening = await nc.subscribe("_INBOX.t.x")
    answers = [(await nc.request(f"ai.v1.int.take.{place}", SLOW, timeout=5)).data for _ in range(3)]
    assert answers == [b"1", b"", b""]
    assert worker.slots["text"].free == worker.slots["text"].count - 1
    await listening.unsubscribe()


async def test_a_place_is_forgotten_after_a_while(nc: Client, worker: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aichats_worker.direct.handover.OFFER_SECONDS", 0.1)
    place = (await nc.request(ROOM, orjson.dumps(OFFER), timeout=5)).data.decode()
    await until(lambda: not worker.handover._offers)
    assert (await nc.request(f"ai.v1.int.take.{place}", b"hi", timeout=5)).data == b""
    assert outcomes(worker) == {}


@pytest.fixture
async def far(nats_server: NatsServer) -> AsyncIterator[str]:
    """The server, 150 ms away."""
    async with linked(nats_server.port) as link:
        link.delay_seconds = 0.15
        yield link.url


async def test_a_far_worker_is_filled_and_not_emptied(
    far: str, nc: Client, start_worker: StartWorker, simulator: Simulator
) -> None:
    full, remote, running = await full_and_free(nc, start_worker, nats_url=far, worker_concurrency_max=4)
    lowest: list[int] = []

    async def look() -> None:
        while True:
            lowest.append(remote.slots["text"].free)
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    exchanges = [await late(full, Exchange(nc), b"[sim: words=2 pause=0.5]") for _ in range(4)]
    ends = Counter([await end(exchange) for exchange in exchanges])
    looking.cancel()
    assert ends == {"done": 4}
    assert min(lowest) == 0, "all its slots had a request"
    assert outcomes(remote) == {"done": 4.0}
    assert remote.slots["text"].free == 4
    assert len(simulator.requests) == 5
    assert await end(running) == "done"


@pytest.mark.parametrize("pause", [0.05, 0.45], ids=["while it looks for a place", "while it is sent there"])
async def test_a_cancel_finds_a_request_between_two_workers(
    far: str, nc: Client, start_worker: StartWorker, simulator: Simulator, pause: float
) -> None:
    full, remote, running = await full_and_free(nc, start_worker, nats_url=far)
    exchange = await late(full, Exchange(nc), b"[sim: words=300 pause=0.1]", {"Nats-Msg-Id": "moving"})
    await asyncio.sleep(pause)
    answer = (await nc.request("ai.v1.ctl.cancel.default.moving", b"", timeout=5)).data
    assert not answer.startswith(b'{"cancelled":false}'), "true, or on a way this long: not found out within a second"
    async with asyncio.timeout(WAIT_SECONDS):
        while answer != b'{"cancelled":true}':
            answer = (await nc.request("ai.v1.ctl.cancel.default.moving", b"", timeout=5)).data
    assert await end(exchange) == "cancelled"
    await until(lambda: remote.slots["text"].free == 1)
    assert await end(running) == "done"


async def test_a_cancel_in_the_moment_that_a_request_is_taken_elsewhere_ends_it_once(
    nc: Client, start_worker: StartWorker
) -> None:
    full, other = await start_worker(worker_concurrency_max=1), await start_worker()
    assert full.slots["text"].take()
    exchange = await Exchange(nc).listen()
    await nc.flush()
    call = Call(
        "req", kind="text", tenant="t", id="r1", reply_to=exchange.inbox, body=b"[sim: words=2 pause=0.1]", headers={}
    )
    assert full._core.accept(call)
    async with asyncio.timeout(WAIT_SECONDS):
        while not (sending := [task for task in asyncio.all_tasks() if task.get_name() == "hand-over:r1"]):
            await asyncio.sleep(0)
    run = full.runs.find("t", "r1")
    assert run is not None
    # One step of the loop later whoever waits for the word has it, and has not gone on yet.
    stopped: list[bool] = []
    stop = lambda: stopped.append(run.stop(Cancelled("by the test")))  # noqa: E731
    sending[0].add_done_callback(lambda _: asyncio.get_running_loop().call_soon(stop))
    *_, end = await exchange.all()
    assert end.type == ("error" if stopped[0] else "done")
    assert other.runs.find("t", "r1") is None


async def test_where_no_worker_has_room_a_late_request_is_refused(nc: Client, start_worker: StartWorker) -> None:
    full, other, running = await full_and_free(nc, start_worker)
    held = await Exchange(nc).send(REQ, SLOW)
    await held.event()
    assert await end(await late(full, Exchange(nc), b"hi")) == "overloaded"
    assert [await end(exchange) for exchange in (running, held)] == ["done", "done"]
    await until(lambda: other.slots["text"].free == 1)


async def test_a_hand_over_that_nobody_answers_is_refused_in_time(
    own_nats_server: Any, start_worker: StartWorker
) -> None:
    server: NatsServer = own_nats_server()
    app = await start_worker(nats_url=server.url, worker_concurrency_max=1)
    nc = await nats.connect(server.url)
    silent = await nc.subscribe("ai.v1.int.room.text", queue="ai-workers")
    running = await Exchange(nc).send(REQ, b"[sim: words=2 pause=4]")
    await running.event()
    assert await end(await Exchange(nc).send(REQ, b"hi")) == "overloaded"
    await silent.unsubscribe()
    assert await end(running) == "done"
    assert app.slots["text"].free == 1
    await nc.close()


async def test_after_a_broker_restart_a_full_worker_takes_nothing_over(
    own_nats_server: Any, start_worker: StartWorker
) -> None:
    server: NatsServer = own_nats_server()
    app = await start_worker(nats_url=server.url, worker_concurrency_max=1)
    nc = await nats.connect(server.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1)
    running = await Exchange(nc).send(ASK, b"[sim: words=2 pause=6]")
    await until_room(nc, wanted=False)
    server.kill()
    server.start()
    await until(lambda: nc.stats["reconnects"] == app.broker.connection.stats["reconnects"] == 1)
    await until_room(nc, wanted=False)
    assert await end(running) == "result", "the worker wrote to an inbox that is there again"
    await until_room(nc, wanted=True)
    await nc.close()


async def test_jobs_fill_a_worker_as_well(nc: Client, own_nats_server: Any, start_worker: StartWorker) -> None:
    server: NatsServer = own_nats_server()
    app = await start_worker(nats_url=server.url, worker_concurrency_max=1, worker_jobs=True)
    own = await nats.connect(server.url)
    await until(lambda: app.jobs is not None)
    await own.jetstream().publish("ai.v1.job.text.default.j1", SLOW)
    await until(lambda: app.slots["text"].free == 0)
    await until_room(own, wanted=False)
    await until_room(own, wanted=True)
    await own.close()


async def test_a_job_that_came_to_a_full_worker_goes_to_a_free_one(
    own_nats_server: Any, start_worker: StartWorker
) -> None:
    server: NatsServer = own_nats_server()
    full = await start_worker(nats_url=server.url, worker_concurrency_max=1, worker_jobs=True)
    nc = await nats.connect(server.url)
    await until(lambda: full.jobs is not None)
    await asyncio.sleep(0.5)  # it waits for a job now
    running = await Exchange(nc).send(REQ, b"[sim: words=2 pause=8]")
    await running.event()
    free = await start_worker(nats_url=server.url, worker_concurrency_max=1, worker_jobs=True)
    await until(lambda: free.jobs is not None)
    for number in range(3):
        await nc.jetstream().publish(f"ai.v1.job.text.default.j{number}", b"[sim: words=1]")
    await until(lambda: outcomes(free, mode="job").get("done") == 3)
    assert await end(running) == "done"
    assert outcomes(full, mode="job").get("done") is None
    await nc.close()


async def test_a_slot_that_was_waited_for_comes_before_a_core_request() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not await slots.wait(0)
    waiting = asyncio.create_task(slots.wait(5))
    await asyncio.sleep(0)
    slots.give_back()
    assert not slots.take()
    assert await waiting
    slots.give_back()
    assert slots.take()


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_slot_that_comes_while_the_wait_for_it_ends_is_not_lost(cancelled_first: bool) -> None:
    slots = Slots(1)
    assert slots.take()
    waiting = asyncio.create_task(slots.wait(5))
    await asyncio.sleep(0)
    for step in (waiting.cancel, slots.give_back) if cancelled_first else (slots.give_back, waiting.cancel):
        step()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.free == 1


async def test_a_slot_that_is_handed_on_is_not_free_and_who_waited_no_longer_counts() -> None:
    slots = Slots(1)
    assert slots.take()
    waiting = [asyncio.create_task(slots.wait(5)) for _ in range(2)]
    await until(lambda: slots.free == -2)
    for left in (-1, 0):
        slots.give_back()
        assert slots.free == left
    assert await asyncio.gather(*waiting) == [True, True]
    slots.give_back()
    assert slots.free == 1


async def test_a_wait_for_a_slot_ends() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not await slots.wait(0.05)
    slots.give_back()
    assert slots.free == 1


async def test_the_time_to_come_back_follows_how_long_slots_were_held() -> None:
    slots = Slots(4)
    assert slots.retry_after_ms() == 250, "one second each, as long as nothing is known"
    assert slots.take()
    await slots.end(0.8)
    first, second = slots.retry_after_ms(), slots.retry_after_ms()
    assert first == 200
    assert second == pytest.approx(2 * first, abs=2)
    for _ in range(10_000):
        last = slots.retry_after_ms()
    assert last == RETRY_AFTER_MAX_SECONDS * 1000
    assert slots.take()
    slots.give_back()
    assert slots.retry_after_ms() == first, "a slot came free since"
