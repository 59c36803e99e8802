"""A process that has imported what a worker imports, and forks workers: nine tenths of a start are imports.

`python -m tests.forking FD` listens at a socket that it is given, and ends when its standard input does. Each
connection is one worker: it brings environment and log, and is told the worker's id and, at its end, its status.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys

from aichats_worker.__main__ import imported

NUMBER_BYTES = 4


def main(listener: socket.socket) -> None:
    """Return in each worker, with all that a process of its own has; where nobody is left to ask, end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends what it has started
    while 0 not in select.select([listener.fileno(), 0], [], [])[0]:
        asked, _ = listener.accept()
        with asked:
            if os.fork() == 0:
                listener.close()
                return _parent(asked)
        _bury()
    _bury()
    sys.exit()


def _bury() -> None:
    """Take note of those that have ended: what they took of the processor counts as this one's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _parent(asked: socket.socket) -> None:
    """Fork the worker, and tell of it: its status is its parent's to know."""
    size, (log,), _, _ = socket.recv_fds(asked, NUMBER_BYTES, 1)
    environment = asked.recv(int.from_bytes(size), socket.MSG_WAITALL)
    pid = os.fork()
    if pid == 0:
        return _worker(json.loads(environment), log)
    os.close(log)
    asked.sendall(pid.to_bytes(NUMBER_BYTES))
    if asked.fileno() in select.select([asked.fileno(), os.pidfd_open(pid)], [], [])[0]:
        os.kill(pid, signal.SIGKILL)  # whoever asked for it is gone
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        asked.sendall(status.to_bytes(NUMBER_BYTES, signed=True))
    os._exit(0)


def _worker(environment: dict[str, str], log: int) -> None:
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(os.devnull) as nothing:  # noqa: PTH123 - the descriptor alone
        os.dup2(nothing.fileno(), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    run = imported(["run"])
    main(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[1:] = ["run"]
    run()
