"""Where nats-py 2.16 is corrected in how it comes back; tests/broker/patches/test_returning.py pins each reason.

Its reconnect task ends for good at whatever it does not expect: a signature that cannot be made, a callback that
raises. It reads a certificate once, and a public key once. A connection that was refused is never closed on our side.
Any `-ERR` but a permission's closes it for good, though the server may go on, and closes the connection itself where it
does not. The limit of a message is read in the first INFO alone, and what waits for a connection goes out on it though
it is too large there. Before it looks for another server, it waits until the one that broke has taken what was written,
which a silent one never does. Of a connection that breaks nobody is told whether what was published on it has arrived,
and a flush waits for a PONG that never comes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import ConnectionReconnectingError
from nats.errors import Error as NatsError
from nats.protocol.parser import STALE_CONNECTION

from aichats_worker.broker.access import Identity

CONNECT_TIMEOUT_SECONDS: Final = 5
HANG_UP_SECONDS: Final = 1.0  # for a connection that broke: what was written may still be on its way


class ComesBack(Client):
    """Tries to connect for as long as it is not closed, each time with what the files hold by then.

    Args:
        identify: Reads the files. What it raises is a reason to try again.

    Attributes:
        breaks: How often the connection broke, or something was forgotten: what was on its way then may be lost.
    """

    def __init__(self, identify: Callable[[], Identity]) -> None:
        super().__init__()
        self._identify = identify
        self._identity = Identity()
        self._moving = False
        self._whole = False  # nothing of what was published is on its way
        self.breaks = 0
        self._listening: set[asyncio.Future[bool]] = set()

    async def reach(self, servers: Sequence[str], **options: Any) -> None:
        """Connect, as nats-py's connect(), with the identity in place of its options for files.

        Raises:
            OSError, nats.errors.Error: It failed, and `allow_reconnect` is False.
            AccessError: A file cannot be used.
        """
        identity = self._identify()
        if identity.seed:
            options["signature_cb"] = self._sign
        if identity.jwt:
            options["user_jwt_cb"] = self._jwt
        self._auth_configured = identity.seed is not None
        await self.connect(list(servers), **options)

    def _sign(self, nonce: str) -> bytes:
        return self._identity.sign(nonce)

    def _jwt(self) -> bytes | None:
        return self._identity.jwt

    async def look(self) -> str:
        """Find what has ended without a word, and begin it again. Returns what it was; nothing where all is well."""
        if self.is_closed or self.is_draining:
            return ""
        reading = (self._reading_task, self._flusher_task, self._ping_interval_task)
        if self.is_connected and any(task is None or task.done() for task in reading):
            await self.force_reconnect()
            return "a connection that was not read or written any more"
        if not self.is_connected and self._reconnection_task is not None and self._reconnection_task.done():
            self._reconnection_task = asyncio.create_task(self._attempt_reconnect(), name="reconnect")
            return "a reconnect that had ended"
        return "a subscription that heard nothing" if self._hear_again() else ""

    def _hear_again(self) -> bool:
        """Begin again what a cancellation inside a callback has ended: all that comes on its subscription."""
        subscriptions: list[Any] = list(self._subs.values())
        tasks = [(subscription, subscription._wait_for_msgs_task) for subscription in subscriptions]  # noqa: SLF001
        deaf = [subscription for subscription, task in tasks if task is not None and task.done()]
        for subscription in deaf:
            subscription._start(self._error_cb)  # noqa: SLF001
        return bool(deaf)

    async def delivered(self, breaks: int) -> bool:
        """Wait until the server has read all that was published; False once the connection breaks first.

        Where there is no connection, wait for it: what was published meanwhile goes out then.

        Args:
            breaks: How often it had broken before the first message that matters was published.
        """
        pongs = 0
        while pongs < 2 and self.breaks == breaks and not self.is_closed:  # the first PING can overtake a message
            pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._listening.add(pong)
            try:
                if self.is_connected and not self._is_cut:
                    await self._send_ping(pong)
                await asyncio.wait({pong})  # nats-py breaks on the PONG of one that was cancelled
            finally:
                self._listening.discard(pong)
            pongs = pongs + 1 if pong.result() else 0
        return pongs == 2

    def _look_up(self) -> None:
        """Have whoever waits for a PONG look how the connection stands."""
        for pong in self._listening:
            if not pong.done():
                pong.set_result(False)

    @property
    def _is_cut(self) -> bool:
        """Whether the socket is closed, which nats-py sees a moment later. What is written then, uvloop raises for."""
        below = transport_of(self._transport)
        return below is not None and below.is_closing()

    async def _send_ping(self, future: Any = None) -> None:
        if not self._is_cut:
            await super()._send_ping(future)
        elif future is not None:
            raise ConnectionReconnectingError

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if self._is_cut:
            self._pending, self._pending_data_size = [], 0
        await super()._close(status, do_cbs)

    async def _process_op_err(self, e: Exception) -> None:
        if not (self.is_closed or self.is_reconnecting):
            self.breaks += 1
        await super()._process_op_err(e)
        self._look_up()

    async def force_reconnect(self) -> None:
        """Leave this server; what is on its way may be lost, unless a move has seen to it that nothing is."""
        if self.is_connected and not self._whole:
            self.breaks += 1
        await super().force_reconnect()
        self._look_up()

    async def _attempt_reconnect(self) -> None:
        if (broken := transport_of(self._transport)) is not None:  # closed already by then, unless it is held up
            asyncio.get_running_loop().call_later(HANG_UP_SECONDS, broken.abort)
        await super()._attempt_reconnect()
        self._look_up()

    async def move(self, leave: Callable[[], Awaitable[object]]) -> None:
        """Go to another server, and lose nothing of what is on its way. What is published meanwhile waits.

        Args:
            leave: Has this server send no requests any more, and waits until none is on its way.
        """
        if self._moving or not self.is_connected:
            return
        try:
            await leave()
            self._moving = True
            await super()._flush_pending(force_flush=True)  # what was published until now is written,
            await self.flush()  # and read
            self._whole = True
        except (NatsError, TimeoutError) as error:
            import structlog  # noqa: PLC0415 - a command, which starts with this too, has no log

            log = structlog.get_logger(__name__)
            log.warning("left a broker without its word", error=type(error).__name__)
        finally:
            await self.force_reconnect()  # to wherever there is one: this server takes no new connections
            self._moving = self._whole = False

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if not (self._moving or self._is_cut):
            return await super()._flush_pending(force_flush)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done  # what is pending goes out on the next connection

    async def _connect_to_server(self, s: Any) -> None:
        for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
            if task is not None:
                task.cancel()  # of an attempt that failed after its handshake
        self._identity = self._identify()
        if self._identity.tls is not None:
            self.options["tls"] = self._identity.tls
        self._public_nkey = self._identity.public_key
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):  # over websockets nats-py has no bound
            await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
            if not self.is_connected:  # the server's end of the connection came in place of its PONG
                raise NatsError("nats: the server closed the connection")  # noqa: TRY301
            self._drop_what_is_too_large()
        except (OSError, NatsError, TimeoutError) as error:
            self._give_up()
            if "expecting INFO" in str(error) and not self.options["tls_handshake_first"]:
                raise NatsError(f"{error}; where it wants TLS first, set NATS_TLS_FIRST=on") from None
            raise
        except Exception as error:
            self._give_up()
            raise NatsError(f"nats: {type(error).__name__}: {error}") from error

    def _drop_what_is_too_large(self) -> None:
        """Forget what waits and passes the limit of this server: it would end the connection, and cost all the rest.

        It is lost, as what is on its way when a connection breaks: whoever waits for it is told so. The limit of an
        account comes later than this; what passes it still ends the connection.
        """
        fits = [command for command in self._pending if _payload_bytes(command) <= self._max_payload]
        if len(fits) < len(self._pending):
            self.breaks += 1
            self._pending = fits
            self._pending_data_size = sum(map(len, fits))

    def _give_up(self) -> None:
        if self._transport is not None:
            # nats-py takes the next one, and this one would stay open.
            self._transport.close()  # type: ignore[no-untyped-call]

    async def _process_err(self, err_msg: str) -> None:
        if STALE_CONNECTION in err_msg:
            await super()._process_err(err_msg)
            return
        # Whatever it was, the server goes on, or ends the connection itself: that is seen, and then we come back.
        self._err = NatsError(f"nats: {err_msg.strip(chr(39))}")
        await self._error_cb(self._err)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        websocket = self._current_server is not None and self._current_server.uri.scheme in ("ws", "wss")
        if websocket:  # nats-py would dial what it is told of without the websocket, for ever
            info = {name: value for name, value in info.items() if name != "connect_urls"}
        await super()._process_info(info, initial_connection)
        self._max_payload = info.get("max_payload", self._max_payload)


def _payload_bytes(command: bytes) -> int:
    """Return what the server measures of a command that waits: its headers and its body."""
    if not command.startswith((b"PUB ", b"HPUB ")):
        return 0
    return int(command[: command.index(b"\r\n")].rpartition(b" ")[2])


def transport_of(transport: Any) -> asyncio.WriteTransport | None:
    """Return asyncio's transport below nats-py's, of TCP and TLS or of a websocket; None where there is none yet."""
    if (writer := getattr(transport, "_io_writer", None)) is not None:
        found: asyncio.WriteTransport | None = writer.transport
        return found
    connection = getattr(getattr(transport, "_ws", None), "_conn", None)
    return getattr(connection, "transport", None)
