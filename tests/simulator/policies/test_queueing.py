"""Queue orders: keys worked by hand, and what follows from them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.policies.classes import ServiceClass, lacking
from simulator.policies.queueing import Edf, Fcfs, Priority, Queued, QueueOrder, Sjf, Wspt


def prompt(name: int, arrival_s: float = 0.0, tokens: int = 100, **service: float) -> Queued:
    """Return a prompt of a class of its own."""
    return Queued(name, arrival_s, tokens, tokens, ServiceClass(**service))  # type: ignore[arg-type]


def served(order: QueueOrder, *prompts: Queued) -> list[int]:
    """Return the prompts as they are computed, those of equal keys as they are given."""
    return [each.request for each in sorted(prompts, key=order.key)]


@pytest.mark.parametrize(
    ("order", "prompts", "expected"),
    [
        (Fcfs(), (prompt(0, tokens=9), prompt(1, tokens=1), prompt(2, priority=9)), [0, 1, 2]),
        (Sjf(), (prompt(0, tokens=9), prompt(1, tokens=1), prompt(2, tokens=5)), [1, 2, 0]),
        (Sjf(), (prompt(0, 2.0), prompt(1, 1.0)), [0, 1]),  # alike: as they came to this queue
        (Edf(), (prompt(0, 0.0, ttft_s=2.0), prompt(1, 1.0, ttft_s=0.5)), [1, 0]),  # 2.0, 1.5
        (Edf(), (prompt(0, 0.0, ttft_s=1.0), prompt(1, 0.5, ttft_s=0.5)), [0, 1]),  # both 1.0
        (Edf(), (prompt(0, 5.0, ttft_s=9.0), prompt(1, 0.0)), [0, 1]),  # no deadline is the last
        # (1 + jump) / tokens: 1/100, 3/200, 1/50
        (Wspt(), (prompt(0), prompt(1, tokens=200, jump=2.0), prompt(2, tokens=50)), [2, 1, 0]),
        (Wspt(), (prompt(0, tokens=1), prompt(1, tokens=999, priority=1)), [1, 0]),
        (Wspt(), (prompt(0, tokens=0), prompt(1, tokens=1)), [0, 1]),  # 0 counts as 1
        (Priority(), (prompt(0, 0.0), prompt(1, 9.0, priority=1), prompt(2, 1.0)), [1, 0, 2]),
        (Priority(), (prompt(0, 0.0, priority=-1), prompt(1, 1e6)), [1, 0]),  # strict
        # one step of priority is worth 10 s of waiting: 0 − 0, 1.1 − 1, 0.9 − 1
        (
            Priority(aging_s=10.0),
            (prompt(0, 0.0), prompt(1, 11.0, priority=1), prompt(2, 9.0, priority=1)),
            [2, 0, 1],
        ),
        (Priority(aging_s=10.0), (prompt(0, 0.0), prompt(1, 10.0, priority=1)), [0, 1]),  # equal
    ],
)
def test_whose_turn_it_is(
    order: QueueOrder, prompts: tuple[Queued, ...], expected: list[int]
) -> None:
    """By each order's rule."""
    assert served(order, *prompts) == expected


@given(
    arrivals=st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)),
    priorities=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
    aging_s=st.floats(0.1, 1e3),
    later=st.floats(0, 1e4),
)
def test_ageing_is_the_same_at_every_moment(
    arrivals: tuple[float, float], priorities: tuple[int, int], aging_s: float, later: float
) -> None:
    """Priority + waited / aging_s orders two prompts alike whenever it is looked at."""
    now = max(arrivals) + later
    worth = [p + (now - a) / aging_s for a, p in zip(arrivals, priorities, strict=True)]
    keys = [
        Priority(aging_s=aging_s).key(prompt(0, a, priority=p))[0]
        for a, p in zip(arrivals, priorities, strict=True)
    ]
    if not math.isclose(worth[0], worth[1], rel_tol=1e-6, abs_tol=1e-6):
        assert (keys[0] < keys[1]) == (worth[0] > worth[1])


def test_deadlines_need_a_target() -> None:
    """Of every class; the other orders need none."""
    kinds = [ServiceClass(ttft_s=1.0), ServiceClass(tpot_s=1.0)]
    assert lacking(Edf(), kinds) == "ttft_s"
    assert lacking(Edf(), kinds[:1]) == ""
    assert lacking(Wspt(), kinds) == ""


@pytest.mark.parametrize("aging_s", [0.0, -1.0, math.inf, math.nan])
def test_ageing_takes_time(aging_s: float) -> None:
    """One sentence names the field."""
    with pytest.raises(ValueError, match="priority: aging_s must be above 0 s or null"):
        Priority(aging_s=aging_s)
