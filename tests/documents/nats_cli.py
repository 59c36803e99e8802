"""Stands in for the `nats` command line: as much of `req` as the documents show, with its own rule of when to stop.

After the first reply it waits, for each next one, as long as the replies so far took on average since the request, and
`--reply-timeout` on top. The first reply has `--timeout`. `--wait-for-empty` ends at a message without bytes.
"""

import argparse
import asyncio
import os
import sys
import time
from typing import Final

import nats
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


def duration(text: str) -> float:
    """Read 300ms, 5s or 2m as seconds."""
    number = text.rstrip("ms")
    return float(number) * _UNITS[text.removeprefix(number)]


async def replies(
    nc: Client, subject: str, body: bytes, *, timeout: float, reply_timeout: float, to_the_empty_one: bool
) -> list[bytes]:
    """Ask, and return what `nats req` would have printed."""
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    await nc.publish(subject, body, reply=inbox)
    started, spent, heard, wait = time.monotonic(), 0.0, list[bytes](), timeout
    while True:
        try:
            message = await subscription.next_msg(timeout=wait)
        except NatsTimeoutError:
            break
        if message.headers and message.headers.get("Status") == "503":
            raise NoRespondersError
        if to_the_empty_one and not message.data:
            break
        heard.append(message.data)
        if not to_the_empty_one:
            break
        spent += time.monotonic() - started
        wait = spent / len(heard) + reply_timeout
    await subscription.unsubscribe()
    return heard


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="+")
    parser.add_argument("-s", "--server", default=os.environ.get("NATS_URL"))
    parser.add_argument("--timeout", type=duration, default=5.0)
    parser.add_argument("--reply-timeout", type=duration, default=0.3)
    parser.add_argument("--wait-for-empty", action="store_true")
    parser.add_argument("--raw", action="store_true")
    given = parser.parse_args()
    match given.words:
        case ["req", subject, body]:
            pass
        case ["service", "req", "ai-worker", endpoint, body]:
            subject = f"ai.v1.{endpoint.replace('-', '.')}.default"  # as INFO announces it
        case _:
            parser.error("the stand-in knows `req` and `service req ai-worker` alone")
    nc = await nats.connect(given.server)
    heard = await replies(
        nc, subject, body.encode(), timeout=given.timeout, reply_timeout=given.reply_timeout,
        to_the_empty_one=given.wait_for_empty,
    )  # fmt: skip
    sys.stdout.write("".join(f"{data.decode()}\n" for data in heard))
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
