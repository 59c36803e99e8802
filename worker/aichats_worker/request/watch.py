"""Keeps every open reply from falling silent, and notices where nobody listens any more."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from aichats_worker.broker.patches.writing import PublishesSoon
from aichats_worker.errors import Internal, Interrupted
from aichats_worker.telemetry.logs import Said

log = structlog.get_logger(__name__)

TICKS_PER_KEEPALIVE: Final = 8
NO_RESPONDERS: Final = "503"
SMALLER: Final = "the broker takes less in one message than when this answer began; try again"


@dataclass(slots=True)  # not frozen: one for each request
class Line:
    """Where one reply goes out.

    Attributes:
        nc: The connection; events go out through it without FastStream, which costs 4 to 9 times as much for each.
        subject: The reply subject.
        keepalive_seconds: Silence after which a status is due.
        token: By which the watch knows it.
        probe: The worker's own inbox for the server's word that nobody listens; empty for none.
    """

    nc: PublishesSoon
    subject: str
    keepalive_seconds: float
    token: str
    probe: str = ""


class Outlet(ABC):
    """One reply on its way out: once it is closed, nothing more is published. Silence is looked for by the watch."""

    __slots__ = (
        "_bytes",
        "_closed",
        "_keepalive",
        "_last",
        "_nc",
        "_probe",
        "_probe_due",
        "_silence",
        "_subject",
        "token",
    )

    def __init__(self, line: Line) -> None:
        self.token = line.token
        self._nc = line.nc
        self._subject = line.subject
        self._keepalive = line.keepalive_seconds
        self._silence = line.keepalive_seconds  # after so much of it a status is due
        self._probe = line.probe
        self._closed = False
        self._bytes = 0
        self._last = time.monotonic()
        self._probe_due = float("-inf") if line.probe else float("inf")

    @abstractmethod
    async def status(self) -> None:
        """Say that the request is still alive."""

    def is_silent(self, now: float) -> bool:
        """Say whether a status is due."""
        return not self._closed and now - self._last >= self._silence

    def abandon(self) -> None:
        """Publish nothing more, no end either."""
        self._closed = True

    def _soon(self, payload: bytes) -> bool:
        """Publish an event without a wait. False where nothing was done, and it has to be sent."""
        now = time.monotonic()
        probe = self._probe if now >= self._probe_due else ""
        if self._closed or not self._nc.publish_soon(self._subject, payload, probe):
            return False
        if probe:
            self._probe_due = now + self._keepalive / 2
        self._last = now
        self._bytes += len(payload)
        return True

    async def _send(self, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        now = self._last = time.monotonic()
        self._bytes += len(payload)
        probe = ""
        if now >= self._probe_due:
            self._probe_due = now + self._keepalive / 2
            probe = self._probe
        try:
            await self._nc.publish(self._subject, payload, reply=probe, headers=headers)  # type: ignore[arg-type]
        except MaxPayloadError as error:
            raise Interrupted(SMALLER) from error
        except NatsError as error:
            raise Internal("the broker does not take the answer; try again later") from error

    async def _close(self, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish the final event and, at once behind it, the sentinel."""
        self._closed = True  # before the first wait: a status must not slip in between the two
        await self._send(payload, headers)
        await self._send(b"")


AnOutlet = TypeVar("AnOutlet", bound=Outlet)
Open = dict[str, tuple[Outlet, Callable[[], object] | None]]


class Kept(Generic[AnOutlet]):
    """A reply that the watch knows until the block ends."""

    __slots__ = ("_on_gone", "_open", "_outlet")

    def __init__(self, among: Open, outlet: AnOutlet, on_gone: Callable[[], object] | None) -> None:
        self._open = among
        self._outlet = outlet
        self._on_gone = on_gone

    def __enter__(self) -> AnOutlet:
        self._open[self._outlet.token] = (self._outlet, self._on_gone)
        return self._outlet

    def __exit__(self, *_: object) -> None:
        del self._open[self._outlet.token]


class Watch:
    """All open replies.

    Args:
        keepalive_seconds: Silence after which a reply publishes a status.
    """

    def __init__(self, keepalive_seconds: float) -> None:
        self.keepalive_seconds = keepalive_seconds
        self._open: Open = {}
        self._count = 0
        self._inbox = ""
        self._nc: PublishesSoon | None = None
        self._stopped = False
        self._said = Said()

    async def start(self, nc: PublishesSoon) -> None:
        """Subscribe to the probes' answers."""
        self._nc = nc
        self._inbox = nc.new_inbox()
        await nc.subscribe(f"{self._inbox}.*", cb=self._answered)

    def stop(self) -> None:
        """Have run() end, though under back-pressure nats-py swallows its cancellation."""
        self._stopped = True

    def line(self, subject: str, *, probed: bool = False) -> Line:
        """Return a line to a reply subject.

        Args:
            subject: Checked by the caller: the worker publishes there.
            probed: Ask the server from time to time whether anybody listens.
        """
        assert self._nc is not None, "start() comes first"  # noqa: S101
        self._count += 1
        token = str(self._count)
        return Line(self._nc, subject, self.keepalive_seconds, token, f"{self._inbox}.{token}" if probed else "")

    def kept(self, outlet: AnOutlet, on_gone: Callable[[], object] | None = None) -> "Kept[AnOutlet]":
        """Keep a reply alive until the block ends; call `on_gone` once the server says that nobody listens."""
        return Kept(self._open, outlet, on_gone)

    async def _answered(self, message: Msg) -> None:
        # A stream that captures the subject answers with its own acknowledgement, which has no status: ignored.
        if (message.headers or {}).get("Status") != NO_RESPONDERS:
            return
        found = self._open.get(message.subject.rpartition(".")[2])
        if found is not None and found[1] is not None:
            found[1]()

    async def run(self) -> None:
        """Keep what is open alive, until cancelled."""
        while not self._stopped:
            await asyncio.sleep(self.keepalive_seconds / TICKS_PER_KEEPALIVE)
            await self._look()

    async def _look(self) -> None:
        """Not in the loop above, whose variables would keep the last answer until there is another one."""
        now = time.monotonic()
        for outlet, _ in list(self._open.values()):
            if outlet.is_silent(now):
                await self._say(outlet)

    async def _say(self, outlet: Outlet) -> None:
        try:
            await outlet.status()
        except Exception as error:  # noqa: BLE001 - one reply's failure must not silence all the others
            if self._said.is_new(type(error).__name__):
                log.warning("keep-alive not published", error=type(error).__name__)
