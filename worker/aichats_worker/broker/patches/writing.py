"""Where nats-py 2.16 takes nine calls to publish an event; tests/broker/patches/test_writing.py pins what they do.

Most of them look at what is the same for every event of a connection. The usual message goes the short way, and all
others the library's own. A task of nats-py's writes what was published, woken through a queue and a future; where the
socket takes all at once, nobody has to wait, and the loop writes it itself.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client

from aichats_worker.broker.access import Identity
from aichats_worker.broker.patches.returning import ComesBack

SHORT_WAY_MAX_BYTES: Final = 64 * 1024  # what is longer may have to wait for the connection, and who waits can be many


class PublishesSoon(ComesBack):
    """Publishes in one call, without a wait, what is small and does not have to wait.

    Args:
        identify: Reads the files. What it raises is a reason to try again.
    """

    def __init__(self, identify: Callable[[], Identity]) -> None:
        super().__init__(identify)
        self._loop = asyncio.get_running_loop()
        self._nobody: asyncio.Future[None] = self._loop.create_future()  # waits for this flush
        self._nobody.set_result(None)
        self._write_is_due = False

    def publish_soon(self, subject: str, payload: bytes, reply: str = "") -> bool:
        """Publish a message. False where nothing was done: it has to go the library's way, by publish().

        Args:
            subject: Where it goes.
            payload: What it holds.
            reply: Where an answer to it would go.
        """
        size = len(payload)
        flusher = self._flusher_task
        if (
            flusher is None
            or flusher.done()  # look() sees it within a second; until then nats-py writes by itself
            or self._status != Client.CONNECTED
            or self._moving
            or size > self._max_payload
            or self._pending_data_size + size > SHORT_WAY_MAX_BYTES
            or not (subject and self._skip_subject_validation)
        ):
            return False
        message = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), size, payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        self._pending.append(message)
        self._pending_data_size += len(message)
        if not self._write_is_due:
            self._write_is_due = True
            self._loop.call_soon(self.write_now)  # with all that is published until then
        return True

    def write_now(self) -> None:
        """Write what was published, before the next turn of the loop would.

        What the socket does not take at once is the flusher's, which waits for it.
        """
        self._write_is_due = False
        if not self._pending or self._status != Client.CONNECTED or self._is_cut:
            return  # it is written already, or goes out on the next connection
        writer = getattr(self._transport, "_io_writer", None)  # a websocket has none: it frames each message
        if writer is not None and not (below := writer.transport).get_write_buffer_size():
            below.writelines(self._pending)
            self._pending = []
            self._pending_data_size = 0
        elif self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(self._nobody)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As nats-py's."""
        if headers is not None or not self.publish_soon(subject, payload, reply):
            await super().publish(subject, payload, reply, headers)
