"""Rate matching at run time: splits worked by hand, and how it goes with an autoscaler."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.policies.autoscaling import Flip, Observation, Plan, PoolSeen, Static, TrafficSeen
from simulator.policies.engines import Capacity, Shape, Targets
from simulator.policies.forecasting import Constant
from simulator.policies.matching import (
    Aiconfigurator,
    Common,
    Counts,
    Matcher,
    ModelPredictive,
    Moved,
    Pair,
    Paper,
    QueueBalance,
    RateMatched,
    Ratio,
    SloFeedback,
    TokenVelocity,
    View,
    near,
)

COMMON = Common(ttft_s=1.0, tpot_s=0.05)


@dataclass(frozen=True)
class Fixed:
    """An engine that sustains so much, whatever is asked of it."""

    rate: float

    def prefill_capacity(self, shape: Shape, targets: Targets) -> Capacity:  # noqa: ARG002
        """Return the given rate."""
        return Capacity(self.rate, within=True, batch=1)

    decode_capacity = prefill_capacity


def pool(desired: int, rate: float = 1.0, gpus: int = 1, **seen: Any) -> PoolSeen:
    """Return a pool all of whose workers are ready."""
    told: dict[str, Any] = {"waiting": (0,) * desired, "running": (0,) * desired}
    return PoolSeen(
        desired=desired,
        pending=0,
        starting=0,
        ready=desired,
        draining=0,
        gpus_per_worker=gpus,
        kv_utilization=(0.0,) * desired,
        engine=Fixed(rate),  # type: ignore[arg-type]
        **(told | seen),
    )


def seen(prefill: PoolSeen, decode: PoolSeen, now_s: float = 30.0, **traffic: Any) -> Observation:
    """Return what a matcher's tick sees."""
    told: dict[str, Any] = {"requests": 100, "rate": 3.0, "input_tokens": 1000.0}
    told |= {"output_tokens": 100.0, "ttft_s": (), "tpot_s": ()}
    return Observation(
        now_s=now_s,
        seen_s=now_s,
        pools={"prefill": prefill, "decode": decode},
        traffic=TrafficSeen(**(told | traffic)),
        free_gpus=None,
    )


def view_of(now: tuple[int, int], budget: int) -> View:
    """Return a matcher's view of pools whose workers have a GPU each."""
    at = seen(pool(now[0]), pool(now[1]))
    return View(seen=at, budget=budget, gpus=Counts(1, 1), now=Counts(*now), rates=None)


def asked(matcher: Matcher, at: Observation) -> tuple[int, int]:
    """Return the workers of both pools that come out, as they are where nothing does."""
    policy = RateMatched(matcher=matcher)
    plan, _ = policy.decide(at, policy.initial())
    pools = at.pools
    return (
        plan.workers.get("prefill", pools["prefill"].desired),
        plan.workers.get("decode", pools["decode"].desired),
    )


@pytest.mark.parametrize(
    ("ratio", "counts", "gpus", "split"),
    [
        ((1, 1), (4, 4), (1, 1), (4, 4)),
        ((3, 1), (4, 4), (1, 1), (6, 2)),
        ((1, 3), (6, 2), (1, 1), (2, 6)),
        ((2, 1), (2, 3), (1, 1), (3, 2)),  # 3/2 and 2/1 against 4/2 and 1/1: 1.5 beats 1
        ((1, 1), (1, 3), (4, 2), (1, 3)),  # 10 GPUs: 4 of 4 and 6 of 2 are worth 4, 8 and 2 only 2
        ((1, 1), (1, 1), (4, 2), (1, 1)),
    ],
)
def test_a_fixed_ratio(
    ratio: tuple[int, int], counts: tuple[int, int], gpus: tuple[int, int], split: tuple[int, int]
) -> None:
    """GPUs as near to the ratio as the budget allows, whatever the rates."""
    at = seen(pool(counts[0], 9.0, gpus[0]), pool(counts[1], 0.1, gpus[1]))
    matcher = Ratio(common=COMMON, prefill=ratio[0], decode=ratio[1])
    assert asked(matcher, at) == split


@pytest.mark.parametrize(
    ("rates", "counts", "gpus", "split"),
    [
        ((2.0, 1.0), (4, 4), (1, 1), (2, 4)),  # 1:2, and 6 of 8 GPUs hold two of it
        ((1.0, 2.0), (3, 6), (1, 1), (6, 3)),  # 2:1, three times in 9
        ((1.0, 1.0), (5, 3), (1, 1), (4, 4)),
        ((1.0, 1.0), (2, 5), (1, 1), (3, 3)),  # of 7 one is left over
        ((1.0, 1.02), (4, 2), (1, 1), (3, 3)),  # 2 % apart are balanced
        ((3.0, 2.0), (1, 1), (1, 1), (1, 1)),  # 2:3 needs 5 GPUs; of 2 the highest rate
        ((3.0, 2.0), (2, 1), (1, 1), (1, 2)),  # and of 3: min(3, 4) beats min(6, 2)
        ((1.0, 1.0), (1, 4), (2, 1), (2, 2)),  # 3 GPUs each, twice in 6
    ],
)
def test_the_paper_s_fraction(
    rates: tuple[float, float],
    counts: tuple[int, int],
    gpus: tuple[int, int],
    split: tuple[int, int],
) -> None:
    """Copies of the fewest workers whose rates differ by at most 3 %."""
    at = seen(pool(counts[0], rates[0], gpus[0]), pool(counts[1], rates[1], gpus[1]))
    assert asked(Paper(common=COMMON), at) == split


@pytest.mark.parametrize(
    ("rates", "counts", "split"),
    [
        ((1.0, 1.0), (2, 2), (2, 2)),  # min(1.8, 1.84)
        ((1.0, 1.0), (5, 2), (4, 3)),  # 2.76 against 2.7 of 3 and 4
        ((4.0, 1.0), (4, 4), (2, 6)),  # min(7.2, 5.52); 1 and 7: 3.6
        ((1.0, 9.0), (4, 4), (7, 1)),  # min(6.3, 8.28)
        ((9.0, 1.0), (2, 8), (1, 9)),  # min(8.1, 8.28)
        ((1.0, 100.0), (1, 1), (1, 1)),
    ],
)
def test_aiconfigurator_s_max_min(
    rates: tuple[float, float], counts: tuple[int, int], split: tuple[int, int]
) -> None:
    """The highest min(0.90 · n_p · R_p, 0.92 · n_d · R_d) on the budget."""
    at = seen(pool(counts[0], rates[0]), pool(counts[1], rates[1]))
    assert asked(Aiconfigurator(common=COMMON), at) == split


@pytest.mark.parametrize(
    ("rate", "rates", "counts", "split"),
    [
        (3.0, (1.0, 1.0), (5, 5), (3, 3)),
        (3.1, (1.0, 2.0), (5, 5), (4, 2)),
        (0.1, (1.0, 1.0), (5, 5), (1, 1)),
        (9.0, (1.0, 1.0), (5, 5), (5, 5)),  # 9 and 9 do not fit 10: half each
        (30.0, (2.0, 1.0), (3, 3), (2, 4)),  # 15 and 30 do not fit 6
        (4.0, (2.0, 1.0), (3, 3), (2, 4)),
    ],
)
def test_token_velocity(
    rate: float, rates: tuple[float, float], counts: tuple[int, int], split: tuple[int, int]
) -> None:
    """ceil(arriving tokens / one worker's), or shares of the budget."""
    at = seen(pool(counts[0], rates[0]), pool(counts[1], rates[1]), rate=rate)
    assert asked(TokenVelocity(common=COMMON), at) == split


@pytest.mark.parametrize(
    ("queued", "waiting", "split"),
    [
        (0, 0, (3, 3)),  # nobody waits: as they are
        (30, 0, (5, 1)),  # all that is queued is for prefill
        (0, 30, (1, 5)),
        (10, 20, (2, 4)),  # 5 s each
        (15, 15, (3, 3)),
        (16, 15, (3, 3)),  # 5.33 s; (4, 2) would wait 7.5
        (20, 19, (3, 3)),
        (18, 9, (4, 2)),  # 4.5 against 6 s now
        (31, 29, (3, 3)),
    ],
)
def test_queue_balance(queued: int, waiting: int, split: tuple[int, int]) -> None:
    """The split whose longer wait is shortest, at 1 request/s a worker."""
    at = seen(pool(3, waiting=(queued, 0, 0)), pool(3, waiting=(0, waiting, 0)), rate=0.0)
    assert asked(QueueBalance(common=COMMON), at) == split


def test_who_waits_at_the_router_waits_for_prefill() -> None:
    """Twelve there count as twelve at a worker; what is told of decode does not."""
    at = seen(pool(3, held=12), pool(3, waiting=(0, 3, 0), held=12), rate=0.0)
    same = seen(pool(3, waiting=(12, 0, 0)), pool(3, waiting=(0, 3, 0)), rate=0.0)
    assert asked(QueueBalance(common=COMMON), at) == asked(QueueBalance(common=COMMON), same)
    assert asked(QueueBalance(common=COMMON), at) != (3, 3)


def test_a_small_gain_moves_nobody() -> None:
    """A wait that is shorter by less than the gain asked for is not worth a change."""
    lines = pool(4, waiting=(20, 0, 0, 0)), pool(4, waiting=(12, 0, 0, 0))
    at = seen(*lines, rate=0.0)  # 5 s; (5, 3): 4 s
    assert asked(QueueBalance(common=COMMON, gain=0.1), at) == (5, 3)
    assert asked(QueueBalance(common=COMMON, gain=0.21), at) == (4, 4)
    at = seen(*lines, rate=1.0)  # 30 more come: 12.5 s; (5, 3) would be 14 s
    assert asked(QueueBalance(common=COMMON, gain=0.1), at) == (4, 4)
    unread = seen(pool(4, waiting=None), pool(4))
    assert asked(QueueBalance(common=COMMON), unread) == (4, 4)


@pytest.mark.parametrize(
    ("ttft", "tpot", "split"),
    [
        (1.5, 0.02, (4, 2)),  # TTFT at 150 %, TPOT at 40 %
        (0.5, 0.06, (2, 4)),
        (1.0, 0.02, (3, 3)),  # at the target is held
        (1.5, 0.041, (3, 3)),  # 82 % leaves no room
        (1.5, 0.039, (4, 2)),
        (1.5, 0.06, (3, 3)),  # both miss
        (0.1, 0.01, (3, 3)),
    ],
)
def test_slo_feedback(ttft: float, tpot: float, split: tuple[int, int]) -> None:
    """A worker goes to who misses from who has room."""
    at = seen(pool(3), pool(3), ttft_s=(ttft,), tpot_s=(tpot,))
    assert asked(SloFeedback(common=COMMON), at) == split


def test_slo_feedback_waits_after_a_move_and_leaves_one() -> None:
    """Not twice within the cooldown; the last worker stays; large ones make room for small ones."""
    policy = RateMatched(matcher=SloFeedback(common=COMMON))
    late: dict[str, Any] = {"ttft_s": (2.0,), "tpot_s": (0.01,)}
    state, counts = policy.initial(), []
    for now_s in (30.0, 60.0, 90.0, 120.0):
        plan, state = policy.decide(seen(pool(3), pool(3), now_s, **late), state)
        counts.append(plan.workers.get("prefill"))
    assert counts == [4, None, 4, None]
    assert state.matcher == Moved(90.0)
    assert asked(SloFeedback(common=COMMON), seen(pool(3), pool(1), **late)) == (3, 1)
    assert asked(SloFeedback(common=COMMON), seen(pool(2, gpus=4), pool(5, gpus=2), **late)) == (
        3,
        3,
    )
    ninety = (0.1,) * 10 + (2.0,)  # p90 is the tenth of eleven
    at = seen(pool(3), pool(3), ttft_s=ninety, tpot_s=(0.01,))
    assert asked(SloFeedback(common=COMMON), at) == (3, 3)
    assert asked(SloFeedback(common=COMMON), seen(pool(3), pool(3), ttft_s=(2.0,))) == (3, 3)


FREE = ModelPredictive(
    common=replace(COMMON, gpus=10),
    forecaster=Constant(),
    horizon=2,
    startup_s=0.0,
    late=10.0,
    change=0.0,
)


@pytest.mark.parametrize(
    ("matcher", "rate", "counts", "split"),
    [
        (FREE, 3.0, (5, 5), (3, 3)),  # the fewest that serve it
        (FREE, 2.5, (5, 5), (3, 3)),
        (FREE, 5.0, (1, 1), (5, 5)),
        (replace(FREE, late=0.0), 5.0, (3, 3), (1, 1)),  # waiting costs nothing
        (replace(FREE, change=1e9), 5.0, (3, 3), (3, 3)),  # change costs everything
        (replace(FREE, reach=1), 5.0, (1, 1), (2, 2)),
        # nothing that starts is there in time: two intervals of 2 GPUs, and no more
        (replace(FREE, startup_s=60.0), 5.0, (1, 1), (1, 1)),
        # 30 + 60 s of 4 GPUs more against what 60 s more of 3 requests/s waiting cost
        (replace(FREE, startup_s=30.0), 5.0, (2, 2), (5, 5)),
    ],
)
def test_model_predictive(
    matcher: ModelPredictive, rate: float, counts: tuple[int, int], split: tuple[int, int]
) -> None:
    """The least of GPU-seconds, waiting and changes over the horizon, at 1 request/s a worker."""
    assert asked(matcher, seen(pool(counts[0]), pool(counts[1]), rate=rate)) == split


def test_what_waits_counts_too() -> None:
    """Who is queued is served as well, so that more workers pay than the rate asks for."""
    at = seen(pool(2, waiting=(40, 40)), pool(2), rate=2.0)
    prefill, decode = asked(FREE, at)
    assert min(prefill, decode) > 2


def test_what_a_split_costs() -> None:
    """30 s a step, 3 requests/s into 1 + 1 workers of 1/s, and 2 + 2 from the second step on.

    One worker more of each is 2 changes at 7. The first step costs 4 GPUs · 30 s, and 5 waiting
    become 5 + 60 = 65: on average 35, late at 10 for 30 s. In the second 1/s more than 2 workers
    serve comes: 95, on average 80.
    """
    view = view_of((1, 1), 8)
    costly = replace(FREE, startup_s=30.0, change=7.0)
    ahead = [(3.0, Pair(1.0, 1.0))] * 2
    spent = 2 * 7 + 2 * 4 * 30 + 10 * 30 * (35 + 80)
    assert costly.cost(view, Counts(2, 2), ahead, 5.0) == pytest.approx(spent)
    # where more is served than comes the line ends at none: on average 2.5
    idle = [(0.5, Pair(1.0, 1.0))]
    served = costly.cost(view, Counts(1, 1), idle, 5.0)
    assert served == pytest.approx(2 * 30 + 10 * 30 * 2.5)


def test_where_nobody_says_a_start_takes_a_minute() -> None:
    """Two steps of 30 s pass before those that are new serve."""
    assert ModelPredictive(common=COMMON).startup_s is None
    view, ahead = view_of((1, 1), 8), [(2.0, Pair(1.0, 1.0))] * 3
    unknown, told = (replace(FREE, startup_s=seconds) for seconds in (None, 60.0))
    costs = [each.cost(view, Counts(2, 2), ahead, 0.0) for each in (unknown, told)]
    assert costs[0] == costs[1] == 3 * 4 * 30 + 10 * 30 * (15 + 45 + 60)


def test_splits_nearby() -> None:
    """Every one within reach and budget, none without a worker."""
    found = list(near(view_of((2, 1), 5), 1))
    assert found == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert list(near(view_of((2, 1), 3), 1)) == [(1, 1), (1, 2), (2, 1)]


MATCHERS = (
    Ratio(common=COMMON),
    Paper(common=COMMON),
    Aiconfigurator(common=COMMON),
    TokenVelocity(common=COMMON),
    QueueBalance(common=COMMON),
    SloFeedback(common=COMMON),
    ModelPredictive(common=COMMON),
)
rates = st.floats(0.01, 100.0)
workers = st.integers(1, 12)


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda each: type(each).__name__)
@given(
    rates=st.tuples(rates, rates),
    counts=st.tuples(workers, workers),
    gpus=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    rate=rates,
    late=st.tuples(st.floats(0.01, 5.0), st.floats(0.001, 0.5)),
    lines=st.tuples(st.integers(0, 500), st.integers(0, 500)),
)
def test_every_matcher_keeps_the_budget(
    matcher: Matcher,
    rates: tuple[float, float],
    counts: tuple[int, int],
    gpus: tuple[int, int],
    rate: float,
    late: tuple[float, float],
    lines: tuple[int, int],
) -> None:
    """Never more GPUs than there are to split, never a pool without a worker, always the same."""
    pools = [
        pool(n, r, g, waiting=(line,) + (0,) * (n - 1))
        for n, r, g, line in zip(counts, rates, gpus, lines, strict=True)
    ]
    at = seen(pools[0], pools[1], rate=rate, ttft_s=(late[0],), tpot_s=(late[1],))
    split = asked(matcher, at)
    assert min(split) >= 1
    spent = [n * g for n, g in zip(split, gpus, strict=True)]
    assert sum(spent) <= sum(n * g for n, g in zip(counts, gpus, strict=True))
    assert asked(matcher, at) == split


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda each: type(each).__name__)
def test_every_matcher_survives_what_it_may_see(matcher: Matcher) -> None:
    """No traffic, lengths that are NaN, gauges that are missing, engines nobody knows."""
    nothing = {"requests": 0, "rate": 0.0, "input_tokens": math.nan, "output_tokens": math.nan}
    views = [
        seen(pool(2), pool(2), **nothing),
        seen(pool(2, waiting=None), pool(2, waiting=None)),
        seen(replace(pool(2), engine=None), pool(2)),
        seen(replace(pool(2), ready=0, starting=2, waiting=()), pool(2)),
    ]
    for view in views:
        assert min(asked(matcher, view)) >= 1


# --- together with an autoscaler ---------------------------------------------------------------


@dataclass(frozen=True)
class Asks:
    """An autoscaler that asks for the same every time."""

    workers: tuple[tuple[str, int], ...]
    interval_s: float = 20.0

    def initial(self) -> int:
        """Return that it was asked never."""
        return 0

    def decide(self, seen: Observation, state: int) -> tuple[Plan, int]:  # noqa: ARG002
        """Return the workers, and how often it was asked."""
        return Plan(dict(self.workers), "asks"), state + 1


def test_each_is_asked_at_its_own_interval() -> None:
    """Every 20 s how many GPUs, every 30 s how to split them, and when their number changed."""
    scaler = Asks((("prefill", 6), ("decode", 6)))
    policy = RateMatched(matcher=Ratio(common=COMMON, prefill=2.0), autoscaler=scaler)
    assert policy.interval_s == 10.0
    state, told = policy.initial(), []
    for tick in range(1, 7):
        plan, state = policy.decide(seen(pool(2), pool(2), 10.0 * tick), state)
        told.append(dict(plan.workers))
    split = {"prefill": 8, "decode": 4}
    assert told == [{}, split, split, {}, {}, split]  # at 20 s the budget changed from 4 to 12
    assert state.scaler == 3


def test_other_pools_are_the_autoscaler_s() -> None:
    """What it asks for mixed workers passes, whether or not there is anything to split."""
    scaler = Asks((("mixed", 5),))
    policy = RateMatched(matcher=Ratio(common=COMMON), autoscaler=scaler)
    at = seen(pool(2), pool(2), 20.0)
    at = replace(at, pools={**at.pools, "mixed": pool(1)})
    plan, _ = policy.decide(at, policy.initial())
    assert plan.workers["mixed"] == 5
    plan, _ = policy.decide(at, policy.initial()._replace(budget=4))
    assert plan.workers == {"mixed": 5}


def test_nothing_is_split_while_workers_are_to_come() -> None:
    """A pending, starting or inbound worker holds the next split; other pools go on."""
    policy = RateMatched(matcher=Ratio(common=COMMON, decode=3.0))
    for late in ({"ready": 2, "starting": 1}, {"ready": 2, "pending": 1}, {"ready": 2}):
        plan, _ = policy.decide(seen(replace(pool(3), **late), pool(3)), policy.initial())
        assert plan.workers == {}
        assert "still to come" in plan.reason


def test_a_static_budget_is_what_the_pools_began_with() -> None:
    """A split that leaves GPUs alone does not make the next one smaller."""
    policy = RateMatched(matcher=TokenVelocity(common=COMMON))
    plan, state = policy.decide(seen(pool(4), pool(4), 30.0, rate=1.0), policy.initial())
    assert plan.workers == {"prefill": 1, "decode": 1}
    plan, _ = policy.decide(seen(pool(1), pool(1), 60.0, rate=4.0), state)
    assert plan.workers == {"prefill": 4, "decode": 4}


def test_workers_of_one_size_flip() -> None:
    """As many as change pools do it on their own GPUs; others cannot."""
    flipping = replace(COMMON, flips=True)
    for gpus, flips in (((1, 1), (Flip("prefill", "decode", 2),)), ((2, 1), ())):
        policy = RateMatched(matcher=Ratio(common=flipping, decode=3.0))
        at = seen(pool(4, gpus=gpus[0]), pool(4, gpus=gpus[1]))
        plan, _ = policy.decide(at, policy.initial())
        assert plan.together
        assert plan.flips == flips
    policy = RateMatched(matcher=Ratio(common=COMMON, decode=3.0))
    assert policy.decide(seen(pool(4), pool(4)), policy.initial())[0].flips == ()


def test_a_static_autoscaler_adds_no_ticks() -> None:
    """The matcher's own interval is the tick; from the first one on it is due at each."""
    policy = RateMatched(matcher=Ratio(common=replace(COMMON, interval_s=1.0), prefill=3.0))
    assert policy.interval_s == 1.0
    plan, _ = policy.decide(seen(pool(4), pool(4), 1.0), policy.initial())
    assert plan.workers == {"prefill": 6, "decode": 2}


@pytest.mark.parametrize(
    ("gpus", "counts", "late", "split"),
    [
        # of 18 GPUs none is free: two of 2 GPUs leave for one of 4
        ((2, 4), (5, 2), {"ttft_s": (0.1,), "tpot_s": (0.1,)}, (3, 3)),
        ((4, 2), (2, 5), {"ttft_s": (2.0,), "tpot_s": (0.01,)}, (3, 3)),
        # a large one leaves for a small one
        ((4, 2), (2, 5), {"ttft_s": (0.1,), "tpot_s": (0.1,)}, (1, 6)),
    ],
)
def test_workers_of_two_sizes_make_room(
    gpus: tuple[int, int], counts: tuple[int, int], late: dict[str, Any], split: tuple[int, int]
) -> None:
    """As many leave as one more takes; of 20 GPUs two are free, and one leaves."""
    at = seen(pool(counts[0], gpus=gpus[0]), pool(counts[1], gpus=gpus[1]), **late)
    assert asked(SloFeedback(common=COMMON), at) == split
    roomy = SloFeedback(common=replace(COMMON, gpus=20))
    grown = [b > a for a, b in zip(counts, split, strict=True)]
    one_each = tuple(n + 1 if up else n - 1 for n, up in zip(counts, grown, strict=True))
    assert asked(roomy, at) == one_each


def test_pools_that_just_fit_are_split() -> None:
    """All of a quota, and no more than one worker of each."""
    for gpus, quota in ((8, 8), (8, None), (None, 8)):
        policy = RateMatched(matcher=Ratio(common=replace(COMMON, gpus=gpus)))
        policy.check({"prefill": 4, "decode": 4}, quota)


@pytest.mark.parametrize(
    ("gpus", "given", "quota", "told"),
    [
        ({"mixed": 1}, None, None, "rate_matcher Ratio: .* there is no prefill pool, only mixed"),
        ({"prefill": 4, "decode": 4}, 7, None, "gpus: 7 GPUs are less than the 8"),
        ({"prefill": 4, "decode": 4}, None, 7, "elastic.quota_gpus: 7 GPUs are less than the 8"),
        ({"prefill": 1, "decode": 1}, 9, 8, "gpus: 9 is more than elastic.quota_gpus, 8"),
    ],
)
def test_pools_that_cannot_be_split(
    gpus: dict[str, int], given: int | None, quota: int | None, told: str
) -> None:
    """One sentence names the key."""
    policy = RateMatched(matcher=Ratio(common=replace(COMMON, gpus=given)), autoscaler=Static())
    with pytest.raises(ConfigError, match=told):
        policy.check(gpus, quota)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Common(ttft_s=None, tpot_s=1.0), "ttft_s must be above 0 s.*set slo.ttft_s"),
        (lambda: replace(COMMON, interval_s=0.0), "interval_s must be at least 0.001 s"),
        (lambda: replace(COMMON, gpus=1), "gpus must be at least 2"),
        (lambda: replace(COMMON, utilization=0.0), "utilization must lie in"),
        (lambda: Ratio(common=COMMON, prefill=0.0), "fixed_ratio: prefill must be above 0"),
        (lambda: Paper(common=COMMON, tolerance=0.0), "tolerance must lie in"),
        (lambda: Aiconfigurator(common=COMMON, decode=1.5), "decode must be a share"),
        (lambda: QueueBalance(common=COMMON, gain=1.0), "gain must lie in"),
        (lambda: SloFeedback(common=COMMON, hysteresis=0.0), "hysteresis must lie in"),
        (lambda: SloFeedback(common=COMMON, cooldown_s=-1.0), "cooldown_s must be at least 0"),
        (lambda: ModelPredictive(common=COMMON, horizon=0), "horizon must be at least 1"),
        (lambda: ModelPredictive(common=COMMON, late=-1.0), "late must be at least 0"),
    ],
)
def test_bad_settings_are_named(build: Any, told: str) -> None:
    """One sentence, naming the field and the value."""
    with pytest.raises((ValueError, ConfigError), match=told):
        build()


def test_counts_are_of_both() -> None:
    """A split is a pair by name."""
    assert Counts(prefill=1, decode=2) == (1, 2)
