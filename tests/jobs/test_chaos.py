"""The short form of `make chaos`, and that its judge sees what it is there for."""

import pytest

from benchmarks.chaos.plan import Scale
from benchmarks.chaos.run import run


@pytest.mark.slow("brokers and workers die and come back")
@pytest.mark.timeout(240)
async def test_no_job_is_lost_or_answered_wrongly_whoever_dies(capsys: pytest.CaptureFixture[str]) -> None:
    well = await run(seed=11, scale=Scale(jobs=100, kills=1, broker_failures=1))
    assert well, capsys.readouterr().out
