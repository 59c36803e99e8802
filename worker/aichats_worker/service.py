"""The worker as a process: signals, the exit status, its event loop."""

import asyncio
import os
import signal
from collections.abc import Callable

import structlog

from aichats_worker.app import App
from aichats_worker.memory import keep_what_is_used_again
from aichats_worker.settings import Settings, unknown_variables
from aichats_worker.tracing.exporting import Exporting

log = structlog.get_logger(__name__)


async def serve(settings: Settings) -> int:
    """Run a worker until SIGTERM, SIGINT or SIGHUP. Returns the exit status: 1 where a request was cut off, else 0."""
    keep_what_is_used_again()
    for sentence in unknown_variables(os.environ):
        log.warning("unknown setting", hint=sentence)
    app = App(settings)
    exporting = Exporting(os.environ, prefix=settings.worker_subject_prefix, instance=app.discovery.id)
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
    exporting.stop()
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
