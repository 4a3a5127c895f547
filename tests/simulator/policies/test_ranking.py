"""The least of many loads, found without looking at all of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simulator.policies.ranking import Column, Ranking, Total
from simulator.policies.routing import PoolView

CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.booleans()), max_size=60)


@given(size=st.integers(1, 700), changes=CHANGES, seed=st.integers(0, 100))
def test_a_ranking_chooses_as_a_scan_does(
    size: int, changes: list[tuple[int, int, bool]], seed: int
) -> None:
    """After any changes, for any draw, it is the worker that looking at each would find."""
    rng = np.random.default_rng(seed)
    requests = Column(rng.integers(0, 4, size).tolist())
    tokens = Column(rng.integers(0, 3, size).tolist())
    both, one = Ranking([tokens, requests]), Ranking([requests])
    for at, load, first in changes:
        (tokens if first else requests)[at % size] = load
        plain = PoolView(requests, tokens, requests)
        draw = float(rng.random())
        assert both.choose(draw) == plain.least("tokens", "requests", draw=draw)
        assert one.choose(draw) == plain.least("requests", draw=draw)


def test_ties_are_shared_evenly() -> None:
    """Of equal workers each is chosen as often as its share of the draws says."""
    ranking = Ranking([Column([0] * 300)])
    chosen = [ranking.choose((at + 0.5) / 300) for at in range(300)]
    assert chosen == list(range(300))


def test_a_total_follows_its_column() -> None:
    """Its sum, however often an entry changed since it was asked last."""
    column = Column([3, 1, 4])
    total = Total(column)
    assert total.value() == 8
    column[1] = 5
    column[1] = 6
    column[2] = 0
    assert total.value() == 9
    assert total.value() == 9
    column[0] = 3
    column[2] = 1
    assert total.value() == sum(column) == 10


def test_what_changed_is_looked_at_once() -> None:
    """Whoever asks forgets the changes it has seen, so that a long run remembers none."""
    column = Column([3, 1, 4])
    total, ranking = Total(column), Ranking([column])
    column[0] = 0
    assert [len(each) for each in column.watchers] == [1, 1]
    assert (total.value(), ranking.choose(0.0)) == (5, 0)
    assert [len(each) for each in column.watchers] == [0, 0]
