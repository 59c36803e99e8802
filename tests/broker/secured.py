"""docs/nats-server.conf, at work: its own keys and certificates, a provisioned broker, a simulator and a worker."""

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nats
import nkeys
import trustme
from nats.aio.client import Client
from nats.aio.msg import Msg

from aichats_worker.simulator.server import Simulator, start_simulator
from tests.commands.test_commands import Ran, finished, start
from tests.forked import ForkedWorker
from tests.processes import ROOT, NatsServer, WorkerProcess

SAMPLE = ROOT / "docs" / "nats-server.conf"
USERS = ("worker", "operator", "teama", "teamb", "system")
VIOLATION_WAIT_SECONDS = 60.0
# Long enough for a loaded machine to keep a lease, short enough to wait for.
ACK_WAIT_SECONDS = "3"


def sample_config(values: dict[str, str], *, new_acks: bool) -> str:
    """The sample, with other values in its first block, and with every protocol line in the log.

    With `new_acks` the broker has the form of acknowledgement subjects that is announced as the coming default.
    """
    text = SAMPLE.read_text(encoding="utf-8")
    for name, value in values.items():
        text, replaced = re.subn(rf'^{name}: "[^"]*"$', f'{name}: "{value}"', text, flags=re.MULTILINE)
        assert replaced == 1, name
    return f"{text}\ntrace: true\nfeature_flags {{ js_ack_fc_v2: {str(new_acks).lower()} }}\n"


def rights(user: str, way: str) -> list[str]:
    """What the sample lets a user `publish` or `subscribe`."""
    of_user = SAMPLE.read_text(encoding="utf-8").partition(f"nkey: ${user.upper()}_KEY")[2]
    found = re.search(rf"{way}: \[(.*?)\]", of_user, flags=re.DOTALL)
    assert found is not None
    return re.findall(r'"([^"]*)"', found[1])


@dataclass
class Party:
    """A user's connection, and what the broker refused it."""

    nc: Client
    refusals: list[str] = field(default_factory=list)

    async def refused(self, refusal: str) -> None:
        """Wait until the broker has refused it."""
        async with asyncio.timeout(VIOLATION_WAIT_SECONDS):
            while not any(refusal.lower() in said.lower() for said in self.refusals):
                await asyncio.sleep(0.01)

    async def listen(self, subject: str) -> list[Msg]:
        """Subscribe; the list grows with what comes."""
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        await self.nc.subscribe(subject, cb=hear)
        await self.nc.flush()
        return heard


class Secured:
    """The whole of it. `public` are the users' public keys."""

    def __init__(self, directory: Path, simulator: Simulator, *, new_acks: bool) -> None:
        self.directory = directory
        self.simulator = simulator
        self.public: dict[str, str] = {}
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        for name in (*USERS, "server"):
            identity = "127.0.0.1" if name == "server" else f"{name}@example.org"
            issued = authority.issue_cert(identity)
            issued.cert_chain_pems[0].write_to_path(str(directory / f"{name}.pem"))
            issued.private_key_pem.write_to_path(str(directory / f"{name}-key.pem"))
        for name in (*USERS, "stranger"):
            pair = nkeys.from_seed(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))  # type: ignore[no-untyped-call]
            (directory / f"{name}.nk").write_bytes(bytes(pair.seed))
            self.public[name] = pair.public_key.decode()
        config = sample_config(
            {f"{name.upper()}_KEY": self.public[name] for name in USERS}
            | {"SERVER_CERT": self._path("server.pem"), "SERVER_CERT_KEY": self._path("server-key.pem")}
            | {"CLIENT_CA": self._path("ca.pem"), "STORE": self._path("store")},
            new_acks=new_acks,
        )
        self.server = NatsServer(directory, config=config, jetstream=False)
        self.worker = self.make_worker()

    def _path(self, name: str) -> str:
        return str(self.directory / name)

    def settings(self, user: str) -> dict[str, str]:
        """The environment of a user's command or worker."""
        return {
            "NATS_URL": self.server.url,
            "NATS_NKEY": self._path(f"{user}.nk"),
            "NATS_CA": self._path("ca.pem"),
            "NATS_CERT": self._path(f"{user}.pem"),
            "NATS_KEY": self._path(f"{user}-key.pem"),
            "NATS_INBOX_PREFIX": f"_INBOX.{user}",
            "AICHATS_URL": self.simulator.url,
            "WORKER_ACK_WAIT_SECONDS": ACK_WAIT_SECONDS,
            "WORKER_ATTEMPTS_MAX": "2",
        }

    def make_worker(self) -> WorkerProcess:
        """A worker that has not started."""
        return ForkedWorker(
            self.directory,
            self.settings("worker")
            | {
                "WORKER_STRICT_TENANT_INBOX": "on",
                "WORKER_JOBS_PROVISION": "off",
                "WORKER_CONCURRENCY_MAX": "1",
                "WORKER_RETRY_BASE_SECONDS": "0.05",
                "WORKER_RETRY_MAX_SECONDS": "0.1",
                "WORKER_DRAIN_TIMEOUT_SECONDS": "0",
                "WORKER_LOG_FORMAT": "json",
                "PROVIDER_CALLS_MAX": "1",
                "PROVIDER_CIRCUIT_FAILURES": "1000",
            },
        )

    async def start_worker(self) -> None:
        """Start the worker, and wait until it serves jobs too."""
        await self.worker.start().ready()
        async with asyncio.timeout(VIOLATION_WAIT_SECONDS):
            while "jobs are served" not in self.worker.log:
                await asyncio.sleep(0.02)

    async def command(self, user: str, *arguments: str, **more: str) -> Ran:
        """Run a command as a user, with more settings."""
        return await finished(await start(*arguments, **(self.settings(user) | more)))  # type: ignore[arg-type]

    def tls(self, user: str | None) -> ssl.SSLContext:
        """A client's TLS, with its certificate unless `user` is None."""
        context = ssl.create_default_context(cafile=self._path("ca.pem"))
        if user is not None:
            context.load_cert_chain(self._path(f"{user}.pem"), self._path(f"{user}-key.pem"))
        return context

    @asynccontextmanager
    async def party(self, user: str, *, certificate: str | None = "", **options: Any) -> AsyncIterator[Party]:
        """Connect as a user."""
        refusals: list[str] = []

        async def on_error(error: Exception) -> None:
            refusals.append(str(error))

        nc = await nats.connect(
            self.server.url,
            nkeys_seed=self._path(f"{user}.nk"),
            tls=self.tls(user if certificate == "" else certificate),
            inbox_prefix=f"_INBOX.{user}",
            error_cb=on_error,
            allow_reconnect=False,
            **options,
        )
        try:
            yield Party(nc, refusals)
        finally:
            await nc.close()

    async def dropped(self) -> float:
        """How many requests the worker has dropped because of their reply subject."""
        return await asyncio.to_thread(self._dropped)

    def _dropped(self) -> float:
        with urlopen(f"http://127.0.0.1:{self.worker.http_port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.search(r'^aichats_requests_dropped_total\{reason="forbidden_reply"\} (\S+)', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    @asynccontextmanager
    async def one_more_dropped(self) -> AsyncIterator[None]:
        """The block makes the worker drop one request because of its reply subject."""
        before = await self.dropped()
        yield
        async with asyncio.timeout(VIOLATION_WAIT_SECONDS):
            while await self.dropped() == before:
                await asyncio.sleep(0.1)
        assert await self.dropped() == before + 1

    @property
    def log(self) -> list[str]:
        """The broker's log."""
        return self.server.log_path.read_text(encoding="utf-8", errors="replace").splitlines()

    def said(self, user: str) -> list[list[str]]:
        """The protocol lines that all connections of a user have sent, as words: verb, subject, …"""
        lines = [line for line in self.log if f"nkey:{self.public[user]}" in line]
        return [line.partition("<<- [")[2].removesuffix("]").split() for line in lines if "<<- [" in line]


@asynccontextmanager
async def secured(directory: Path, *, new_acks: bool = False) -> AsyncIterator[Secured]:
    """Start it all: the operator provisions, then the worker comes."""
    async with await start_simulator() as simulator:
        site = Secured(directory, simulator, new_acks=new_acks)
        site.server.start()
        try:
            provisioned = await site.command("operator", "provision")
            assert provisioned.status == 0, provisioned.err
            await site.start_worker()
            yield site
        finally:
            site.worker.kill()
            site.server.stop()
