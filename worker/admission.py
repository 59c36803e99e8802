"""Who gets a core request: queue groups do not look at load, so a full worker steps out of them until it has room.

What is still on its way to a worker that has become full is handed over to one that has room, over a subject among
workers. Where nobody has room, there is nobody left in the group: the requester gets NATS's own no responders.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
from faststream.nats.subscriber.usecases import CoreSubscriber
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from schemas.subjects import KINDS, MSG_ID, QUEUE, REPLY_TO, Kind, Subjects
from worker.call import HOPS, Call, handed_call
from worker.errors import HandedOver, Overloaded
from worker.slots import Slots
from worker.subscriptions import leave, step_in, step_out

log = structlog.get_logger(__name__)

# Each hand-over goes from a worker that has stepped out to one that had room a moment ago.
HOPS_MAX: Final = 8
HAND_OVER_TIMEOUT_SECONDS: Final = 1.0
# nats-py does not count headers against max_payload and then closes for good.
HEADERS_MAX_BYTES: Final = 2048
CARRIED: Final = ("correlation_id", "traceparent", "tracestate")
CARRIED_MAX_CHARS: Final = 512


class QueueGroup:
    """One kind's place in the queue group: given up while no slot is free, taken again once one is.

    Args:
        nc: The connection.
        slots: The kind's.
        subscriptions: Of nats-py: all that bring requests of the kind.
    """

    def __init__(self, nc: Client, slots: Slots, subscriptions: list[Any]) -> None:
        self._nc = nc
        self._slots = slots
        self._subscriptions = subscriptions
        self._inside = True
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow the slots from now on."""
        self._slots.watch(self._changed.set)
        self._following = asyncio.create_task(self._follow(), name="queue-group")

    async def step_out(self) -> None:
        """Step out if there is no room. What is published after this does not come back to this worker."""
        self._changed.set()  # whatever else happens meanwhile, the follower looks again
        if self._inside and self._slots.free <= 0:
            self._inside = False
            await step_out(self._nc, self._subscriptions)

    def again(self) -> None:
        """After a reconnect nats-py has subscribed to everything again."""
        self._inside = True
        self._changed.set()

    async def stop(self) -> list[Any]:
        """Follow no more; return the subscriptions."""
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        return self._subscriptions

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._slots.free > 0 and not self._inside:
                self._inside = True
                await step_in(self._nc, self._subscriptions)
            elif self._slots.free <= 0 and self._inside:
                self._inside = False
                await step_out(self._nc, self._subscriptions)


class Admission:
    """The queue groups of both kinds, and the hand-over of what came to a worker that was full.

    Args:
        slots: Of each kind.
        subjects: Below the worker's prefix.
    """

    def __init__(self, slots: Mapping[Kind, Slots], subjects: Subjects) -> None:
        self._slots = slots
        self._subjects = subjects
        self._nc: Client | None = None
        self._groups: dict[Kind, QueueGroup] = {}
        self._subscribers: list[CoreSubscriber] = []

    async def start(
        self, nc: Client, subscribers: Mapping[Kind, list[CoreSubscriber]], accept: Callable[[Call], None]
    ) -> None:
        """Take part: `subscribers` are started, `accept` takes what is handed over."""
        self._nc = nc
        for kind in KINDS:

            async def handed(message: Msg, kind: Kind = kind) -> None:
                if not message.reply:
                    return  # no worker's: a broker's acknowledgement can be sent to any subject
                await message.respond(b"")  # from here on the request is this worker's
                accept(handed_call(message, kind))

            subject = self._subjects.internal("hand", kind, "*", "*")
            handed_over = await nc.subscribe(subject, queue=QUEUE, cb=handed)
            self._subscribers += subscribers[kind]
            subscriptions = [subscriber.subscription for subscriber in subscribers[kind]]
            self._groups[kind] = QueueGroup(nc, self._slots[kind], [*subscriptions, handed_over])
            self._groups[kind].start()

    async def elsewhere(self, call: Call) -> HandedOver | Overloaded:
        """Give a request for which there was no slot to a worker that has one; refuse it where there is none."""
        if await self._hand_over(call):
            return HandedOver()
        slots = self._slots[call.kind]
        message = f"all {slots.count} {call.kind} slots of this worker are taken, and no other has one; try again"
        return Overloaded(message, retry_after_ms=slots.retry_after_ms())

    async def _hand_over(self, call: Call) -> bool:
        too_large = self._nc is None or len(call.body) + HEADERS_MAX_BYTES > self._nc.max_payload
        if self._nc is None or too_large or call.problem is not None or call.hops >= HOPS_MAX:
            return False
        subject = self._subjects.internal("hand", call.kind, call.mode, call.tenant)
        headers = {MSG_ID: call.id, REPLY_TO: call.reply_to, HOPS: str(call.hops + 1), **_carried(call.headers)}
        try:
            await self._groups[call.kind].step_out()
            await self._nc.request(subject, call.body, timeout=HAND_OVER_TIMEOUT_SECONDS, headers=headers)
        except NatsTimeoutError:
            # Somebody has it and did not say so. Two ends would be worse than one that the requester has to miss.
            log.warning("handed over, without an answer", id=call.id)
        except NoRespondersError:
            return False
        except NatsError as error:
            log.warning("not handed over", id=call.id, error=type(error).__name__)
            return False
        return True

    def again(self) -> None:
        """After a reconnect: be in the queue groups as before."""
        for group in self._groups.values():
            group.again()

    async def leave(self) -> None:
        """Leave the queue groups for good; messages that had already arrived are still handled.

        Raises:
            TimeoutError: The server did not answer in time.
            nats.errors.Error: The connection is gone.
        """
        subscriptions = [sub for group in self._groups.values() for sub in await group.stop()]
        for subscriber in self._subscribers:
            subscriber.subscription = None  # FastStream's stop() must not unsubscribe it again
        if self._nc is not None:
            await leave(self._nc, subscriptions)


def _carried(headers: Mapping[str, str]) -> dict[str, str]:
    """What a requester's headers say to the next worker; what nats-py would refuse to send is left out."""
    values = ((name, headers.get(name, "")) for name in CARRIED)
    return {n: v for n, v in values if v and v.isascii() and v.isprintable() and len(v) <= CARRIED_MAX_CHARS}
