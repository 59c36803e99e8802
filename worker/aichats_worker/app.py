"""The composition root: connects, wires and drains. The only place that knows all the others."""

import asyncio
from functools import partial
from typing import Any

import structlog
from nats.errors import Error as NatsError

from aichats_schemas.subjects import Kind, ReplyRule, Subjects
from aichats_worker import wiring
from aichats_worker.broker.bus import Bus
from aichats_worker.broker.connecting import make_broker
from aichats_worker.broker.discovery import Discovery
from aichats_worker.broker.patches.reading import read_anything
from aichats_worker.broker.patches.subscribing import settle
from aichats_worker.control.cancel import Cancels
from aichats_worker.control.resume import Resumes
from aichats_worker.direct.handover import Admission
from aichats_worker.direct.subscribers import Core
from aichats_worker.jobs.delivery import Rules
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.provision import Provisioner
from aichats_worker.jobs.serving import Serving, describe
from aichats_worker.jobs.watching import StreamsWatch
from aichats_worker.jobs.work import Jobs
from aichats_worker.provider import Provider
from aichats_worker.provider.metrics import ProviderMetrics
from aichats_worker.request.executor import Executor
from aichats_worker.request.runs import Runs
from aichats_worker.request.slots import Slots
from aichats_worker.request.watch import Watch
from aichats_worker.settings import Settings
from aichats_worker.telemetry import Telemetry, faststream_metrics
from aichats_worker.text import ascii_line
from aichats_worker.web import Web

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT_SECONDS = 5.0
CLOSED_REASON_MAX_CHARS = 200
JETSTREAM_TIMEOUT_SECONDS = 5.0
JETSTREAM_RETRY_SECONDS = 5.0


class App:
    """A worker in this process. start() makes it serve, drain() makes it stop.

    Args:
        settings: All of them.
        provider: In place of the one that the settings name.
    """

    def __init__(self, settings: Settings, *, provider: Provider | None = None) -> None:
        self.settings = settings
        self.subjects = Subjects(settings.worker_subject_prefix)
        self._rule = ReplyRule(strict=settings.worker_strict_tenant_inbox)
        self.telemetry = Telemetry()
        self.provider = provider or wiring.provider(settings)
        self.telemetry.watch_provider(lambda: self.provider.working)
        self.telemetry.registry.register(ProviderMetrics(self.provider))
        self.watch = Watch(settings.worker_keepalive_seconds)
        self.runs = Runs()
        self.slots: dict[Kind, Slots] = {
            "text": Slots(settings.worker_concurrency_max),
            "image": Slots(settings.worker_image_concurrency_max),
        }
        self.admission = Admission(self.slots, self.subjects)
        self.executor = Executor(
            self.provider, wiring.limits(settings), self.slots, runs=self.runs, telemetry=self.telemetry
        )
        self.broker = make_broker(
            wiring.access(settings),
            middlewares=[faststream_metrics(self.telemetry.registry, self.subjects.prefix)],
            on_reconnect=self._reconnected,
            on_closed=self._closed,
        )
        self._core = Core(
            self.executor, self.watch, self.telemetry, elsewhere=self.admission.elsewhere, rule=self._rule
        )
        self._core_subscribers = self._core.subscribe(self.broker, self.subjects)
        self.web = Web(self.broker, self.telemetry.registry, live=self._live, ready=self._ready)
        self._serving: Serving | None = None
        self._cancels: Cancels | None = None
        self._resumes: Resumes | None = None
        self._streams: StreamsWatch | None = None
        self._subscribed = False
        self._draining = False

    async def start(self) -> None:
        """Connect, subscribe and serve. Waits for the broker as long as it is down; probes answer meanwhile."""
        self.telemetry.watch_tasks(asyncio.get_running_loop())
        if self.settings.worker_http_port:
            await self.web.start(self.settings.worker_http_host, self.settings.worker_http_port)
        nc = await self.broker.connect()
        read_anything(nc)
        await self.watch.start(nc)
        discovery = Discovery(
            self.subjects,
            self.telemetry,
            keepalive_seconds=self.settings.worker_keepalive_seconds,
            max_payload=nc.max_payload,
            provider_working=lambda: self.provider.working,
        )
        await discovery.start(nc)
        domain = self.settings.nats_js_domain
        js = nc.jetstream(domain=domain, timeout=JETSTREAM_TIMEOUT_SECONDS)
        bus = Bus(nc, js, self.subjects, self._rule, domain)
        jobs = await self._open_jobs(bus)
        await self.broker.start()
        await self.admission.start(nc, self._core_subscribers, partial(self._core.accept, has_slot=True))
        await settle(nc)  # broker.start() returns before the server has the subscriptions
        self._subscribed = True
        if self.settings.worker_jobs:
            self._start_jobs(jobs)
        log.info("ready", instance=discovery.id, prefix=self.subjects.prefix, max_payload=nc.max_payload)

    async def _open_jobs(self, bus: Bus) -> Jobs:
        """Answer cancels. A queue there may be though this worker serves none."""
        settings = self.settings
        self._mail = Mailbox(bus)
        await self._mail.start()
        rules = Rules(
            attempts_max=settings.worker_attempts_max,
            retry_base_seconds=settings.worker_retry_base_seconds,
            retry_max_seconds=settings.worker_retry_max_seconds,
            joined_seconds=settings.worker_job_event_seconds,
        )
        jobs = Jobs(self._mail, self.executor, self.watch, telemetry=self.telemetry, rules=rules)
        self._cancels = Cancels(bus, jobs, self.runs, self.telemetry, served=settings.worker_jobs)
        await self._cancels.start()
        return jobs

    def _start_jobs(self, jobs: Jobs) -> None:
        describe(self.broker, self.subjects.job)
        self.telemetry.watch_clock(jobs.clock.offset)
        self._resumes = Resumes(self._mail, jobs, self.watch, self.telemetry)
        self._streams = self._watch_streams(self._mail.bus)
        self._streams.start()
        serving = Serving(jobs, self._mail, self.slots, prepare=self._streams.until_well, opened=self._resumes.start)
        self.telemetry.watch_jobs(lambda: serving.trouble() is None)
        self._serving = serving
        serving.start()

    def _reconnected(self) -> None:
        self.admission.again()
        if self._serving is not None:
            self._serving.again()
        if self._resumes is not None:
            self._resumes.again()

    def _watch_streams(self, bus: Bus) -> StreamsWatch:
        settings = self.settings
        provisioner = Provisioner(
            bus,
            timeout_seconds_max=settings.worker_timeout_seconds_max,
            ack_wait_seconds=settings.worker_ack_wait_seconds,
        )
        watch = StreamsWatch(
            provisioner, mend=settings.worker_jobs_provision, connected=lambda: bool(bus.nc.is_connected)
        )
        self.telemetry.watch_streams(lambda: len(watch.problems()))
        return watch

    @property
    def jobs(self) -> Serving | None:
        """The jobs' place here; None as long as none are served."""
        return self._serving if self._serving is not None and self._serving.served.is_set() else None

    async def drain(self) -> int:
        """Leave the queue group first, then finish what runs, then close. Returns how many were cut off."""
        if self._draining:
            return 0
        self._draining = True
        nc = self.broker.connection if self._subscribed else None
        if self._streams is not None:
            await self._streams.stop()
        if self._resumes is not None:
            await self._resumes.stop()
        if nc is not None:
            try:
                await self.admission.leave()
            except (NatsError, TimeoutError) as error:
                log.warning("left without the broker's word", error=type(error).__name__)
        if self._serving is not None:
            await self._serving.leave()
        cut = await self.runs.drain(self.settings.worker_drain_timeout_seconds)
        if self._cancels is not None and nc is not None:
            await self._cancels.stop()
        if self._serving is not None:
            await self._serving.stop()
        await self.close()
        return cut

    async def close(self) -> None:
        """Close every connection, flushing what was published."""
        await self.watch.stop()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                if self._subscribed and self.broker.connection.is_connected:
                    await settle(self.broker.connection)
                await self.broker.stop()
        except (NatsError, TimeoutError) as error:
            log.warning("closed without flushing", error=type(error).__name__)
        await self.provider.close()
        await self.web.stop()

    def _closed(self) -> None:
        if self._draining:
            log.info("nats connection closed")
        else:
            log.error("nats connection closed for good: this worker has to be restarted", error=self._closed_because())

    def _closed_because(self) -> str:
        return ascii_line(str(self.broker.connection.last_error or "unknown"), CLOSED_REASON_MAX_CHARS)

    def _live(self) -> tuple[bool, dict[str, Any]]:
        # The event loop answers this. Of the broker only what no wait can mend counts: a restart then helps.
        closed = self._subscribed and not self._draining and self.broker.connection.is_closed
        return not closed, {"live": not closed, "nats_closed_for_good": self._closed_because() if closed else None}

    def _ready(self) -> tuple[bool, dict[str, Any]]:
        connected = self._subscribed and self.broker.connection.is_connected
        ready = connected and not self._draining
        return ready, {
            "ready": ready,
            "nats_connected": connected,
            "subscribed": self._subscribed,
            "draining": self._draining,
            "provider_working": self.provider.working,
        }
