"""Dynamo's planners: thresholds, budgets, start-ups and both SLA loops, worked by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from views import Steps, engine, flow, pool, seen

from simulator.errors import ConfigError
from simulator.policies.autoscaling import Plan
from simulator.policies.dynamo.budget import Band
from simulator.policies.dynamo.inventory import Budget
from simulator.policies.dynamo.sla import DynamoSla
from simulator.policies.dynamo.thresholds import DynamoThreshold
from simulator.policies.engines import Shape, Targets, candidates
from simulator.policies.forecasting import Constant

FREE = Budget(max_gpu_budget=None)


def planned(policy: Any, *looks: Any) -> list[dict[str, int]]:
    """Return the plans of one look after the other."""
    state, plans = policy.initial(), []
    for look in looks:
        plan, state = policy.decide(look, state)
        assert isinstance(plan, Plan)
        plans.append(dict(plan.workers))
    return plans


# --- the stock thresholds ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "queued", "wanted"),
    [
        # context 10,000: a ratio of 1 is over, by any worker
        ("throughput", (10_000, 0), {"prefill": 3}),
        ("throughput", (9_999, 0), {}),
        # under 0.1 by all: 999 each; with one fewer 1,998, under 1
        ("throughput", (999, 999), {"prefill": 1}),
        ("throughput", (1_000, 0), {}),
        # latency: 0.1 is over, and only an empty queue is under
        ("latency", (1_000, 0), {"prefill": 3}),
        ("latency", (1, 0), {}),
        ("latency", (0, 0), {"prefill": 1}),
        # one worker never shrinks
        ("throughput", (0,), {}),
    ],
)
def test_prompts_not_begun_over_the_context(
    target: str, queued: tuple[int, ...], wanted: dict[str, int]
) -> None:
    """The prefill rule, its bounds included or not as the source has them."""
    policy = DynamoThreshold(target=target, budget=FREE)
    look = seen(5, prefill=pool(len(queued), queued_tokens=queued), decode=_busy(2))
    assert planned(policy, look) == [wanted]


def _busy(ready: int) -> Any:
    """Return decode workers between any thresholds: 80 % or, for latency, 30 % of KV."""
    return pool(ready, kv_tokens=(30_000,) * ready, queued_kv_tokens=(0,) * ready, engine=None)


@pytest.mark.parametrize(
    ("target", "kv", "coming", "wanted"),
    [
        # 100,000 KV tokens: above 1, not at it
        ("throughput", (90_000, 0), (10_001, 0), {"decode": 3}),
        ("throughput", (90_000, 0), (10_000, 0), {}),
        # under 0.6 by all, and 2 × 0.49 is under 1
        ("throughput", (49_000, 10_000), (0, 0), {"decode": 1}),
        # ... while 2 × 0.5 is not
        ("throughput", (50_000, 0), (0, 0), {}),
        # of three: 3/2 × 0.59 fits
        ("throughput", (59_000, 59_000, 0), (0, 0, 0), {"decode": 2}),
        ("latency", (40_001, 0), (0, 0), {"decode": 3}),
        ("latency", (9_999, 0), (0, 0), {"decode": 1}),
        ("latency", (10_000, 0), (0, 0), {}),
    ],
)
def test_kv_over_the_room_for_it(
    target: str, kv: tuple[int, ...], coming: tuple[int, ...], wanted: dict[str, int]
) -> None:
    """The decode rule, with what waits to join, and the look at one worker fewer."""
    policy = DynamoThreshold(target=target, budget=FREE)
    decode = pool(len(kv), kv_tokens=kv, queued_kv_tokens=coming)
    prefill = pool(2, queued_tokens=(500, 1_500) if target == "throughput" else (500, 500))
    assert planned(policy, seen(5, prefill=prefill, decode=decode)) == [wanted]


def test_a_mixed_worker_counts_prompts_that_wait_as_kv_to_come() -> None:
    """60,000 decoding, 30,000 preempted and 10,001 queued are over 100,000."""
    policy = DynamoThreshold(budget=FREE)
    gauges = {"kv_tokens": (60_000,), "queued_kv_tokens": (30_000,)}
    over = pool(1, queued_tokens=(10_001,), **gauges)
    at = pool(1, queued_tokens=(10_000,), **gauges)
    assert planned(policy, seen(5, mixed=over), seen(10, mixed=at)) == [{"mixed": 2}, {}]


def test_the_users_own_thresholds_count_at_their_bounds() -> None:
    """Load: at or over tokens and per cent, at or under others; without them a pool is left."""
    bounds = {"decode_up_percent": 70.0, "decode_down_percent": 20.0}
    policy = DynamoThreshold(
        target="load", prefill_up_tokens=2000, prefill_down_tokens=100, budget=FREE, **bounds
    )
    at_up = seen(5, prefill=pool(1, queued_tokens=(2000,)), decode=pool(1, kv_tokens=(70_000,)))
    at_down = seen(
        10, prefill=pool(2, queued_tokens=(100, 0)), decode=pool(2, kv_tokens=(20_000, 0))
    )
    assert planned(policy, at_up) == [{"prefill": 2, "decode": 2}]
    assert planned(policy, at_down) == [{"prefill": 1, "decode": 1}]
    blind = DynamoThreshold(target="load", budget=FREE, **bounds)
    assert planned(blind, at_up) == [{"decode": 2}]


def test_what_cannot_be_read_changes_nothing() -> None:
    """A queue that is not exported, or an engine nobody knows, holds that pool alone."""
    policy = DynamoThreshold(budget=FREE)
    full = pool(1, kv_tokens=(100_001,))
    blind = seen(5, prefill=pool(1, queued_tokens=None), decode=full)
    unknown = seen(5, prefill=pool(1, queued_tokens=(10**6,), engine=None), decode=full)
    assert planned(policy, blind) == planned(policy, unknown) == [{"decode": 2}]


# --- start-ups and drains ----------------------------------------------------------------------


def test_while_a_worker_starts_nothing_grows_in_either_pool() -> None:
    """An up of decode is dropped while prefill starts, for as long as it does."""
    full = pool(1, kv_tokens=(100_001,))
    looks = [
        seen(at, prefill=pool(1, coming=1, queued_tokens=(1500,)), decode=full)
        for at in (5, 10, 500)
    ]
    assert planned(DynamoThreshold(budget=FREE), *looks) == [{}, {}, {}]


def test_a_reduction_during_a_start_must_last_an_interval() -> None:
    """Two ready and idle, one starting: the second such look in a row takes two of them away."""
    looks = [seen(at, mixed=pool(2, coming=1)) for at in (5, 10)]
    assert planned(DynamoThreshold(budget=FREE), *looks) == [{}, {"mixed": 1}]
    broken = [
        looks[0],
        seen(10, mixed=pool(2, coming=1, kv_tokens=(70_000, 0))),
        seen(15, mixed=pool(2, coming=1)),
    ]
    assert planned(DynamoThreshold(budget=FREE), *broken) == [{}, {}, {}]


def test_one_ready_worker_may_be_all_that_is_wanted_of_two() -> None:
    """With one ready and one starting, idle: the start is taken back after an interval."""
    looks = [seen(at, mixed=pool(1, coming=1)) for at in (5, 10)]
    assert planned(DynamoThreshold(budget=FREE), *looks) == [{}, {"mixed": 1}]


def test_the_older_rule_only_looks_on_while_a_worker_starts() -> None:
    """However long everybody is idle."""
    policy = DynamoThreshold(budget=FREE, reduces_starting=False)
    looks = [seen(at, mixed=pool(2, coming=1)) for at in (5, 10, 15)]
    assert planned(policy, *looks) == [{}, {}, {}]


def test_while_workers_drain_it_only_looks_on() -> None:
    """In neither pool anything changes until they are gone."""
    full = pool(1, kv_tokens=(100_001,))
    look = seen(5, prefill=pool(1, draining=1), decode=full)
    assert planned(DynamoThreshold(budget=FREE), look) == [{}]


# --- the budget --------------------------------------------------------------------------------

EIGHT = Band(least=None, most=8, gpus=(1, 1), floors=(1, 1))


@pytest.mark.parametrize(
    ("band", "now", "asked", "granted"),
    [
        # at the ceiling a plain up is held, a swap goes through, both legs
        (EIGHT, (4, 4), (5, 4), (4, 4)),
        (EIGHT, (4, 4), (5, 3), (5, 3)),
        (EIGHT, (4, 4), (6, 3), (5, 3)),
        (EIGHT, (4, 4), (3, 3), (3, 3)),
        # below it growth is cut in proportion: 9 asked for of 8, 4 × 8/9 and the rest
        (EIGHT, (3, 3), (4, 4), (4, 4)),
        (EIGHT, (3, 4), (4, 5), (3, 5)),
        # wide decode workers: one of 2 GPUs for two of 1, or nothing
        (Band(least=None, most=8, gpus=(1, 2), floors=(1, 1)), (4, 2), (3, 3), (4, 2)),
        (Band(least=None, most=8, gpus=(1, 2), floors=(1, 1)), (4, 2), (2, 3), (2, 3)),
        # at the floor a plain down is held; pinned, only swaps remain
        (Band(least=6, most=8, gpus=(1, 1), floors=(1, 1)), (3, 3), (2, 3), (3, 3)),
        (Band(least=8, most=8, gpus=(1, 1), floors=(1, 1)), (4, 4), (3, 5), (3, 5)),
        # out of the band what there is comes back, whatever is asked: 10 → 8 in proportion
        (EIGHT, (5, 5), (6, 4), (4, 4)),
        (EIGHT, (8, 2), (8, 2), (6, 2)),
        # one pool
        (Band(least=None, most=8, gpus=(2,), floors=(1,)), (3,), (5,), (4,)),
        (Band(least=None, most=8, gpus=(2,), floors=(1,)), (4,), (5,), (4,)),
        (Band(least=4, most=8, gpus=(2,), floors=(1,)), (2,), (1,), (2,)),
    ],
)
def test_the_budget_cuts_and_never_turns_round(
    band: Band, now: tuple[int, ...], asked: tuple[int, ...], granted: tuple[int, ...]
) -> None:
    """Ceiling, floor, swaps and recovery."""
    assert band.guarded(now, asked)[0] == granted


COUNT = st.integers(1, 6)


@given(
    st.tuples(COUNT, COUNT),
    st.tuples(COUNT, COUNT),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_what_the_budget_grants_lies_between_what_is_and_what_is_asked(
    now: tuple[int, int], asked: tuple[int, int], gpus: tuple[int, int]
) -> None:
    """From within the band no pool moves the other way, and the ceiling holds."""
    band = Band(least=None, most=12, gpus=gpus, floors=(1, 1))
    granted, _ = band.guarded(now, asked)
    if band.holds(now):
        assert band.holds(granted)
        for n, a, g in zip(now, asked, granted, strict=True):
            assert min(n, a) <= g <= max(n, a)
    elif band.total(band.floors) <= 12:
        assert band.total(granted) <= 12


def test_a_budget_that_does_not_hold_the_least_workers_is_refused() -> None:
    """One sentence with the key and the GPUs it takes."""
    with pytest.raises(
        ConfigError, match=r"autoscaler\.budget: max_gpu_budget must be at least the 8 GPUs"
    ):
        Budget(min_endpoint=2, max_gpu_budget=7).band((2, 2))


# --- what a worker sustains --------------------------------------------------------------------


def test_prefill_capacity_by_hand() -> None:
    """1,000 tokens at 0.1 ms each: 0.1 s a prompt, 10/s at any batch within the target."""
    made = engine()
    found = made.prefill_capacity(Shape(1000, 100), Targets(0.5, 1.0))
    assert found is not None
    assert (found.rate, found.within) == (pytest.approx(10.0), True)
    # halves of prompts in caches: twice as many; at most 95 %, which is 51 tokens in floats
    cached = made.prefill_capacity(Shape(1000, 100, 0.5), Targets(0.5, 1.0))
    assert cached is not None
    assert cached.rate == pytest.approx(20.0)
    full = made.prefill_capacity(Shape(1000, 100, 1.0), Targets(0.5, 1.0))
    assert full is not None
    assert full.rate == pytest.approx(1 / 51e-4)
    # longer than a step: one at a time, in two steps
    long = made.prefill_capacity(Shape(10_000, 100), Targets(0.5, 1.0))
    assert long is not None
    assert (long.batch, long.within, long.rate) == (1, False, pytest.approx(1.0))


def test_decode_capacity_by_hand() -> None:
    """10 ms + 1 ms a sequence: at 50 ms 40 sequences, 8 answers of 100 tokens/s."""
    made = engine(Steps(seq=0.001), kv_tokens=1_000_000)
    found = made.decode_capacity(Shape(1000, 100), Targets(1.0, 0.050000001))
    assert found is not None
    assert (found.batch, found.within) == (40, True)
    assert found.rate == pytest.approx(40 / (100 * 0.05))
    # KV for 100,000 // 1,050 = 95 sequences, all within a slow target
    small = engine(Steps(seq=0.001)).decode_capacity(Shape(1000, 100), Targets(1.0, 1.0))
    assert small is not None
    assert small.batch == 95
    # a target nobody keeps: the fastest batch of all, not the smallest
    lost = made.decode_capacity(Shape(1000, 100), Targets(1.0, 0.001))
    assert lost is not None
    assert (lost.batch, lost.within) == (100, False)


def test_mixed_capacity_by_hand() -> None:
    """Batch b carries 10·b prompt tokens a step of 10 ms + 1 ms·b: 50 ms at b = 20."""
    made = engine(Steps(), kv_tokens=1_000_000)
    found = made.mixed_capacity(Shape(1000, 100), Targets(9.0, 0.0300001))
    assert found is not None
    assert (found.batch, found.tpot_s) == (20, pytest.approx(0.03))
    assert found.ttft_s == pytest.approx(0.01 + 1e-4 * 1200)


def test_candidates_are_all_or_128_evenly_spaced() -> None:
    """The first and the last are among them."""
    assert list(candidates(3)) == [1, 2, 3]
    many = list(candidates(1000))
    assert (len(many), many[0], many[-1]) == (128, 1, 1000)
    assert not list(candidates(0))


# --- the throughput loop -----------------------------------------------------------------------


def sla(**changes: Any) -> DynamoSla:
    """Return the planner with a forecast of no change and no budget."""
    return DynamoSla(**({"forecaster": Constant(), "budget": FREE} | changes))


def both(now_s: float, rate: float, prefill: int = 1, decode: int = 1, **more: Any) -> Any:
    """Return a look at two pools: 10 prompts/s and, at 50 ms, 8 answers/s a worker."""
    made = engine(Steps(seq=0.001), kv_tokens=1_000_000)
    return seen(
        now_s,
        flow(rate, **more),
        prefill=pool(prefill, engine=made),
        decode=pool(decode, engine=made),
    )


@pytest.mark.parametrize(
    ("look", "wanted"),
    [
        (both(180, 30.0), {"prefill": 3, "decode": 4}),  # 30/10, 30/8
        (both(180, 31.0, 3, 4), {"prefill": 4}),
        (both(180, 5.0, 3, 4), {"prefill": 1, "decode": 1}),
        (both(180, 200.0), {"prefill": 9, "decode": 9}),  # eight more at most
        (both(180, 30.0, hit_rate=0.5), {"prefill": 2, "decode": 4}),  # 20 prompts/s
        (both(180, 0.0), {}),  # nothing was ever asked
        (both(175, 30.0), {}),  # not due yet
    ],
)
def test_demand_over_what_a_worker_sustains(look: Any, wanted: dict[str, int]) -> None:
    """ceil(demand / rate), the change capped, hits taken off, every 180 s."""
    assert planned(sla(tpot_s=0.050000001), look) == [wanted]


def test_the_floor_that_was_taken_back() -> None:
    """A prompt of 1 s with a target of 0.3 s: four prefill workers at least, whatever comes."""
    policy = sla(ttft_s=0.3, latency_floor=True)
    long = {"inputs": 10_000.0}
    assert planned(policy, both(180, 0.1, 1, 1, **long)) == [{"prefill": 4}]
    plain = sla(ttft_s=0.3)
    assert planned(plain, both(180, 0.1, 1, 1, **long)) == [{}]


def test_an_idle_interval_is_remembered_with_the_lengths_before() -> None:
    """After traffic a rate of 0 asks for the least workers."""
    looks = [both(180, 30.0, 3, 4), both(360, 0.0, 3, 4)]
    assert planned(sla(tpot_s=0.050000001), *looks) == [{}, {"prefill": 1, "decode": 1}]


def test_the_budget_fits_the_throughput_loop_too() -> None:
    """3 and 4 asked for of 6 GPUs from 2 and 2: 3 and 3 are as near as 2 and 4, and cut alike."""
    held = sla(tpot_s=0.050000001, budget=Budget(max_gpu_budget=6))
    assert planned(held, both(180, 30.0, 2, 2)) == [{"prefill": 3, "decode": 3}]


def test_one_unknown_engine_holds_both_pools() -> None:
    """Prefill is not sized while decode cannot be."""
    look = seen(180, flow(30.0), prefill=pool(1), decode=pool(1, engine=None))
    assert planned(sla(), look) == [{}]


# --- the load loop -----------------------------------------------------------------------------


def loaded(ready: int, now_s: float = 25.0, **gauges: Any) -> Any:
    """Return a look at prefill workers that compute prompts of 1,000 tokens, and idle decode."""
    busy = {"scheduled_tokens": (1000,) * ready, "scheduled_prompts": (1,) * ready}
    return seen(now_s, prefill=pool(ready, **(busy | gauges)), decode=pool(1))


def after_looks(*looks: Any) -> list[dict[str, int]]:
    """Return the plans of the last of looks five seconds apart."""
    policy = sla(load=True, throughput_s=10_000.0)
    return planned(policy, *looks)[-1:]


@pytest.mark.parametrize(
    ("queued", "wanted"),
    [
        # 0.1 ms a token, the next prompt 1,000: TTFT 0.1 s + queue; the target 0.5 s
        ((4_001, 4_001), {"prefill": 3}),  # all over
        ((4_001, 3_900), {}),  # not all
        # one fewer: queue doubled, 0.2 ms a token; 0.8 × (0.5 − 0.1) = 0.32 s
        ((1_599, 0), {"prefill": 1}),
        ((1_600, 0), {}),
        ((0,), {}),  # one stays
    ],
)
def test_the_next_prompts_wait_now_and_with_one_worker_fewer(
    queued: tuple[int, ...], wanted: dict[str, int]
) -> None:
    """Up where every worker's TTFT is late, down where the queue would fit into the margin."""
    looks = [loaded(len(queued), at, queued_tokens=queued) for at in (5, 10, 15, 20, 25)]
    assert after_looks(*looks) == [wanted]


@pytest.mark.parametrize(
    ("running", "kv", "wanted"),
    [
        # 10 ms + 1 ms a sequence, target 50 ms
        ((41, 41), (4100, 4100), {"decode": 3}),
        ((41, 40), (4100, 4000), {}),
        # one fewer: twice as many sequences, under 0.8 × 50 = 40 ms
        ((14, 14), (1400, 1400), {"decode": 1}),
        ((16, 14), (1600, 1400), {}),
        # the KV of both does not fit one
        ((5, 5), (50_000, 50_000), {}),
    ],
)
def test_the_batch_now_and_with_one_worker_fewer(
    running: tuple[int, ...], kv: tuple[int, ...], wanted: dict[str, int]
) -> None:
    """Up where every iteration is slow, down where the others' would keep 80 % of the target."""
    decode = pool(2, running=running, kv_tokens=kv, engine=engine(Steps(seq=0.001)))
    prompts = {"scheduled_tokens": (1000,), "scheduled_prompts": (1,)}
    looks = [seen(at, prefill=pool(1, **prompts), decode=decode) for at in (5, 10, 15, 20, 25)]
    assert after_looks(*looks) == [wanted]


def test_the_load_loop_waits_for_five_looks() -> None:
    """Four are not enough, however late prompts are."""
    looks = [loaded(2, at, queued_tokens=(9_000, 9_000)) for at in (5, 10, 15, 20, 25)]
    policy = sla(load=True, throughput_s=10_000.0)
    assert planned(policy, *looks) == [{}, {}, {}, {}, {"prefill": 3}]


def test_flat_load_between_two_capacities_does_not_flap() -> None:
    """Two workers at 70 % of KV and an ITL of 23 of 40 ms stay: one could not hold both's KV."""
    made = engine(Steps(base=0.009, seq=0.001))
    decode = pool(2, running=(14, 14), kv_tokens=(70_000, 70_000), engine=made)
    prompts = {"scheduled_tokens": (1000,), "scheduled_prompts": (1,)}
    looks = [seen(5 * at, prefill=pool(1, **prompts), decode=decode) for at in range(1, 50)]
    plans = planned(sla(load=True, tpot_s=0.04, throughput_s=10_000.0), *looks)
    assert not any(plans)


def test_with_both_loops_throughput_is_only_a_floor() -> None:
    """The load loop would shrink idle pools, and does so down to what demand takes."""
    policy = sla(load=True, tpot_s=0.050000001)
    looks = [both(5.0 * at, 20.0, 4, 4) for at in range(1, 37)]
    plans = planned(policy, *looks)
    assert plans[-1] == {"prefill": 3, "decode": 3}
    # 2 and 3 workers carry 20 requests/s: of 3 and 3 decode stays
    plans = planned(policy, *looks, both(185, 20.0, 3, 3), both(190, 20.0, 2, 3))
    assert plans[-2:] == [{"prefill": 2}, {}]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: DynamoThreshold(target="cost"),
        lambda: DynamoThreshold(target="load"),
        lambda: DynamoThreshold(prefill_up_tokens=5.0),
        lambda: DynamoThreshold(decode_up_percent=5.0, decode_down_percent=6.0),
        lambda: DynamoSla(ttft_s=None),
        lambda: DynamoSla(tpot_s=0.0),
        lambda: DynamoSla(throughput_s=0.0),
        lambda: DynamoSla(sensitivity=80),
        lambda: DynamoSla(max_change=0),
        lambda: Budget(min_endpoint=0),
        lambda: Budget(max_gpu_budget=0),
        lambda: Budget(min_gpu_budget=9),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: Any) -> None:
    """Each in one sentence that names what was expected."""
    with pytest.raises(ValueError, match=r" must "):
        bad()
