"""What FastStream and nats-py do that hurts, and that the worker does not suffer from it: for whoever takes a new one.

In the order of the measured facts: a stray cancellation, a graceful stop, a closed connection, fetching too much,
thread hops, labels by subject, consumers that are not updated, and subscriptions that are not live yet. A test of the
bare library beside it says when a correction is not needed any more.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import pytest
from faststream.nats import NatsBroker, NatsMessage
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError

from aichats_worker.app import App
from aichats_worker.broker.access import Identity
from aichats_worker.broker.connecting import Connection
from aichats_worker.broker.patches.subscribing import leave, settle, take_directly
from tests.conftest import StartWorker
from tests.direct.test_corridor import until
from tests.jobs.test_jobs import Broker, StartJobs, broker, start_jobs
from tests.link import linked
from tests.processes import NatsServer
from tests.requester import Exchange, ask

__all__ = ["broker", "start_jobs"]

REQ = "ai.v1.req.text.default"
ROUNDS = 30


@pytest.fixture
async def other(nats_server: NatsServer) -> AsyncIterator[Client]:
    """The worker's side, on a connection of its own."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


async def test_faststream_stops_a_subscriber_whose_handler_was_cancelled(nats_server: NatsServer, nc: Client) -> None:
    """Why handlers start a task and return: once FastStream survives this, they may wait."""
    broker = NatsBroker(nats_server.url, logger=logging.getLogger("quiet"), log_level=logging.DEBUG, apply_types=False)
    handled: list[bytes] = []

    async def decode(message: NatsMessage) -> bytes:
        return bytes(message.body)

    async def handle(body: bytes) -> None:
        if body == b"cancel":
            raise asyncio.CancelledError
        handled.append(body)

    broker.subscriber("pinned.cancel", decoder=decode, no_reply=True)(handle)
    await broker.start()
    await settle(broker.connection)
    for body in (b"first", b"cancel", b"second"):
        await nc.publish("pinned.cancel", body)
    await settle(nc)
    await asyncio.sleep(0.5)
    await broker.stop()
    assert handled == [b"first"]


async def test_a_stray_cancellation_of_one_job_leaves_the_others_and_the_subscriber_alone(
    broker: Broker, start_jobs: StartJobs
) -> None:
    app = await start_jobs()
    for number in range(3):
        await broker.submit("[sim: words=3 pause=1]", f"n{number}")
    await until(lambda: app.slots["text"].free == app.slots["text"].count - 3)
    next(task for task in asyncio.all_tasks() if task.get_name() == "job:n1").cancel()
    await broker.removed()
    await broker.submit("[sim: words=1]", "after")
    await broker.removed()
    assert await broker.dead() == []


async def test_nats_py_drops_what_does_not_fit_a_subscriptions_queue(nc: Client, other: Client) -> None:
    got: list[bytes] = []

    async def take(message: Msg) -> None:
        got.append(message.data)

    await other.subscribe("pinned.queue", cb=take, pending_msgs_limit=1)
    await settle(other)
    for n in range(100):
        await nc.publish("pinned.queue", b"%d" % n)
    await settle(nc)
    await settle(other)
    assert 0 < len(got) < 100


async def test_what_is_taken_directly_is_never_too_much_and_an_error_ends_nothing(
    nats_server: NatsServer, nc: Client
) -> None:
    taken: list[tuple[bytes, str, dict[str, str] | None]] = []
    told: list[Exception] = []

    async def tell(error: Exception) -> None:
        told.append(error)

    def take(message: Msg) -> None:
        if message.data == b"bad":
            raise LookupError
        taken.append((message.data, message.reply, message.headers))

    worker = Connection(Identity)
    await worker.reach([nats_server.url], error_cb=tell)
    broker = NatsBroker()
    subscriber = broker.subscriber("pinned.directly")
    take_directly(subscriber, take)
    await worker.subscribe("pinned.directly", cb=subscriber.consume, pending_msgs_limit=1)
    await settle(worker)
    await nc.publish("pinned.directly", b"bad", reply="a.b", headers={"A": "b"})
    for n in range(100):
        await nc.publish("pinned.directly", b"%d" % n, reply="a.b", headers={"A": "b"})
    await settle(nc)
    await settle(worker)
    await worker.close()
    assert taken == [(b"%d" % n, "a.b", {"A": "b"}) for n in range(100)]
    assert [type(error) for error in told] == [LookupError]


async def test_a_workers_core_requests_are_taken_directly(worker: App) -> None:
    assert worker._nc is not None
    taken = [subscription.subject for subscription in worker._nc._subs.values() if hasattr(subscription._cb, "take")]
    assert sorted(taken) == [f"ai.v1.{mode}.{kind}.*" for mode in ("ask", "req") for kind in ("image", "text")]


async def test_settle_is_a_barrier_for_subscriptions_and_leave_for_their_end(nc: Client, other: Client) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(message: Any) -> None:
        await got.put(message.data)

    for n in range(ROUNDS):
        subject = f"pinned.settle.{n}"
        subscription = await other.subscribe(subject, cb=take)
        await settle(other)
        await nc.publish(subject, b"in")
        await settle(nc)
        async with asyncio.timeout(2):
            assert await got.get() == b"in"
        await leave(other, [subscription], timeout_seconds=5)
        await nc.publish(subject, b"late")
        await settle(nc)
    await settle(other)
    assert got.empty()


async def test_what_arrived_before_a_subscriber_left_is_still_handled(nc: Client, other: Client) -> None:
    handled: list[bytes] = []

    async def slowly(message: Any) -> None:
        await asyncio.sleep(0.01)
        handled.append(message.data)

    subscription = await other.subscribe("pinned.leave", cb=slowly)
    await settle(other)
    for n in range(20):
        await nc.publish("pinned.leave", b"%d" % n)
    await settle(nc)
    await leave(other, [subscription], timeout_seconds=5)
    assert handled == [b"%d" % n for n in range(20)]


async def test_a_worker_serves_from_the_moment_it_says_ready(nc: Client, start_worker: StartWorker) -> None:
    for n in range(5):
        app = await start_worker(worker_subject_prefix=f"p{n}")
        await nc.request(f"p{n}.ask.text.t", b"[sim: words=1]", timeout=5)
        await app.drain()


async def test_no_more_jobs_are_fetched_than_there_are_slots(broker: Broker, start_jobs: StartJobs) -> None:
    app = await start_jobs(worker_concurrency_max=2)
    for number in range(6):
        await broker.submit("[sim: words=2 pause=3]", f"n{number}")
    await until(lambda: app.slots["text"].free == 0)
    pending = []
    for _ in range(40):  # while the first two run: one that ends is given up before it is acknowledged
        pending.append((await broker.js.consumer_info("AIJOBS", "ai-workers-text")).num_ack_pending)
        await asyncio.sleep(0.02)
    assert pending == [2] * 40


async def test_a_request_hops_to_no_thread(nc: Client, start_worker: StartWorker) -> None:
    """Each parameter that FastStream injects would be a thread hop: 750 in place of 385 µs for a request."""
    await start_worker()
    before = {thread.name for thread in threading.enumerate()}
    for _ in range(10):
        await ask(nc, REQ, b"[sim: words=1]")
    assert not [name for name in {t.name for t in threading.enumerate()} - before if "AnyIO" in name]


async def test_a_thousand_tenants_add_no_series(nc: Client, start_worker: StartWorker) -> None:
    app = await start_worker(worker_concurrency_max=1000)

    def series() -> int:
        return sum(len(metric.samples) for metric in app.telemetry.registry.collect())

    async def one(tenant: str) -> None:
        await nc.request(f"ai.v1.ask.text.{tenant}", b'{"prompt":""}', timeout=20)

    await one("first")
    await until(lambda: app.slots["text"].free == 1000)
    before = series()
    await asyncio.gather(*(one(f"t{n}") for n in range(1000)))
    assert series() == before


async def test_nats_py_closes_for_good_where_headers_pass_max_payload_and_the_worker_stays_below(
    own_nats_server: Callable[..., NatsServer], start_worker: StartWorker
) -> None:
    server = own_nats_server("max_payload: 4096")
    app = await start_worker(nats_url=server.url)
    nc = await nats.connect(server.url, error_cb=_quiet)
    limit = nc.max_payload
    with pytest.raises(MaxPayloadError):
        await nc.publish("pinned.large", b"x" * (limit + 1))
    long_names = {"prompt": "a", "metadata": {"k" * 65: "v"} | {f"{n:x<64}": 1 for n in range(15)}}
    (error,) = await ask(nc, REQ, long_names)
    assert error.type == "error"
    assert app.broker.connection.is_connected
    await nc.publish("pinned.large", b"x" * limit, headers={"A": "b"})
    await until(lambda: nc.is_closed)


async def _quiet(_: Exception) -> None:
    """What the server says is seen by what it does."""


async def test_nats_py_swallows_a_cancellation_while_it_is_held_up(own_nats_server: Callable[..., NatsServer]) -> None:
    """Why Run.check() looks again after each publish: once this raises, it need not."""
    server = own_nats_server()
    async with linked(server.port) as link:
        nc = await nats.connect(link.url, pending_size=1024 * 1024, flush_timeout=30, error_cb=_quiet)
        link.flowing.clear()
        survived = asyncio.Event()

        async def flood() -> None:
            while not survived.is_set():
                await nc.publish("pinned.flood", b"x" * 65536)
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    survived.set()

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(1)
        flooding.cancel()
        async with asyncio.timeout(5):
            await flooding
        assert survived.is_set()
        link.flowing.set()
        await nc.close()


async def test_requests_that_reach_a_worker_which_drains_are_answered_or_go_to_another(
    nc: Client, start_worker: StartWorker
) -> None:
    first = await start_worker(worker_drain_timeout_seconds=5)
    await start_worker()
    slow = [await Exchange(nc).send(REQ, b"[sim: words=3 pause=0.4]") for _ in range(6)]
    draining = asyncio.create_task(first.drain())
    quick = [await Exchange(nc).send(REQ, b"[sim: words=1]") for _ in range(60)]
    ends = [(await exchange.all())[-1].type for exchange in [*slow, *quick]]
    assert ends == ["done"] * 66
    assert await draining == 0
