"""The worker as a process: signals, the exit status, and memory that is given back."""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

import structlog

from aichats_worker.app import App
from aichats_worker.settings import Settings, unknown_variables

log = structlog.get_logger(__name__)

# glibc's mallopt(3). Setting the threshold also keeps glibc from raising it to the largest block that was ever freed,
# after which images come from the heap and leave holes there: 13 MiB in five minutes of `make soak`, 2 with this.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
MMAP_THRESHOLD_BYTES: Final = 256 * 1024
ARENAS_MAX: Final = 2  # threads hash images, and each would get a heap of its own


async def serve(settings: Settings) -> int:
    """Run a worker until SIGTERM, SIGINT or SIGHUP. Returns the exit status: 1 where a request was cut off, else 0."""
    give_memory_back()
    for sentence in unknown_variables(os.environ):
        log.warning("unknown setting", hint=sentence)
    app = App(settings)
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)  # the second signal means now
        log.info("stopping", signal=number.name, drain_timeout_seconds=settings.worker_drain_timeout_seconds)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            continue  # under nohup, a terminal that closes is meant to be nothing
        loop.add_signal_handler(number, on_signal, number)
    starting = asyncio.create_task(app.start(), name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and starting.exception() is None:
        await stopping
    stopping.cancel()
    starting.cancel()
    cut = await app.drain()
    if starting.done() and not starting.cancelled() and (error := starting.exception()) is not None:
        raise error
    log.info("stopped", cut_off=cut)
    return 1 if cut else 0


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loop where it is installed (`aichats-worker[fast]`); None for asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return uvloop.new_event_loop


def give_memory_back() -> bool:
    """Set how this process allocates. False where the C library is not glibc: there it stays as it is."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) and mallopt(_M_ARENA_MAX, ARENAS_MAX))
