"""Who gets a core request: queue groups do not look at load, so a full worker hands over what comes to it.

It asks, on a subject among workers, whose queue group only workers with room are in, for a slot; whoever answers keeps
one for it, and then gets the request. Where nobody has room the request is refused, and a worker that stays full steps
out of the requests' queue group: with all of them out, requesters get NATS's own no responders.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from faststream.nats.subscriber.usecases import CoreSubscriber
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from pydantic import BaseModel, ConfigDict, ValidationError

from aichats_schemas.subjects import KINDS, QUEUE, Kind, Subjects, is_token, new_id
from aichats_worker.broker.patches.subscribing import leave, step_in, step_out
from aichats_worker.errors import HandedOver, Overloaded
from aichats_worker.request.call import Call
from aichats_worker.request.slots import Slots

log = structlog.get_logger(__name__)

# A slot that was free can be taken when the request asks for it: it asks again.
TRIES_MAX: Final = 8
ROOM_TIMEOUT_SECONDS: Final = 0.25
TAKE_TIMEOUT_SECONDS: Final = 1.0
KEPT_SECONDS: Final = 2.0
# A worker that is full for a moment only stays in the group. In a cluster, what another server had sent on its way to a
# worker that steps out is lost: so it is done seldom, and only where the request would be refused anyway.
FULL_SECONDS: Final = 0.25
STOP_TIMEOUT_SECONDS: Final = 1.0
CARRIED: Final = ("correlation_id", "traceparent", "tracestate")
CARRIED_MAX_CHARS: Final = 256


class _Offer(BaseModel):
    """A request that looks for a slot: all but its body."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    mode: Literal["req", "ask"]
    tenant: str
    id: str
    reply_to: str
    headers: dict[str, str]

    def call(self, kind: Kind, body: bytes) -> Call:
        return Call(
            self.mode,
            kind=kind,
            tenant=self.tenant,
            id=self.id,
            reply_to=self.reply_to,
            body=body,
            headers=self.headers,
        )


class _Place:
    """Subscriptions that the server routes to only while they are wanted."""

    def __init__(self, nc: Client, subscriptions: list[Any]) -> None:
        self.subscriptions = subscriptions
        self._nc = nc
        self._inside: bool | None = True
        self._turn = asyncio.Lock()

    async def be(self, wanted: Callable[[], bool]) -> None:
        """Be in the queue group, or out of it, as `wanted` says once it is this call's turn."""
        async with self._turn:
            if self._inside is not (inside := wanted()):
                self._inside = inside
                await (step_in if inside else step_out)(self._nc, self.subscriptions)

    def forget(self) -> None:
        """Nobody knows whether it is in: a reconnect has subscribed to everything again."""
        self._inside = None


class QueueGroup:
    """One kind's place among the workers.

    Args:
        nc: The connection.
        slots: The kind's.
        requests: Subscriptions of nats-py that bring requests: left where this worker stays full and nobody has room.
        room: Subscriptions that bring requests from full workers: left as long as no slot is free.
    """

    def __init__(self, nc: Client, slots: Slots, *, requests: list[Any], room: list[Any]) -> None:
        self._slots = slots
        self._requests = _Place(nc, requests)
        self._room = _Place(nc, room)
        self._nobody = False
        self._stopped = False
        slots.tell(self.update)
        self._following = asyncio.create_task(self._follow(), name="queue-group")

    async def update(self) -> None:
        """Be where the slots say. Awaited before a request that has ended says so: its requester may ask again."""
        if self._stopped:
            return
        if self._slots.free > 0:
            self._nobody = False
        await self._room.be(lambda: self._slots.free > 0)
        await self._requests.be(lambda: self._slots.free > 0 or not self._nobody)

    async def nobody_has_room(self) -> None:
        """Step out where this worker has been full for a while: the next request would be refused as well."""
        self._nobody = self._slots.full_seconds >= FULL_SECONDS
        await self.update()

    def again(self) -> None:
        """After a reconnect: look again."""
        self._room.forget()
        self._requests.forget()
        self._slots.changed.set()

    async def stop(self) -> Iterable[Any]:
        """Stay as it is from now on; return the subscriptions."""
        self._stopped = True  # under back-pressure nats-py swallows the cancellation
        self._following.cancel()
        await asyncio.wait({self._following}, timeout=STOP_TIMEOUT_SECONDS)
        return [*self._requests.subscriptions, *self._room.subscriptions]

    async def _follow(self) -> None:
        while not self._stopped:
            await self._slots.changed.wait()
            self._slots.changed.clear()
            await self.update()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A slot that is kept for a request of another worker's."""

    offer: _Offer
    kind: Kind
    timer: asyncio.TimerHandle


class Admission:
    """The queue groups of both kinds, and the hand-over of what comes to a worker that is full.

    Args:
        slots: Of each kind.
        subjects: Below the worker's prefix.
    """

    def __init__(self, slots: Mapping[Kind, Slots], subjects: Subjects) -> None:
        self._slots = slots
        self._subjects = subjects
        self._id = new_id()
        self._nc: Client | None = None
        self._groups: dict[Kind, QueueGroup] = {}
        self._subscribers: list[CoreSubscriber] = []
        self._takes: list[Any] = []
        self._kept: dict[str, _Kept] = {}

    async def start(
        self, nc: Client, subscribers: Mapping[Kind, list[CoreSubscriber]], accept: Callable[[Call], bool]
    ) -> None:
        """Take part.

        Args:
            nc: The connection.
            subscribers: Of each kind, started.
            accept: Runs a call for which a slot was taken; False where it may not be answered.
        """

        async def taken(message: Msg) -> None:
            kept = self._kept.pop(message.subject.rpartition(".")[2], None)
            if kept is not None:
                kept.timer.cancel()
                if not accept(kept.offer.call(kept.kind, message.data)):
                    self._slots[kept.kind].give_back()
            if message.reply:
                await message.respond(b"" if kept is None else b"1")

        self._takes = [await nc.subscribe(self._subjects.internal("take", self._id, "*"), cb=taken)]
        for kind in KINDS:

            async def asked(message: Msg, kind: Kind = kind) -> None:
                if message.reply:  # without one it is no worker's: a broker's acknowledgement can be sent anywhere
                    await message.respond(self._keep(message.data, kind))

            room = await nc.subscribe(self._subjects.internal("room", kind), queue=QUEUE, cb=asked)
            requests = [subscriber.subscription for subscriber in subscribers[kind]]
            self._groups[kind] = QueueGroup(nc, self._slots[kind], requests=requests, room=[room])
            self._subscribers += subscribers[kind]
        self._nc = nc

    def _keep(self, data: bytes, kind: Kind) -> bytes:
        """Keep a slot for a request; return what it is called, or nothing where there is none."""
        try:
            offer = _Offer.model_validate_json(data)
        except ValidationError:
            return b""
        if not (is_token(offer.tenant) and is_token(offer.id) and self._slots[kind].take()):
            return b""
        token = new_id()
        timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, token)
        self._kept[token] = _Kept(offer, kind, timer)
        return f"{self._id}.{token}".encode()

    def _forget(self, token: str) -> None:
        if (kept := self._kept.pop(token, None)) is not None:
            self._slots[kept.kind].give_back()

    async def elsewhere(self, call: Call) -> HandedOver | Overloaded:
        """Give a request for which there was no slot to a worker that has one; refuse it where there is none."""
        if self._nc is not None and call.problem is None:
            if await self._handed_over(self._nc, call):
                return HandedOver()
            await self._groups[call.kind].nobody_has_room()
        slots = self._slots[call.kind]
        message = f"all {slots.count} {call.kind} slots of this worker are taken, and no other has one; try again"
        return Overloaded(message, retry_after_ms=slots.retry_after_ms())

    async def _handed_over(self, nc: Client, call: Call) -> bool:
        for _ in range(TRIES_MAX):
            try:
                place = await self._place(nc, call)
                if place and await self._taken(nc, call, place):
                    return True
            except NoRespondersError:
                return False
            except NatsError as error:
                log.warning("not handed over", id=call.id, error=type(error).__name__)
                return False
        return False

    async def _place(self, nc: Client, call: Call) -> str:
        """Ask for a slot, and return what it is called; nothing where it was just taken, or nobody answered in time."""
        carried = {name: value[:CARRIED_MAX_CHARS] for name in CARRIED if (value := call.headers.get(name))}
        mode: Any = call.mode
        offer = _Offer(mode=mode, tenant=call.tenant, id=call.id, reply_to=call.reply_to, headers=carried)
        subject = self._subjects.internal("room", call.kind)
        try:
            answer = await nc.request(subject, offer.model_dump_json().encode(), timeout=ROOM_TIMEOUT_SECONDS)
        except NatsTimeoutError:
            return ""
        worker, _, token = answer.data.decode("ascii", "replace").partition(".")
        return f"{worker}.{token}" if is_token(worker) and is_token(token) else ""

    async def _taken(self, nc: Client, call: Call, place: str) -> bool:
        """Send the request to where a slot is kept for it. Without headers, its body always fits."""
        try:
            answer = await nc.request(self._subjects.internal("take", place), call.body, timeout=TAKE_TIMEOUT_SECONDS)
        except NoRespondersError:
            return False  # that worker has gone since, without the request
        except NatsTimeoutError:
            # It may have it. Two ends would be worse than one that the requester misses, as if that worker had died.
            log.warning("handed over, without an answer", id=call.id)
            return True
        return bool(answer.data)

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
        subscriptions = [each for group in self._groups.values() for each in await group.stop()]
        for subscriber in self._subscribers:
            subscriber.subscription = None  # FastStream's stop() must not unsubscribe it again
        if self._nc is not None:
            await leave(self._nc, [*subscriptions, *self._takes])
