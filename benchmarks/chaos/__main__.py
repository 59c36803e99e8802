"""`python -m benchmarks.chaos --seed 7 --jobs 10000 --kills 100 --broker-failures 10`: status 1 on any violation."""

import argparse
import asyncio
import random
import signal
import sys

from benchmarks.chaos.plan import Scale
from benchmarks.chaos.run import run


async def _main(seed: int, scale: Scale) -> bool:
    task = asyncio.ensure_future(run(seed, scale))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whoever stops this finds no process left
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> None:
    """Read the arguments and run."""
    usual = Scale()
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))  # noqa: S311
    parser.add_argument("--jobs", type=int, default=usual.jobs)
    parser.add_argument("--kills", type=int, default=usual.kills, help="of workers")
    parser.add_argument("--broker-failures", type=int, default=usual.broker_failures)
    parser.add_argument("--attempts", type=int, default=usual.attempts_max, help="of a job that may fail")
    options = parser.parse_args()
    scale = Scale(options.jobs, options.kills, options.broker_failures, options.attempts)
    try:
        sys.exit(0 if asyncio.run(_main(options.seed, scale)) else 1)
    except asyncio.CancelledError:
        sys.exit(130)


if __name__ == "__main__":
    main()
