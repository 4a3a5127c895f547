"""Intervals cover what they say, and claim nothing where there is too little to go by."""

import math

import numpy as np
import pytest
from scipy import stats

from simulator.intervals import BATCHES, LEAST, batch_interval, batch_means, t_interval


def test_as_students_t_says() -> None:
    """The interval is that of scipy's t, for any number of values."""
    values = [1.0, 2.5, 2.0, 4.0]
    found = t_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_too_little_to_go_by() -> None:
    """One value has a mean and no width, none has neither, and few have no batches."""
    assert t_interval([3.0]).mean == 3.0
    assert math.isnan(t_interval([3.0]).half)
    assert math.isnan(t_interval([]).mean)
    few = batch_interval(np.ones(2 * LEAST - 1))
    assert few.mean == 1.0
    assert math.isnan(few.half)


def test_what_is_not_known_does_not_count() -> None:
    """An unknown value is left out; an infinite one leaves no interval."""
    assert t_interval([1.0, math.nan, 3.0]) == t_interval([1.0, 3.0])
    assert t_interval([1.0, math.inf]).mean == math.inf
    assert math.isnan(t_interval([1.0, math.inf]).low)


def test_batches_are_equal_in_size_and_the_last_ones() -> None:
    """As many as asked for or as hold enough, of the end of the values."""
    assert batch_means(np.arange(2003.0)).tolist() == [52.5 + 100 * at for at in range(BATCHES)]
    assert len(batch_means(np.arange(5.0 * LEAST + 1))) == 5


def test_batches_cover_the_mean_of_what_depends_on_itself() -> None:
    """Over a strongly correlated series the interval covers the mean at nearly its confidence.

    That of the values, taken for independent, would not come near it.
    """
    rng = np.random.default_rng(1)
    covered, naive = 0, 0
    for _ in range(200):
        noise = rng.normal(size=4000)
        values = np.empty_like(noise)
        level = 0.0
        for at, each in enumerate(noise):
            level = 0.9 * level + each
            values[at] = level
        found, plain = batch_interval(values), t_interval(values)
        covered += found.low <= 0.0 <= found.high
        naive += plain.low <= 0.0 <= plain.high
    assert covered >= 0.9 * 200
    assert naive <= 0.6 * 200
