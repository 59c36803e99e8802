"""The fault matrix: docs/faults.md says what each requester may see, and this holds it against what happens."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nats
import orjson
import pytest
from nats.aio.client import Client

from aichats_schemas.subjects import Kind
from aichats_worker.app import App
from aichats_worker.broker.patches.returning import transport_of
from tests.broker.identities import Key
from tests.broker.pair import route
from tests.conftest import StartWorker
from tests.direct.test_corridor import until
from tests.link import Link, linked
from tests.processes import ROOT, NatsServer, free_port
from tests.requester import ask, until_heard

REQ = "ai.v1.req.text.default"
ASK = "ai.v1.ask.text.default"
RESUME = "ai.v1.ctl.resume.default"
BODY = b"[sim: words=40 pause=0.1]"
IMAGE = b"[sim: bytes=300000 delay=2]"
LONG = b"[sim: words=600 pause=0.1]"
SILENCE_SECONDS = 6.0
# The record that no fault leaves with a gap came with this room: without it, the columns of jobs are not looked at.
JOBS = find_spec("aichats_worker.jobs.serving") is not None
KEY = Key("U")
PROBE = "{user: probe, password: p}"


@dataclass
class World:
    """A worker at work behind a link, its broker, and a requester on a way of its own."""

    server: NatsServer
    link: Link
    app: App
    nc: Client
    seed: Path
    other: NatsServer | None = None


def config(*, user: str = f"{{nkey: {KEY.public}}}", limits: str = "", more: str = "") -> str:
    return f"server_name: s\naccounts {{ A {{ jetstream: enabled, users: [{user}, {PROBE}]\n {limits} }} }}\n{more}"


async def freezes(world: World) -> None:
    world.server.send(signal.SIGSTOP)
    await asyncio.sleep(2)
    world.server.send(signal.SIGCONT)


async def is_killed(world: World) -> None:
    world.server.kill()
    world.server.start()


async def is_cut(world: World) -> None:
    world.link.cut()


async def refuses(world: World) -> None:
    world.server.configure(config(user="{user: u, password: p}"))
    world.server.send(signal.SIGHUP)  # a user that is gone is thrown out
    await until(lambda: "uthorization" in world.app.connection.disconnected())
    await asyncio.sleep(2)
    world.server.configure(config())
    world.server.send(signal.SIGHUP)


async def reads_an_empty_seed(world: World) -> None:
    good = world.seed.read_text()
    world.seed.write_text("")
    await is_killed(world)
    await until(lambda: "NATS_NKEY" in world.app.connection.disconnected())
    world.seed.write_text(good)


async def reaches_the_limit(world: World) -> None:
    for n in range(60):
        await world.app.broker.connection.subscribe(f"ai.v1.int.more.{n}")
    await until(lambda: bool(world.app.connection.refused))


async def says_an_error(world: World) -> None:
    world.link.inject(b"-ERR 'Invalid Subject'\r\n-ERR 'Maximum Subscriptions Exceeded'\r\n")


async def reconnect_ends(world: World) -> None:
    connection: Any = world.app.broker.connection
    world.link.cut()
    await until(lambda: connection._reconnection_task is not None and not connection.is_connected)
    connection._reconnection_task.cancel()


async def retires(world: World) -> None:
    world.server.send(signal.SIGUSR2)
    await until(lambda: world.app.broker.connection.stats["reconnects"] == 1)


async def callback_is_cancelled(world: World) -> None:
    connection: Any = world.app.broker.connection
    subscription = next(each for each in connection._subs.values() if each.subject == "ai.v1.req.text.*")
    subscription._wait_for_msgs_task.cancel()
    await until(lambda: not subscription._wait_for_msgs_task.done())


async def lowers_its_limit(world: World) -> None:
    world.server.configure(f"max_payload: 65536\n{config()}")
    world.server.send(signal.SIGHUP)
    # It tells nobody; it throws the worker out at the first message that is too large.
    await until(lambda: world.app.broker.connection.max_payload == 65536)


async def falls_silent(world: World) -> None:
    connection: Any = world.app.broker.connection
    silent: Any = transport_of(connection._transport)
    world.server.send(signal.SIGSTOP)
    for _ in range(30):  # in one write, more than the system holds for a server that takes nothing
        await connection.publish("ai.v1.int.more", b"x" * 512 * 1024)
    await until(lambda: silent.get_write_buffer_size() > 0)
    await until(lambda: connection.stats["reconnects"] == 1)
    world.server.kill()  # until it is gone for the other broker too, that sends it a share of the requests


FAULTS: dict[str, Callable[[World], Awaitable[None]]] = {
    "the broker freezes for 2 s": freezes,
    "the broker is killed and comes back": is_killed,
    "the worker's link is cut": is_cut,
    "the broker refuses the worker for 2 s": refuses,
    "the seed file is empty while the broker restarts": reads_an_empty_seed,
    "the account's limit of subscriptions is reached": reaches_the_limit,
    "the broker says an error that ends nothing": says_an_error,
    "the reconnect itself ends": reconnect_ends,
    "the broker retires, and there is another": retires,
    "a subscription's callback is cancelled": callback_is_cancelled,
    "the broker's limit of a message is lowered": lowers_its_limit,
    "the broker falls silent, and there is another": falls_silent,
}


def table() -> dict[str, dict[str, set[str]]]:
    """What docs/faults.md says: of each fault, what each way to ask may see."""
    lines = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {
        row[0]: {way: set(re.split(r",\s*", cell)) for way, cell in zip(head[1:], row[1:], strict=True)} for row in rows
    }


@asynccontextmanager
async def world_of(
    fault: str, own_nats_server: Callable[..., NatsServer], start_worker: StartWorker, seed: Path
) -> AsyncIterator[World]:
    seed.write_text(KEY.seed)
    more, other = "", None
    ports = free_port(), free_port()
    if fault.endswith("there is another"):
        more = f'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"\n{route(*ports)}'
    limits = "limits { max_subscriptions: 60 }" if "limit of subscriptions" in fault else ""
    server = own_nats_server(config(limits=limits, more=more), jetstream=not more)
    if more:
        other = own_nats_server(
            config(more=route(*reversed(ports))).replace("server_name: s", "server_name: t"), jetstream=False
        )
    async with linked(server.port) as link:
        jobs = {"worker_jobs": JOBS and other is None, "worker_ack_wait_seconds": 3}
        app = await start_worker(nats_url=server.url if other else link.url, nats_nkey=str(seed), **jobs)
        await until(lambda: app.health.ready()[0])
        if other:
            await until(lambda: bool(app.broker.connection.discovered_servers))
        nc = await nats.connect(
            (other or server).url, user="probe", password="p", reconnect_time_wait=0.1, max_reconnect_attempts=-1
        )
        yield World(server, link, app, nc, seed, other)
        await nc.close()
        await app.drain()
        if other:
            server.kill()  # one that retires takes its time


async def stream(nc: Client, subject: str, body: bytes, **headers: str) -> list[Any]:
    """The events of a request up to its sentinel, or up to a silence."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox, cb=queue.put)
    await nc.publish(subject, body, reply=inbox, headers=headers or None)
    events: list[Any] = []
    try:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS if ".ask." not in subject else 3 * SILENCE_SECONDS):
                message = await queue.get()
            if not message.data:
                return [*events, None]
            events.append(orjson.loads(message.data))
    except TimeoutError:
        return events
    finally:
        await subscription.unsubscribe()


def seen(events: list[Any]) -> str:
    """In the words of docs/faults.md."""
    if not events or events[-1] is not None:
        return "cut"
    if events[-2]["type"] == "error":
        return "told"
    last = max(event["attempt"] for event in events[:-1])  # a job's: a higher attempt replaces all that was collected
    *rest, end = (event for event in events[:-1] if event["attempt"] == last)
    assert end["type"] in ("done", "result"), end
    return "whole" if [event["seq"] for event in (*rest, end)] == list(range(len(rest) + 1)) else "gap"


async def cancelled(nc: Client) -> str:
    """Whether a cancel finds a running request."""
    running = asyncio.create_task(stream(nc, REQ, LONG, **{"Nats-Msg-Id": "to-cancel"}))
    await asyncio.sleep(0.5)
    answer = await nc.request("ai.v1.ctl.cancel.default.to-cancel", b"", timeout=5)
    events = await running
    ended = events[-1] is None and events[-2]["data"]["code"] == "cancelled"
    return "true" if orjson.loads(answer.data)["cancelled"] and ended else "false"


async def served(nc: Client) -> str:
    return "served" if (await ask(nc, REQ, b"[sim: words=1]"))[-1].type == "done" else "refused"


async def until_served(world: World) -> None:
    async with asyncio.timeout(60):
        while not (world.nc.is_connected and world.app.broker.connection.is_connected):
            await asyncio.sleep(0.05)
    await until_heard(world.nc)


def test_every_fault_of_the_table_is_caused() -> None:
    assert list(table()) == list(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_requester_sees_what_the_table_says(
    own_nats_server: Callable[..., NatsServer],
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    if "silent" in fault:
        monkeypatch.setattr("aichats_worker.broker.framework.PING_INTERVAL_SECONDS", 1)
    async with world_of(fault, own_nats_server, start_worker, tmp_path / "seed") as world:
        kind: Kind = "image" if "limit of a message" in fault else "text"
        body = IMAGE if kind == "image" else BODY
        req, asked = REQ.replace("text", kind), ASK.replace("text", kind)
        under_way = {"req": stream(world.nc, req, body), "ask": stream(world.nc, asked, body)}
        if world.app.settings.worker_jobs:
            for name in ("job", "resume"):
                await world.nc.jetstream().publish(f"ai.v1.job.{kind}.default.{name}", body)
            under_way["resume"] = stream(world.nc, RESUME, b'{"id":"resume"}')
        tasks = {way: asyncio.create_task(work) for way, work in under_way.items()}
        running = len(under_way) + world.app.settings.worker_jobs
        await until(lambda: world.app.slots[kind].used == running)
        await asyncio.sleep(0.5)
        await FAULTS[fault](world)
        await until_served(world)
        found = {
            "cancel": await cancelled(world.nc),
            "the next request": await served(world.nc),
        }
        found |= {way: seen(await task) for way, task in tasks.items()}
        if world.app.settings.worker_jobs:
            found["job"] = seen(await stream(world.nc, RESUME, b'{"id":"job"}'))
        allowed = table()[fault]
        assert not {way: what for way, what in found.items() if what not in allowed[way]}, (found, allowed)
