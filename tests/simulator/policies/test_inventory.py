"""What Dynamo's planner takes for its workers, and what may interrupt a start-up."""

import pytest
from views import pool, seen

from simulator.policies.dynamo.budget import Band
from simulator.policies.dynamo.inventory import (
    Budget,
    Inventory,
    Waiting,
    Wanted,
    inventory,
    reductions,
    sustained,
)

TWO = ("prefill", "decode")
FREE = Band(least=None, most=None, gpus=(1, 1), floors=(1, 1))


def test_what_is_there_is_counted_by_pool() -> None:
    """Ready ones, and those that are asked for and not ready; two pools hide a mixed one."""
    both = seen(0, prefill=pool(2, coming=1), decode=pool(3), mixed=pool(9))
    assert inventory(both) == Inventory(TWO, (2, 3), (1, 0), moving=False)
    assert inventory(both).starting
    mixed = inventory(seen(0, mixed=pool(2)))
    assert mixed == Inventory(("mixed",), (2,), (0,), moving=False)
    assert not mixed.starting


@pytest.mark.parametrize("changing", [pool(2, draining=1), pool(2, desired=1)])
def test_workers_that_go_stop_everything(changing: object) -> None:
    """While one of either pool drains, or is about to, nobody counts as on the way."""
    for pools in ({"prefill": changing, "decode": pool(1, coming=2)},):
        there = inventory(seen(0, **pools))  # type: ignore[arg-type]
        assert there == Inventory(TWO, (2, 1), (0, 0), moving=True)
        assert not there.starting
    there = inventory(seen(0, prefill=pool(1), decode=changing))  # type: ignore[arg-type]
    assert there.moving


@pytest.mark.parametrize(
    ("ready", "pending", "wanted", "left"),
    [
        ((2, 2), (1, 0), (None, None), (None, None)),
        ((2, 2), (1, 0), (1, None), (1, None)),
        # what is ready is kept, what is on its way is not
        ((2, 2), (1, 0), (2, None), (2, None)),
        # no reduction: more than is ready, or all there is
        ((2, 2), (1, 0), (3, 4), (None, None)),
        ((2, 2), (2, 0), (3, None), (None, None)),
        ((2, 2), (1, 0), (None, 2), (None, None)),
        ((2, 2), (1, 0), (1, 1), (1, 1)),
        ((2, 2), (1, 0), (3, 1), (None, 1)),
    ],
)
def test_only_reductions_interrupt_a_start(
    ready: tuple[int, int], pending: tuple[int, int], wanted: Wanted, left: Wanted
) -> None:
    """Each pool by itself, where the budget has no floor."""
    assert reductions(wanted, Inventory(TWO, ready, pending, moving=False), FREE) == left


@pytest.mark.parametrize(
    ("pending", "wanted", "left"),
    [
        # of a floor of 5 GPUs; who is not named keeps 2 ready and 1 pending
        ((1, 1), (1, None), (2, None)),
        ((1, 2), (1, None), (1, None)),  # 1 and 4
        ((1, 0), (1, None), (3, None)),  # at most what is ready: 3 and 2, and one not started
        ((1, 1), (None, 1), (None, 1)),  # 4 and 1
        ((0, 1), (None, 1), (None, 2)),  # 3 and 1 would be 4: what is ready stays
        ((1, 1), (1, 1), (3, 2)),  # both stay, and nobody else comes
    ],
)
def test_a_floor_of_gpus_holds_during_a_start_too(
    pending: tuple[int, int], wanted: Wanted, left: Wanted
) -> None:
    """With 3 and 2 ready."""
    band = Band(least=5, most=6, gpus=(1, 1), floors=(1, 1))
    assert reductions(wanted, Inventory(TWO, (3, 2), pending, moving=False), band) == left


def test_a_reduction_lasts_from_its_first_look_on() -> None:
    """As long as it and what there is are the same; at the end of the time it is due."""
    there = Inventory(TWO, (2, 2), (1, 0), moving=False)
    due, waiting = sustained((1, None), there, None, 10.0, 5.0)
    assert (due, waiting) == (False, Waiting((1, None), there, 10.0))
    assert sustained((1, None), there, waiting, 14.9, 5.0) == (False, waiting)
    assert sustained((1, None), there, waiting, 15.0, 5.0) == (True, waiting)
    # another reduction, or another inventory, begins anew
    other = Waiting((1, 1), there, 15.0)
    assert sustained((1, 1), there, waiting, 15.0, 5.0) == (False, other)
    more = there._replace(pending=(2, 0))
    assert sustained((1, None), more, waiting, 15.0, 5.0)[1] == Waiting((1, None), more, 15.0)
    # and no reduction at all forgets it
    assert sustained((None, None), there, waiting, 15.0, 5.0) == (False, None)


def test_the_least_workers_may_fill_a_budget() -> None:
    """Two of 2 GPUs in each of two pools are 8 GPUs."""
    whole = Budget(min_endpoint=2, max_gpu_budget=8, min_gpu_budget=3).band((2, 2))
    assert whole == Band(least=3, most=8, gpus=(2, 2), floors=(2, 2))
    assert Budget(min_endpoint=2, max_gpu_budget=None).band((9, 9)).most is None
