"""The searches find the edge of what holds, with few questions."""

from itertools import product

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.goodput.search import cheapest, fewest, highest

FEW = settings(max_examples=60, phases=(Phase.generate,))


@FEW
@given(
    edge=st.integers(-400, 400),
    first=st.integers(-500, 500),
    bounds=st.tuples(st.integers(-350, 0), st.integers(0, 350)),
    stride=st.integers(1, 8),
)
def test_the_edge_is_found(edge: int, first: int, bounds: tuple[int, int], stride: int) -> None:
    """It is the last step that holds, or an end of the bounds, after few and distinct questions."""
    asked: list[int] = []

    def holds(step: int) -> bool:
        asked.append(step)
        return step <= edge

    least, most = bounds
    found = highest(holds, first, bounds, stride)
    assert found.holds == (None if edge < least else min(edge, most))
    assert found.fails == (None if edge >= most else max(edge + 1, least))
    assert len(asked) == len(set(asked)) <= 22
    assert all(least <= step <= most for step in asked)


@FEW
@given(edge=st.integers(1, 60), first=st.integers(1, 60), most=st.integers(1, 60))
def test_the_fewest_are_found(edge: int, first: int, most: int) -> None:
    """It is the first count that holds, ``None`` where there is none."""
    found = fewest(lambda count: count >= edge, first, (1, most))
    assert found.holds == (edge if edge <= most else None)


def test_a_search_between_nothing() -> None:
    """Bounds the wrong way round are an error, not an endless loop."""
    with pytest.raises(ConfigError, match="nothing to look at"):
        highest(lambda _: True, 0, (3, 2))


@FEW
@given(
    needs=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    costs=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    below=st.integers(3, 120),
)
def test_the_cheapest_pair_is_found(
    needs: list[tuple[int, int]], costs: tuple[int, int], below: int
) -> None:
    """Over any set that more of either keeps within, as cheap a pair as any is found."""
    asked: list[tuple[int, int]] = []

    def holds(first: int, second: int) -> bool:
        asked.append((first, second))
        return any(first >= one and second >= other for one, other in needs)

    def cost(pair: tuple[int, int]) -> int:
        return pair[0] * costs[0] + pair[1] * costs[1]

    found = cheapest(holds, costs, below)
    every = [p for p in product(range(1, 130), repeat=2) if cost(p) < below]
    best = min(
        (cost(p) for p in every if any(p[0] >= a and p[1] >= b for a, b in needs)), default=0
    )
    assert (cost(found[-1]) if found else 0) == best
    assert [cost(pair) for pair in found] == sorted((cost(p) for p in found), reverse=True)
    assert len(asked) <= below // costs[0] + below // costs[1] + 1
