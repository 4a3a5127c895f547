"""The engine agrees with a second simulator of another structure on configurations drawn at random.

``DISAGGSIM_REFERENCE_SEEDS=first:count`` tries others than those tried by default.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from builders import LinearLatency, disaggregated, poisson_traffic, shared
from configurations import Drawn, draw, draw_raising
from reference import Job, Wait, World, histogram_fits, port_bandwidth

from simulator.cluster.pools import router
from simulator.cluster.simulation import RunOptions, Simulation
from simulator.cluster.workers import leap
from simulator.deployment import Deployment
from simulator.policies.classes import Classes, ServiceClass
from simulator.policies.flow_control import Utilization
from simulator.policies.local_prefill import ArrowRedirect
from simulator.policies.routing import FirstFitSlo
from simulator.record import REASONS, STATUSES, RunRecord

FIRST, COUNT = (int(n) for n in os.environ.get("DISAGGSIM_REFERENCE_SEEDS", "0:500").split(":"))
BLOCK = 25
NEAR = 1e-9
"""Moments closer than this can swap where rates are shared: their sums are rounded differently."""


def run(seed: int, **kind: bool) -> tuple[Drawn, RunRecord]:
    """Run the engine on the configuration of a seed."""
    return simulated(seed, draw(seed, **kind))


def simulated(seed: int, drawn: Drawn) -> tuple[Drawn, RunRecord]:
    """Run the engine, in the ways that seeds have."""
    with pytest.MonkeyPatch.context() as patch:
        if seed % 3 == 0:
            patch.setattr(leap, "SCALAR", 0)
        if seed % 4 == 0:
            patch.setattr(router, "LARGE", 0)  # rankings, as in large pools
        return drawn, Simulation(drawn.deployment, drawn.traffic, drawn.options).run()


def reference(drawn: Drawn) -> World:
    """Run the second simulator."""
    load, options = drawn.traffic, drawn.options
    rows = zip(load.arrival_s, load.input_tokens, load.output_tokens, strict=True)
    jobs = [Job(at, float(when), int(i), int(o)) for at, (when, i, o) in enumerate(rows)]
    following = load.following
    if following is not None:
        links = (following.parent, following.child, following.delay_s, following.dispatch)
        for parent, child, delay, dispatch in zip(*links, strict=True):
            jobs[child].waits.append(Wait(jobs[parent], float(delay), bool(dispatch)))
        for job in jobs:
            join(job, {wait.job.session for wait in job.waits}, jobs)
    world = World(
        drawn.deployment,
        jobs,
        clients=load.concurrency,
        seed=options.seed,
        interval=options.sample_interval_s or 1.0,
        until=float("inf") if options.until_s is None else options.until_s,
        patience=load.clients,
        prompts=load.blocks,
        classes=load.classes,
        go_on=following is not None and following.go_on,
    )
    world.run()
    return world


def join(job: Job, sessions: set[int], jobs: list[Job]) -> None:
    """Put a request into one session with those it waits for, or into one of its own."""
    job.session = job.number if not sessions else min(sessions)
    for other in jobs[: job.number]:
        if other.session in sessions:
            other.session = job.session


def differences(drawn: Drawn, record: RunRecord, world: World) -> list[str]:
    """Return what differs, in words; nothing but shared ports may differ by rounding."""
    exact = _exact(drawn.deployment)
    found = []

    def compare(name: str, ours: object, theirs: object) -> None:
        one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        slack = 0.0 if exact else NEAR
        if one.shape != other.shape or not np.allclose(one, other, slack, slack, equal_nan=True):
            found.append(f"{name}:\n  engine    {one.tolist()}\n  reference {other.tolist()}")

    for name, column in world.columns().items():
        compare(name, record.requests[name], column)
    for name, gauge in world.timeline().items():
        compare(name, record.timeline[name], gauge)
    compare("end", record.end_s, world.now)
    for tier in record.tiers:
        for name, total in world.tiers.totals(tier.name).items():
            compare(f"{tier.name}: {name}", getattr(tier, name), total)
    compare("never sent", record.never_sent, sum(job.never for job in world.jobs))
    for info, site in zip(record.workers, world.sites, strict=True):
        for name, count in site.counts.items():
            compare(f"worker {site.number}: {name}", getattr(info, name), count)
        dropped = site.cache.evicted if site.cache else 0
        compare(f"worker {site.number}: evicted_blocks", info.evicted_blocks, dropped)
        compare(f"worker {site.number}: busy_s", info.busy_s, site.busy_seconds())
        ended = min(site.stopped, world.now)
        compare(f"worker {site.number}: allocated_s", info.allocated_s, ended - site.asked)
        told_life = (info.asked_s, info.ready_s, info.draining_s, info.ended_s)
        life = (site.asked, site.readied, site.drained, ended)
        compare(f"worker {site.number}: life", told_life, life)
        assert info.state == site.state, (site.number, info.state, site.state)
        compare(f"worker {site.number}: kv_blocks", info.kv_blocks, site.plan.kv_blocks)
        told, mine = info.kv_block_seconds, site.block_seconds
        compare(f"worker {site.number}: kv_block_seconds", told, mine)
        told, mine = info.max_transfer_bandwidth, port_bandwidth(world, site)
        compare(f"worker {site.number}: max_transfer_bandwidth", told, mine)
        assert (info.pool, info.gpus) == (site.pool.role, site.pool.layout.gpus)
    gaps = world.gaps()
    if not histogram_fits(gaps, record.gaps.edges, record.gaps.counts):
        found.append(f"gaps: engine has {record.gaps.counts.sum()}, reference {len(gaps)}: {gaps}")
    compare("longest gap", round(record.gaps.max_s, 9), round(max(gaps, default=0.0), 9))
    return found


def _exact(deployment: Deployment) -> bool:
    """Tell whether nothing shares a port, whose rates may differ by rounding."""
    return deployment.transfer.sharing == "fifo" and not deployment.cache_tiers.tiers


def check(seed: int, **kind: bool) -> bool:
    """Compare one configuration; tell whether it was decided by rounding alone."""
    return agrees(seed, draw(seed, **kind))


def agrees(seed: int, drawn: Drawn) -> bool:
    """Compare what both make of one; tell whether it was decided by rounding alone."""
    drawn, record = simulated(seed, drawn)
    world = reference(drawn)
    different = differences(drawn, record, world)
    near = not _exact(drawn.deployment) and world.closest < NEAR
    if different and near:
        return True
    assert not different, "\n".join([f"seed {seed}", *different[:4], str(drawn)])
    return False


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BLOCK))
def test_engine_agrees_with_the_reference(first: int) -> None:
    """Every column, gauge, gap and total agrees; ``==`` where the sums can be the same."""
    undecided = [seed for seed in range(first, min(first + BLOCK, FIRST + COUNT)) if check(seed)]
    assert len(undecided) <= 2, f"too many seeds are decided by rounding: {undecided}"


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT // 2, BLOCK))
def test_engine_agrees_while_pools_change(first: int) -> None:
    """So it does, lives of workers included, while pools grow and shrink by a drawn plan."""
    seeds = range(first, min(first + BLOCK, FIRST + COUNT // 2))
    undecided = [seed for seed in seeds if check(seed, changing=True)]
    assert len(undecided) <= 2, f"too many seeds are decided by rounding: {undecided}"


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT // 2, BLOCK))
def test_engine_agrees_on_sessions(first: int) -> None:
    """So it does where requests wait for others, and so does what is never sent."""
    seeds = range(first, min(first + BLOCK, FIRST + COUNT // 2))
    undecided = [seed for seed in seeds if check(seed, sessions=True)]
    assert len(undecided) <= 2, f"too many seeds are decided by rounding: {undecided}"


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT // 5, BLOCK))
def test_engine_agrees_on_sessions_while_pools_change(first: int) -> None:
    """And so it does with both at once."""
    seeds = range(first, min(first + BLOCK, FIRST + COUNT // 5))
    undecided = [seed for seed in seeds if check(seed, changing=True, sessions=True)]
    assert len(undecided) <= 2, f"too many seeds are decided by rounding: {undecided}"


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BLOCK))
def test_engine_agrees_on_prompts_that_are_brought_up(first: int) -> None:
    """So it does where prompts are prefetched while they queue, and pools change or do not."""
    seeds = range(first, min(first + BLOCK, FIRST + COUNT))
    drawn = ((seed, draw_raising(seed, changing=seed % 2 == 1)) for seed in seeds)
    undecided = [seed for seed, each in drawn if agrees(seed, each)]
    assert len(undecided) <= 2, f"too many seeds are decided by rounding: {undecided}"


def test_prompts_brought_up_reach_every_rule() -> None:
    """Among 500 configurations drawn for it, everything about prefetches happens in at least 4."""
    seen: Counter[str] = Counter()
    for seed in range(500):
        drawn, record = simulated(seed, draw_raising(seed, changing=seed % 2 == 1))
        spec = drawn.deployment.cache_tiers.prefetch
        assert spec is not None
        moved = {tier.name: tier.prefetched_bytes for tier in record.tiers if tier.prefetched_bytes}
        used = sum(tier.prefetch_used_bytes for tier in record.tiers)
        told = {f"{spec.policy} {name}": True for name in moved if name in ("ssd", "store")} | {
            "used": used > 0,
            "in vain": used < 0.999 * sum(moved.values()),
            "in part": _in_part(drawn, record),
            "overtaken": bool(moved)
            and spec.policy != "best_effort"
            and _overtaken(record.requests),
        }
        seen.update(name for name, holds in told.items() if holds)
    assert len(seen) == 10
    rare = {name: count for name, count in seen.items() if count < 4}
    assert not rare, f"too few configurations with: {rare}"


def _in_part(drawn: Drawn, record: RunRecord) -> bool:
    """Tell whether part of a block came of which the rest was given up."""
    pool = drawn.deployment.pools[0]
    held = drawn.deployment.model.held(pool.precision.kv_bytes)
    token = held.bytes(pool.batching.block_size) / pool.batching.block_size
    return any(
        tier.prefetched_bytes > (tier.prefetched_tokens + 1e-3) * token for tier in record.tiers
    )


def test_engine_agrees_on_redirected_prompts() -> None:
    """So it does where Arrow's redirect lends decode workers, which drawn loads seldom ask for."""
    load = shared(poisson_traffic(60, 80, 300, 40))
    load = replace(load, classes=Classes(kinds=(ServiceClass(ttft_s=0.012, tpot_s=0.05),)))
    deployment = disaggregated(
        *(1, 3),
        latency=LinearLatency(per_seq=0.01),
        decode_router=FirstFitSlo(),
        local_prefill=ArrowRedirect(),
    )
    options = RunOptions(seed=5, sample_interval_s=0.37)
    drawn = Drawn(deployment=deployment, traffic=load, options=options, grid=False)
    record = Simulation(deployment, load, options).run()
    assert not differences(drawn, record, reference(drawn))
    assert _staying(drawn, record)["stays and moves"]


def test_drawn_sessions_reach_every_rule() -> None:
    """Among 200 configurations with sessions, everything about them happens in at least 4."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        drawn, record = run(seed, sessions=True)
        following = drawn.traffic.following
        if following is None:
            continue
        told = {
            "never sent": record.never_sent > 0,
            "cut": record.never_sent + len(record.requests["status"]) < following.requests,
            "go on": following.go_on and (record.requests["status"] > 1).any(),
            "dispatch": following.dispatch.any(),
            "join": (np.bincount(following.child) > 1).any(),
            "several children": (np.bincount(following.parent) > 1).any(),
            "clients": drawn.traffic.concurrency is not None,
            "at times": drawn.traffic.concurrency is None,
            "at once": (following.delay_s == 0).any(),
        }
        seen.update(name for name, holds in told.items() if holds)
    assert len(seen) == 9
    rare = {name: count for name, count in seen.items() if count < 4}
    assert not rare, f"too few configurations with: {rare}"


def test_drawn_configurations_reach_every_rule() -> None:
    """Among 200 drawn configurations, everything that is compared happens in at least 4."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        seen.update(set(features(*run(seed))))
    rare = {name: seen[name] for name in FEATURES if seen[name] < 4}
    assert not rare, f"too few configurations with: {rare}"


def test_drawn_memories_reach_every_rule() -> None:
    """Among those of 500 configurations with memories beneath caches, everything happens twice."""
    seen: Counter[str] = Counter()
    for seed in range(500):
        if not draw(seed).deployment.cache_tiers.tiers:
            continue
        tiers = run(seed)[1].tiers
        hits = [tier.name for tier in tiers if tier.hit_tokens]
        told = {
            "two at once": len(hits) > 1,
            "evicted": any(tier.evicted_blocks for tier in tiers),
        }
        seen.update([*hits, *(name for name, holds in told.items() if holds)])
    rare = {name for name in ("host", "ssd", "store", "two at once", "evicted") if seen[name] < 2}
    assert not rare, f"too few configurations with: {rare} of {seen}"


FEATURES = (
    *("preempted", "rejected", "incomplete", "closed loop", "stopped", "waits for a link"),
    *("pull", "push", "push_layerwise", "fifo", "processor_sharing", "max_min", "three pools"),
    *(
        "several ranks",
        "several shards",
        "stages",
        "chunks",
        "stalls",
        "reserve=full",
        "grid",
        "idle",
        "found",
        "found at a decode worker",
        "evicted",
        "timeout",
        "cancelled",
        "queue_full",
        "early_rejection",
        "shed",
        "predicts",
        "overtaken",
    ),
    *("RoundRobin", "Random", "LeastRequests", "LeastTokens", "LeastKV", "first_token=decode"),
    *("PowerOfTwo", "FirstFitSlo", "KvAware", "PrefixAffinity", "CacheAware"),
    *("held by stale metrics", "let go by stale metrics"),
    *("old loads", "waits at the router", "pulls", "sent again", "sent again in vain"),
    *("SplitwiseMixed", "ConvertibleDecoders", "ArrowRedirect", "lent"),
    *("ConditionalDisagg", "PrefixBased", "stays", "stays and moves", "found by who stays"),
)


def features(drawn: Drawn, record: RunRecord) -> Iterator[str]:
    """Yield what happens in a run, and what it is made of."""
    deployment, columns = drawn.deployment, record.requests
    yield from (name for at, name in enumerate(STATUSES) if (columns["status"] == at).any())
    yield from (deployment.transfer.mode, deployment.transfer.sharing)
    yield from (type(router).__name__ for router in (deployment.router, deployment.decode_router))
    told = {
        "preempted": columns["preemptions"].any(),
        "waits for a link": (columns["transfer_start_s"] > columns["transfer_queue_enter_s"]).any(),
        "closed loop": drawn.traffic.concurrency is not None,
        "stopped": drawn.options.until_s is not None,
        "three pools": len(deployment.pools) == 3,
        "several ranks": any(pool.layout.attention_dp > 1 for pool in deployment.pools),
        "several shards": any(pool.layout.tp * pool.layout.pp > 1 for pool in deployment.pools),
        "stages": deployment.latency.stages > 1,  # type: ignore[attr-defined]
        "chunks": any(pool.batching.chunked_prefill for pool in deployment.pools),
        "stalls": any(not pool.batching.piggyback for pool in deployment.pools),
        "reserve=full": any(pool.batching.reserve == "full" for pool in deployment.pools),
        "first_token=decode": deployment.first_token == "decode",  # noqa: S105 - a place
        "grid": drawn.grid,
        "timeout": (columns["reason"] == REASONS.index("timeout")).any(),
        "cancelled": (columns["reason"] == REASONS.index("cancelled")).any(),
        "overtaken": _overtaken(columns),
        "predicts": getattr(deployment.admission, "predicts", False),
        "found": columns["cached_tokens"].any(),
        "found at a decode worker": any(info.kept_tokens for info in record.workers),
        "evicted": any(info.evicted_blocks for info in record.workers),
        **_staying(drawn, record),
        "idle": deployment.transfer.release == "idle" and len(deployment.pools) > 1,
        "held by stale metrics": _held_by(drawn, record, "saturated"),
        "let go by stale metrics": _held_by(drawn, record, "ignore"),
        "waits at the router": deployment.router_queue_threshold is not None,
        "sent again": (columns["resends"][columns["status"] == 1] > 0).any(),
        "sent again in vain": (columns["resends"][columns["status"] == 2] > 0).any(),
        "old loads": deployment.router_refresh_s > 0,
        "pulls": deployment.router_queue_threshold == 0.0,
    }
    refused = columns["reason"][columns["status"] == STATUSES.index("rejected")]
    yield from {REASONS[reason] for reason in refused.tolist()}
    yield from (name for name, holds in told.items() if holds)


def _held_by(drawn: Drawn, record: RunRecord, staleness: str) -> bool:
    """Tell whether prompts waited beside workers whose metrics were stale in between."""
    control, columns = drawn.deployment.flow_control, record.requests
    if not isinstance(control, Utilization) or control.staleness != staleness:
        return False
    waited = (columns["prefill_start_s"] > columns["prefill_queue_enter_s"]).any()
    return bool(waited and control.stale_s < control.scrape_s)


def _staying(drawn: Drawn, record: RunRecord) -> dict[str, bool]:
    """Tell what decode workers did of prompts: computed some, not all, and found some of these."""
    columns, decoders = record.requests, [w.worker for w in record.workers if w.pool == "decode"]
    stays = np.isin(columns["prefill_worker"], decoders)
    return {
        type(drawn.deployment.local_prefill).__name__: True,
        "stays": stays.any(),
        "lent": stays.any() and hasattr(drawn.deployment.local_prefill, "place"),
        "stays and moves": stays.any() and not np.isnan(columns["transfer_end_s"]).all(),
        "found by who stays": columns["cached_tokens"][stays].any(),
    }


def _overtaken(columns: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a prompt began before one that joined the same queue earlier."""
    worker, entered = columns["prefill_worker"], columns["prefill_queue_enter_s"]
    began = columns["prefill_start_s"]
    return any(
        worker[a] == worker[b] and entered[a] < entered[b] and began[a] > began[b]
        for a, b in permutations(range(len(worker)), 2)
    )
