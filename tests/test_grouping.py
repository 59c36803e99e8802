"""Tests that share what is slow to make run in one process of pytest: `xdist_group`."""

import pytest


@pytest.mark.xdist_group("alone")
@pytest.mark.parametrize("word", ["plain", "with ] and @ in it"])
def test_a_tests_group_is_part_of_its_name_where_tests_run_side_by_side(
    request: pytest.FixtureRequest, word: str
) -> None:
    """By the end of the name the scheduler knows it. Without a plan by groups there are none."""
    by_group = bool(getattr(request.config.option, "loadgroup", False))
    assert request.node.nodeid.endswith("@alone") == by_group
