"""A command's connection to the broker, and what a person is told where there is none, or where it is not enough."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.errors import Error as NatsError

from aichats_client import ClientError
from aichats_worker import login
from aichats_worker.broker.connecting import NotReached, connect
from aichats_worker.settings import Settings
from aichats_worker.urls import masked_urls

_VIOLATION = re.compile(r"permissions violation for (?P<right>.*)", re.IGNORECASE)


class Unreachable(Exception):
    """No server of NATS_URL takes us; the message names it and says why."""


class RightMissing(Exception):
    """The broker's permissions keep this user from what the command does; the message names the missing right."""


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Client]:
    """Connect once, and close after the block.

    Raises:
        Unreachable: Nobody answers there, or we are refused.
        RightMissing: What the block wanted failed, and the broker had refused a right for it.
    """
    where = masked_urls(settings.nats_url)
    try:
        nc = await connect(login.access(settings))
    except NotReached as error:
        raise Unreachable(f"{where} cannot be reached: {error}") from error
    try:
        yield nc
    except (NatsError, ClientError):
        # The broker answers what it refuses with an error of the connection, and the request with nothing.
        if violation := _VIOLATION.search(str(nc.last_error)):
            right = violation["right"].rstrip("'")
            raise RightMissing(
                f"{where} does not let this user do that: no right for {right} (docs/rights.md)"
            ) from None
        raise
    finally:
        if not nc.is_closed:
            await nc.close()
