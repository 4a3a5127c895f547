"""Dynamo's GPU budget: recovery in proportion, and proposals that are cut, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.policies.dynamo.budget import Band, Counts


def band(least: int | None, most: int | None, gpus: Counts, floors: Counts = (1, 1)) -> Band:
    """Return a band of GPUs."""
    return Band(least=least, most=most, gpus=gpus, floors=floors[: len(gpus)])


@pytest.mark.parametrize(
    ("within", "now", "there"),
    [
        # grown: the first in proportion, rounded up, the last has what is left, rounded up
        (band(8, None, (1, 1)), (2, 2), (4, 4)),
        (band(7, None, (1, 2)), (1, 1), (3, 2)),  # 7/3 → 3, and 4 GPUs are 2
        (band(8, None, (1, 2)), (1, 1), (3, 3)),  # 8/3 → 3, and 5 GPUs are 2.5 → 3
        # of nothing half each
        (band(8, None, (2, 1)), (0, 0), (2, 4)),
        (band(7, None, (2, 1)), (0, 0), (2, 3)),  # 3.5 GPUs are 1.75 → 2
        # but no pool below its floor
        (band(8, None, (1, 1), (3, 1)), (1, 5), (3, 5)),  # 1 · 8/6 → 2
        (band(8, None, (1, 1), (1, 3)), (5, 1), (7, 3)),  # 5 · 8/6 → 7, of 8 one is left
        (band(8, None, (1, 1), (9, 1)), (1, 1), (9, 1)),
        # rounding takes no worker of the last: 2 · 9/8 → 3, and 3 GPUs are left for 4 there are
        (band(9, None, (2, 1)), (2, 4), (3, 4)),
        # ... and where both are too many, the first grows as far as the ceiling lets it
        (band(19, 20, (4, 1)), (3, 2), (4, 2)),  # 3 · 19/14 → 5; 5 and 2 are 22 GPUs
        (band(12, 12, (4, 1)), (1, 3), (2, 4)),  # to the ceiling itself
        (band(14, 14, (4, 4)), (1, 1), (1, 1)),  # 2 and 2 are 16: nothing fits, nothing moves
        # the widest worker is tolerated below the floor if there is a ceiling too
        (band(4, None, (2, 1)), (1, 1), (2, 1)),
        (band(5, 8, (2, 1)), (1, 1), (1, 1)),
        (band(6, 8, (2, 1)), (1, 1), (2, 2)),
        # shrunk: the first in proportion, rounded down, the last has the room that is left
        (band(None, 4, (2, 2)), (2, 2), (1, 1)),
        (band(None, 9, (1, 2)), (6, 6), (3, 3)),  # 6 · 9/18 = 3; 6 left
        (band(None, 9, (1, 2)), (9, 1), (7, 1)),  # 9 · 9/11 = 7.4
        (band(None, 6, (1, 1), (1, 4)), (5, 5), (2, 4)),  # room for 2 beside a floor of 4
        (band(None, 6, (1, 1), (4, 1)), (1, 7), (4, 2)),
        (band(None, 3, (2, 2)), (2, 2), (0, 0)),  # the floors do not fit
        # one pool alone may go beyond the ceiling, by less than a worker (as in 1.6.1)
        (band(5, 5, (2,)), (1,), (3,)),
        (band(5, None, (2,), (4,)), (1,), (4,)),
        (band(5, None, (2,)), (2,), (3,)),
        (band(None, 5, (2,)), (4,), (2,)),
    ],
)
def test_what_is_out_of_the_band_comes_back_in_proportion(
    within: Band, now: Counts, there: Counts
) -> None:
    """Up and down, with floors, widths and the tolerance below the least."""
    assert within.clamped(now) == there


@pytest.mark.parametrize(
    ("within", "now", "asked", "granted"),
    [
        (band(None, 8, (2,)), (3,), (6,), (4,)),
        (band(None, None, (1, 1)), (2, 2), (9, 9), (9, 9)),
        # a floor cuts a reduction, of one pool and of both
        (band(None, None, (1, 1)), (2, 2), (0, 2), (1, 2)),
        (band(None, None, (1, 1)), (2, 2), (0, 0), (1, 1)),
        # of equally near ones what cuts both alike: 3 of 4 and 3 of 4, not 4 and 2
        (band(None, 10, (1, 1)), (2, 2), (6, 6), (5, 5)),
        # ... 5 of 6 wanted: two and one more, two thirds of either; not 3 and 0, not 1 and 2
        (band(None, 7, (1, 1)), (2, 2), (5, 3), (4, 3)),
        # alike too: the fewer of the first
        (band(None, 7, (1, 1)), (2, 2), (4, 4), (3, 4)),
        # a swap moves both legs or none: 1 GPU for half of one of 2
        (band(None, 8, (1, 2)), (4, 2), (3, 3), (4, 2)),
        (band(None, 8, (1, 2)), (4, 2), (1, 4), (1, 3)),  # 9 GPUs; 1 and 3 are 7
        (band(None, 7, (4, 4)), (1, 1), (2, 2), (1, 1)),  # nothing between them fits
    ],
)
def test_a_proposal_is_cut_to_what_fits(
    within: Band, now: Counts, asked: Counts, granted: Counts
) -> None:
    """The nearest, then the one that cuts both alike, and swaps whole."""
    assert within.fitted(now, asked) == granted


@pytest.mark.parametrize(
    ("within", "now", "asked", "told"),
    [
        (band(None, 8, (1, 1)), (5, 5), (5, 5), "back into the budget"),
        (band(4, 8, (1, 1)), (2, 2), (1, 2), "held by the budget"),
        (band(4, 8, (1, 1)), (2, 3), (2, 2), ""),
        (band(None, 8, (1, 1)), (4, 4), (4, 5), "held by the budget"),
        (band(None, 8, (1, 1)), (4, 3), (4, 4), ""),
        (band(None, 8, (1, 1)), (4, 4), (5, 3), ""),
        (band(None, 8, (1, 2)), (4, 2), (3, 3), "held by the budget"),
        # brought back it would turn round: 2 and 7 are 9; in proportion 1 and 7
        (band(None, 8, (1, 1)), (2, 5), (2, 7), "held by the budget"),
    ],
)
def test_a_budget_says_why(within: Band, now: Counts, asked: Counts, told: str) -> None:
    """Recovery, and what is held at the floor, at the ceiling and where it would turn round."""
    granted, why = within.guarded(now, asked)
    assert why == told
    assert granted == (now if told == "held by the budget" else within.clamped(granted))


COUNTS = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(COUNTS, st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(6, 20))
def test_two_pools_never_exceed_the_ceiling(now: Counts, gpus: Counts, most: int) -> None:
    """Recovery ends within the band, or where nothing fits it, at what there was."""
    found = band(most - 3, most, gpus).clamped(now)
    assert found == now or band(None, most, gpus).holds(found)
