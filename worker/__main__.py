"""The command line."""

import asyncio
import sys

from worker.app import serve
from worker.settings import SettingsError, load_settings
from worker.telemetry import configure_logging


def main() -> None:
    """Run a worker."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.exit(str(error))
    configure_logging(settings.worker_log_level, settings.worker_log_format)
    sys.exit(asyncio.run(serve(settings)))


if __name__ == "__main__":
    main()
