"""The composition root: connects, wires and drains. The only place that knows all the others."""

import asyncio
from contextlib import suppress
from functools import partial

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from aichats_schemas.subjects import Kind, ReplyRule, Subjects
from aichats_worker import login, wiring
from aichats_worker.broker.bus import Bus
from aichats_worker.broker.discovery import Discovery
from aichats_worker.broker.framework import Broker
from aichats_worker.broker.patches.subscribing import queue_groups, settle, within
from aichats_worker.broker.stopping import ANSWER_SECONDS, STOP_SECONDS, Stopping
from aichats_worker.broker.watching import ConnectionWatch
from aichats_worker.control.cancel import Cancels
from aichats_worker.control.resume import Resumes
from aichats_worker.direct.handover import Handover
from aichats_worker.direct.subscribers import Core
from aichats_worker.documents.contract import Contract
from aichats_worker.health import Check, Health
from aichats_worker.jobs.delivery import Rules
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.metrics import JobsMetrics
from aichats_worker.jobs.provision import Provisioner
from aichats_worker.jobs.serving import Serving
from aichats_worker.jobs.watching import StreamsWatch
from aichats_worker.jobs.work import Jobs
from aichats_worker.memory import giving_back
from aichats_worker.provider import OpenedProvider
from aichats_worker.provider.metrics import ProviderMetrics
from aichats_worker.request.executor import Executor
from aichats_worker.request.runs import Runs
from aichats_worker.request.saturation import Saturation
from aichats_worker.request.slots import Slots
from aichats_worker.request.watch import Watch
from aichats_worker.settings import Settings
from aichats_worker.tasks import Tasks
from aichats_worker.telemetry.counting import Telemetry
from aichats_worker.telemetry.lag import LoopLag
from aichats_worker.web import Web

log = structlog.get_logger(__name__)

TASKS_STOP_SECONDS = 1.0
WEB_STOP_SECONDS = 3.0  # for requests to the probes that are under way
SETTLE_AGAIN_SECONDS = 1.0
JETSTREAM_TIMEOUT_SECONDS = 5.0


class App:
    """A worker in this process. start() makes it serve, drain() makes it stop.

    Args:
        settings: All of them.
        provider: In place of the one that the settings name.
    """

    def __init__(self, settings: Settings, *, provider: OpenedProvider | None = None) -> None:
        self.settings = settings
        self.subjects = Subjects(settings.worker_subject_prefix)
        self._rule = ReplyRule(strict=settings.worker_strict_tenant_inbox)
        self.telemetry = Telemetry()
        self.provider = provider or wiring.provider(settings)
        self.watch = Watch(settings.worker_keepalive_seconds)
        self.runs = Runs()
        self.slots: dict[Kind, Slots] = {
            "text": Slots(settings.worker_concurrency_max),
            "image": Slots(settings.worker_image_concurrency_max),
        }
        self.executor = Executor(
            self.provider, wiring.limits(settings), self.slots, runs=self.runs, telemetry=self.telemetry
        )
        self.handover = Handover(self.slots, self.subjects, self.runs)
        self.tasks = Tasks()
        self.connection = ConnectionWatch(on_reconnect=self._reconnected, on_subscribed=self.handover.again)
        self.broker = Broker(login.access(settings), self.connection)
        self._core = Core(self.executor, self.watch, self.telemetry, give=self.handover.give, rule=self._rule)
        self._core.subscribe(self.broker, self.subjects)
        self.discovery = Discovery(self.subjects, self.telemetry, self._announced)
        self.health = self._health()
        self.saturation = Saturation(self.slots)
        self._loop_lag = LoopLag(self.telemetry.registry)
        self._register()
        self.contract = Contract(self.broker, self.subjects, jobs=settings.worker_jobs)
        self.web = Web(self.contract, self.telemetry.registry, self.health, self.discovery.about)
        self._serving: Serving | None = None
        self._cancels: Cancels | None = None
        self._resumes: Resumes | None = None
        self._streams: StreamsWatch | None = None
        self._nc: Client | None = None
        self._subscribed = False
        self._draining = False

    def _register(self) -> None:
        """Show at /metrics what the rooms know."""
        shown = JobsMetrics(lambda: self._serving, self._stream_problems, self.connection.disconnected)
        jobs = [shown] if self.settings.worker_jobs else []
        provider = ProviderMetrics(self.provider)
        for room in (self.connection, self.saturation, provider, *jobs, self.health, self.tasks):
            self.telemetry.registry.register(room)
        self.telemetry.reads("draining", "1 from the signal to stop on.", lambda: self._draining)
        resumes = "Resumes served now; each has a consumer of its own at the broker."
        self.telemetry.reads(
            "resumes_running", resumes, lambda: self._resumes.running if self._resumes is not None else 0
        )

    def _health(self) -> Health:
        """What the probes look at; a restart helps where it is no more live."""
        return Health(
            live=[Check("connection", self.connection.closed), Check("tasks", self.tasks.lost)],
            ready=[
                Check("broker", self.connection.disconnected),
                Check("start", lambda: "" if self._subscribed else "nothing is subscribed to yet"),
                Check("subscriptions", self.connection.unsubscribed),
                Check("drain", lambda: "this worker is draining" if self._draining else ""),
                Check("jobs", self._jobs_trouble),
                Check("jobs_paused", self._jobs_paused, gates=False),
                Check("lame_duck", self.connection.leaving, gates=False),
                Check("provider", self._provider_trouble, gates=False),
                Check("tasks_begun_again", self.tasks.failing, gates=False),
            ],
        )

    def _jobs_trouble(self) -> str:
        if not self.settings.worker_jobs:
            return ""
        if self.connection.disconnected():
            return "jobs are not served: there is no connection to the broker"
        problems = self._stream_problems()
        if not problems and (trouble := self._serving.trouble() if self._serving is not None else "they are started"):
            problems = [trouble]
        return f"jobs are not served: {'; '.join(problems)}" if problems else ""

    def _stream_problems(self) -> list[str]:
        return self._streams.problems() if self._streams is not None else []

    def _jobs_paused(self) -> str:
        return "; ".join(self._streams.paused()) if self._streams is not None else ""

    def _provider_trouble(self) -> str:
        not_asked = self.provider.not_asked
        return f"not asked for a while, since it fails: {', '.join(not_asked)}" if not_asked else ""

    def _announced(self) -> dict[str, str]:
        return {
            "keepalive_ms": str(round(self.settings.worker_keepalive_seconds * 1000)),
            "models_text": ",".join(self.provider.offers["text"]),
            "models_image": ",".join(self.provider.offers["image"]),
            "provider_working": str(self.provider.working).lower(),
            **{f"capacity_{kind}": str(slots.count) for kind, slots in self.slots.items()},
            **{f"in_flight_{kind}": str(slots.used) for kind, slots in self.slots.items()},
        }

    async def start(self) -> None:
        """Connect, subscribe and serve. Waits for the broker as long as it is down; probes answer meanwhile.

        Raises:
            SetupError: A file cannot be used, or the port is taken.
        """
        log.info("starting", **wiring.described(self.settings, self.provider.offers))
        if self.settings.worker_http_port:
            await self.web.start(self.settings.worker_http_host, self.settings.worker_http_port)
        self.tasks.keep("broker-watch", self.connection.run)
        self.tasks.keep("slots-watch", self.saturation.run)
        self.tasks.keep("loop-watch", self._loop_lag.run)
        self.tasks.keep("memory", giving_back)
        nc = self._nc = await self.broker.connect()
        domain = self.settings.nats_js_domain
        js = nc.jetstream(domain=domain, timeout=JETSTREAM_TIMEOUT_SECONDS)
        bus = Bus(nc, js, self.subjects, self._rule, domain)
        jobs = await self._subscribe(bus)
        await self._settled(nc)
        self._subscribed = True
        if self._draining:
            return  # a stop came meanwhile, and nats-py swallows cancellations
        if self.settings.worker_jobs:
            self._start_jobs(jobs)
        log.info("ready", instance=self.discovery.id, broker=_address(nc), max_payload=nc.max_payload)

    async def _subscribe(self, bus: Bus) -> Jobs:
        await self.watch.start(self.broker.nc)
        self.tasks.keep("keep-alive", self.watch.run)
        await self.discovery.start(bus.nc)
        jobs = await self._open_jobs(bus)
        await self.broker.start()
        for follow in await self.handover.start(bus.nc, partial(self._core.accept, has_slot=True)):
            self.tasks.keep("room", follow)
        return jobs

    async def _settled(self, nc: Client) -> None:
        """Wait until the server has the subscriptions, whatever becomes of it meanwhile: they outlive a reconnect."""
        while True:
            try:
                await settle(nc)
            except (NatsError, TimeoutError) as error:
                log.warning("the broker has not taken the subscriptions yet", error=type(error).__name__)
                await asyncio.sleep(SETTLE_AGAIN_SECONDS)
            else:
                if nc.is_connected:
                    return

    async def _open_jobs(self, bus: Bus) -> Jobs:
        """Answer cancels. A queue there may be though this worker serves none."""
        settings = self.settings
        mail = Mailbox(bus)
        await mail.start()
        rules = Rules(
            attempts_max=settings.worker_attempts_max,
            retry_base_seconds=settings.worker_retry_base_seconds,
            retry_max_seconds=settings.worker_retry_max_seconds,
            joined_seconds=settings.worker_job_event_seconds,
        )
        jobs = Jobs(mail, self.executor, self.watch, telemetry=self.telemetry, rules=rules)
        self._cancels = Cancels(bus, jobs, self.runs, self.telemetry, served=settings.worker_jobs)
        await self._cancels.start()
        return jobs

    def _start_jobs(self, jobs: Jobs) -> None:
        """Serve jobs as soon as JetStream lets us; core requests are served meanwhile."""
        self.health.add(Check("clock", jobs.clock.trouble, gates=False))  # jobs go by the broker's
        self._resumes = Resumes(jobs.mail, jobs, self.watch, self.telemetry)
        self._streams = self._watch_streams(jobs.mail.bus)
        self.tasks.keep("streams", self._streams.run)
        serving = Serving(jobs, self.slots, prepare=self._streams.until_well, opened=self._resumes.start)
        self._serving = serving
        serving.start(self.tasks.keep)

    @property
    def jobs(self) -> Serving | None:
        """The jobs' place here; None as long as none are served."""
        return self._serving if self._serving is not None and self._serving.served.is_set() else None

    async def jobs_served(self) -> None:
        """Wait until jobs are fetched. Returns at once where none are to be served."""
        if self._serving is not None:
            await self._serving.served.wait()

    def _reconnected(self) -> None:
        self.handover.again()
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
        return StreamsWatch(
            provisioner, mend=settings.worker_jobs_provision, connected=lambda: bool(bus.nc.is_connected)
        )

    async def drain(self) -> int:
        """Leave the queue group first, then finish what runs, then close. Returns how many were cut off.

        It ends STOP_SECONDS after the drain at the latest, whatever the broker does.
        """
        if self._draining:
            return 0
        self._draining = self.connection.closing = True
        stopping = Stopping(self.settings.worker_drain_timeout_seconds)
        self.handover.leave()
        # Both at once: to leave takes a few ways to the broker, in which a far worker would go on fetching jobs.
        serving = [self._serving.leave(stopping)] if self._serving is not None else []
        await asyncio.gather(self._leave(stopping), *serving)
        if self._resumes is not None:
            await self._resumes.stop(stopping)  # whoever reads asks another worker
        cut = await self.runs.drain(stopping)
        if self._cancels is not None:
            await self._cancels.stop(stopping)  # until here its requests can be cancelled, by whichever worker is asked
        await self._close(stopping)
        return cut

    async def _leave(self, stopping: Stopping) -> None:
        """Take nothing more that another worker can have, whichever room subscribed to it."""
        if self._nc is None:
            return
        await stopping.leave(self._nc, queue_groups(self._nc), "requests")
        self._core.left()

    async def _close(self, stopping: Stopping) -> None:
        """Close every connection, flushing what was published."""
        stopping.last()
        self.watch.stop()
        await self.tasks.stop(stopping.left(TASKS_STOP_SECONDS))
        await self._disconnect(stopping)
        with suppress(TimeoutError):
            await within(stopping.left(ANSWER_SECONDS), self.provider.close(), "close-provider")
        await self.web.stop(stopping.left(WEB_STOP_SECONDS))

    async def _disconnect(self, stopping: Stopping) -> None:
        """Close the connection to the broker: with its word that it has all, for which half of what is left is."""
        seconds = 0 if stopping.silent else stopping.left(STOP_SECONDS) / 2
        try:
            if self._nc is not None and self._nc.is_connected:
                await within(seconds / 2, settle(self._nc), "settle")
                # A drain that is cut short leaves exceptions that nobody looks at, and asyncio calls that a defect.
                self._nc.options["drain_timeout"] = seconds / 4
            await within(seconds / 2, self.broker.stop(), "disconnect")
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("closed without flushing", error=type(error).__name__)
            with suppress(NatsError, OSError, TimeoutError):
                if self._nc is not None:  # else it would go on trying to come back
                    await within(stopping.left(ANSWER_SECONDS), self._nc.close(), "close")


def _address(nc: Client) -> str | None:
    """Where the broker is that was reached, without credentials."""
    return f"{nc.connected_url.hostname}:{nc.connected_url.port}" if nc.connected_url is not None else None
