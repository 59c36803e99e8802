"""Requests at work in this process, each until its end is out, and the one way to stop one."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from aichats_schemas.events import Usage
from aichats_worker.broker.stopping import Stopping
from aichats_worker.errors import Abandoned, Cancelled, ShuttingDown, WorkerError
from aichats_worker.request.call import Call
from aichats_worker.request.outcome import Outcome

_Outcome = TypeVar("_Outcome", bound=Outcome)

CANCELLED: Final = "cancelled by the requester"
# After the drain, how long requests get at most to publish their ends before the connection is closed under them.
STOP_TIMEOUT_SECONDS: Final = 5.0


class Run:
    """A request at work, and the one way to stop it: deadline, cancel, shutdown, a requester that went away.

    A stop is a cause and a cancellation. The cause is kept apart since nats-py's publish swallows a cancellation under
    back-pressure: check() after each publish that had to wait finds it all the same. Before begin() nothing is
    cancelled: the cause waits for it.

    Attributes:
        call: What is asked.
        account: What is known of it, for the log and the metrics.
    """

    __slots__ = ("_cause", "_ended", "_over", "_spent", "_task", "account", "call")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.account = call.account()
        self._task: asyncio.Task[Any] | None = None
        self._cause: WorkerError | Abandoned | None = None
        self._over = False
        self._spent: Callable[[], Usage | None] = lambda: None
        self._ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def becomes(self, call: Call) -> None:
        """Go on as another attempt of the same request."""
        self.call = call
        self.account = call.account()

    def begin(self) -> None:
        """From here on a stop cancels the task that calls this.

        Raises:
            WorkerError, Abandoned: It was stopped before.
        """
        self._task = asyncio.current_task()
        self.check()

    def stop(self, cause: WorkerError | Abandoned) -> bool:
        """Stop the request with `cause` as its outcome. False where it is over or is being stopped already."""
        if self._cause is not None or self._over:
            return False
        self._cause = cause
        if self._task is not None:
            self._task.cancel()
        return True

    async def cancel(self) -> bool:
        """Stop the request for its requester, and say whether its end is `cancelled` once it is out."""
        self.stop(Cancelled(CANCELLED))
        return isinstance(await self.ended(), Cancelled)

    def check(self) -> None:
        """Raise the cause of a stop whose cancellation was swallowed."""
        if self._cause is not None:
            raise self._cause

    def spends(self, spent: Callable[[], Usage | None]) -> None:
        """Take note of who knows what the answer has used until now."""
        self._spent = spent

    def charged(self, outcome: _Outcome) -> _Outcome:
        """Write what was used on an end that does not say it yet: whoever stops an answer does not know."""
        if isinstance(outcome, WorkerError | Abandoned) and outcome.usage is None:
            outcome.usage = self._spent()
        return outcome

    def over(self) -> WorkerError | Abandoned | None:
        """From here on nothing stops the request: return the cause of a stop, and forget its cancellation."""
        self._over = True
        while self._task is not None and self._task.cancelling():
            self._task.uncancel()
        return self._cause

    def end(self, outcome: Outcome) -> None:
        """Its end is out: tell whoever waits for it."""
        self._over = True
        if not self._ended.done():
            self._ended.set_result(outcome)

    async def ended(self) -> Outcome:
        """Wait until its end is out, and return what it came to."""
        return await asyncio.shield(self._ended)


class Runs:
    """All of them, by tenant and id, and the tasks that they are in."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], Run] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Run a coroutine in a task of its own, which a drain waits for."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def claim(self, run: Run) -> bool:
        """Take the run's tenant and id. False where another run has them."""
        return self._runs.setdefault((run.call.tenant, run.call.id), run) is run

    def release(self, run: Run) -> None:
        """Let the next one of that tenant and id come. Does nothing the second time."""
        key = run.call.tenant, run.call.id
        if self._runs.get(key) is run:
            del self._runs[key]

    def find(self, tenant: str, request_id: str) -> Run | None:
        """Return what runs here under a tenant and an id."""
        return self._runs.get((tenant, request_id))

    async def drain(self, stopping: Stopping) -> int:
        """Wait for all of them, as long as the drain may take; stop what is left. Returns how many were cut off."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=stopping.left(stopping.drain_seconds))
        cause = ShuttingDown("this worker is shutting down; send the request again")
        cut = sum(run.stop(cause) for run in list(self._runs.values()))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=stopping.left(STOP_TIMEOUT_SECONDS))
        return cut
