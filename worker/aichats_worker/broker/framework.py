"""FastStream's broker on a worker's connection, which comes back. A command has neither, and starts without them."""

import logging
from typing import Final

from faststream.nats import NatsBroker
from nats.aio.client import Client

from aichats_worker.broker.access import Access
from aichats_worker.broker.connecting import Connection
from aichats_worker.broker.patches.returning import CONNECT_TIMEOUT_SECONDS
from aichats_worker.broker.watching import ConnectionWatch

RECONNECT_WAIT_SECONDS: Final = 1
FLUSH_TIMEOUT_SECONDS: Final = 5.0  # nats-py has none by default: a frozen server would block every publish
PING_INTERVAL_SECONDS: Final = 10  # with two unanswered pings, a frozen server is left after 30 s
PENDING_MAX_BYTES: Final = 16 * 1024 * 1024  # nats-py's 2 MiB hold two parts of an image while it reconnects


class Broker(NatsBroker):
    """FastStream's broker on a connection of ours: its own callback raises where a broker refuses us, and ends it.

    Attributes:
        nc: The connection, once connect() has made it; FastStream knows it as nats-py's.
    """

    nc: Connection

    def __init__(self, access: Access, watch: ConnectionWatch) -> None:
        super().__init__(
            list(access.servers),
            js_options={"domain": access.js_domain},
            graceful_timeout=1.0,  # handlers return at once; the executor has its own drain
            apply_types=False,
            logger=logging.getLogger("faststream"),
            log_level=logging.DEBUG,
        )
        self._access = access
        self._watch = watch

    async def _connect(self) -> Client:
        nc = self.nc = Connection(self._access.identity)
        self._watch.over(nc)
        await nc.reach(
            self._access.servers,
            name="ai-worker",
            user=self._access.user,
            password=self._access.password,
            token=self._access.token,
            tls_handshake_first=self._access.tls_first,
            error_cb=self._watch.on_error,
            disconnected_cb=self._watch.on_disconnected,
            reconnected_cb=self._watch.on_reconnected,
            closed_cb=self._watch.on_closed,
            lame_duck_mode_cb=self._watch.on_lame_duck,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            reconnect_time_wait=RECONNECT_WAIT_SECONDS,
            max_reconnect_attempts=-1,  # with nats-py's 60 attempts it would close for good, which nothing mends
            ping_interval=PING_INTERVAL_SECONDS,
            pending_size=PENDING_MAX_BYTES,
            flush_timeout=FLUSH_TIMEOUT_SECONDS,
            inbox_prefix=self._access.inbox_prefix,
            skip_subject_validation=True,  # for each event once more; what is published to is ours, or was checked
        )
        self._watch.connected_first()
        self.config.connect(nc)
        return nc
