"""Where FastStream 0.7.8 and nats-py 2.16 are corrected; tests/test_subscriptions.py pins each reason.

FastStream stops a subscriber by ignoring messages first and unsubscribing later, so that a worker which drains stays in
the queue group and swallows requests. Leaving comes first here, and with a real barrier.
"""

import asyncio
from typing import Any

from faststream.nats.subscriber.usecases import CoreSubscriber
from nats.aio.client import Client

LEAVE_TIMEOUT_SECONDS = 5.0


async def settle(nc: Client) -> None:
    """Wait until the server has what was sent before: subscriptions, their ends, messages.

    nats-py writes the PING of a flush past its own buffer, so that the first flush can overtake a SUB: the second is
    the barrier.
    """
    await nc.flush()
    await nc.flush()


async def leave(nc: Client, subscriber: CoreSubscriber) -> None:
    """Take a subscriber out of its queue group; messages that had already arrived are still handled.

    Raises:
        TimeoutError: The server did not answer within LEAVE_TIMEOUT_SECONDS.
        nats.errors.Error: The connection is gone.
    """
    subscription: Any = subscriber.subscription
    if subscription is None:
        return
    subscriber.subscription = None  # FastStream's stop() must not unsubscribe it again
    async with asyncio.timeout(LEAVE_TIMEOUT_SECONDS):
        await nc._send_unsubscribe(subscription._id)  # noqa: SLF001 - drain() alone removes it before the barrier
        await settle(nc)
        await subscription.drain()
