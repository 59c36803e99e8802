"""The short form of `make chaos`."""

import pytest

from benchmarks.chaos import run


@pytest.mark.timeout(240)
async def test_no_job_is_lost_or_answered_wrongly_whoever_dies(capsys: pytest.CaptureFixture[str]) -> None:
    well = await run(seed=11, jobs=300, seconds=15)
    assert well, capsys.readouterr().out
