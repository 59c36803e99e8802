"""The short way of a publish does what nats-py's own does: what goes out, in which order, what is refused."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, MaxPayloadError, OutboundBufferLimitError

from aichats_worker.broker.access import Identity
from aichats_worker.broker.connecting import Connection
from aichats_worker.broker.patches.returning import transport_of
from aichats_worker.broker.patches.subscribing import settle
from aichats_worker.broker.patches.writing import SHORT_WAY_MAX_BYTES
from tests.broker.pair import MakeServer
from tests.direct.test_corridor import until
from tests.processes import NatsServer

Ours = Callable[..., Any]
MAX_PAYLOAD = 256 * 1024


@pytest.fixture
async def server(own_nats_server: MakeServer) -> NatsServer:
    return own_nats_server(f"max_payload: {MAX_PAYLOAD}")


@pytest.fixture
async def listener(server: NatsServer) -> AsyncIterator[Subscription]:
    nc = await nats.connect(server.url)
    subscription = await nc.subscribe("said.>")
    await nc.flush()
    yield subscription
    await nc.close()


@pytest.fixture
async def ours(server: NatsServer) -> AsyncIterator[Ours]:
    clients: list[Connection] = []

    async def connect(**options: Any) -> Connection:
        clients.append(Connection(Identity))
        await clients[-1].reach([server.url], skip_subject_validation=True, reconnect_time_wait=0.1, **options)
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


async def heard(listener: Subscription, count: int) -> list[Msg]:
    return [await listener.next_msg(timeout=5) for _ in range(count)]


@pytest.fixture
def long_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects of what went the library's own way."""
    took: list[str] = []
    own = Client.publish

    async def publish(self: Client, subject: str, *rest: Any, **options: Any) -> None:
        took.append(subject)
        await own(self, subject, *rest, **options)

    monkeypatch.setattr(Client, "publish", publish)
    return took


async def test_both_ways_keep_one_order_and_say_the_same(
    listener: Subscription, ours: Ours, long_ways: list[str]
) -> None:
    nc = await ours()
    await nc.publish("said.short", "é".encode(), reply="answer.here")
    await nc.publish("said.headers", b"2", headers={"A": "b"})
    await nc.publish("said.empty")
    await nc.publish("said.large", bytes(SHORT_WAY_MAX_BYTES + 1))
    await nc.publish("said.last", b"5")
    messages = await heard(listener, 5)
    assert [(m.subject, m.reply, len(m.data), m.headers) for m in messages] == [
        ("said.short", "answer.here", 2, None),
        ("said.headers", "", 1, {"A": "b"}),
        ("said.empty", "", 0, None),
        ("said.large", "", SHORT_WAY_MAX_BYTES + 1, None),
        ("said.last", "", 1, None),
    ]
    assert long_ways[:2] == ["said.headers", "said.large"]  # and what came behind, while that was not written yet
    assert nc.stats["out_msgs"] == 5
    assert nc.stats["out_bytes"] == sum(len(message.data) for message in messages)


async def test_what_is_said_is_written_at_once_where_the_flusher_has_ended(listener: Subscription, ours: Ours) -> None:
    nc = await ours()
    nc._flusher_task.cancel()
    await asyncio.wait([nc._flusher_task])
    await nc.publish("said.small", b"1")
    assert nc._pending_data_size == 0
    assert [message.data for message in await heard(listener, 1)] == [b"1"]


async def test_what_the_socket_does_not_take_is_bounded_and_arrives(
    server: NatsServer, listener: Subscription, ours: Ours
) -> None:
    nc = await ours()
    server.send(signal.SIGSTOP)
    said, most = 0, 0
    while nc.publish_soon("said.much", b"%d" % said + bytes(8000)) and most < 4 * SHORT_WAY_MAX_BYTES:
        said += 1
        await asyncio.sleep(0)
        most = max(most, nc._transport._io_writer.transport.get_write_buffer_size())
    server.send(signal.SIGCONT)
    assert 0 < most < 4 * SHORT_WAY_MAX_BYTES
    assert [int(message.data.rstrip(b"\0")) for message in await heard(listener, said)] == list(range(said))


async def test_what_is_said_as_the_socket_ends_goes_out_on_the_next_connection(ours: Ours) -> None:
    nc = await ours(max_reconnect_attempts=-1)
    listener = await nc.subscribe("said.*")
    await settle(nc)
    assert nc.publish_soon("said.late", b"1")
    transport_of(nc._transport).abort()  # type: ignore[union-attr]
    assert [message.data for message in await heard(listener, 1)] == [b"1"]


async def test_what_is_refused_is_refused_as_before(ours: Ours) -> None:
    nc = await ours()
    with pytest.raises(MaxPayloadError):
        await nc.publish("said.much", bytes(MAX_PAYLOAD + 1))
    await nc.close()
    with pytest.raises(ConnectionClosedError):
        await nc.publish("said.late", b"1")


async def test_what_is_said_without_a_connection_is_kept_and_bounded(server: NatsServer, ours: Ours) -> None:
    nc = await ours(pending_size=1000, max_reconnect_attempts=-1)
    listener = await nc.subscribe("said.*")  # is there again before what was kept goes out
    server.kill()
    await until(lambda: not nc.is_connected)
    await nc.publish("said.kept", b"1")
    with pytest.raises(OutboundBufferLimitError):
        await nc.publish("said.much", bytes(1001))
    server.start()
    assert (await heard(listener, 1))[0].subject == "said.kept"


async def test_a_subject_that_has_to_be_checked_is_checked(server: NatsServer) -> None:
    nc = Connection(Identity)
    await nc.reach([server.url])
    with pytest.raises(nats.errors.BadSubjectError):
        await nc.publish("said. wrong", b"1")
    await nc.close()
