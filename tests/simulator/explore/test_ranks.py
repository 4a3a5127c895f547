"""How busy attention-DP ranks are beside each other, against draws."""

import numpy as np
import pytest

from simulator.explore.ranks import Sizes, at_once, groups_of, side_by_side
from simulator.latency.passes import Load

RNG = np.random.default_rng(4)
SHARES = np.array([0.01, 0.2, 0.5, 0.9, 1.0])


def test_one_rank_is_busy_as_often_as_it_has_prompts() -> None:
    """A single rank never shares a step with another."""
    busy, together = at_once(1, SHARES)
    assert busy == pytest.approx(SHARES)
    assert together == pytest.approx(1.0)


@pytest.mark.parametrize("ranks", [2, 4, 8, 72])
def test_ranks_compute_what_they_must(ranks: int) -> None:
    """Steps with prompts times ranks then at work are all chunks; at full load all work always."""
    busy, together = at_once(ranks, SHARES)
    assert busy * together == pytest.approx(ranks * SHARES)
    assert (np.diff(busy) >= 0).all()
    assert (busy >= SHARES * (1 - 1e-9)).all()
    assert (busy[-1], together[-1]) == (pytest.approx(1.0), pytest.approx(ranks))


@pytest.mark.parametrize("size", [1, 2, 8, 24])
def test_groups_of_a_random_number(size: int) -> None:
    """The expected number of groups is that of Poisson draws, few or many."""
    means = np.array([0.05, 0.9, 8.0, 40.0, 20.0 * size])
    drawn = np.ceil(RNG.poisson(means, (400_000, len(means))) / size)
    assert groups_of(size, means) == pytest.approx(drawn.mean(axis=0), rel=0.02)


def test_the_fullest_of_several() -> None:
    """The largest of so many sizes is that of draws; one alone is the mean."""
    sizes = Sizes(np.array([100.0, 400.0, 1000.0]), np.array([0.5, 0.3, 0.2]))
    drawn = RNG.choice(sizes.tokens, (200_000, 4), p=sizes.share)
    counts = np.array([1.0, 2.0, 4.0])
    expected = [drawn[:, : int(count)].max(axis=1).mean() for count in counts]
    assert sizes.fullest(counts) == pytest.approx(expected, rel=0.01)


def test_the_fullest_rank_has_its_share_of_all_tokens() -> None:
    """What all ranks have on average is what the chunks on them are."""
    sizes = Sizes(np.array([100.0, 1000.0]), np.array([0.5, 0.5]))
    together = np.array([1.0, 3.0, 8.0])
    load = side_by_side(Load(tokens=550.0, pairs=9.0, past=7.0, prompts=1.0), sizes, 8, together)
    assert load.occupied * load.tokens * 8 == pytest.approx(550.0 * together)
    assert load.tokens[0] == pytest.approx(550.0)  # type: ignore[index]
    assert load.tokens[2] > 990.0  # type: ignore[index]
