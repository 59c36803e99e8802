"""Where nats-py 2.16 takes nine calls to publish an event; tests/broker/patches/test_writing.py pins what they do.

Most of them look at what is the same for every event of a connection. The usual message goes the short way, and all
others the library's own.
"""

from typing import Final

from nats.aio.client import Client

SHORT_WAY_MAX_BYTES: Final = 64 * 1024  # what is longer may have to wait for the connection, and who waits can be many


class PublishesSoon(Client):
    """Publishes in one call what is small, has no headers and does not have to wait."""

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As nats-py's."""
        size = len(payload)
        queue = self._flush_queue
        if (
            headers is not None
            or queue is None
            or self._status != Client.CONNECTED
            or size > self._max_payload
            or self._pending_data_size + size > SHORT_WAY_MAX_BYTES
            or not (subject and self._skip_subject_validation)
        ):
            await super().publish(subject, payload, reply, headers)
            return
        message = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), size, payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        self._pending.append(message)
        self._pending_data_size += len(message)
        if queue.empty():
            await self._flush_pending()
