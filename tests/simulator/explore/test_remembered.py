"""Columns that are worked out once for each batch."""

import numpy as np
import pytest

from simulator.explore import remembered
from simulator.explore.ranks import Ended, groups_of
from simulator.explore.remembered import Remembered
from simulator.explore.space import Floats, batches
from simulator.layout import Layout

RNG = np.random.default_rng(8)


class Squares:
    """Squares batches and counts those it was asked about."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, batch: Floats) -> Floats:
        """Return the squares."""
        self.asked += batch.tolist()
        return batch**2


def test_every_batch_is_worked_out_once() -> None:
    """Prefixes, extensions and grids of another pace get what was asked for, from one working."""
    known, work = Remembered(), Squares()
    for most in (50, 20, 900, 300, 900, 4096):
        asked = batches(most, fine=16)
        assert known.at(asked, work).tolist() == (asked**2).tolist()
    assert len(work.asked) == len(set(work.asked))


def test_any_rising_batches_are_found() -> None:
    """So are batches in no pattern, whatever was asked before."""
    known, work = Remembered(), Squares()
    for _ in range(50):
        asked = np.unique(RNG.integers(1, 200, RNG.integers(1, 40)).astype(float))
        assert known.at(asked, work).tolist() == (asked**2).tolist()
    assert len(work.asked) == len(set(work.asked))


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what is kept at most it starts over, and is right all the same."""
    monkeypatch.setattr(remembered, "MOST", 30)
    known, work = Remembered(), Squares()
    for first in (1, 11, 21, 31, 1):
        asked = np.arange(first, first + 10.0)
        assert known.at(asked, work).tolist() == (asked**2).tolist()
    assert len(work.asked) == 50


def test_what_is_kept_cannot_be_changed() -> None:
    """Who got a column cannot spoil that of others."""
    known, batch, work = Remembered(), np.arange(1.0, 9.0), Squares()
    known.at(batch, work)
    column = known.at(batch, work)
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 5.0


@pytest.mark.parametrize("layout", [Layout(), Layout(pp=2), Layout(tp=2, attention_dp=4)], ids=str)
def test_groups_are_those_of_a_poisson_number(layout: Layout) -> None:
    """In whatever order batches come, their groups are :func:`groups_of` of what ends."""
    places = layout.attention_dp * layout.pp
    ended = Ended(63.0)
    for most, prompts in ((40, 1), (400, 4), (4096, 4), (90, 2)):
        batch = batches(most, 64)
        mean = places * batch / 63.0
        dealt = ended.dealt(layout, prompts, batch)
        rate = groups_of(places * prompts, mean)
        assert dealt.ended.tolist() == mean.tolist()
        assert dealt.rate == pytest.approx(rate, rel=1e-14)
        assert dealt.most == pytest.approx(groups_of(layout.attention_dp, mean) / rate, rel=1e-14)
        assert dealt.where(batch > 7).rate.tolist() == dealt.rate[batch > 7].tolist()


def test_more_at_a_time_make_no_difference_to_few() -> None:
    """Where two prompts seldom come together, up to eight at a time are as up to four."""
    batch = batches(4096, 64)
    differ = Ended(63.0).differ(Layout(), (4, 8), batch)
    assert not differ[0]
    assert differ[-1]
    assert (np.diff(differ.astype(int)) >= 0).all()
