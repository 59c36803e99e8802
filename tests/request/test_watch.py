"""What keeps replies alive."""

from typing import Any

from nats.aio.client import Client

from aichats_worker.app import App
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
