"""`aichats-worker doctor`: what answers, what does not, and which settings are in force."""

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from aichats_schemas.subjects import KINDS, SERVICE, Subjects
from aichats_worker import wiring
from aichats_worker.broker.connecting import connect
from aichats_worker.errors import WorkerError
from aichats_worker.jobs.streams import consumer_name
from aichats_worker.provider.reach import reach
from aichats_worker.settings import Settings
from aichats_worker.urls import masked_url, masked_urls

WORKERS_WAIT_SECONDS = 0.5
JETSTREAM_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: its name, whether it is well, and a sentence."""

    name: str
    well: bool
    says: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found.

    Attributes:
        findings: What was looked at.
        settings: Every setting by its variable, secrets masked.
        changed: The variables that differ from their defaults.
    """

    findings: list[Finding]
    settings: dict[str, str]
    changed: list[str]

    @property
    def well(self) -> bool:
        """Whether all is."""
        return all(finding.well for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"well": self.well} | asdict(self)


async def examine(settings: Settings, defaults: Settings) -> Report:
    """Look at NATS and at the provider, each with a bound. Raises nothing for what does not answer."""
    findings = [*await _nats(settings)]
    findings += [await _provider(url, settings) for url in wiring.provider_urls(settings).values()]
    masked, plain = settings.masked(), defaults.masked()
    changed = [name for name, value in masked.items() if value != plain[name]]
    return Report(findings, masked, changed)


async def _nats(settings: Settings) -> list[Finding]:
    where = masked_urls(settings.nats_url)
    try:
        nc = await connect(wiring.access(settings))
    except (OSError, NatsError) as error:
        reason = str(error).removeprefix("nats: ") or type(error).__name__
        return [Finding("nats", False, f"{where} does not answer ({reason}): start a server or set NATS_URL")]
    try:
        started = time.perf_counter()
        await nc.flush()
        milliseconds = (time.perf_counter() - started) * 1000
        release = nc.connected_server_version
        version = f"{release.major}.{release.minor}.{release.patch}"
        says = f"{where} answers in {milliseconds:.1f} ms: nats-server {version}, max_payload {nc.max_payload} bytes"
        return [Finding("nats", True, says), await _jetstream(nc, settings), await _workers(nc)]
    finally:
        await nc.close()


async def _jetstream(nc: Client, settings: Settings) -> Finding:
    js = nc.jetstream(domain=settings.nats_js_domain, timeout=JETSTREAM_TIMEOUT_SECONDS)
    try:
        await js.account_info()
    except NatsError:
        if (
            settings.worker_jobs
            and not settings.worker_jobs_provision
            and await _may_serve_jobs(js, settings.worker_subject_prefix)
        ):
            return Finding("jetstream", True, "is on, and the jobs' consumers are there for this user")
        if settings.worker_jobs:
            return Finding("jetstream", False, "is off, or not for this user: jobs need it; or set WORKER_JOBS=off")
        return Finding("jetstream", True, "is off, and so are jobs")
    return Finding("jetstream", True, "is on")


async def _may_serve_jobs(js: JetStreamContext, prefix: str) -> bool:
    """Look at what a worker with the least rights may see (docs/rights.md)."""
    try:
        for kind in KINDS:
            await js.consumer_info(Subjects(prefix).jobs_stream, consumer_name(kind))
    except NatsError:
        return False
    return True


async def _workers(nc: Client) -> Finding:
    inbox, found = nc.new_inbox(), 0

    async def count(message: Any) -> None:
        nonlocal found
        found += bool(message.data)

    await nc.subscribe(inbox, cb=count)
    subject = f"$SRV.PING.{SERVICE}"
    await nc.publish(subject, b"", reply=inbox)
    await asyncio.sleep(WORKERS_WAIT_SECONDS)  # nobody says how many there are
    if f'violation for publish to "{subject.lower()}"' in str(nc.last_error).lower():
        return Finding("workers", True, "are not for this user to ask")
    return Finding("workers", True, f"{found} answer" if found != 1 else "1 answers")


async def _provider(url: str, settings: Settings) -> Finding:
    shown = masked_url(url)
    try:
        status = await reach(url, wiring.route(settings))
    except WorkerError as error:
        return Finding("provider", False, f"{shown} does not answer: {error.message}")
    return Finding("provider", True, f"{shown} answers (status {status} for its front page)")
