"""Routers that look at caches: their decisions worked out by hand, from their sources' rules."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from simulator.policies.prefixes import (
    Beliefs,
    CacheAware,
    EstimatedTtft,
    KvAware,
    PrefixAffinity,
)
from simulator.policies.routing import Beneath, PoolView, RoutedRequest

NEARLY = 1 - 2**-53


@dataclass(frozen=True)
class Known:
    """Beliefs that are the same for every request: tokens by worker."""

    found: Mapping[int, int]
    block_size: int = 10
    memories: tuple[Beneath, ...] = ()

    def overlaps(self, request: int) -> Mapping[int, int]:  # noqa: ARG002
        """Return the tokens each worker has."""
        return self.found

    def beneath(self, request: int) -> tuple[Beneath, ...]:  # noqa: ARG002
        """Return what memories beneath have."""
        return self.memories


@dataclass(frozen=True)
class Paced:
    """A hundred tokens a second."""

    tokens: tuple[int, ...]

    def ttft_s(self, worker: int, tokens: int) -> float:
        """Return what waits and the prompt, one after the other."""
        return (self.tokens[worker] + tokens) / 100

    def prompt_s(self, worker: int, tokens: int) -> float:
        """Return the same."""
        return self.ttft_s(worker, tokens)

    def tpot_s(self, worker: int, tokens: int) -> float:  # noqa: ARG002
        """Return nothing of interest."""
        return 0.0


def choose(
    policy: Any,
    tokens: tuple[int, ...],
    found: Mapping[int, int],
    *,
    prompt: int = 100,
    requests: tuple[int, ...] = (),
    blocks: tuple[int, ...] = (),
    draw: float = 0.0,
) -> int:
    """Return whom a policy chooses among workers with these loads."""
    none = (0,) * len(tokens)
    view = PoolView(requests or none, tokens, blocks or none, Paced(tokens), Known(found))
    chosen: int = policy.choose(RoutedRequest(7, prompt, 5, 0, draw), view)
    return chosen


@pytest.mark.parametrize(
    ("settings", "loads", "chosen"),
    [
        # 10 blocks of prompt: 10 + 10 against 10 − 6 + 10
        ({}, {"tokens": (0, 0), "found": {1: 60}}, 1),
        # 6 blocks of credit against 7 blocks that wait: 20 against 7 + 10 − 6 + 10 = 21
        ({}, {"tokens": (0, 70), "found": {1: 60}}, 0),
        # and against 5 that wait: 20 against 19
        ({}, {"tokens": (0, 50), "found": {1: 60}}, 1),
        # half a credit: 20 against 5 + 10 − 3 + 10 = 22
        ({"overlap_credit": 0.5}, {"tokens": (0, 50), "found": {1: 60}}, 0),
        # blocks of requests there count as much as blocks to compute: 20 against 14 + 7
        ({}, {"tokens": (0, 0), "found": {1: 60}, "blocks": (0, 7)}, 0),
        # but half where prefill counts double: 2 × 10 + 10 against 2 × 4 + 10 + 7
        ({"prefill_scale": 2.0}, {"tokens": (0, 0), "found": {1: 60}, "blocks": (0, 7)}, 1),
        # a request weighs 2 blocks: 20 against 14 + 2 × 4
        ({"request_weight": 2.0}, {"tokens": (0, 0), "found": {1: 60}, "requests": (0, 4)}, 0),
        # credit never makes prefill cost less than nothing: 10 each, the second by its draw
        ({"overlap_credit": 9.0}, {"tokens": (0, 30), "found": {0: 20, 1: 60}, "draw": 0.5}, 1),
        # ties are drawn among the cheapest alone
        ({}, {"tokens": (0, 0, 0), "found": {0: 60, 2: 60}, "draw": 0.49}, 0),
        ({}, {"tokens": (0, 0, 0), "found": {0: 60, 2: 60}, "draw": 0.51}, 2),
        # a decode worker: blocks alone, and no credit by default
        ({"track_prefill": False, "overlap_credit": 0.0},
         {"tokens": (900, 0), "found": {1: 60}, "blocks": (3, 4)}, 0),
        # with credit: 3 + 10 against 4 + 10 − 6
        ({"track_prefill": False}, {"tokens": (900, 0), "found": {1: 60}, "blocks": (3, 4)}, 1),
    ],
)  # fmt: skip
def test_kv_aware(settings: dict[str, Any], loads: dict[str, Any], chosen: int) -> None:
    """Dynamo's cost, term by term."""
    assert choose(KvAware(**settings), **loads) == chosen


def test_kv_aware_draws_by_cost() -> None:
    """Costs of 20, 14 and 17 blocks at temperature 0.5 weigh exp(−2), 1 and exp(−1)."""
    policy, loads = KvAware(temperature=0.5), {"tokens": (0, 0, 0), "found": {1: 60, 2: 30}}
    weights = [math.exp(-2), 1.0, math.exp(-1)]
    first, second = weights[0] / sum(weights), (weights[0] + 1) / sum(weights)
    for draw, chosen in (
        (0.0, 0), (first - 1e-9, 0), (first + 1e-9, 1), (second - 1e-9, 1), (second + 1e-9, 2),
        (NEARLY, 2),
    ):  # fmt: skip
        assert choose(policy, draw=draw, **loads) == chosen  # type: ignore[arg-type]
    assert choose(policy, (0, 0), {}, draw=NEARLY) == 1  # all alike


@pytest.mark.parametrize(
    ("settings", "loads", "chosen"),
    [
        # 80 of 100 tokens are enough to stay, behind any queue of less than 18 s
        ({}, {"tokens": (0, 200_000), "found": {1: 80}}, 1),
        # 79 are not: then the fewest tokens, 100 against 200,021
        ({}, {"tokens": (0, 200_000), "found": {1: 79}}, 0),
        # and 79 do count: 100 against 99
        ({}, {"tokens": (0, 78), "found": {1: 79}}, 1),
        # 18 s at 15,928 tokens/s are 286,704 tokens: no longer than that is waited
        ({}, {"tokens": (0, 286_704), "found": {1: 80}}, 1),
        ({}, {"tokens": (0, 286_705), "found": {1: 80}}, 0),
        # the soonest of those kept counts, and it wins among them
        ({}, {"tokens": (0, 400_000, 9), "found": {1: 100, 2: 80}}, 2),
        # with everybody kept nothing is dropped
        ({}, {"tokens": (30, 20), "found": {0: 100, 1: 80}}, 0),
        # beyond 4,194,304 tokens all are alike
        ({}, {"tokens": (4_194_304, 5_000_000), "found": {}, "draw": 0.5}, 1),
        ({"sticky_share": 0.5, "patience_s": 1.0, "tokens_per_s": 10.0},
         {"tokens": (0, 10), "found": {1: 50}}, 1),
        ({"sticky_share": 0.5, "patience_s": 1.0, "tokens_per_s": 10.0},
         {"tokens": (0, 61), "found": {1: 50}}, 0),
    ],
)  # fmt: skip
def test_prefix_affinity(settings: dict[str, Any], loads: dict[str, Any], chosen: int) -> None:
    """llm-d's filter and scorer, at the edges of their numbers."""
    assert choose(PrefixAffinity(**settings), **loads) == chosen


@pytest.mark.parametrize(
    ("settings", "loads", "chosen"),
    [
        # more than 0.3 of the prompt: the best match, though it is busier
        ({}, {"requests": (0, 60), "found": {1: 31}}, 1),
        # 0.3 is not more than 0.3
        ({}, {"requests": (0, 60), "found": {1: 30}}, 0),
        # 65 apart and more than 1.5 times: out of balance
        ({}, {"requests": (0, 65), "found": {1: 90}}, 0),
        # 64 apart is in balance
        ({}, {"requests": (0, 64), "found": {1: 90}}, 1),
        # 70 apart but no more than 1.5 times
        ({}, {"requests": (140, 210), "found": {1: 90}}, 1),
        ({}, {"requests": (139, 210), "found": {1: 90}}, 0),
        # the best of several
        ({}, {"requests": (0, 5, 9), "found": {1: 40, 2: 50}}, 2),
        ({"cache_threshold": 0.6}, {"requests": (1, 5, 9), "found": {1: 40, 2: 50}}, 0),
        # alike: by the draw
        ({}, {"requests": (0, 5, 9), "found": {2: 50, 1: 50}, "draw": 0.6}, 2),
    ],
)
def test_cache_aware(settings: dict[str, Any], loads: dict[str, Any], chosen: int) -> None:
    """SGLang's gateway with what its command line ships: 0.3, 64 and 1.5."""
    tokens = (0,) * len(loads["requests"])
    assert choose(CacheAware(**settings), tokens, **loads) == chosen


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [
        ({"tokens": (0, 0), "found": {1: 60}}, 1),
        ({"tokens": (0, 59), "found": {1: 60}}, 1),
        ({"tokens": (0, 61), "found": {1: 60}}, 0),
        ({"tokens": (0, 60), "found": {1: 60}, "draw": 0.7}, 1),  # alike
        ({"tokens": (50, 20, 90), "found": {}}, 1),
        ({"tokens": (50, 20, 90), "found": {0: 100, 1: 60, 2: 100}}, 0),  # a token is computed
    ],
)
def test_estimated_ttft(loads: dict[str, Any], chosen: int) -> None:
    """Queue and rest of the prompt, at a hundred tokens a second."""
    assert choose(EstimatedTtft(), **loads) == chosen


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Beliefs(by="guess"), "beliefs: by must be one of events, routed but got 'guess'"),
        (lambda: Beliefs(delay_s=-1.0), "delay_s must be at least 0 s but got -1.0"),
        (lambda: Beliefs(by="routed", ttl_s=0.0), "ttl_s must be above 0 s but got 0.0"),
        (lambda: Beliefs(by="routed", delay_s=1.0), "delay_s is of events"),
        (lambda: Beliefs(ttl_s=9.0), "ttl_s is of routed prompts"),
        (lambda: KvAware(temperature=math.nan), "kv_aware: temperature must be at least 0"),
        (lambda: KvAware(prefill_scale=-1.0), "kv_aware: prefill_scale must be at least 0"),
        (lambda: PrefixAffinity(sticky_share=0.0), r"sticky_share must lie in \(0, 1\] but got 0"),
        (lambda: PrefixAffinity(tokens_per_s=0.0), "tokens_per_s must be above 0 but got 0.0"),
        (lambda: PrefixAffinity(patience_s=math.nan), "patience_s must be at least 0 s"),
        (lambda: CacheAware(cache_threshold=1.1), r"cache_threshold must lie in \[0, 1\]"),
        (lambda: CacheAware(balance_abs=-1), "balance_abs must be at least 0 but got -1"),
    ],
)
def test_settings_that_make_no_sense_are_told(make: Any, told: str) -> None:
    """Each in one sentence with its name and value."""
    with pytest.raises(ValueError, match=told):
        make()


def test_memories_beneath_are_credited_beyond_what_is_nearer() -> None:
    """Of 20 blocks: 4 own, 6 more in the host at 0.75, 5 more on SSDs at 0.25, a store for free."""
    memories = (
        Beneath("host", {0: 100, 1: 30}, 1e-3, 0.0),
        Beneath("ssd", {0: 150}, 1e-3, 0.0),
        Beneath("store", {0: 200, 1: 200}, 1e-3, 0.0),
    )
    pool = PoolView([0, 0], [0, 0], [0, 0], prefixes=Known({0: 40}, memories=memories))
    request = RoutedRequest(0, 200, 10, 0, 0.5)
    first = 20 - (4 + 0.75 * 6 + 0.25 * 5) + 20
    second = 20 - 0.75 * 3 + 20
    assert KvAware().costs(request, pool) == [first, second]
    credited = KvAware(host_credit=0.0, ssd_credit=0.0, store_credit=1.0)
    assert credited.costs(request, pool) == [20 - (4 + 5) + 20, 20 - 17 + 20]
    assert KvAware(track_prefill=False).costs(request, pool) == [20 - 4, 20]


def test_loading_is_weighed_against_computing() -> None:
    """A hundred tokens a second are computed; the busy worker's memory is quicker than the idle."""
    quick = (Beneath("host", {0: 100}, 1e-3, 0.1),)
    slow = (Beneath("host", {0: 100}, 1e-3, 5.0),)
    request = RoutedRequest(0, 200, 10, 0, 0.0)
    waiting = (50, 0)
    for memories, chosen in ((quick, 0), (slow, 1)):
        pool = PoolView([1, 0], list(waiting), [0, 0], Paced(waiting), Known({}, memories=memories))
        assert EstimatedTtft().choose(request, pool) == chosen
