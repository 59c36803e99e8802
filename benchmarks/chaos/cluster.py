"""Three nats-servers as one cluster, and what is asked of its JetStream API."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self

import nats
import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError

from aichats_worker.simulator.broker import binary
from benchmarks.chaos.plan import ACK_WAIT_SECONDS, STREAMS
from tests.link import Link, linked
from tests.processes import clean_environment, free_port, output_of

BROKERS: Final = 3
API_TIMEOUT_SECONDS: Final = 2.0
PERSIST_SECONDS: Final = 180.0  # a replica that was away catches up, on a machine that is busy with all the rest
STOP_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.2
KEPT_SECONDS: Final = 4 * 3600  # a record outlives its run
CONSUMERS: Final = ("ai-workers-text", "ai-workers-image")

CONFIG: Final = """
server_name: b{number}
listen: "127.0.0.1:{port}"
logfile: "{directory}/b{number}.log"
jetstream {{ store_dir: "{directory}/b{number}" }}
cluster {{
  name: chaos
  listen: "127.0.0.1:{route}"
  routes: [{routes}]
  advertise: "127.0.0.1:1"  # nobody is there: brokers reach each other over links alone
  no_advertise: true  # clients know the addresses they were given alone: workers come over links
}}
"""


class ApiError(Exception):
    """The JetStream API refused; or did not answer in time."""


class Broker:
    """One nats-server, on a port that stays the same over restarts.

    Attributes:
        links: Between it and the others, either way.
    """

    def __init__(self, directory: Path, number: int, port: int, route: int) -> None:
        self.name = f"b{number}"
        self.port = port
        self.route = route
        self.url = f"nats://127.0.0.1:{port}"
        self.links: list[Link] = []
        self._number = number
        self._directory = directory
        self._config = directory / f"{self.name}.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def meet(self, links: Mapping[str, Link]) -> None:
        """Know the others, by the links to them."""
        routes = ", ".join(f'"{link.url}"' for link in links.values())
        told = CONFIG.format(
            number=self._number, port=self.port, route=self.route, routes=routes, directory=self._directory
        )
        self._config.write_text(told, encoding="utf-8")

    def start(self) -> None:
        """Start it, on what it has stored."""
        self._process = subprocess.Popen([binary(), "-c", str(self._config)], stdin=subprocess.DEVNULL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing where it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """End it without a word."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)


class Cluster:
    """All brokers. A context: they run inside of it."""

    def __init__(self, directory: Path) -> None:
        ports = [free_port() for _ in range(2 * BROKERS)]
        routes = ports[BROKERS:]
        self.brokers = [Broker(directory, n, ports[n], routes[n]) for n in range(BROKERS)]
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """All brokers' addresses."""
        return ",".join(broker.url for broker in self.brokers)

    async def __aenter__(self) -> Self:
        for broker in self.brokers:
            others = [other for other in self.brokers if other is not broker]
            links = {other.name: await self._stack.enter_async_context(linked(other.route)) for other in others}
            broker.meet(links)
            for one in (broker, *others):
                one.links += links.values() if one is broker else [links[one.name]]
        for broker in self.brokers:
            self._stack.push_async_callback(broker.kill)
            broker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def provision(self) -> None:
        """Make the streams with three replicas, by the product's own command; records are kept for the whole run."""
        deadline = time.monotonic() + PERSIST_SECONDS
        while said := await self._command("provision", "--replicas", str(BROKERS)):
            if time.monotonic() > deadline:  # a cluster elects its leader first
                raise ApiError(f"the streams could not be made: {said}")
            await asyncio.sleep(PAUSE_SECONDS)
        nc = await connected(self.url)
        await update(nc, "AIOUT", max_age=int(KEPT_SECONDS * 1e9))
        await self.settled(nc)
        await nc.close()

    async def _command(self, *arguments: str) -> str:
        """Run the product's command line. Returns what it says where it fails; empty where it does not."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aichats_worker", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=clean_environment() | {"NATS_URL": self.url, "WORKER_ACK_WAIT_SECONDS": f"{ACK_WAIT_SECONDS:g}"},
        )  # fmt: skip
        said, _ = await output_of(process, PERSIST_SECONDS)
        return said.decode() if process.returncode else ""

    async def leader(self, nc: Client, stream: str) -> Broker:
        """Return who leads a stream."""
        info = await persist(nc, f"STREAM.INFO.{stream}")
        name = (info.get("cluster") or {}).get("leader")
        return next((broker for broker in self.brokers if broker.name == name), self.brokers[0])

    async def settled(self, nc: Client) -> None:
        """Wait until every stream and consumer has a leader and all its replicas.

        Raises:
            ApiError: They have not within PERSIST_SECONDS.
        """
        wanted = [f"STREAM.INFO.{stream}" for stream in STREAMS]
        wanted += [f"CONSUMER.INFO.AIJOBS.{consumer}" for consumer in CONSUMERS]
        deadline = time.monotonic() + PERSIST_SECONDS
        while wanted:
            info = await persist(nc, wanted[-1])
            if not _whole(info.get("cluster") or {}):  # a broker that is just coming back may leave it out
                if time.monotonic() > deadline:
                    raise ApiError(f"not whole again after {PERSIST_SECONDS:g} s: {wanted[-1]}")
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            wanted.pop()


def _whole(cluster: dict[str, Any]) -> bool:
    replicas = cluster.get("replicas") or []
    others = [replica["current"] and not replica.get("offline") for replica in replicas]
    return bool(cluster.get("leader")) and len(others) == BROKERS - 1 and all(others)


async def connected(url: str) -> Client:
    """Connect, and come back after every kill and out of every silence."""

    async def quiet(_: Exception) -> None:
        """The brokers are killed on purpose."""

    return await nats.connect(
        url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=quiet, allow_reconnect=True,
        dont_randomize=True, ping_interval=2, connect_timeout=2, max_outstanding_pings=2, pending_size=64 * 1024 * 1024,
    )  # fmt: skip


async def api(nc: Client, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the JetStream API once.

    Raises:
        ApiError: It refused, or nothing came.
    """
    try:
        answer = await nc.request(
            f"$JS.API.{subject}", orjson.dumps(body) if body else b"", timeout=API_TIMEOUT_SECONDS
        )
    except (NatsError, TimeoutError) as error:
        raise ApiError(f"{subject}: {type(error).__name__}") from None
    found: dict[str, Any] = orjson.loads(answer.data)
    if "error" in found:
        raise ApiError(f"{subject}: {found['error']}")
    return found


async def persist(nc: Client, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask until it answers, for PERSIST_SECONDS.

    Raises:
        ApiError: It did not.
    """
    deadline = time.monotonic() + PERSIST_SECONDS
    while True:
        try:
            return await api(nc, subject, body)
        except ApiError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(PAUSE_SECONDS)


async def update(nc: Client, stream: str, **changes: Any) -> dict[str, Any]:
    """Change a stream's configuration. Returns what it was."""
    was: dict[str, Any] = (await persist(nc, f"STREAM.INFO.{stream}"))["config"]
    await persist(nc, f"STREAM.UPDATE.{stream}", was | changes)
    return was
