"""The lease by itself; what it means for a job is in test_jobs.py."""

import asyncio
import time

from nats.aio.client import Client
from nats.aio.msg import Msg

from aichats_worker.jobs.lease import Lease


async def test_a_lease_ends_with_its_job_though_its_renewal_is_confirmed_in_that_very_moment(nc: Client) -> None:
    # Before Python 3.12 asyncio.wait_for, and with it nats-py's request(), swallows a cancellation that comes together
    # with the answer: the renewal would go on, and the job's task wait for it for ever.
    renewal: list[Msg] = []

    async def renewed(message: Msg) -> None:
        renewal.append(message)

    async def asked(message: Msg) -> None:
        await message.respond(b"first")
        for held_back in renewal:  # both answers come in one read of the socket
            await held_back.respond(b"+OK")

    await nc.subscribe("test.renewal", cb=renewed)
    await nc.subscribe("test.asked", cb=asked)
    message = Msg(_client=nc, subject="test.job", reply="test.renewal", data=b"")

    async def held() -> None:
        async with Lease(message, 30.0, time.monotonic() - 15).kept(nc, lambda lost: None):
            while not renewal:
                await asyncio.sleep(0.01)
            await nc.request("test.asked", b"", timeout=5)

    holding = asyncio.create_task(held())
    done, _ = await asyncio.wait({holding}, timeout=5)
    holding.cancel()
    assert done
    await holding
