"""`aichats-worker`, or `python -m aichats_worker`. What it can do stands in commands/line.py."""

import sys
from collections.abc import Callable

from aichats_worker.starting import begin, import_when_used


def main() -> None:
    """Run the command line. Where the install has only the client, say what is missing."""
    imported(sys.argv[1:])()


def imported(arguments: list[str]) -> Callable[[], object]:
    """Import what a command line needs, and return what runs it."""
    begin()
    import_when_used("aiohttp")  # nats-py imports it for brokers of ws://, with all of the system's certificates
    import_when_used("nkeys")  # FastStream imports it, and it is needed where NATS_CREDS or NATS_NKEY is set
    try:
        if arguments == ["run"]:  # a worker stays, and with it all that it has imported
            from aichats_worker.commands.running import run as command  # noqa: PLC0415
        else:
            from aichats_worker.commands.line import app as command  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(f"aichats-worker needs {error.name}, which comes with: pip install 'aichats-worker[worker]'")
    return command


if __name__ == "__main__":
    main()
