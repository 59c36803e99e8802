"""The short form of `make soak`: every kind of stream and of trouble, but too short to compare memory."""

import pytest

from benchmarks.soak import run


@pytest.mark.slow("fifteen seconds hold each kind of trouble at least once")
@pytest.mark.timeout(300)
async def test_nothing_ends_wrongly_and_nothing_is_left_behind_whatever_goes_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    well = await run(seed=11, streams=20, seconds=15)
    assert well, capsys.readouterr().out
