"""Messages of a pull consumer, as many as there is room for."""

import time
from collections.abc import Callable
from typing import Final

import orjson
from nats.aio.msg import Msg

from aichats_worker.jobs.mailbox import ASK_TIMEOUT_SECONDS, Mailbox

SOON_SECONDS: Final = 1.0


class Pull:
    """Asks one pull consumer for messages, as many as there is room for, by one request at a time.

    Args:
        mail: Where they come.
        stream: The consumer's stream.
        consumer: Its name.
        received: Gets each message, and None where a request ended before it was used up.
        seconds: How long a request stands; less where the one before it went wrong.

    Attributes:
        outstanding: How many may still come for the request that stands.
        trouble: What was wrong when the broker last answered; None where all was as it should be.
        starved: The last request ended without a message, since the first one was larger than its `max_bytes`.
    """

    def __init__(
        self, mail: Mailbox, stream: str, consumer: str, received: Callable[[Msg | None], object], *, seconds: float
    ) -> None:
        self._mail = mail
        self._subject = mail.bus.api(f"CONSUMER.MSG.NEXT.{stream}.{consumer}")
        self._consumer = consumer
        self._received = received
        self._seconds = seconds
        self._inbox = ""
        self._ends = 0.0
        self.outstanding = 0
        self.trouble: str | None = None
        self.starved = False
        self._came = False
        mail.deliver(consumer, self._got)

    def close(self) -> None:
        """Take no more."""
        self._end()
        self._mail.forget(self._consumer)

    async def ask(self, batch: int, *, max_bytes: int | None = None) -> None:
        """Ask for `batch` messages.

        Raises:
            nats.errors.Error: It could not be sent.
        """
        self._end()
        self.starved, self._came = False, False
        # What was wrong is so until the broker answers, which it does at the end of a request that brings nothing.
        seconds = self._seconds if self.trouble is None else min(self._seconds, SOON_SECONDS)
        self._inbox = self._mail.open(self._told)
        self._ends = time.monotonic() + seconds + ASK_TIMEOUT_SECONDS
        self.outstanding = batch
        request = {"batch": batch, "expires": round(seconds * 1e9)}
        if max_bytes is not None:
            request["max_bytes"] = max_bytes
        await self._mail.nc.publish(self._subject, orjson.dumps(request), reply=self._inbox)

    def rest(self) -> None:
        """Nothing is asked for now: whether what was wrong still is, is not known."""
        if not self.outstanding:
            self.trouble = None

    def look(self) -> None:
        """Give a request up that should have ended: the broker that had it is gone."""
        if self.outstanding and time.monotonic() > self._ends:
            self._end()

    def again(self) -> None:
        """After a reconnect: the broker has forgotten the request."""
        self._end()

    def _got(self, message: Msg) -> None:
        self.trouble, self._came = None, True
        self.outstanding = max(0, self.outstanding - 1)
        if not self.outstanding:
            self._end()
        self._received(message)

    def _told(self, message: Msg) -> None:
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        self._end()
        self.starved = "MaxBytes" in description and not self._came
        fine = status in ("404", "408") or "MaxBytes" in description or "Completed" in description
        self.trouble = None if fine else f"{status} {description}".strip()
        self._received(None)

    def _end(self) -> None:
        self.outstanding = 0
        if self._inbox:
            self._mail.close(self._inbox)
            self._inbox = ""
