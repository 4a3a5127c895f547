"""Dynamo's SLA planner: when its loops are due, what holds them, and what they agree on."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from views import Steps, engine, flow, pool, seen

from simulator.policies.autoscaling import Truth
from simulator.policies.dynamo.inventory import Budget
from simulator.policies.dynamo.sla import DynamoSla
from simulator.policies.engines import Shape, Targets
from simulator.policies.forecasting import Constant, Oracle

MADE = engine(Steps(seq=0.001), kv_tokens=1_000_000)
"""10 prompts/s, and within 50 ms 8 answers/s."""


def sla(**changes: Any) -> DynamoSla:
    """Return the planner with a forecast of no change and no budget."""
    free = {"forecaster": Constant(), "budget": Budget(max_gpu_budget=None)}
    return DynamoSla(**(free | {"tpot_s": 0.050000001} | changes))


def both(now_s: float, rate: float, prefill: Any = 1, decode: Any = 1, **more: Any) -> Any:
    """Return a look at two pools of so many workers, or as they are given."""
    pools = {
        role: pool(each, engine=MADE) if isinstance(each, int) else each
        for role, each in (("prefill", prefill), ("decode", decode))
    }
    return seen(now_s, flow(rate, **more), **pools)


def planned(policy: DynamoSla, *looks: Any) -> list[dict[str, int]]:
    """Return the plans of one look after the other."""
    state, plans = policy.initial(), []
    for look in looks:
        plan, state = policy.decide(look, state)
        plans.append(dict(plan.workers))
    return plans


def test_it_counts_what_was_completed_in_its_own_interval() -> None:
    """The window is the throughput loop's, scrapes are the load loop's."""
    policy = DynamoSla()
    assert policy.sees == {
        "scrape_s": policy.load_s,
        "window_s": policy.throughput_s,
        "demand": "completion",
    }
    assert (policy.throughput_s, policy.load_s, policy.load) == (180.0, 5.0, False)


@pytest.mark.parametrize(
    ("changes", "interval_s"),
    [
        ({}, 180.0),
        ({"load": True}, 5.0),
        ({"load": True, "throughput_s": 7.5, "load_s": 2.0}, 0.5),
        ({"load": True, "throughput_s": 0.004, "load_s": 0.006}, 0.002),
    ],
)
def test_it_ticks_for_both_loops(changes: dict[str, Any], interval_s: float) -> None:
    """At the greatest common divisor, in milliseconds."""
    assert sla(**changes).interval_s == interval_s


def test_a_loop_is_due_where_its_interval_is_over() -> None:
    """At every multiple, from the first second on, and once for each."""
    looks = [both(at, 30.0) for at in (1.0, 1.5, 2.0, 2.9, 3.0)]
    asked = {"prefill": 3, "decode": 4}
    assert planned(sla(throughput_s=1.0), *looks) == [asked, {}, asked, {}, asked]


def test_a_drain_holds_the_throughput_loop() -> None:
    """In both pools, until it is over."""
    draining = pool(1, draining=1, engine=MADE)
    looks = [both(180, 30.0, prefill=draining), both(360, 30.0, decode=draining), both(540, 30.0)]
    assert planned(sla(), *looks) == [{}, {}, {"prefill": 3, "decode": 4}]


def test_during_a_start_only_a_lasting_reduction_goes_through() -> None:
    """The second time that it is asked for; growth does not, of either pool."""
    starting = pool(3, coming=1, engine=MADE)
    fewer = [both(180.0 * at, 5.0, starting, 4) for at in (1, 2)]
    assert planned(sla(), *fewer) == [{}, {"prefill": 1, "decode": 1}]
    more = [both(180.0 * at, 60.0, starting, 4) for at in (1, 2, 3)]
    assert planned(sla(), *more) == [{}, {}, {}]
    # 35/s: prefill keeps 4 with the one that starts, 5 of decode go to 5: nothing
    mixed = [both(180.0 * at, 30.0, starting, 6) for at in (1, 2)]
    assert planned(sla(), *mixed) == [{}, {"prefill": 3, "decode": 4}]


def test_pools_below_their_least_are_brought_back_in_proportion() -> None:
    """1 and 7 of 8 GPUs with 2 each at least; 8 and 10 are asked for: 8 · 8/18 → 3, and 5."""
    policy = sla(budget=Budget(min_endpoint=2, max_gpu_budget=8))
    assert planned(policy, both(180, 80.0, 1, 7)) == [{"prefill": 3, "decode": 5}]
    # within, growth finds no room: 2 and 6 stay
    assert planned(policy, both(180, 80.0, 2, 6)) == [{}]


@pytest.mark.parametrize(
    ("rate", "ready", "wanted"),
    [
        (200.0, (1, 1), {"prefill": 4, "decode": 4}),  # three more at most
        (0.02, (9, 9), {"prefill": 6, "decode": 6}),  # and three fewer
        (0.02, (2, 3), {"prefill": 1, "decode": 1}),
    ],
)
def test_changes_are_capped(rate: float, ready: tuple[int, int], wanted: dict[str, int]) -> None:
    """Of each pool, both ways."""
    assert planned(sla(max_change=3), both(180, rate, *ready)) == [wanted]


def test_a_capacity_is_its_role_s() -> None:
    """And of no prompt there is none."""
    shape, targets = Shape(1.0, 100.0), Targets(0.5, 0.05)
    for role in ("prefill", "decode", "mixed"):
        found = MADE.capacity(role, shape, targets)
        assert found == getattr(MADE, f"{role}_capacity")(shape, targets)
        assert found is not None
        assert MADE.capacity(role, shape._replace(input_tokens=0.9), targets) is None


def test_an_unknown_rate_holds_the_load_loop_where_it_is() -> None:
    """Its floor is then what is ready: idle pools do not shrink."""
    idle = pool(3, engine=MADE, scheduled_tokens=(1000,) * 3, scheduled_prompts=(1,) * 3)
    blind = pool(3, engine=None, scheduled_tokens=(1000,) * 3, scheduled_prompts=(1,) * 3)
    policy = sla(load=True, throughput_s=30.0)
    looks = [both(5.0 * at, 1.0, idle, blind) for at in range(1, 8)]
    plans = planned(policy, *looks)
    assert plans[4] == {"prefill": 2}  # before throughput was looked at
    assert plans[5] == plans[6] == {}


def test_each_pool_s_looks_are_its_own() -> None:
    """Prefill computes prompts of 1,000 tokens, so that 4,001 queued are 0.5001 s."""
    late = pool(
        2,
        queued_tokens=(4_001,) * 2,
        scheduled_tokens=(1000,) * 2,
        scheduled_prompts=(1,) * 2,
        engine=MADE,
    )
    policy = sla(load=True, throughput_s=10_000.0)
    looks = [both(5.0 * at, 1.0, late, 1) for at in range(1, 6)]
    assert planned(policy, *looks)[-2:] == [{}, {"prefill": 3}]
    # 900 and 4,001 are in time; that decode's steps hold more is not for prefill, and it is idle
    short = pool(
        2, queued_tokens=(4_001,) * 2, scheduled_tokens=(900,) * 2, scheduled_prompts=(1,) * 2
    )
    looks = [both(5.0 * at, 1.0, short, late) for at in range(1, 6)]
    assert planned(policy, *looks)[-1] == {"decode": 1}


def test_who_knows_the_trace_sizes_pools_by_it() -> None:
    """100 prompts of 2,000 tokens come in the next 10 s: 5 a worker and second, not 10 of 1,000."""
    arrivals = np.linspace(10.0, 19.9, 100)
    truth = Truth(
        arrival_s=arrivals,
        input_tokens=np.full(100, 2000, np.int32),
        output_tokens=np.full(100, 50, np.int32),
    )
    policy = sla(forecaster=Oracle(), throughput_s=10.0)
    known = replace(both(10.0, 30.0, 1, 2), truth=truth)
    # within 50 ms 40 sequences of 50 tokens a worker: 16 answers/s
    assert planned(policy, known) == [{"prefill": 2, "decode": 1}]
    # a forecaster that does not know is not told, whatever the look holds
    assert planned(sla(throughput_s=10.0), known) == [{"prefill": 3, "decode": 4}]
    # and of an interval in which nobody comes lengths are as before
    nobody = replace(both(30.0, 30.0, 2, 2), truth=truth)
    assert planned(policy, nobody) == [{"prefill": 1, "decode": 1}]


def test_the_floor_that_was_taken_back() -> None:
    """ceil(0.1 s a prompt / 30 ms) prefill workers, whatever comes, and only of prefill."""
    late = {"ttft_s": 0.03, "throughput_s": 1.0}
    assert planned(sla(**late), both(1.0, 1.0, 2, 2)) == [{"prefill": 1, "decode": 1}]
    floored = sla(**late, latency_floor=True)
    assert planned(floored, both(1.0, 1.0, 2, 2)) == [{"prefill": 4, "decode": 1}]
