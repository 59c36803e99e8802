"""Tells of a circuit that opens or closes, with the reason, and counts it."""

import time

import structlog

from aichats_schemas.subjects import Kind
from aichats_worker.errors import WorkerError

log = structlog.get_logger(__name__)


class CircuitLog:
    """One line when a circuit opens, or stays open for another reason, and one when it closes.

    Args:
        provider: Whose circuit it is.
        kind: `text` or `image`.

    Attributes:
        opened: How often it has opened.
        closed: How often it has closed again.
    """

    def __init__(self, provider: str, kind: Kind) -> None:
        self.opened = self.closed = 0
        self._of = {"provider": provider, "kind": kind}
        self._since = 0.0
        self._code = ""

    def opens(self, error: WorkerError, seconds: float) -> None:
        """Take note that it is open for so many seconds from now; it may have been before."""
        if not self._code:
            self.opened += 1
            self._since = time.monotonic()
            log.warning("circuit opened", **self._of, code=error.code, reason=error.logged, seconds=seconds)
        elif self._code != error.code:
            log.warning("circuit stays open", **self._of, code=error.code, reason=error.logged)
        self._code = error.code

    def closes(self) -> None:
        """Take note that it is closed again."""
        self.closed += 1
        self._code = ""
        log.info("circuit closed", **self._of, seconds=round(time.monotonic() - self._since, 1))
