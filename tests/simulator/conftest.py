from collections.abc import AsyncIterator

import aiohttp  # noqa: TID251 - the simulator is looked at from outside
import pytest

from aichats_worker.simulator.server import Simulator
from tests.simulator.calling import Caller


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False, max_field_size=32768) as session:
        yield session


@pytest.fixture
def call(http: aiohttp.ClientSession, simulator: Simulator) -> Caller:
    return Caller(http, simulator)
