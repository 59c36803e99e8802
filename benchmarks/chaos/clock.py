"""`aichats-worker run` on a machine whose clock is wrong.

`CHAOS_CLOCK=0,3600,10 python -m benchmarks.chaos.clock run`: off by nothing at first, and by an hour from 10 seconds
after the start on. The wall clock alone: a monotonic one has no such faults. Without rights over the machine's clock it
is Python's that is moved, before anything else is imported.
"""

import datetime
import os
import time

_FIRST, _THEN, _STEP_AT = map(float, os.environ["CHAOS_CLOCK"].split(","))
_STARTED = time.monotonic()
_right = time.time


def _off() -> float:
    return _FIRST if time.monotonic() - _STARTED < _STEP_AT else _THEN


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "_Datetime":
        return cls.fromtimestamp(time.time(), tz)


time.time = lambda: _right() + _off()
time.time_ns = lambda: int(time.time() * 1e9)
setattr(datetime, "datetime", _Datetime)  # noqa: B010 - every later import gets this one; mypy knows it as a type

if __name__ == "__main__":
    from aichats_worker.__main__ import main

    main()
