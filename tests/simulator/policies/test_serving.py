"""Knative's and Ray Serve's laws at their edges."""

from dataclasses import replace
from typing import Any

import pytest
from views import pool, seen

from simulator.policies.serving import Kpa, RayServe
from simulator.policies.windows import Memory, Told


def through(policy: Any, looks: list[tuple[float, int, int]], desired: int = 0) -> list[int]:
    """Return what a pool is told at each look: when, workers ready, requests in flight."""
    told, memory = [], Memory()
    for at_s, ready, in_flight in looks:
        running = (in_flight,) + (0,) * (ready - 1) if ready else ()
        shown = pool(ready, running=running)
        shown = replace(shown, desired=desired) if desired else shown
        got, _, memory = policy.decide(shown, seen(at_s), memory)
        told.append(got)
    return told


def test_knative_s_defaults_are_its_configmap_s() -> None:
    """70 % of 100 in flight, windows of 60 s and 6 s, panic at 200 %, rates of 1000 and 2."""
    law = Kpa()
    assert (law.target, law.stable_s, law.panic_s, law.panic_share) == (70.0, 60.0, 6.0, 2.0)
    assert (law.up_rate, law.down_rate, law.least, law.most) == (1000.0, 2.0, 1, 10)


@pytest.mark.parametrize(
    ("policy", "looks", "told"),
    [
        # 139 ask for 2 of one ready, which is twice: panic; 140 for 2 of two is not
        (Kpa(), [(0, 1, 139)], [2]),
        (Kpa(), [(0, 1, 70), (61, 1, 71)], [1, 2]),
        # stable mean over a minute: 35 of (0 + 70) / 2; what is 60 s old has left
        (Kpa(target=10.0), [(0, 1, 0), (50, 1, 10)], [1, 1]),
        (Kpa(target=10.0), [(0, 1, 40), (60, 1, 0)], [4, 1]),
        # in panic workers only grow, for a minute after it was last seen
        (Kpa(target=10.0), [(0, 1, 40), (30, 4, 0), (59.9, 4, 0), (60, 4, 0)], [4, 4, 4, 2]),
        # ... seen again, it lasts again, and holds the most that it asked for
        (
            Kpa(target=10.0),
            [(0, 1, 40), (30, 4, 80), (40, 8, 0), (89, 8, 0), (90, 8, 0)],
            [4, 8, 8, 8, 4],
        ),
        # several ready at the first look: panic holds them; one does not
        (Kpa(), [(0, 2, 0), (60, 2, 0)], [2, 1]),
        (Kpa(), [(0, 1, 0), (2, 1, 0)], [1, 1]),
        # no fewer than a third of the ready at once, rounded down
        (Kpa(down_rate=3.0), [(0, 8, 0), (61, 8, 0)], [8, 2]),
        # no more than one and a half times three, rounded up
        (Kpa(up_rate=1.5), [(0, 3, 7_000)], [5]),
        # bounds
        (Kpa(most=3), [(0, 1, 7_000)], [3]),
        (Kpa(least=2), [(0, 1, 0)], [2]),
        # none ready counts as one
        (Kpa(), [(0, 0, 0)], [1]),
    ],
)
def test_knative_by_hand(policy: Kpa, looks: list[tuple[float, int, int]], told: list[int]) -> None:
    """Windows, panic and its end, rates and bounds."""
    assert through(policy, looks) == told


def test_knative_says_which_window_rules() -> None:
    """Panic at twice the ready workers; over by less it is stable."""
    law = Kpa(target=10.0)
    for in_flight, ready, why in (
        (20, 1, "panic asks for 2"),
        (10, 1, "stable asks for 1"),
        (40, 2, "panic asks for 4"),
    ):
        shown = pool(ready, running=(in_flight,) + (0,) * (ready - 1))
        assert law.decide(shown, seen(0), Memory())[1] == why
    # with a past, many ready are no reason: 30 in flight ask for 3 of two, half as many more
    past = Memory(signals=(Told(-1.0, 30.0),))
    shown = pool(2, running=(30, 0))
    assert law.decide(shown, seen(0), past)[1] == "stable asks for 3"


@pytest.mark.parametrize("policy", [Kpa(), RayServe()])
def test_without_a_metric_all_stays(policy: Any) -> None:
    """As many as are desired, and nothing is remembered."""
    for blind in (pool(3, running=None), pool(3, waiting=None)):
        assert policy.decide(blind, seen(9.0), Memory()) == (3, "no metric can be read", Memory())


def test_ray_s_defaults_are_its_config_s() -> None:
    """Two in flight a replica over 30 s, up after 30 s, down after 600 s."""
    law = RayServe()
    assert (law.target, law.look_back_s, law.up_s, law.down_s) == (2.0, 30.0, 30.0, 600.0)
    assert (law.factor, law.least) == (1.0, 1)


NOW = RayServe(up_s=0.0, down_s=0.0)


@pytest.mark.parametrize(
    ("policy", "looks", "told"),
    [
        (NOW, [(0, 2, 4)], [2]),
        (NOW, [(0, 2, 5)], [3]),  # ceil(2.5)
        (NOW, [(0, 3, 4)], [2]),
        # the mean of 30 s: (8 + 0) / 2 over 2; what is 30 s old has left
        (NOW, [(0, 4, 8), (15, 4, 0)], [4, 2]),
        (NOW, [(0, 4, 8), (30, 4, 0)], [4, 1]),
        (NOW, [(0, 4, 8), (29.9, 4, 0)], [4, 2]),
        # a factor of 2 goes twice as far: 2 + 2 · (4 − 2); of a half, half: 4 − 0.5 · 2
        (RayServe(up_s=0.0, factor=2.0), [(0, 2, 8)], [6]),
        (RayServe(down_s=0.0, factor=0.5), [(0, 4, 4)], [3]),
        # damped to nothing it takes one: 3 − 0.2 · 1 → 3 → 2, but not where it asks for more
        (RayServe(down_s=0.0, factor=0.2), [(0, 3, 4)], [2]),
        (RayServe(up_s=0.0, down_s=0.0, factor=0.2), [(0, 3, 6)], [3]),
        # undamped, 2.5 of three are rounded up to three, and stay
        (NOW, [(0, 3, 5)], [3]),
        # once it has acted the wait begins anew
        (
            RayServe(look_back_s=1.0),
            [(0, 1, 4), (30, 1, 4), (40, 2, 8), (69, 2, 8), (70, 2, 8)],
            [1, 2, 2, 2, 4],
        ),
        # so it does after a look that wants nothing
        (
            RayServe(look_back_s=1.0),
            [(0, 1, 4), (20, 1, 2), (30, 1, 4), (59, 1, 4), (60, 1, 4)],
            [1, 1, 1, 1, 2],
        ),
        # bounds
        (RayServe(least=2, down_s=0.0), [(0, 4, 0)], [2]),
        (RayServe(most=3, up_s=0.0), [(0, 2, 99)], [3]),
    ],
)
def test_ray_by_hand(
    policy: RayServe, looks: list[tuple[float, int, int]], told: list[int]
) -> None:
    """Means, factors, delays and bounds."""
    assert through(policy, looks) == told


@pytest.mark.parametrize(
    ("law", "role", "wanted"),
    [
        (NOW, "mixed", 6),  # (4 + 8) / 2
        (NOW, "prefill", 6),
        (NOW, "decode", 2),
        (Kpa(target=2.0), "mixed", 6),
        (Kpa(target=2.0), "prefill", 6),
        (Kpa(target=2.0), "decode", 2),
    ],
)
def test_who_waits_at_the_router_is_in_flight(law: Any, role: str, wanted: int) -> None:
    """Eight at the router and four at two workers; a decode pool has nobody before it."""
    shown = replace(pool(2), running=(2, 2), held=8, role=role)
    assert law.decide(shown, seen(0.0), Memory())[0] == wanted
    assert law.decide(replace(shown, held=None), seen(0.0), Memory())[0] == 2


def test_ray_serves_from_none_at_once() -> None:
    """Without a replica it does not wait for 30 s."""
    empty = replace(pool(0), waiting=(4,), running=(0,))
    assert RayServe().decide(empty, seen(0.0), Memory())[0] == 2
