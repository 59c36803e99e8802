"""Where FastStream 0.7.8 and nats-py 2.16 are corrected; tests/broker/patches/test_subscribing.py pins each reason.

FastStream stops a subscriber by ignoring messages first and unsubscribing later, so that a worker which drains stays in
the queue group and swallows requests. Leaving comes first here, and with a real barrier.

Around each message it opens scopes, middlewares and a stack of its own, for handlers that need them: more than a
request costs from here to its end. Ours take the message as it came. Before that, nats-py puts it into a queue, for a
task that has its turn later, and drops it where that queue is full: ours take it as it is read.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.aio.msg import Msg

if TYPE_CHECKING:  # commands have no subscribers, and start without FastStream
    from faststream.nats.subscriber.usecases import CoreSubscriber


def take_directly(subscriber: "CoreSubscriber", take: Callable[[Msg], object]) -> None:
    """Have a subscriber hand each message to `take`. FastStream declares, documents and subscribes it as any other.

    Args:
        subscriber: Before it is started.
        take: Returns at once. What it raises is told as any error of the connection's.
    """

    async def consume(message: Msg) -> None:
        take(message)

    consume.take = take  # type: ignore[attr-defined]
    subscriber.consume = consume  # type: ignore[method-assign,assignment] # what its subscription has


class TakesDirectly(Client):
    """Has a message taken as it is read, where the subscriber is one of take_directly()."""

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        subscription: Any = self._subs.get(sid)
        take = getattr(subscription._cb, "take", None) if subscription is not None else None  # noqa: SLF001
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        named = await self._process_headers(headers) if headers else None
        try:
            take(self._build_message(sid, subject, reply, data, named))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it was, the next message is read
            await self._error_cb(error)  # type: ignore[arg-type]


async def settle(nc: Client) -> None:
    """Wait until the server has what was sent before: subscriptions, their ends, messages.

    nats-py writes the PING of a flush past its own buffer, so that the first flush can overtake a SUB: the second is
    the barrier.
    """
    await nc.flush()
    await nc.flush()


async def step_out(nc: Client, subscriptions: Iterable[Any]) -> None:
    """Have the server route nothing more to these subscriptions; what has arrived or is on its way is still handled.

    Only the server forgets them, which nats-py's unsubscribe() and drain() do not offer.
    """
    for subscription in subscriptions:
        await nc._send_unsubscribe(subscription._id)  # noqa: SLF001


async def step_in(nc: Client, subscriptions: Iterable[Any]) -> None:
    """Have the server route to these subscriptions again. It ignores the second time."""
    for subscription in subscriptions:
        await nc._send_subscribe(subscription)  # noqa: SLF001


def queue_groups(nc: Client) -> list[Any]:
    """Return every subscription of a connection that shares with other workers, whichever room made it."""
    return [subscription for subscription in nc._subs.values() if subscription.queue]  # noqa: SLF001


async def subscribe_again(nc: Client) -> None:
    """Ask for every subscription again: one that the server had refused is taken once its rights are mended."""
    await step_in(nc, list(nc._subs.values()))  # noqa: SLF001


async def leave_groups(nc: Client) -> None:
    """Have this server send nothing more that another worker can have. A reconnect brings all of it back.

    Raises:
        nats.errors.Error: The server did not answer in time, or is gone.
    """
    await step_out(nc, queue_groups(nc))
    await settle(nc)


async def leave(nc: Client, subscriptions: Collection[Any], *, timeout_seconds: float) -> None:
    """End subscriptions; messages that had already arrived are still handled.

    Args:
        nc: The connection.
        subscriptions: Of it.
        timeout_seconds: How long the server is waited for; it is told in any case.

    Raises:
        TimeoutError: The server did not answer in time.
        nats.errors.Error: The connection is gone.
    """
    try:
        await within(timeout_seconds, _leave(nc, subscriptions), "leave")
    finally:
        for subscription in subscriptions:
            nc._remove_sub(subscription._id)  # noqa: SLF001 - where the server did not hear it, a reconnect would come back


async def within(seconds: float, work: Coroutine[Any, Any, None], name: str) -> None:
    """Wait for what nats-py does, so long at most: what it can do at once is done in any case.

    In a task of its own: nats-py swallows the cancellation by which asyncio.timeout would end it, under back-pressure
    and while it drains.

    Raises:
        TimeoutError: It took longer.
    """
    task = asyncio.create_task(work, name=name)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        raise TimeoutError
    task.result()


async def _leave(nc: Client, subscriptions: Collection[Any]) -> None:
    await step_out(nc, subscriptions)
    await settle(nc)  # drain() alone removes it before the barrier
    await asyncio.gather(*(subscription.drain() for subscription in subscriptions))  # each asks the broker, far or near
