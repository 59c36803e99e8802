"""How a command ends: what happens becomes a sentence and an exit status.

Exit statuses: 0 success, 1 an error or something is wrong, 2 wrong usage or settings, 3 nobody answers,
130 interrupted, 141 nobody reads what is printed.
"""

import asyncio
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from aichats_worker.commands.naming import as_typed
from aichats_worker.starting import begun

if TYPE_CHECKING:
    from aichats_client import ClientError

T = TypeVar("T")

STATUS_ERROR, STATUS_USAGE, STATUS_NOBODY, STATUS_INTERRUPTED, STATUS_UNREAD = 1, 2, 3, 130, 141
SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


class Refused(Exception):
    """There is no answer, or it cannot be used; the message is for the person who asked."""


class Unusable(Exception):
    """What was typed cannot be used, and nothing was asked; the message is for the person who typed it."""


def finish(work: Coroutine[Any, Any, T], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """Run to the end, in a loop that `loop` makes; a failure becomes one sentence and an exit status."""
    begun()
    with ending(), asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(_until_terminated(work))


@contextmanager
def ending() -> Iterator[None]:
    """Turn whatever ends a command into one sentence and an exit status."""
    from aichats_worker.errors import SetupError

    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(STATUS_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain once more at its end
        sys.exit(STATUS_UNREAD)
    except (Unusable, SetupError) as error:
        fail(str(error), STATUS_USAGE)
    except Refused as error:
        fail(str(error))
    except Exception as error:
        sentence, status = told(error)
        if not sentence:
            raise
        fail(sentence, status)


def told(error: Exception) -> tuple[str, int]:
    """Return a sentence for what somebody ran into, and the exit status. No sentence for a defect."""
    from nats.errors import Error as NatsError
    from nats.js.errors import Error as JetStreamError

    from aichats_client import ClientError
    from aichats_worker.commands.connection import RightMissing, Unreachable

    says = str(error).removeprefix("nats: ") or type(error).__name__
    if isinstance(error, ClientError):
        return _told_by_the_client(error)
    if isinstance(error, JetStreamError | RightMissing):
        return says, STATUS_ERROR
    if isinstance(error, Unreachable | NatsError | ConnectionError | TimeoutError | socket.gaierror):
        return f"{says}; `aichats-worker doctor` says more", STATUS_NOBODY
    return (says if isinstance(error, OSError) else ""), STATUS_ERROR


def _told_by_the_client(error: "ClientError") -> tuple[str, int]:
    from aichats_client import JobExists, NoBroker, NoWorker, ServiceError, Stalled, TooLargeError

    if isinstance(error, NoBroker | NoWorker | Stalled):
        return str(error), STATUS_NOBODY
    if isinstance(error, JobExists):
        name = error.job_id
        return f"a job {name} is queued or running already; `aichats-worker result {name}` waits for it", STATUS_ERROR
    if isinstance(error, TooLargeError) and not error.request_id:
        return str(error), STATUS_USAGE  # it was never sent
    if isinstance(error, ServiceError) and error.retryable:
        return _with_the_wait(str(error), error.retry_after), STATUS_ERROR
    return str(error), STATUS_ERROR


def _with_the_wait(says: str, seconds: float | None) -> str:
    """Add that trying again may help, and when. Most sentences say the first themselves, and nothing is said twice."""
    when = f"in {math.ceil(seconds)} s" if seconds is not None else ""
    if "try again" in says:
        return f"{says} ({when})" if when else says
    return f"{says}; try again {when or 'later'}"


async def _until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """End a command on SIGTERM and SIGHUP as Ctrl-C does: by cancelling it, so that it cleans up."""
    task = asyncio.current_task()
    for number in SIGNALS:
        if task is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


def fail(sentence: str, status: int = STATUS_ERROR) -> NoReturn:
    """End with a sentence on standard error."""
    print(as_typed(sentence), file=sys.stderr)  # noqa: T201 - as long as there is a standard error
    sys.exit(status)
