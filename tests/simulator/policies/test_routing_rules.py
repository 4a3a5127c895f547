"""The plain routers and queue orders by hand: whose worker, and whose turn, in five cases each."""

from typing import Any

import pytest

from simulator.policies.classes import ServiceClass
from simulator.policies.queueing import Edf, Fcfs, Priority, Queued, Sjf, Wspt
from simulator.policies.routing import (
    LeastKV,
    LeastRequests,
    LeastTokens,
    PoolView,
    Random,
    RoundRobin,
    RoutedRequest,
    RoutingPolicy,
    SessionAffinity,
)


def pool(requests: list[int], tokens: list[int], kv_blocks: list[int]) -> PoolView:
    """Return a pool of workers with these loads."""
    return PoolView(requests, tokens, kv_blocks)


BUSY = pool([3, 1, 2, 1], [500, 900, 0, 400], [40, 10, 30, 5])
ALIKE = pool([2, 2, 2, 2], [7, 7, 7, 7], [1, 1, 1, 1])
SOME = pool([2, 0, 1, 0], [0, 5, 0, 0], [9, 4, 4, 4])
ONE = pool([9], [9_000], [900])
IDLE = pool([0, 0, 0], [0, 0, 0], [0, 0, 0])


@pytest.mark.parametrize(
    ("policy", "view", "order", "draw", "chosen"),
    [
        (RoundRobin(), BUSY, 0, 0.9, 0),
        (RoundRobin(), BUSY, 3, 0.0, 3),
        (RoundRobin(), BUSY, 4, 0.5, 0),
        (RoundRobin(), BUSY, 1_000_001, 0.0, 1),
        (RoundRobin(), IDLE, 5, 0.0, 2),
        (Random(), BUSY, 0, 0.0, 0),
        (Random(), BUSY, 7, 0.25, 1),  # the second quarter begins
        (Random(), BUSY, 7, 0.74, 2),
        (Random(), IDLE, 7, 0.99, 2),
        (Random(), ONE, 7, 0.99, 0),
        (LeastRequests(), BUSY, 0, 0.0, 1),  # 1 and 3 are alike
        (LeastRequests(), BUSY, 0, 0.5, 3),
        (LeastRequests(), ALIKE, 0, 0.6, 2),
        (LeastRequests(), SOME, 0, 0.49, 1),
        (LeastRequests(), ONE, 0, 0.9, 0),
        (LeastTokens(), BUSY, 0, 0.9, 2),
        (LeastTokens(), SOME, 0, 0.9, 3),  # 0, 2 and 3 have none; of these 3 has no request
        (LeastTokens(), ALIKE, 0, 0.25, 1),
        (LeastTokens(), pool([1, 2, 1], [8, 8, 8], [0, 0, 0]), 0, 0.0, 0),
        (LeastTokens(), pool([1, 2, 1], [8, 8, 8], [0, 0, 0]), 0, 0.5, 2),
        (LeastKV(), BUSY, 0, 0.0, 3),
        (LeastKV(), SOME, 0, 0.0, 1),  # 1, 2 and 3 are alike
        (LeastKV(), SOME, 0, 0.34, 2),
        (LeastKV(), SOME, 0, 0.99, 3),
        (LeastKV(), IDLE, 0, 0.7, 2),
    ],
)
def test_whose_worker_it_is(
    policy: RoutingPolicy, view: PoolView, order: int, draw: float, chosen: int
) -> None:
    """In turn, by the draw, or the least loaded, ties by the draw."""
    assert policy.choose(RoutedRequest(0, 100, 10, order, draw), view) == chosen


JUMP = 2862933555777941757


def jumped(session: int, workers: int) -> int:
    """Return the bucket of Lamping and Veach's page 2, in exact fractions."""
    key, bucket, after = session, -1, 0
    while after < workers:
        bucket = after
        key = (key * JUMP + 1) % 2**64
        after = (bucket + 1) * 2**31 // ((key // 2**33) + 1)
    return bucket


@pytest.mark.parametrize("session", [0, 1, 17, 123_456, 2**40])
def test_a_session_stays_at_its_bucket(session: int) -> None:
    """Whatever the loads and the draw; who has no session goes where the fewest requests are."""
    for workers in (1, 2, 5, 64):
        view = pool(list(range(workers)), [0] * workers, [0] * workers)
        placed = RoutedRequest(0, 100, 10, 3, 0.7, session=session)
        assert SessionAffinity().choose(placed, view) == jumped(session, workers)
    assert SessionAffinity().choose(RoutedRequest(0, 100, 10, 3, 0.7), BUSY) == 3


def waits(name: int, arrival_s: float = 0.0, tokens: int = 100, **service: Any) -> Queued:
    """Return a prompt of a class of its own."""
    return Queued(name, arrival_s, tokens, tokens, ServiceClass(**service))


@pytest.mark.parametrize(
    ("order", "prompts", "served"),
    [
        (Fcfs(), [waits(0), waits(1)], [0, 1]),
        (Fcfs(), [waits(1, 5.0), waits(0, 1.0)], [1, 0]),  # as they joined, not as they arrived
        (Fcfs(), [waits(0, priority=0), waits(1, priority=5)], [0, 1]),
        (Fcfs(), [waits(0, tokens=10**6), waits(1, tokens=1)], [0, 1]),
        (Sjf(), [waits(0, tokens=30), waits(1, tokens=20), waits(2, tokens=10)], [2, 1, 0]),
        (Sjf(), [waits(0, 0.0, tokens=30), waits(1, 99.0, tokens=29)], [1, 0]),
        (Sjf(), [waits(0, tokens=5, priority=-1), waits(1, tokens=6, priority=9)], [0, 1]),
        (Wspt(), [waits(0, tokens=10), waits(1, tokens=20)], [0, 1]),
        (Wspt(), [waits(0, tokens=10), waits(1, tokens=20, jump=2.0)], [1, 0]),  # 0.1 and 0.15
        (Edf(), [waits(0, 9.0, ttft_s=0.5), waits(1, 0.0, ttft_s=9.6)], [0, 1]),  # 9.5 and 9.6
        (Edf(), [waits(0, 9.0, ttft_s=0.7), waits(1, 0.0, ttft_s=9.6)], [1, 0]),
        (Priority(), [waits(0, 0.0, priority=2), waits(1, 0.0, priority=3)], [1, 0]),
        (Priority(aging_s=1.0), [waits(0, 3.0, priority=2), waits(1, 0.0)], [1, 0]),  # 3 over 2
    ],
)
def test_whose_turn_it_is(order: Any, prompts: list[Queued], served: list[int]) -> None:
    """By each order's key."""
    assert [each.request for each in sorted(prompts, key=order.key)] == served
