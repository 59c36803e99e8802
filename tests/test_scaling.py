"""docs/scaling.md: its arithmetic, and that a full region overflows into the next one."""

import asyncio
import math
from collections.abc import Callable

import nats
import orjson
from nats.aio.client import Client

from tests.conftest import StartWorker
from tests.direct.test_corridor import outcomes, until
from tests.processes import ROOT, NatsServer, free_port
from tests.requester import Exchange, ask

REQ = "ai.v1.req.text.default"
DELTAS, DELTAS_PER_SECOND, EVENT_BYTES = 750, 50, 150
DELTA_SECONDS, REQUEST_SECONDS, FILLED, SLOTS = 70e-6, 1e-3, 0.7, 256
BASE_MIB, STREAM_KIB = 70, 28


def column(begin: float, at_once: float) -> list[str]:
    """The rows from `deltas a second` to `connections of workers`."""
    deltas = at_once * DELTAS_PER_SECOND
    cores = deltas * DELTA_SECONDS + begin * REQUEST_SECONDS
    pods = math.ceil(cores / FILLED)
    moved = 2 * deltas * EVENT_BYTES
    return [
        f"{deltas:,.0f}",
        f"{cores:.1f}" if cores < 10 else f"{cores:.0f}",
        f"{pods}",
        f"{pods * SLOTS:,}",
        f"{BASE_MIB + at_once / pods * STREAM_KIB / 1024:.0f} MiB",
        f"{2 * deltas:,.0f}",
        f"{moved / 1e9:.1f} GB" if moved > 1e9 else f"{moved / 1e6:.0f} MB",
        f"{pods}",
    ]


def test_the_arithmetic_of_the_scaling_guide_is_right() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    lines = [line for line in text.partition("## The arithmetic")[2].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if not line.startswith("| ---")]
    seconds = DELTAS / DELTAS_PER_SECOND
    mean = 1e6 / 86400
    assert rows[0][1:] == ["1 million streams a day", "100,000 streams at once"]
    assert [row[1] for row in rows[3:]] == column(4 * mean, 4 * mean * seconds)
    assert [row[2] for row in rows[3:]] == column(1e5 / seconds, 1e5)
    assert rows[1][1] == f"{mean:.1f} on average, {4 * mean:.1f} at a peak of four times that"
    assert rows[1][2] == f"{1e5 / seconds:,.0f}"
    assert rows[2][1:] == [f"{4 * mean * seconds:.0f} at the peak", "100,000"]


async def until_linked(hub: Client, leaf: Client) -> None:
    """Wait until what is published at the leaf reaches the hub."""
    heard = asyncio.Event()

    async def hear(_: object) -> None:
        heard.set()

    subscription = await hub.subscribe("linked", cb=hear)
    async with asyncio.timeout(10):
        while not heard.is_set():
            await leaf.publish("linked", b"")
            await asyncio.sleep(0.05)
    await subscription.unsubscribe()


async def test_a_region_answers_its_own_and_overflows_into_the_next_only_when_it_is_full(
    own_nats_server: Callable[..., NatsServer], start_worker: StartWorker
) -> None:
    port = free_port()
    hub = own_nats_server(f'server_name: hub\nleafnodes {{ host: "127.0.0.1", port: {port} }}\n', jetstream=False)
    remote = f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}\n'
    leaf = own_nats_server(f"server_name: leaf\n{remote}", jetstream=False)
    at_hub, here = await nats.connect(hub.url), await nats.connect(leaf.url)
    await until_linked(at_hub, here)
    near = await start_worker(nats_url=leaf.url, worker_concurrency_max=2)
    far = await start_worker(nats_url=hub.url, worker_concurrency_max=2)

    for _ in range(20):
        assert orjson.loads((await here.request(REQ.replace("req", "ask"), b"[sim: words=1]", timeout=10)).data)
    assert outcomes(near, mode="ask") == {"done": 20.0}
    assert outcomes(far, mode="ask") == {}

    busy = [await Exchange(here).send(REQ, b"[sim: words=3 pause=1]") for _ in range(2)]
    await until(lambda: near.slots["text"].free == 0)
    assert (await ask(here, REQ, b"[sim: words=1]"))[-1].type == "done"
    assert outcomes(far) == {"done": 1.0}
    for exchange in busy:
        assert (await exchange.all())[-1].type == "done"
    await until(lambda: near.slots["text"].free == 2)
    assert (await ask(here, REQ, b"[sim: words=1]"))[-1].type == "done"
    assert outcomes(far) == {"done": 1.0}
    await at_hub.close()
    await here.close()
