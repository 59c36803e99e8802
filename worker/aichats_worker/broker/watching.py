"""Watches the connection: what the log says of it, what the probes say, and what is begun again."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import UnexpectedEOF
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aichats_worker.broker.patches.returning import ComesBack
from aichats_worker.broker.patches.subscribing import leave_groups, settle, subscribe_again
from aichats_worker.telemetry.logs import Said
from aichats_worker.text import ascii_line

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
ASK_AGAIN_SECONDS: Final = 10.0
REASON_MAX_CHARS: Final = 200
_REFUSED: Final = re.compile(r'permissions violation for subscription to "([^"]+)"')
_SUBSCRIPTIONS_MAX: Final = "maximum subscriptions exceeded"


class ConnectionWatch(Collector):
    """Over one connection, from before it stands to its end.

    Args:
        on_reconnect: Called after each reconnect.
        on_subscribed: Called once the server was asked for all subscriptions again, those stepped out of too.

    Attributes:
        refused: What the broker does not let us subscribe to, and its word.
        lame_duck: The broker is about to go, and there is no other.
    """

    def __init__(self, on_reconnect: Callable[[], object], on_subscribed: Callable[[], object]) -> None:
        self._on_reconnect = on_reconnect
        self._on_subscribed = on_subscribed
        self._nc: ComesBack | None = None
        self._down_since: float | None = time.monotonic()
        self._reason = ""
        self._said = Said()
        self._reconnects = 0
        self._asked_again = 0.0
        self._move: asyncio.Task[None] | None = None
        self._asked: dict[str, str] = {}  # what was refused before all was asked for again
        self.refused: dict[str, str] = {}
        self.lame_duck = False
        self.closing = False

    def over(self, nc: ComesBack) -> None:
        """Watch this connection."""
        self._nc = nc

    def disconnected(self) -> str:
        """Say why there is no connection; nothing where there is one, and the broker has taken all subscriptions."""
        # nats-py is connected a moment before it has the broker's word for what it subscribed again.
        if self._nc is not None and self._nc.is_connected and self._down_since is None:
            return ""
        down = 0 if self._down_since is None else time.monotonic() - self._down_since
        return f"no connection to the broker for {down:.0f} s: {self._reason or 'it has not been reached yet'}"

    def closed(self) -> str:
        """Say why the connection is closed for good, which no wait mends; nothing where it is not."""
        # While the first connection is being made, nats-py is closed between the attempts.
        if self._nc is None or self.closing or not self._nc.is_closed or self._down_since is not None:
            return ""
        return f"the connection to the broker is closed for good: {self._reason or 'unknown'}"

    def unsubscribed(self) -> str:
        """Say what the broker does not let us hear; nothing where it lets us hear all."""
        refused = self._asked | self.refused
        return "; ".join(f"{subject}: {reason}" for subject, reason in sorted(refused.items()))

    def leaving(self) -> str:
        """Say that the broker is about to go, where there is no other; nothing where it stays."""
        return "the broker is in lame-duck mode, and there is no other" if self.lame_duck else ""

    def collect(self) -> Iterator[Metric]:
        """For /metrics: whether there is a connection, and how often there was another one."""
        says = "0 while there is no connection to the broker."
        yield GaugeMetricFamily("aichats_broker_connected", says, float(not self.disconnected()))
        says = "Connections to the broker after the first one."
        yield CounterMetricFamily("aichats_broker_reconnects", says, self._reconnects)

    def connected_first(self) -> None:
        """Take note that the first connection stands."""
        self._down_since = None

    async def look(self) -> None:
        """Once: begin again what has ended without a word, and ask again for what was refused."""
        if self._nc is None or (self._down_since is not None and self._nc.is_closed):
            return
        if begun := await self._nc.look():
            log.error("broker connection was stuck", what=begun)
        if self.closing or not (self.refused and self._nc.is_connected):
            return  # what is being left must not be asked for again
        if time.monotonic() - self._asked_again >= ASK_AGAIN_SECONDS:
            self._asked_again = time.monotonic()
            await self._ask_again(self._nc)

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def _ask_again(self, nc: Client) -> None:
        """Rights and limits can be mended without a reconnect: the server says nothing then."""
        self._asked, self.refused = self.refused, {}
        try:
            await subscribe_again(nc)
            await settle(nc)
        except (NatsError, TimeoutError):
            self.refused = self._asked | self.refused
        finally:
            self._asked = {}
            self._on_subscribed()
        if not self.refused:
            log.info("broker takes all subscriptions now")

    async def on_error(self, error: Exception) -> None:
        """nats-py: something failed, or the server said so. Raises nothing: the reconnect task would end."""
        reason = ascii_line(str(error).removeprefix("nats: ") or type(error).__name__, REASON_MAX_CHARS)
        if "permissions violation" not in reason:  # which ends nothing
            self._reason = reason
        if found := _REFUSED.search(reason):
            self.refused[found[1]] = "the broker's rights refuse it"
        elif _SUBSCRIPTIONS_MAX in reason:
            self.refused["one more"] = "the account's limit of subscriptions is reached"
        if not isinstance(error, UnexpectedEOF) and self._said.is_new(reason):  # the disconnect says that
            event = "broker error" if self._down_since is None else "broker not reached"
            log.warning(event, error=reason)

    async def on_disconnected(self) -> None:
        """nats-py: the connection is gone; it tries to come back from here on."""
        if self._down_since is None:
            self._down_since = time.monotonic()
        self.refused, self._asked, self.lame_duck = {}, {}, False
        self._said.forget()
        tell = log.info if self.closing else log.warning
        tell("broker disconnected", error=self._reason or None)

    async def on_reconnected(self) -> None:
        """nats-py: all is subscribed again."""
        down = 0.0 if self._down_since is None else time.monotonic() - self._down_since
        self._down_since, self._reason = None, ""
        self._reconnects += 1
        self._said.forget()
        log.info("broker connected again", seconds=round(down, 1))
        try:
            self._on_reconnect()
        except Exception:  # nats-py's task would end here, and never come back again
            log.exception("after the reconnect")

    async def on_closed(self) -> None:
        """nats-py: closed, by us or for good."""
        if self.closing:
            log.info("broker connection closed")
        else:
            self._down_since = None
            log.error("broker connection closed for good: this worker has to be restarted", error=self._reason)

    async def on_lame_duck(self) -> None:
        """nats-py: this server goes, in a while; whoever is early loses nothing."""
        nc = self._nc
        if nc is None or self.closing or nc.connected_url is None:
            return
        others = [server.netloc for server in nc.servers if server.netloc != nc.connected_url.netloc]
        self.lame_duck = not others
        log.info("broker is in lame-duck mode", others=len(others))
        if others:
            self._move = asyncio.create_task(nc.move(lambda: leave_groups(nc)), name="move")
