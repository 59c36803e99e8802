"""`aichats-worker`, or `python -m aichats_worker`. What it can do stands in commands/line.py."""

import sys

from aichats_worker.starting import begin, import_when_used


def main() -> None:
    """Run the command line. Where the install has only the client, say what is missing."""
    begin()
    import_when_used("aiohttp")  # nats-py imports it for brokers of ws://, with all of the system's certificates
    try:
        from aichats_worker.commands.line import app  # noqa: PLC0415 - it needs an extra, and this says which one
    except ModuleNotFoundError as error:
        sys.exit(f"aichats-worker needs {error.name}, which comes with: pip install 'aichats-worker[worker]'")
    app()


if __name__ == "__main__":
    main()
