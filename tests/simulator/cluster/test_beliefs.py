"""What routers believe of caches: as old as they are told, true where they should be, and used."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic, prompt_blocks, shared, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache import trees
from test_cached import prompts
from test_oracle import TIGHT, both

from simulator.cluster.pools.beliefs import FadingIndex, PrefixIndex
from simulator.cluster.simulation import RunOptions, Simulation, run
from simulator.deployment import Batching
from simulator.elastic import Change, Elastic, StartUp
from simulator.errors import ConfigError
from simulator.policies.prefixes import (
    Beliefs,
    CacheAware,
    EstimatedTtft,
    KvAware,
    PrefixAffinity,
)
from simulator.policies.routing import PoolView, RoundRobin, RoutedRequest

ROUTERS = (
    KvAware(),
    KvAware(temperature=0.5),
    KvAware(beliefs=Beliefs(by="routed", ttl_s=0.5)),
    PrefixAffinity(tokens_per_s=1000.0, patience_s=0.5),
    CacheAware(balance_abs=2),
    EstimatedTtft(),
)


@settings(max_examples=300)
@given(
    drawn=trees(),
    size=st.integers(1, 5),
    events=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from("arf"), st.integers(0, 7), st.integers(0, 2), st.integers(0, 40)),
        max_size=40,
    ),
)
def test_the_index_equals_one_set_of_blocks_per_worker(
    drawn: tuple[list[tuple[int, list[int]]], int],
    size: int,
    events: bool,
    steps: list[tuple[str, int, int, int]],
) -> None:
    """Whoever has whatever since whenever, the tree answers as sets of single blocks do."""
    rows, of_id = drawn
    blocks = prompt_blocks(rows, of_id)
    index, fading = PrefixIndex(), FadingIndex()
    have: list[dict[tuple[int, int], int]] = [{}, {}, {}]
    places = {0: 7, 1: 8}  # worker 2 is gone
    for when, (what, which, worker, amount) in enumerate(steps):
        path = blocks.path(which % len(rows), size)
        named = [
            (at, name)
            for start, (end, name) in zip((0, *(end for end, _ in path)), path, strict=False)
            for at in range(start, end)
        ]
        if what == "a":
            known = sum(1 for block in named if block in have[worker])
            begin = min(amount, known) if events else 0  # what was routed is there from its start
            index.add(path, begin, worker)
            fading.add(path, worker, float(when))
            have[worker].update(dict.fromkeys(named[begin:], when))
        elif what == "r" and events:  # what was routed is never said to be gone
            # the last blocks of what this worker has, which nothing it has goes on from
            ours = [block for block in named if block in have[worker]]
            gone = ours[min(amount, len(ours)) :]
            longest = max((at for at, _ in have[worker]), default=-1)
            if (
                gone
                and gone[-1][0] == longest
                and len({b for b in have[worker] if b[0] == longest}) == 1
            ):
                last = gone[-1]
                index.remove(cut(path, last[0] + 1), last[0], worker)
                del have[worker][last]
        since = float(amount) if what == "f" and not events else -1.0
        expected = {
            place: count
            for number, place in places.items()
            if (count := leading(named, have[number], since))
        }
        if events:
            assert index.overlaps(path, places) == expected
        else:
            assert fading.overlaps(path, since, places) == expected
        if what == "f":
            index.sweep(places)
            fading.sweep(-1.0, places)


def leading(blocks: list[tuple[int, int]], have: dict[tuple[int, int], int], since: float) -> int:
    """Count the first blocks that somebody has since then."""
    lacks = (at for at, block in enumerate(blocks) if have.get(block, -inf) < since)
    return next(lacks, len(blocks))


def cut(path: tuple[tuple[int, int], ...], end: int) -> tuple[tuple[int, int], ...]:
    """Return the first blocks of a path."""
    kept = []
    for stop, name in path:
        kept.append((min(stop, end), name))
        if stop >= end:
            break
    return tuple(kept)


class Watching:
    """A router that notes what it is told, and sends requests round."""

    def __init__(self, beliefs: Beliefs) -> None:
        self.beliefs = beliefs
        self.told: list[Mapping[int, int]] = []
        self.true: list[Mapping[int, int]] = []
        self.simulation: Simulation

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return each in turn."""
        self.told.append(dict(pool.overlaps(request.request)))
        truth = {}
        for worker in self.simulation.entries.workers:
            assert worker.cache is not None
            found = worker.cache.find(request.request, 10**9).blocks
            if found:
                truth[worker.index] = found * worker.block_size
        self.true.append(truth)
        return request.order % len(pool.requests)


@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_events_tell_the_truth_at_once(build: Any) -> None:
    """Without delay a router knows at each choice what every cache has, evictions included."""
    router = Watching(Beliefs())
    small = Batching(kv_blocks=90, max_num_batched_tokens=256)
    deployment = build(3, batching=small, router=router)
    if build is disaggregated:
        pools = [replace(pool, batching=small) for pool in deployment.pools]
        deployment = replace(deployment, pools=tuple(pools))
    load = shared(poisson_traffic(300, 20, 120, 40))
    router.simulation = Simulation(deployment, load, RunOptions())
    record = router.simulation.run()
    assert router.told == router.true
    assert sum(map(bool, router.told)) > 200
    assert all(info.evicted_blocks for info in record.workers if info.pool != "decode")


def test_events_arrive_late() -> None:
    """With a delay a router does not know of a prompt computed less than so long ago."""
    load = prompts([0.0, 0.5, 1.5], [[0, 1], [0, 1], [0, 1]])
    router = Watching(Beliefs(delay_s=1.0))
    deployment = disaggregated(1, 1, batching=Batching(block_size=10), router=router)
    router.simulation = Simulation(deployment, load, RunOptions())
    router.simulation.run()
    assert router.told == [{}, {}, {0: 200}]
    assert router.true == [{}, {0: 200}, {0: 200}]


def test_what_was_routed_is_believed_for_a_while() -> None:
    """A router that goes by its own choices believes them for the TTL, whatever became of them."""
    load = prompts([0.0, 0.5, 1.4, 3.0], [[0, 1], [0, 1], [0, 2], [0, 1]])
    router = Watching(Beliefs(by="routed", ttl_s=1.0))
    deployment = disaggregated(2, 1, batching=Batching(block_size=10), router=router)
    router.simulation = Simulation(deployment, load, RunOptions())
    router.simulation.run()
    assert router.told == [{}, {0: 200}, {1: 100}, {}]


def test_a_worker_that_is_gone_is_not_believed_to_have_anything() -> None:
    """Whoever comes in its place begins with nothing."""
    load = prompts([0.0, 1.0, 3.0], [[0, 1], [0, 1], [0, 1]])
    for beliefs in (Beliefs(), Beliefs(by="routed")):
        router = Watching(beliefs)
        plan = Elastic(
            changes=(Change(at_s=2.0, pool="mixed", restart=1),), startup=StartUp(seconds=0.1)
        )
        deployment = replace(
            colocated(batching=Batching(block_size=10), router=router), elastic=plan
        )
        router.simulation = Simulation(deployment, load, RunOptions())
        router.simulation.run()
        assert router.told == [{}, {0: 200}, {}]


@pytest.mark.parametrize("router", ROUTERS, ids=str)
@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_routing_by_caches_equals_oracle(build: Any, router: Any) -> None:
    """Leaping changes no choice, under memory pressure too."""
    deployment = build(3, batching=TIGHT, router=router)
    record = both(deployment, shared(poisson_traffic(200, 60, 120, 60)))
    assert record.requests["cached_tokens"].sum() > 0


def test_decode_routing_by_caches_equals_oracle() -> None:
    """So it is for decode workers that are given credit for what they have."""
    router = KvAware(track_prefill=False)
    deployment = disaggregated(2, 3, batching=TIGHT, decode_router=router)
    record = both(deployment, shared(poisson_traffic(200, 60, 120, 60)))
    assert sum(info.kept_tokens for info in record.workers) > 0


@settings(max_examples=60)
@given(
    router=st.sampled_from(ROUTERS),
    seed=st.integers(0, 1000),
    blocks=st.integers(30, 120),
    ranks=st.sampled_from([1, 2]),
    piggyback=st.booleans(),
    mixed=st.booleans(),
)
def test_any_traffic_equals_oracle(
    router: Any, seed: int, blocks: int, ranks: int, piggyback: bool, mixed: bool
) -> None:
    """Whatever arrives, in whatever memory, routers see the same of workers that leap or step."""
    batching = Batching(
        kv_blocks=blocks, max_num_seqs=8, max_num_batched_tokens=64, piggyback=piggyback
    )
    deployment = (colocated if mixed else disaggregated)(2, batching=batching, router=router)
    load = shared(poisson_traffic(40, 30, 120, 40, seed), seed=seed)
    both(spread(deployment, ranks), load)


def grouped() -> Any:
    """Return 600 prompts of 20 groups that have most of it in common."""
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 20, 600)
    base = poisson_traffic(600, 20, 1, 20)
    rows = [
        (1200, [*range(100 * g, 100 * g + 10), 10_000 + 2 * at, 10_001 + 2 * at])
        for at, g in enumerate(groups.tolist())
    ]
    tokens = np.full(600, 1200, np.int32)
    return replace(base, input_tokens=tokens, blocks=prompt_blocks(rows, 100))


@pytest.mark.parametrize("router", ROUTERS, ids=str)
def test_groups_stay_together(router: Any) -> None:
    """Where caches hold a few groups each, looking at them finds far more than taking turns."""
    memory = Batching(block_size=20, kv_blocks=6 * 60)
    pools = [
        replace(pool, batching=memory) if pool.role == "prefill" else pool
        for pool in disaggregated(4, 2).pools
    ]
    base = replace(disaggregated(4, 2), pools=tuple(pools))
    hits = {
        name: int(
            run(replace(base, router=policy), grouped(), RunOptions())
            .requests["cached_tokens"]
            .sum()
        )
        for name, policy in (("turns", RoundRobin()), ("caches", router))
    }
    assert hits["caches"] > 1.5 * hits["turns"]


def test_beliefs_that_cannot_be_had_are_told() -> None:
    """Late events from workers that decode, and blocks of two sizes, cost one sentence."""
    load = shared(poisson_traffic(5, 20, 60, 20))
    late = KvAware(beliefs=Beliefs(delay_s=0.5))
    with pytest.raises(ConfigError, match=r"KvAware: beliefs.delay_s must be 0 over .* got 0.5"):
        run(colocated(router=late), load, RunOptions())
    run(disaggregated(router=late), load, RunOptions())
    three = disaggregated(router=KvAware())
    pools = (*three.pools, replace(colocated().pools[0], batching=Batching(block_size=32)))
    with pytest.raises(ConfigError, match="one block_size but got 16, 32"):
        run(replace(three, pools=pools), load, RunOptions())


def test_a_run_is_kept_once() -> None:
    """However many workers end anywhere in it; what nobody has any more is gone."""
    index, text, places = PrefixIndex(), ((12, 5),), {1: 0, 2: 1}
    for worker in (1, 2):
        index.add(text, 0, worker)
    for cut in (9, 6, 3):
        index.remove(text, cut, 2)
    assert index.overlaps(text, places) == {0: 12, 1: 3}
    index.add(text, 3, 2)
    assert index.overlaps(text, places) == {0: 12, 1: 12}
    assert len(index) == 1
    index.add(((12, 5), (20, 7)), 12, 1)
    index.add(((7, 5), (20, 7)), 7, 1)  # a run of the same name that begins elsewhere is another
    assert len(index) == 3
    assert index.overlaps(((12, 5), (14, 7)), places) == {0: 14, 1: 12}
    assert index.overlaps(((7, 5), (30, 7)), places) == {0: 20, 1: 7}
    for path in (((12, 5), (20, 7)), ((7, 5), (20, 7))):
        index.remove(path, path[0][0], 1)
    assert len(index) == 1
    for worker in (1, 2):
        index.remove(text, 0, worker)
    assert len(index) == 0


def test_workers_that_are_gone_are_forgotten_when_the_index_has_doubled() -> None:
    """What only they had is gone then, from both kinds of index, and so is what is too old."""
    index, fading, places = PrefixIndex(), FadingIndex(), {2: 0}
    for at in range(70):
        for worker in (1, 2) if at < 10 else (1,):
            index.add(((3, at),), 0, worker)
            fading.add(((3, at),), worker, float(at))
    index.sweep(places)
    fading.sweep(5.0, places)
    assert (len(index), len(fading)) == (10, 5)
    assert fading.overlaps(((2, 7),), 0.0, places) == {0: 2}
    assert fading.overlaps(((2, 4),), 0.0, places) == {}


def test_the_root_of_all_prompts_is_no_run() -> None:
    """A run may be named as the root is."""
    index = PrefixIndex()
    index.add(((2, -1), (4, 7)), 2, 2)
    assert index.overlaps(((2, 9),), {2: 1}) == {}
    index.add(((2, -1),), 0, 2)
    assert index.overlaps(((2, -1),), {2: 1}) == {1: 2}
    assert index.overlaps(((2, -1), (4, 7)), {2: 1}) == {1: 4}
    assert index.overlaps(((2, 9),), {2: 1}) == {}
