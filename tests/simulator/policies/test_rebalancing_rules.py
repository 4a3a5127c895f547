"""Who gives to whom, worked by hand from Llumnix's rule."""

import pytest
from shipped import shipped

from simulator.policies.rebalancing import HottestToColdest, Loaded, NeverRebalance


def loaded(blocks: int, shortest: int = 10, wanted: int = 0, requests: int = 4) -> Loaded:
    """Return a worker with so many of a hundred blocks in use."""
    return Loaded(blocks, wanted, 100, requests, shortest)


@pytest.mark.parametrize(
    ("workers", "moves"),
    [
        ([loaded(50), loaded(20)], [(0, 1)]),  # 40 against 30: nearer, and not turned round
        ([loaded(40), loaded(20)], []),  # 30 against 30: not above 0
        ([loaded(39), loaded(20)], []),  # it would be the colder one
        ([loaded(50, 0), loaded(20)], []),  # nothing decodes there
        ([loaded(20), loaded(90, 1), loaded(50), loaded(10)], [(1, 3), (2, 0)]),
        ([loaded(50), loaded(20), loaded(50)], [(0, 1)]),  # of three the middle one stays
        ([loaded(30, 5, wanted=30), loaded(40)], [(0, 1)]),  # what waits counts
        ([loaded(50)], []),
        ([], []),
    ],
)
def test_the_hottest_gives_to_the_coldest(
    workers: list[Loaded], moves: list[tuple[int, int]]
) -> None:
    """0 < difference after < difference before, in shares of blocks."""
    assert shipped("rebalancing", "hottest_to_coldest").moves(workers) == moves


@pytest.mark.parametrize(
    ("workers", "moves"),
    [
        ([loaded(60, 10, requests=4), loaded(20, requests=4)], []),  # -10, -20; -16.7, -14 after
        ([loaded(80, 5, requests=4), loaded(20, requests=4)], [(0, 1)]),  # -5, -20; -8.3, -15
        ([loaded(60, 30, requests=2), loaded(20, requests=2)], []),  # -70 and -16.7: turned round
        ([loaded(60, 10, requests=1), loaded(60, 10, requests=10)], [(1, 0)]),  # -40 and -4
    ],
)
def test_or_by_the_steps_that_free_blocks_last(
    workers: list[Loaded], moves: list[tuple[int, int]]
) -> None:
    """Free blocks over requests, the fewer the hotter."""
    assert HottestToColdest(metric="remaining_steps").moves(workers) == moves


def test_bad_settings_are_told() -> None:
    """With the name and the value."""
    with pytest.raises(ValueError, match="metric must be one of kv_ratio, remaining_steps but"):
        HottestToColdest(metric="heat")
    for interval in (0.0, float("inf"), None):
        with pytest.raises(ValueError, match=r"interval_s must be at least 0\.01 s but got"):
            HottestToColdest(interval_s=interval)
    assert shipped("rebalancing", "none") == NeverRebalance()
    assert NeverRebalance().moves([loaded(50), loaded(20)]) == ()
