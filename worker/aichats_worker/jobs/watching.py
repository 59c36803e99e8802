"""Makes the streams and consumers when a worker starts, and notices those that disappear while it runs."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog
from nats.errors import Error as NatsError

from aichats_worker.jobs.provision import Look, Provisioner, ProvisionRefused

log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 5.0  # five questions to the broker: about 1 ms of CPU


class StreamsWatch:
    """Looks at the streams and consumers of jobs every few seconds. One line in the log tells of each turn.

    Until all is well for the first time it brings everything up to date. After that it makes again what is missing, and
    leaves alone what an operator changes.

    Args:
        provisioner: Looks at them, and makes them.
        mend: Make them; else only tell.
        connected: Whether there is a connection to ask over: without one nothing is known, and nothing changes.
        every_seconds: How often, about: workers that started together do not ask together.
    """

    def __init__(
        self,
        provisioner: Provisioner,
        *,
        mend: bool,
        connected: Callable[[], bool],
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._provisioner = provisioner
        self._mend = mend
        self._connected = connected
        self._every_seconds = every_seconds
        self._problems: list[str] = []
        self._paused: list[str] = []
        self._well = asyncio.Event()

    def problems(self) -> list[str]:
        """Return a sentence for each thing that is missing or wrong; empty where jobs have all that they need."""
        return list(self._problems)

    def paused(self) -> list[str]:
        """Return a sentence for each consumer that an operator has paused: meant so, and no problem."""
        return list(self._paused)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            if self._connected():
                await self.look()
            await asyncio.sleep(self._every_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load

    async def until_well(self) -> None:
        """Wait until all has been there once."""
        await self._well.wait()

    async def look(self) -> None:
        """Look once, and make what is missing. Raises nothing: what goes wrong is a problem to tell."""
        try:
            look = await self._mended(await self._provisioner.look())
        except ProvisionRefused as error:
            self._found(str(error).splitlines(), self._paused)
        except (NatsError, TimeoutError) as error:
            reason = str(error).removeprefix("nats: ") or type(error).__name__
            self._found([f"the broker says nothing of the jobs' streams: {reason}"], self._paused)
        else:
            self._found(_problems(look), look.paused)
            self._well_for_the_first_time(look)

    async def _mended(self, look: Look) -> Look:
        wanted = look.missing if self._well.is_set() else look.changes
        if not (wanted and self._mend) or look.refused:
            return look
        for change in await self._provisioner.apply():
            log.info("provisioned", change=str(change))
        return await self._provisioner.look()

    def _found(self, problems: list[str], paused: list[str]) -> None:
        if problems and problems != self._problems:
            log.error("jobs lack something at the broker", problems="; ".join(problems))
        if self._problems and not problems:
            log.info("jobs have all that they need at the broker")
        if paused and paused != self._paused:
            log.warning("jobs wait", reason="; ".join(paused))
        self._problems, self._paused = problems, paused

    def _well_for_the_first_time(self, look: Look) -> None:
        if self._problems or self._well.is_set():
            return
        self._well.set()
        if look.changes:
            log.warning(f"the streams differ from what this worker expects: {'; '.join(map(str, look.changes))}")  # noqa: G004 - one sentence


def _problems(look: Look) -> list[str]:
    refused = [str(change) for change in look.refused]
    return refused + [f"{what} is missing: `aichats-worker provision` makes it" for what in look.missing]
