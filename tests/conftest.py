from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

from worker.simulator import Simulator, start_simulator

# `pytest --hypothesis-profile=fuzz -m fuzz` is the long run.
settings.register_profile("tests", max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("fuzz", parent=settings.get_profile("tests"), max_examples=10_000)
settings.load_profile("tests")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A simulator of its own for each test."""
    async with await start_simulator() as running:
        yield running
