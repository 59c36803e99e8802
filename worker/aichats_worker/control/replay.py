"""One job's record from a point on, in order, then what comes: read by a consumer of its own, in credits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aichats_schemas.subjects import new_id
from aichats_worker.jobs.entries import MARK
from aichats_worker.jobs.mailbox import Mailbox, stamp_of
from aichats_worker.jobs.pull import Pull

log = structlog.get_logger(__name__)

REQUEST_SECONDS: Final = 5.0
INACTIVE_SECONDS: Final = 15.0  # after which the broker forgets the consumer of a worker that died
BATCH_MAX: Final = 1024
# Of one reader's messages on their way, beside one of the largest.
BATCH_MAX_BYTES: Final = 256 * 1024
PAUSE_SECONDS: Final = 0.5
TRIES_MAX: Final = 10


class Replay:
    """Reads a subject of a stream. Its consumer is made anew wherever it is lost, behind the last message that came.

    Args:
        mail: Where the messages come.
        stream: The stream's name.
        subject: The record's.
        seq: The place of the first message to read.
    """

    def __init__(self, mail: Mailbox, stream: str, subject: str, seq: int) -> None:
        self._mail = mail
        self._stream = stream
        self._subject = subject
        self._seq = seq
        self._arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._pull: Pull | None = None
        self._name = ""
        self._consumer_seq = 0

    @property
    def next_seq(self) -> int:
        """The place behind the last message that was yielded."""
        return self._seq

    async def messages(self, silence_seconds: float) -> AsyncGenerator[Msg | None, None]:
        """Yield the workers' messages as they come, and None after each silence of theirs, whoever else is heard.

        Raises:
            nats.errors.Error: The stream cannot be read.
        """
        loop = asyncio.get_running_loop()
        try:
            due = loop.time() + silence_seconds
            while True:
                await self._ready()
                message = None
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        message = await self._arrived.get()
                if message is not None and self._is_next(message) and MARK in (message.headers or {}):
                    yield message
                elif loop.time() >= due:
                    yield None
                else:
                    continue
                due = loop.time() + silence_seconds
        finally:
            await self._close()

    def _is_next(self, message: Msg) -> bool:
        """Whether none is missing before a message. Where one is, it is read again."""
        stamp = stamp_of(message.reply)
        if stamp.consumer != self._name or stamp.consumer_seq != self._consumer_seq + 1:
            if stamp.consumer == self._name:
                self._forget()
            return False
        self._consumer_seq = stamp.consumer_seq
        self._seq = stamp.stream_seq + 1
        return True

    async def _ready(self) -> None:
        """See to it that messages come, or have come."""
        tries = 0
        while self._arrived.empty():
            if self._pull is not None:
                self._pull.look()
                if self._pull.trouble is not None:
                    self._forget()
                    await asyncio.sleep(PAUSE_SECONDS)  # its consumer can be made, and say no at once, again and again
            try:
                if self._pull is None:
                    await self._open()
                if self._pull is not None and not self._pull.outstanding:
                    await self._ask(self._pull)
            except NatsError:
                self._forget()
                tries += 1
                if tries == TRIES_MAX:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def _ask(self, pull: Pull) -> None:
        if pull.starved:  # stored when the broker's limit was larger: asked for in the same way, it would never come
            await pull.ask(1)
        else:
            await pull.ask(BATCH_MAX, max_bytes=self._mail.nc.max_payload + BATCH_MAX_BYTES)

    async def _open(self) -> None:
        name = f"resume-{new_id()}"
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(self._seq, 1),
            "filter_subject": self._subject,
            "inactive_threshold": round(INACTIVE_SECONDS * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        call = f"CONSUMER.CREATE.{self._stream}.{name}.{self._subject}"
        await self._mail.api(call, {"stream_name": self._stream, "config": config})
        self._name, self._consumer_seq = name, 0
        self._pull = Pull(self._mail, self._stream, name, self._arrived.put_nowait, seconds=REQUEST_SECONDS)

    def _forget(self) -> None:
        """Leave the consumer to the broker."""
        if self._pull is not None:
            self._pull.close()
            self._pull = None

    async def _close(self) -> None:
        if self._pull is None:
            return
        self._forget()
        try:
            await self._mail.nc.publish(self._mail.bus.api(f"CONSUMER.DELETE.{self._stream}.{self._name}"))
        except NatsError as error:
            log.debug("a resume's consumer is left to the broker", error=type(error).__name__)
