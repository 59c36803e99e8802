"""What a pull consumer is asked for, and what it says."""

import asyncio
from typing import Any

from aichats_worker.broker.bus import Bus
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.pull import Pull
from tests.direct.test_corridor import until
from tests.jobs.provisioned import bus, provisioner, server

__all__ = ["bus", "server"]

CONSUMER = ("AIJOBS", "ai-workers-text")


async def test_what_was_wrong_is_told_until_the_broker_answers_again(bus: Bus) -> None:
    """Else the probe would say, at each try, that jobs are served."""
    await provisioner(bus).apply()
    await bus.js.delete_consumer(*CONSUMER)
    mail, received = Mailbox(bus), asyncio.Queue[Any]()
    await mail.start()
    pull = Pull(mail, *CONSUMER, received.put_nowait, seconds=60)
    await pull.ask(1)
    await until(lambda: pull.trouble is not None)
    await provisioner(bus).apply()
    await pull.ask(1)
    assert pull.trouble is not None
    await until(lambda: pull.trouble is None, seconds=30)  # though there is no job: it is asked soon
