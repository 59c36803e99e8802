"""A broker of a test's own, and what its streams hold."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import orjson
import pytest

from aichats_schemas import Subjects
from aichats_worker.broker.bus import Bus
from aichats_worker.jobs.provision import Provisioner
from aichats_worker.jobs.streams import Choices
from aichats_worker.request.call import Call
from tests.processes import NatsServer

WAIT_SECONDS = 60.0


@pytest.fixture
def server(own_nats_server: Callable[..., NatsServer]) -> NatsServer:
    return own_nats_server()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    nc = await nats.connect(server.url)
    yield Bus(nc, nc.jetstream())
    await nc.close()


def below(bus: Bus, prefix: str) -> Bus:
    """The same connection for another prefix."""
    return Bus(bus.nc, bus.js, Subjects(prefix))


def provisioner(
    bus: Bus, *, ack_wait_seconds: float = 30, timeout_seconds_max: float = 600, **chosen: Any
) -> Provisioner:
    return Provisioner(
        bus, Choices(**chosen), timeout_seconds_max=timeout_seconds_max, ack_wait_seconds=ack_wait_seconds
    )


async def api(bus: Bus, call: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the broker's API in its own words, for what nats-py does not know."""
    answer = await bus.nc.request(bus.api(call), orjson.dumps(payload) if payload else b"", timeout=2)
    said: dict[str, Any] = orjson.loads(answer.data)
    assert "error" not in said, said
    return said


async def config(bus: Bus, name: str) -> dict[str, Any]:
    """The settings of `AIJOBS` or `AIJOBS.ai-workers-text`."""
    found: dict[str, Any] = (await api(bus, f"{'CONSUMER' if '.' in name else 'STREAM'}.INFO.{name}"))["config"]
    return found


async def submit(bus: Bus, request_id: str, *, kind: str = "text", tenant: str = "t", **headers: str) -> None:
    await bus.js.publish(f"{bus.subjects.prefix}.job.{kind}.{tenant}.{request_id}", b"hi", headers=headers or None)


def job(request_id: str = "r1", **changed: Any) -> Call:
    values: dict[str, Any] = {
        "mode": "job", "kind": "text", "tenant": "t", "id": request_id, "reply_to": "", "body": b"hi", "headers": {},
        "attempt": 1,
    }  # fmt: skip
    return Call(**(values | changed))
