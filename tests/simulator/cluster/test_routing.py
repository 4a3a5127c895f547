"""Routing policies: what each one looks at, and that all meet the same traffic."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from builders import disaggregated, poisson_traffic, traffic
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster.pools.router import COLUMNS
from simulator.cluster.simulation import RunOptions, run
from simulator.errors import ConfigError
from simulator.policies.classes import Classes, ServiceClass
from simulator.policies.routing import (
    FirstFitSlo,
    LeastKV,
    LeastRequests,
    LeastTokens,
    PoolView,
    PowerOfTwo,
    Random,
    RoundRobin,
    RoutedRequest,
    RoutingPolicy,
    SessionAffinity,
)

POLICIES = (
    RoundRobin(),
    Random(),
    LeastRequests(),
    LeastTokens(),
    LeastKV(),
    PowerOfTwo(),
    SessionAffinity(),
)
loads = st.integers(1, 9).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.integers(0, 50), min_size=size, max_size=size) for _ in range(3)]
    )
)


@given(loads=loads, order=st.integers(0, 99), draw=st.floats(0, 1, exclude_max=True))
def test_every_policy_chooses_a_worker_and_is_pure(
    loads: tuple[list[int], list[int], list[int]], order: int, draw: float
) -> None:
    """A choice is a valid index, the same when asked again, and leaves the view alone."""
    view = PoolView(*[tuple(load) for load in loads])
    request = RoutedRequest(7, 100, 10, order, draw)
    for policy in POLICIES:
        chosen = policy.choose(request, view)
        assert 0 <= chosen < len(loads[0])
        assert policy.choose(request, view) == chosen


@given(loads=loads, draw=st.floats(0, 1, exclude_max=True))
def test_least_policies_minimise_what_they_are_named_for(
    loads: tuple[list[int], list[int], list[int]], draw: float
) -> None:
    """No other worker has less of it."""
    view = PoolView(*[tuple(load) for load in loads])
    request = RoutedRequest(0, 1, 1, 0, draw)
    for policy, load in (
        (LeastRequests(), loads[0]),
        (LeastTokens(), loads[1]),
        (LeastKV(), loads[2]),
    ):
        assert load[policy.choose(request, view)] == min(load)


@pytest.mark.parametrize("policy", [LeastRequests(), LeastTokens(), LeastKV()])
@given(loads=loads)
def test_the_draw_chooses_evenly_among_the_tied(
    policy: RoutingPolicy, loads: tuple[list[int], list[int], list[int]]
) -> None:
    """Whoever ties for least is chosen by an equal part of the draws, and nobody else is."""
    view = PoolView(*[[value // 20 for value in load] for load in loads])
    size = len(view.requests)
    costs = {
        LeastRequests: view.requests,
        LeastTokens: list(zip(view.tokens, view.requests, strict=True)),
        LeastKV: view.kv_blocks,
    }[type(policy)]
    tied = [at for at, cost in enumerate(costs) if cost == min(costs)]
    draws = (np.arange(20 * len(tied)) + 0.5) / (20 * len(tied))
    chosen = Counter(policy.choose(RoutedRequest(0, 1, 1, 0, d), view) for d in draws.tolist())
    assert chosen == dict.fromkeys(tied, 20)
    assert size > max(chosen)


@pytest.mark.parametrize("policy", [LeastRequests(), LeastTokens(), LeastKV()])
def test_idle_workers_get_their_share_at_light_load(policy: RoutingPolicy) -> None:
    """When nearly every choice is a tie, each of 4 + 4 workers serves a quarter, within 4 σ."""
    deployment = disaggregated(4, 4, router=policy, decode_router=policy)
    columns = run(deployment, poisson_traffic(4000, 0.5, 20, 5), RunOptions(seed=1)).requests
    for column in ("prefill_worker", "decode_worker"):
        handed = columns[column][columns["output_tokens"] > 1]
        counts = np.array(list(Counter(handed.tolist()).values()))
        assert len(counts) == 4
        spread = np.sqrt(len(handed) * 0.25 * 0.75)
        assert (abs(counts - len(handed) / 4) <= 4 * spread).all()


def test_round_robin_takes_turns() -> None:
    """Arrivals reach the prefill workers one after the other."""
    deployment = disaggregated(3, 1, router=RoundRobin())
    columns = run(deployment, traffic(range(9), 10, 1), RunOptions()).requests
    assert columns["prefill_worker"].tolist() == [0, 1, 2] * 3


def test_random_is_uniform() -> None:
    """Over 6,000 requests each of 4 workers gets its share within 4 standard deviations."""
    load = poisson_traffic(6000, 50, 20, 1)
    columns = run(disaggregated(4, 1, router=Random()), load, RunOptions(seed=5)).requests
    counts = np.array(list(Counter(columns["prefill_worker"].tolist()).values()))
    assert len(counts) == 4
    assert (abs(counts - 1500) <= 4 * np.sqrt(6000 * 0.25 * 0.75)).all()


def test_least_kv_counts_requests_on_their_way() -> None:
    """Requests prefilled at one instant spread over the decode workers instead of herding."""
    deployment = disaggregated(1, 4, decode_router=LeastKV())
    columns = run(deployment, traffic([0.0] * 8, 100, 10), RunOptions()).requests
    assert sorted(Counter(columns["decode_worker"].tolist()).values()) == [2, 2, 2, 2]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_policies_meet_identical_traffic(policy: RoutingPolicy) -> None:
    """Whatever the router, arrivals and lengths are the same, and so are another pool's draws."""
    load = poisson_traffic(300, 40, 100, 20)
    base = run(disaggregated(2, 3, decode_router=Random()), load, RunOptions(seed=3)).requests
    other = run(
        disaggregated(2, 3, router=policy, decode_router=Random()), load, RunOptions(seed=3)
    ).requests
    for name in ("arrival_s", "input_tokens", "output_tokens"):
        np.testing.assert_array_equal(base[name], other[name])


def test_a_policy_that_leaves_the_pool_is_refused() -> None:
    """A plug-in that names a worker there is not gets one clear sentence."""

    class Outside:
        def choose(self, request: RoutedRequest, pool: PoolView) -> int:
            return len(pool.requests) + request.order

    with pytest.raises(ConfigError, match="Outside: chose worker 2 for request 0"):
        run(disaggregated(2, 1, router=Outside()), traffic([0.0], 10, 2), RunOptions())


@pytest.mark.parametrize(
    ("loads", "draw", "chosen"),
    [
        ([7], 0.9, 0),
        ([5, 1], 0.0, 1),  # 0 and, of the other, 1
        ([5, 5], 0.0, 0),  # alike: the one taken first
        ([5, 5], 0.5, 1),
        ([9, 9, 1, 0], 0.0, 0),  # 0 and 1: worker 3 is not looked at
        ([9, 3, 1, 0], 0.25 * 0.5, 2),  # 0, and halfway through the other three: 2
        ([9, 3, 1, 0], 0.5 + 0.25 * 0.9, 3),  # 2 and 3
    ],
)
def test_two_are_taken_at_random(loads: list[int], draw: float, chosen: int) -> None:
    """The first is draw · n, the second what is left of the draw, among the others."""
    view = PoolView(loads, [0] * len(loads), [0] * len(loads))
    assert PowerOfTwo().choose(RoutedRequest(0, 1, 1, 0, draw), view) == chosen


@given(size=st.integers(2, 12), load=st.sampled_from(["requests", "tokens", "kv_blocks"]))
def test_every_pair_is_as_likely(size: int, load: str) -> None:
    """Over evenly spread draws each worker beats exactly those with more than it."""
    ranks = list(range(size))
    view = PoolView(*[ranks if name == load else [0] * size for name in COLUMNS])
    draws = (np.arange(40 * size * (size - 1)) + 0.5) / (40 * size * (size - 1))
    policy = PowerOfTwo(load=load)
    chosen = Counter(policy.choose(RoutedRequest(0, 1, 1, 0, d), view) for d in draws.tolist())
    for worker in ranks:
        assert abs(chosen[worker] - 80 * (size - 1 - worker)) <= 2 * size  # of each ordered pair 40


class Told:
    """Estimates that are given, one of each kind per worker."""

    def __init__(self, ttft: list[float], tpot: list[float]) -> None:
        self.ttft, self.tpot = ttft, tpot

    def ttft_s(self, worker: int, tokens: int) -> float:  # noqa: ARG002
        """Return the given seconds."""
        return self.ttft[worker]

    def tpot_s(self, worker: int, tokens: int) -> float:  # noqa: ARG002
        """Return the given seconds."""
        return self.tpot[worker]


@pytest.mark.parametrize(
    ("ttft", "tpot", "chosen"),
    [
        ([0, 0, 0], [0.04, 0.01, 0.02], 0),  # the first that fits, not the fastest
        ([0, 0, 0], [0.06, 0.05, 0.02], 1),  # at the target fits
        ([0, 0, 0], [0.09, 0.06, 0.07], 1),  # none does: the least
        ([2.0, 0.9, 0.1], [0, 0, 0], 1),
        ([3.0, 2.0, 2.5], [0, 0, 0], 1),
        ([0.5, 0.9], [0.06, 0.04], 1),  # both targets must be held
        ([1.5, 1.1], [0.01, 0.10], 0),  # 1.5 of the one against 2 of the other
    ],
)
def test_the_first_that_fits(ttft: list[float], tpot: list[float], chosen: int) -> None:
    """Arrow's rule, worked by hand for targets of 1 s and 50 ms."""
    size = len(ttft)
    view = PoolView([0] * size, [0] * size, [0] * size, Told(ttft, tpot))
    due = ServiceClass(ttft_s=1.0, tpot_s=0.05)
    assert FirstFitSlo().choose(RoutedRequest(0, 10, 10, 0, 0.9, due), view) == chosen


def test_first_fit_fills_one_worker_after_the_other() -> None:
    """At light load only the first decode worker is used; with more, as few as hold the target."""
    load = poisson_traffic(300, 20, 100, 40)
    kind = Classes(kinds=(ServiceClass(ttft_s=10.0, tpot_s=0.0112),))  # 10 ms + 0.1 ms a sequence
    first = disaggregated(1, 8, decode_router=FirstFitSlo())
    columns = run(first, replace(load, classes=kind), RunOptions()).requests
    used = set(columns["decode_worker"].tolist())
    assert used == set(range(1, 1 + len(used)))
    assert 2 <= len(used) < 8


def test_first_fit_needs_its_targets() -> None:
    """One sentence names the key that is not set."""
    deployment = disaggregated(1, 1, decode_router=FirstFitSlo())
    with pytest.raises(ConfigError, match=r"decode_router FirstFitSlo: needs ttft_s .*slo.ttft_s"):
        run(deployment, traffic([0.0], 10, 2), RunOptions())


def test_a_load_nobody_has_is_refused() -> None:
    """One sentence names the field and what it may be."""
    with pytest.raises(ValueError, match="power_of_two: load must be one of requests, tokens, kv"):
        PowerOfTwo(load="luck")


def placed(session: int, size: int) -> int:
    """Return the worker of a session in an idle pool of so many."""
    idle = (0,) * size
    request = RoutedRequest(0, 1, 1, 0, 0.5, session=session)
    return SessionAffinity().choose(request, PoolView(idle, idle, idle))


def test_a_session_stays_and_few_move_when_a_worker_comes() -> None:
    """Of 20,000 sessions each of n workers has 1/n, and only the new one takes any from them."""
    before = [placed(session, 1) for session in range(20_000)]
    assert set(before) == {0}
    for size in range(2, 12):
        after = [placed(session, size) for session in range(20_000)]
        moved = [new for old, new in zip(before, after, strict=True) if new != old]
        assert set(moved) == {size - 1}
        share = 20_000 / size
        assert abs(len(moved) - share) < 5 * share**0.5
        assert all(abs(n - share) < 5 * share**0.5 for n in Counter(after).values())
        before = after


@given(session=st.integers(0, 2**31 - 1), size=st.integers(1, 4096))
def test_the_hash_is_the_published_one(session: int, size: int) -> None:
    """Lamping and Veach's function, computed once more with whole numbers."""
    key, bucket, after = session, -1, 0
    while after < size:
        bucket = after
        key = (key * 2862933555777941757 + 1) % 2**64
        after = (bucket + 1) * 2**31 // (key // 2**33 + 1)
    assert placed(session, size) == bucket


def test_who_has_no_session_goes_where_the_fewest_are() -> None:
    """And loads mean nothing to one that has."""
    view = PoolView((5, 1, 9), (0, 0, 0), (0, 0, 0))
    alone = RoutedRequest(0, 1, 1, 0, 0.5)
    assert SessionAffinity().choose(alone, view) == 1
    chosen = {SessionAffinity().choose(alone._replace(session=n), view) for n in range(50)}
    assert chosen == {0, 1, 2}


def test_all_turns_of_a_session_meet_at_one_worker() -> None:
    """In a run: by the numbers of sessions that the traffic brings."""
    load = replace(poisson_traffic(200, 20, 60, 10), sessions=np.arange(200, dtype=np.int32) % 7)
    deployment = replace(disaggregated(4, 1), router=SessionAffinity())
    workers = run(deployment, load, RunOptions()).requests["prefill_worker"]
    for session in range(7):
        assert set(workers[session::7].tolist()) == {placed(session, 4)}
    with pytest.raises(ConfigError, match="arrival_s and sessions differ in length"):
        replace(load, sessions=np.zeros(3, np.int32))
