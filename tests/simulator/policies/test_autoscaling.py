"""Policies over the number of workers, and the bounds that hold whatever a policy says."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.policies.autoscaling import (
    METRICS,
    Bounds,
    Control,
    Observation,
    Observing,
    Schedule,
    Static,
    Step,
    TrafficSeen,
)

NAN = float("nan")
COUNTS = st.integers(0, 12)


def seen(now_s: float) -> Observation:
    """Return what a controller sees at a tick of an empty cluster."""
    traffic = TrafficSeen(
        requests=0, rate=0.0, input_tokens=NAN, output_tokens=NAN, ttft_s=(), tpot_s=()
    )
    return Observation(now_s=now_s, seen_s=now_s, pools={}, traffic=traffic, free_gpus=None)


def planned(schedule: Schedule, now_s: float) -> dict[str, int]:
    """Return the workers a schedule wants at an instant."""
    plan, state = schedule.decide(seen(now_s), schedule.initial())  # type: ignore[func-returns-value]
    assert state is None
    return dict(plan.workers)


def test_a_static_policy_plans_nothing() -> None:
    """Pools that no plan names stay as they are."""
    plan, state = Static().decide(seen(7.0), None)
    assert (dict(plan.workers), plan.reason, state) == ({}, "", None)


def test_a_schedule_holds_from_each_step_on() -> None:
    """A step is in force from its very instant until the pool's next, whatever their order."""
    steps = (Step(20.0, "decode", 5), Step(0.0, "decode", 2), Step(10.0, "prefill", 3))
    schedule = Schedule(steps=steps)
    assert planned(schedule, 0.0) == {"decode": 2}
    assert planned(schedule, 10.0) == {"decode": 2, "prefill": 3}
    assert planned(schedule, 19.9) == {"decode": 2, "prefill": 3}
    for late in (20.0, 1e9):
        assert planned(schedule, late) == {"decode": 5, "prefill": 3}


def test_before_its_first_step_a_schedule_says_nothing() -> None:
    """A pool is left alone until its first step, in the first period too."""
    assert planned(Schedule(steps=(Step(5.0, "mixed", 2),)), 4.9) == {}
    assert planned(Schedule(steps=(Step(5.0, "mixed", 2),), period_s=10.0), 4.9) == {}


def test_a_periodic_schedule_begins_with_the_end_of_the_period_before() -> None:
    """Each period is as the last one, and until its first step as that one ended."""
    steps = (Step(3.0, "mixed", 1), Step(7.0, "mixed", 4))
    schedule = Schedule(steps=steps, period_s=10.0)
    for period in (10.0, 20.0, 1000.0):
        told = [planned(schedule, period + at) for at in (0.0, 2.9, 3.0, 6.9, 7.0, 9.9)]
        assert told == [{"mixed": each} for each in (4, 4, 1, 1, 4, 4)]


@pytest.mark.parametrize(
    ("steps", "period_s", "told"),
    [
        ((Step(-1.0, "mixed", 1),), None, r"at_s must lie in \[0, inf\) but got -1.0"),
        ((Step(10.0, "mixed", 1),), 10.0, r"at_s must lie in \[0, 10\) but got 10.0"),
        ((Step(0.0, "mixed", -1),), None, "workers must be at least 0 but got -1"),
    ],
)
def test_a_schedule_checks_itself(
    steps: tuple[Step, ...], period_s: float | None, told: str
) -> None:
    """A step beyond the period or with fewer workers than none is refused."""
    Schedule(steps=(Step(0.0, "mixed", 0),), period_s=period_s)
    with pytest.raises(ValueError, match=told):
        Schedule(steps=steps, period_s=period_s)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(1, 5), st.booleans())
def test_what_is_granted_lies_within_the_bounds(
    asked: int, now: int, least: int, more: int, step: int, bounded: bool
) -> None:
    """Between least and most, at most a step away, and on the way to what was asked."""
    most = least + more if bounded else None
    granted = Bounds(least=least, most=most, step=step).hold(asked, now, 0, 1e9)
    wanted = max(asked, least) if most is None else min(max(asked, least), most)
    assert abs(granted - now) <= step
    assert granted == wanted or abs(granted - now) == step
    assert (granted - now) * (wanted - now) >= 0


@given(COUNTS, COUNTS)
def test_without_bounds_what_is_asked_is_granted(asked: int, now: int) -> None:
    """Nothing but least, 0 here, bounds a plan unless it is said."""
    assert Bounds(least=0).hold(asked, now, 3, 0.0) == asked
    assert Bounds().hold(asked, now, 3, 0.0) == max(asked, 1)


@pytest.mark.parametrize(("since_s", "up", "down"), [(4.9, 4, 4), (5.0, 6, 4), (9.0, 6, 2)])
def test_cooldowns_hold_each_direction_back(since_s: float, up: int, down: int) -> None:
    """Within a cooldown after the last change nothing changes that way; at its end it may."""
    bounds = Bounds(up_cooldown_s=5.0, down_cooldown_s=9.0)
    assert bounds.hold(6, 4, 0, since_s) == up
    assert bounds.hold(2, 4, 0, since_s) == down


def test_one_at_a_time_waits_for_who_is_coming() -> None:
    """Nothing changes, in either direction, while a worker is on its way."""
    bounds = Bounds(one_at_a_time=True)
    assert [bounds.hold(asked, 4, 1, 1e9) for asked in (2, 4, 9)] == [4, 4, 4]
    assert [bounds.hold(asked, 4, 0, 1e9) for asked in (2, 4, 9)] == [2, 4, 9]
    assert Bounds().hold(9, 4, 1, 1e9) == 9


GOOD: dict[type, dict[str, Any]] = {
    Bounds: {"least": 0, "most": 0, "step": 1, "up_cooldown_s": 0.0, "down_cooldown_s": 0.0},
    Observing: {"scrape_s": 5.0, "window_s": 5.0, "age_s": 0.0, "demand": "completion"},
    Control: {"interval_s": 1e-3},
}
BAD: list[tuple[type, dict[str, Any]]] = [
    (Bounds, {"least": -1}),
    (Bounds, {"least": 3, "most": 2}),
    (Bounds, {"step": 0}),
    (Bounds, {"up_cooldown_s": -0.1}),
    (Bounds, {"down_cooldown_s": float("inf")}),
    (Bounds, {"down_cooldown_s": NAN}),
    (Observing, {"scrape_s": 0.0}),
    (Observing, {"scrape_s": float("inf")}),
    (Observing, {"window_s": 4.9}),
    (Observing, {"window_s": float("inf")}),
    (Observing, {"age_s": -1.0}),
    (Observing, {"age_s": float("inf")}),
    (Observing, {"demand": "both"}),
    (Observing, {"missing": ("prefill.tokens",)}),
    (Observing, {"missing": ("waiting",)}),
    (Control, {"interval_s": 0.0}),
    (Control, {"interval_s": float("inf")}),
]


@pytest.mark.parametrize(("kind", "wrong"), BAD)
def test_a_setting_out_of_range_is_named(kind: type, wrong: dict[str, Any]) -> None:
    """The last good value is taken, the first bad one is refused with its name and itself."""
    kind(**GOOD[kind])
    name, value = list(wrong.items())[-1]
    with pytest.raises(ValueError, match=rf"{name} must .* but got") as refused:
        kind(**{**GOOD[kind], **wrong})
    shown = repr(value[0]) if isinstance(value, tuple) else repr(value)
    assert shown in str(refused.value)


def test_any_metric_of_any_pool_can_be_missing() -> None:
    """What an engine may not export is named by role and metric."""
    for role in ("prefill", "decode", "mixed"):
        for name in METRICS:
            assert Observing(missing=(f"{role}.{name}",)).missing == (f"{role}.{name}",)


def test_bounds_are_a_pools_own_or_the_plain_ones() -> None:
    """A pool without bounds of its own keeps one worker at least."""
    mine = Bounds(least=3)
    control = Control(bounds={"decode": mine})
    assert control.bounds_of("decode") is mine
    assert control.bounds_of("prefill") == Bounds()


def test_what_is_seen_where_nobody_says() -> None:
    """The values in brackets beside control.observing of conf/config.yaml."""
    shipped = (Path(__file__).resolve().parents[3] / "conf/config.yaml").read_text("utf-8")
    block = shipped[shipped.index("  observing:") : shipped.index("  bounds:")]
    told = dict(re.findall(r"^    (\w+): null .*\((\w+)\)$", block, re.M))
    default = Observing()
    assert told == {
        "scrape_s": f"{default.scrape_s:g}",
        "window_s": f"{default.window_s:g}",
        "demand": default.demand,
    }
    assert (default.age_s, default.missing, default.orphans) == (0.0, (), ())


def test_only_queues_count_who_has_left_them() -> None:
    """Of any pool, or the router's; other metrics are refused by name."""
    for name in ("prefill.waiting", "decode.waiting", "mixed.waiting", "router"):
        assert Observing(orphans=(name,)).orphans == (name,)
    with pytest.raises(ValueError, match=r"orphans must name some of .* but got 'mixed.running'"):
        Observing(orphans=("mixed.running",))
