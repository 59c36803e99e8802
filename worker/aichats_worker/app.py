"""The composition root: connects, wires and drains. The only place that knows all the others."""

import asyncio
from functools import partial
from typing import Any

import structlog
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext

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
from aichats_worker.jobs.ending import Abandonments
from aichats_worker.jobs.provision import Provisioner, ProvisionRefused
from aichats_worker.jobs.subscribers import Jobs, Retries
from aichats_worker.provider import Provider
from aichats_worker.provider.metrics import ProviderMetrics
from aichats_worker.request.executor import Executor
from aichats_worker.request.reply import Replies
from aichats_worker.request.slots import Slots
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
        self.replies = Replies(settings.worker_keepalive_seconds)
        self.slots: dict[Kind, Slots] = {
            "text": Slots(settings.worker_concurrency_max),
            "image": Slots(settings.worker_image_concurrency_max),
        }
        self.admission = Admission(self.slots, self.subjects)
        self.executor = Executor(
            provider=self.provider,
            replies=self.replies,
            limits=wiring.limits(settings),
            slots=self.slots,
            telemetry=self.telemetry,
        )
        self.broker = make_broker(
            wiring.access(settings),
            middlewares=[faststream_metrics(self.telemetry.registry, self.subjects.prefix)],
            on_reconnect=self.admission.again,
            on_closed=self._closed,
        )
        self._core = Core(
            self.executor,
            self.telemetry,
            elsewhere=self.admission.elsewhere,
            rule=self._rule,
        )
        self._core_subscribers = self._core.subscribe(self.broker, self.subjects)
        self.web = Web(self.broker, self.telemetry.registry, live=self._live, ready=self._ready)
        self.jobs: Jobs | None = None
        self._resumes: Resumes | None = None
        self._starting_jobs: asyncio.Task[None] | None = None
        self._subscribed = False
        self._draining = False

    async def start(self) -> None:
        """Connect, subscribe and serve. Waits for the broker as long as it is down; probes answer meanwhile."""
        self.telemetry.watch_tasks(asyncio.get_running_loop())
        if self.settings.worker_http_port:
            await self.web.start(self.settings.worker_http_host, self.settings.worker_http_port)
        nc = await self.broker.connect()
        read_anything(nc)
        await self.replies.start(nc)
        discovery = Discovery(
            self.subjects,
            self.telemetry,
            keepalive_seconds=self.settings.worker_keepalive_seconds,
            max_payload=nc.max_payload,
            provider_working=lambda: self.provider.working,
        )
        await discovery.start(nc)
        max_deliver = self.settings.worker_max_deliver if self.settings.worker_jobs else 0
        bus = Bus(nc, nc.jetstream(timeout=JETSTREAM_TIMEOUT_SECONDS), self.subjects, self._rule)
        await Cancels(bus, self.executor, self.telemetry, max_deliver=max_deliver).start()
        await self.broker.start()
        await self.admission.start(nc, self._core_subscribers, partial(self._core.accept, has_slot=True))
        await settle(nc)  # broker.start() returns before the server has the subscriptions
        self._subscribed = True
        if self.settings.worker_jobs:
            self._starting_jobs = asyncio.create_task(self._start_jobs(bus), name="start-jobs")
        log.info("ready", instance=discovery.id, prefix=self.subjects.prefix, max_payload=nc.max_payload)

    async def _start_jobs(self, bus: Bus) -> None:
        """Serve jobs as soon as JetStream lets us; core requests are served meanwhile."""
        while self.jobs is None:
            try:
                await self._provision(bus.js)
                self.jobs = await self._open_jobs(bus)
            except ProvisionRefused as error:
                log.error("jobs are not served: their streams differ from what is wanted", changes=str(error))  # noqa: TRY400 - the changes say it all
                return
            except (NatsError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                log.warning("jobs are not served yet: turn JetStream on, or set WORKER_JOBS=off", error=reason)
                await asyncio.sleep(JETSTREAM_RETRY_SECONDS)
        log.info("jobs are served")

    async def _open_jobs(self, bus: Bus) -> Jobs:
        settings = self.settings
        retries = Retries(
            settings.worker_max_deliver,
            settings.worker_ack_wait_seconds,
            settings.worker_retry_base_seconds,
            settings.worker_retry_max_seconds,
        )
        jobs = Jobs(bus, executor=self.executor, slots=self.slots, telemetry=self.telemetry, retries=retries)
        self._resumes = Resumes(bus, self.replies, self.telemetry)
        await self._resumes.start()
        await Abandonments(bus, jobs.letters).start()
        await jobs.subscribe(self.broker, settings.nats_inbox_prefix)
        return jobs

    async def _provision(self, js: JetStreamContext) -> None:
        settings = self.settings
        provisioner = Provisioner(
            js,
            self.subjects,
            ack_wait_seconds=settings.worker_ack_wait_seconds,
            max_deliver=settings.worker_max_deliver,
        )
        if settings.worker_jobs_provision:
            for change in await provisioner.apply():
                log.info("provisioned", change=str(change))
            return
        try:
            drift = await provisioner.changes()
        except NatsTimeoutError:
            return  # no rights to look: whoever provisioned has them
        if drift:
            log.warning(f"the streams differ from what this worker expects: {'; '.join(map(str, drift))}")  # noqa: G004 - one sentence

    async def drain(self) -> int:
        """Leave the queue group first, then finish what runs, then close. Returns how many were cut off."""
        if self._draining:
            return 0
        self._draining = True
        nc = self.broker.connection if self._subscribed else None
        if self._starting_jobs is not None:
            self._starting_jobs.cancel()
        if nc is not None:
            try:
                await self.admission.leave()
            except (NatsError, TimeoutError) as error:
                log.warning("left without the broker's word", error=type(error).__name__)
        if self.jobs is not None:
            await self.jobs.leave()
        cut = await self.executor.drain(self.settings.worker_drain_timeout_seconds)
        await self.close()
        return cut

    async def close(self) -> None:
        """Close every connection, flushing what was published."""
        if self._resumes is not None:
            await self._resumes.stop()
        await self.replies.stop()
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
