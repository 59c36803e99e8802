"""Cancel: one reply within a second, wherever the request runs or waits (contract, section 7)."""

from typing import Final

import orjson
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from aichats_schemas.subjects import KINDS, QUEUE, REPLY_TO, is_token
from aichats_worker.broker.bus import Bus
from aichats_worker.errors import Cancelled
from aichats_worker.jobs.ending import publish_end, queued_call
from aichats_worker.request.executor import Executor
from aichats_worker.telemetry import Telemetry

log = structlog.get_logger(__name__)

# Two rounds of asking and three look-ups of the stream fit into the second that the requester was promised.
OTHERS_TIMEOUT_SECONDS: Final = 0.25
STREAM_TIMEOUT_SECONDS: Final = 0.25
CANCELLED: Final = Cancelled("cancelled by the requester")


class Cancels:
    """Answers cancel requests.

    Whoever of the workers gets the request looks at home, asks the others, of whom only the runner answers, and looks
    into the queue.

    Args:
        bus: How the workers, and the queue, are asked.
        executor: What runs at home.
        telemetry: Counts what cannot be answered.
        max_deliver: The job consumers', or 0 where there is no queue to look into.
    """

    def __init__(
        self,
        bus: Bus,
        executor: Executor,
        telemetry: Telemetry,
        *,
        max_deliver: int,
    ) -> None:
        self._bus = bus
        self._js: JetStreamContext | None = (
            bus.nc.jetstream(domain=bus.domain, timeout=STREAM_TIMEOUT_SECONDS) if max_deliver else None
        )
        self._max_deliver = max_deliver
        self._executor = executor
        self._telemetry = telemetry

    async def start(self) -> None:
        """Subscribe."""
        await self._bus.nc.subscribe(self._bus.subjects.internal("cancel", "*", "*"), cb=self._asked)
        await self._bus.nc.subscribe(self._bus.subjects.cancel(), queue=QUEUE, cb=self._requested)

    async def _asked(self, message: Msg) -> None:
        """Another worker asks: only the runner answers."""
        tenant, request_id = message.subject.split(".")[-2:]
        if message.reply and self._executor.cancel(tenant, request_id):  # without a reply: as below
            await message.respond(b"1")

    async def _requested(self, message: Msg) -> None:
        tenant, request_id = message.subject.split(".")[-2:]
        # Without a reply it may be no request: JetStream acknowledges a job to whatever subject its submitter names as
        # the reply, past all permissions, and this one as well.
        if not self._bus.rule.allows(message.reply, tenant):
            self._telemetry.dropped_control("cancel", "forbidden_reply" if message.reply else "no_reply")
            return
        try:
            cancelled = is_token(tenant) and is_token(request_id) and await self._cancel(tenant, request_id)
        except NatsError as error:
            log.warning("cancel failed", error=str(error) or type(error).__name__)
            cancelled = False
        await message.respond(orjson.dumps({"cancelled": cancelled}))

    async def _cancel(self, tenant: str, request_id: str) -> bool:
        if self._executor.cancel(tenant, request_id) or await self._by_another(tenant, request_id):
            return True
        if self._js is None or not await self._from_queue(self._js, tenant, request_id):
            return False
        # It may have been fetched between the first question and its removal.
        await self._by_another(tenant, request_id)
        return True

    async def _by_another(self, tenant: str, request_id: str) -> bool:
        subject = self._bus.subjects.internal("cancel", tenant, request_id)
        try:
            await self._bus.nc.request(subject, b"", timeout=OTHERS_TIMEOUT_SECONDS)
        except (NatsTimeoutError, TimeoutError):
            return False
        return True

    async def _from_queue(self, js: JetStreamContext, tenant: str, request_id: str) -> bool:
        """Take a job out of the queue that waits there, for its first attempt or for the next one, and end it."""
        for kind in KINDS:
            try:
                message = await js.get_msg(
                    self._bus.subjects.jobs_stream, subject=self._bus.subjects.job(kind, tenant, request_id)
                )
            except NotFoundError:
                continue
            await js.delete_msg(self._bus.subjects.jobs_stream, int(message.seq or 0))
            # Above every attempt whose events an inbox may have had: there nobody can look up which was the last.
            attempt = self._max_deliver if REPLY_TO in (message.headers or {}) else 1
            call = queued_call(message, self._bus.subjects, attempt=attempt)
            await publish_end(self._bus, call, CANCELLED)
            return True
        return False
