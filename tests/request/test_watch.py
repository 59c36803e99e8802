"""What keeps replies alive."""

from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError

from aichats_schemas.events import parse_event
from aichats_worker.app import App
from aichats_worker.broker.patches.subscribing import settle
from aichats_worker.request.call import job_call
from aichats_worker.request.reply import Reply
from tests.direct.test_corridor import until
from tests.requester import Exchange


async def test_a_keep_alive_that_ends_is_begun_again(nc: Client, worker: App) -> None:
    broken: Any = (None, None)  # a defect of ours, whatever it may be
    worker.watch._open["defect"] = broken
    await until(lambda: worker.tasks.ended["keep-alive"] == 1)
    del worker.watch._open["defect"]
    exchange = await Exchange(nc).send("ai.v1.req.text.default", b"[sim: words=2 pause=3]")
    assert [(await exchange.event()).type for _ in range(2)] == ["response", "status"]
    assert "keep-alive" in worker.health.ready()[1]["checks"]["tasks_begun_again"]


async def test_an_abandoned_reply_says_nothing_more(nc: Client, worker: App) -> None:
    heard = await nc.subscribe("_INBOX.default.abandoned")
    await settle(nc)  # one flush can overtake the subscription
    reply = Reply(
        worker.watch.line("_INBOX.default.abandoned"), job_call("x.default.one", "text", headers={}, body=b"")
    )
    assert reply.text("before") is None
    reply.abandon()
    if (rest := reply.text("after")) is not None:
        await rest
    await worker.broker.nc.flush()
    assert b"before" in (await heard.next_msg(timeout=5)).data
    with pytest.raises(NatsTimeoutError):
        await heard.next_msg(timeout=0.2)
    assert reply.sent.events == 1


async def test_the_first_piece_is_written_at_once_and_what_follows_it_together(nc: Client, worker: App) -> None:
    heard = await nc.subscribe("_INBOX.default.first")
    await settle(nc)
    connection = worker.broker.nc
    await settle(connection)
    reply = Reply(worker.watch.line("_INBOX.default.first"), job_call("x.default.one", "text", headers={}, body=b""))
    kept = []
    for piece in ("one", "two", "three"):
        assert reply.text(piece) is None
        kept.append(connection.pending_data_size)
    assert kept[0] == 0
    assert 0 < kept[1] < kept[2]
    texts = [parse_event((await heard.next_msg(timeout=5)).data).data for _ in kept]
    assert texts == ["one", "two", "three"]
