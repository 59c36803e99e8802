"""`aichats-worker run`. It runs for months, and so without the command line's library, which would stay with it."""

import sys
from typing import NoReturn

from aichats_worker.commands.ending import ending, finish
from aichats_worker.starting import hidden

with hidden("rich"):  # structlog imports it for tracebacks that show values, of which the log has none
    from aichats_worker.service import fastest_loop, serve
    from aichats_worker.telemetry.logs import configure_logging
from aichats_worker.settings import load_settings


def run() -> NoReturn:
    """Run a worker until SIGTERM or SIGINT; the process ends with it."""
    with ending():
        settings = load_settings()
    configure_logging(settings.worker_log_level, settings.worker_log_format)
    sys.exit(finish(serve(settings), fastest_loop()))
