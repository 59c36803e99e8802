"""Who gets a core request: queue groups do not look at load, so a full worker hands over what comes to it.

It asks on a subject among workers, whose queue group only those with room are in: the server's own no responders says
that there is none, at once. Whoever answers keeps nothing; the request then goes to that worker alone, which takes it
or says that its last slot has gone since. Only questions go to a group that workers step in and out of: one that is
lost on its way is asked again, and a request never is.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from pydantic import BaseModel, ConfigDict, ValidationError

from aichats_schemas.subjects import KINDS, QUEUE, Kind, Subjects, is_token, new_id
from aichats_worker.broker.patches.subscribing import step_in, step_out
from aichats_worker.errors import HandedOver, Overloaded
from aichats_worker.request.call import Call
from aichats_worker.request.runs import Runs
from aichats_worker.request.slots import Slots
from aichats_worker.tracing import trace

log = structlog.get_logger(__name__)

# Two workers on two continents are 150 ms apart, each way.
QUESTION_TIMEOUT_SECONDS: Final = 0.8
TAKE_TIMEOUT_SECONDS: Final = 2.0
# A slot that was free can be gone when the request comes: ask again, for so long.
LOOK_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 0.02  # before the next question: whoever has nothing says so at once
OFFER_SECONDS: Final = 4.0
CARRIED: Final = ("correlation_id", "traceparent", "tracestate")
CARRIED_MAX_CHARS: Final = 256
TAKEN: Final = b"1"


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


@dataclass(slots=True)
class _Open:
    """A request that was told of a slot here."""

    kind: Kind
    offer: _Offer
    taken: bool = False


class _Room:
    """The queue group of the workers with room: in it while a slot is free.

    Args:
        nc: The connection.
        slots: The kind's.
        subscription: That brings the questions.
    """

    def __init__(self, nc: Client, slots: Slots, subscription: Any) -> None:
        self._nc = nc
        self._slots = slots
        self._subscription = subscription
        self._inside = True
        self._left = False
        self._turn = asyncio.Lock()
        slots.tell(self.update)

    async def update(self) -> None:
        """Be where the slots say. Awaited before a request that has ended says so: its requester may ask again."""
        if self._inside is (self._slots.free > 0) and not self._turn.locked():
            return  # as after nearly every request
        async with self._turn:
            if self._inside is not (inside := self._slots.free > 0) and not self._left:
                self._inside = inside
                await (step_in if inside else step_out)(self._nc, [self._subscription])

    async def follow(self) -> None:
        """Be where the slots say from here on, until cancelled."""
        while True:
            await self.update()
            await self._slots.changed.wait()
            self._slots.changed.clear()

    def leave(self) -> None:
        """Never step in again: the server would go on asking a subscription that has ended."""
        self._left = True

    def again(self) -> None:
        """After a reconnect: the server has all subscriptions again, this one too."""
        self._inside = True
        self._slots.changed.set()


@dataclass(frozen=True, slots=True)
class Taker:
    """Another worker that may have taken a request: what the request is called there."""

    nc: Client
    subject: str

    async def cancel(self) -> bool:
        """Have it stopped there. True where its end is `cancelled`; the other worker publishes that."""
        try:
            return bool((await self.nc.request(self.subject, timeout=TAKE_TIMEOUT_SECONDS)).data == TAKEN)
        except NatsError:
            return False


class Handover:
    """Gives away what finds no slot here, and takes what finds none elsewhere.

    Args:
        slots: Of each kind.
        subjects: Below the worker's prefix.
        runs: What is at work here.
    """

    def __init__(self, slots: Mapping[Kind, Slots], subjects: Subjects, runs: Runs) -> None:
        self._runs = runs
        self._slots = slots
        self._subjects = subjects
        self._id = new_id()
        self._nc: Client | None = None
        self._left = False
        self._rooms: dict[Kind, _Room] = {}
        self._offers: dict[str, _Open] = {}

    async def start(self, nc: Client, accept: Callable[[Call], bool]) -> list[Callable[[], Any]]:
        """Take part. Returns what has to run as long as the worker does.

        Args:
            nc: The connection.
            accept: Runs a call for which a slot was taken; False where it may not be answered.
        """

        async def taken(message: Msg) -> None:
            if message.reply:
                await message.respond(self._take(message, accept))

        async def stopped(message: Msg) -> None:
            if message.reply:
                self._runs.spawn(self._stop(message), "hand-over-stop")  # the next one must not wait for it

        await nc.subscribe(self._subjects.internal("take", self._id, "*"), cb=taken)
        await nc.subscribe(self._subjects.internal("stop-taken", self._id, "*"), cb=stopped)
        for kind in KINDS:

            async def asked(message: Msg, kind: Kind = kind) -> None:
                if message.reply:  # without one it is no worker's: a broker's acknowledgement can be sent anywhere
                    await message.respond(self._answer(message.data, kind))

            subscription = await nc.subscribe(self._subjects.internal("room", kind), queue=QUEUE, cb=asked)
            self._rooms[kind] = _Room(nc, self._slots[kind], subscription)
        self._nc = nc
        return [room.follow for room in self._rooms.values()]

    def leave(self) -> None:
        """Take nothing over any more: what was told of a slot here asks again. What is here may still be given."""
        self._left = True
        for room in self._rooms.values():
            room.leave()

    def again(self) -> None:
        """After a reconnect."""
        for room in self._rooms.values():
            room.again()

    def _answer(self, data: bytes, kind: Kind) -> bytes:
        """Say where a request may go for a slot that is free now, and is kept for nobody; nothing where none is."""
        try:
            offer = _Offer.model_validate_json(data)
        except ValidationError:
            return b""
        if not (is_token(offer.tenant) and is_token(offer.id) and self._slots[kind].free > 0) or self._left:
            return b""
        token = new_id()
        self._offers[token] = _Open(kind, offer)
        asyncio.get_running_loop().call_later(OFFER_SECONDS, self._offers.pop, token, None)
        return f"{self._id}.{token}".encode()

    def _take(self, message: Msg, accept: Callable[[Call], bool]) -> bytes:
        found = self._offers.get(message.subject.rpartition(".")[2])
        if self._left or found is None or found.taken or not self._slots[found.kind].take():
            return b""
        found.taken = True
        if not accept(found.offer.call(found.kind, message.data)):
            self._slots[found.kind].give_back()
        return TAKEN

    async def _stop(self, message: Msg) -> None:
        """Cancel a request that was taken, for the worker that it came from."""
        found = self._offers.get(message.subject.rpartition(".")[2])
        run = self._runs.find(found.offer.tenant, found.offer.id) if found is not None and found.taken else None
        cancelled = run is not None and await run.cancel()
        with suppress(NatsError):
            await message.respond(TAKEN if cancelled else b"")

    async def give(self, call: Call, taken: Callable[[Taker], object]) -> None:
        """Find a slot for a request that has none: returns where one was taken here after all.

        Args:
            call: The request.
            taken: Told as soon as another worker may have it, also where this is cancelled then.

        Raises:
            HandedOver: Another worker has it.
            Overloaded: Nobody has room.
        """
        slots, until = self._slots[call.kind], asyncio.get_running_loop().time() + LOOK_SECONDS
        while self._nc is not None and call.problem is None and asyncio.get_running_loop().time() < until:
            if slots.take():
                return
            try:
                place = await self._place(self._nc, call)
                if place and await self._taken(self._nc, call, place, taken):
                    raise HandedOver
                await asyncio.sleep(PAUSE_SECONDS)
            except NoRespondersError:
                break
            except NatsError as error:
                log.warning("not handed over", id=call.id, error=type(error).__name__)
                break
        message = f"all {slots.count} {call.kind} slots of this worker are taken, and no other has one; try again"
        raise Overloaded(message, retry_after_ms=slots.retry_after_ms())

    async def _place(self, nc: Client, call: Call) -> str:
        """Ask for a slot, and return where it is; nothing where it was just taken, or nobody answered in time."""
        carried = {name: value[:CARRIED_MAX_CHARS] for name in CARRIED if (value := call.headers.get(name))}
        carried |= trace.carrier()  # its part of the trace is below ours
        mode: Any = call.mode
        offer = _Offer(mode=mode, tenant=call.tenant, id=call.id, reply_to=call.reply_to, headers=carried)
        subject = self._subjects.internal("room", call.kind)
        try:
            answer = await nc.request(subject, offer.model_dump_json().encode(), timeout=QUESTION_TIMEOUT_SECONDS)
        except NatsTimeoutError:
            return ""
        worker, _, token = answer.data.decode("ascii", "replace").partition(".")
        return f"{worker}.{token}" if is_token(worker) and is_token(token) and worker != self._id else ""

    async def _taken(self, nc: Client, call: Call, place: str, taken: Callable[[Taker], object]) -> bool:
        """Send the request to where a slot is free, and wait for the word even where it is stopped meanwhile."""
        sending = asyncio.create_task(self._send(nc, call, place, taken), name=f"hand-over:{call.id}")
        try:
            return await asyncio.shield(sending)
        finally:
            if not sending.done():
                await asyncio.wait({sending})  # bounded by the request's own timeout

    async def _send(self, nc: Client, call: Call, place: str, taken: Callable[[Taker], object]) -> bool:
        """Without headers, its body always fits.

        Whoever may have it is told of here: a cancel must find nothing between the word and what it means.
        """
        try:
            answer = await nc.request(self._subjects.internal("take", place), call.body, timeout=TAKE_TIMEOUT_SECONDS)
        except NoRespondersError:
            return False  # that worker has gone since, without the request
        except NatsTimeoutError:
            # It may have it. Two ends would be worse than one that the requester misses, as if that worker had died.
            log.warning("handed over, without an answer", id=call.id)
        else:
            if not answer.data:
                return False
        taken(Taker(nc, self._subjects.internal("stop-taken", place)))
        return True
