"""Small configurations drawn at random over every setting of the event engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from builders import A_FABRIC, A_GPU, A_MODEL, INSTANT, shared, traffic
from doorkeeper import drawn_classes

from hardware.fabric import Fabric
from hardware.gpu import GPU
from hardware.link import Link
from simulator import cache_tiers
from simulator.cache_tiers import CacheTiers
from simulator.clients import Clients
from simulator.cluster.simulation import RunOptions, Traffic
from simulator.deployment import Batching, Deployment, Pool, Transfer
from simulator.elastic import Change, Elastic, StartUp
from simulator.latency.base import Busiest, Piece, WorkerSpec
from simulator.layout import Layout
from simulator.model import Model
from simulator.policies.admission import (
    AdmitAll,
    EarlyRejection,
    QueueCap,
    Shed,
    Tier,
    TokenTiers,
)
from simulator.policies.flow_control import Utilization
from simulator.policies.local_prefill import (
    ArrowRedirect,
    ConditionalDisagg,
    ConvertibleDecoders,
    PrefixBased,
    SplitwiseMixed,
)
from simulator.policies.prefixes import Beliefs, CacheAware, KvAware, PrefixAffinity
from simulator.policies.queueing import Edf, Fcfs, Priority, Sjf, Wspt
from simulator.policies.routing import (
    FirstFitSlo,
    LeastKV,
    LeastRequests,
    LeastTokens,
    PowerOfTwo,
    RoundRobin,
)
from simulator.policies.routing import Random as RandomRouter
from workloads.sessions import Following

GRID_S = 0.25
ROUTERS = (RoundRobin, RandomRouter, LeastRequests, LeastTokens, LeastKV)
DOORS = (
    QueueCap(waiting=1),
    QueueCap(waiting=3),
    TokenTiers(tiers=(Tier(0, 60), Tier(20, 15))),
    Shed(queue=1.0, kv=0.2),
    Shed(queue=2.0, kv=0.4, refresh_s=0.0),
    Shed(queue=2.0, kv=0.4, refresh_s=0.3),
    EarlyRejection(),
    EarlyRejection(predicts=True, decode_s=0.5),
)
CACHING = (
    KvAware(),
    KvAware(overlap_credit=0.5, request_weight=1.5, prefill_scale=2.0),
    KvAware(track_prefill=False, beliefs=Beliefs(by="routed", ttl_s=0.5)),
    PrefixAffinity(sticky_share=0.5, tokens_per_s=50.0, patience_s=0.5),
    CacheAware(balance_abs=2),
    CacheAware(balance_abs=1, balance_rel=1.0, beliefs=Beliefs()),
)
STAYING = (
    ConditionalDisagg(below_tokens=40),
    ConditionalDisagg(below_tokens=60, below_share=1.1, decode_busy=0.5),
    ConditionalDisagg(below_tokens=0, prefill_busy=0.5, beliefs=None),
    ConditionalDisagg(below_tokens=20, prefill_busy=1.0, beliefs=Beliefs(by="routed", ttl_s=0.5)),
    PrefixBased(),
    PrefixBased(non_cached_tokens=25, prompt_tokens=10),
    PrefixBased(non_cached_tokens=30, beliefs=Beliefs()),
    PrefixBased(non_cached_tokens=0),
    PrefixBased(beliefs=None),
)
LENDING = (SplitwiseMixed(queue_tokens=20), SplitwiseMixed(queue_tokens=100))
HELPING = (ConvertibleDecoders(), ConvertibleDecoders(share=1.0), ArrowRedirect())
"""Those that need targets, which classes have."""
OTHERS = (PowerOfTwo(), PowerOfTwo(load="kv_blocks"), FirstFitSlo())
QUEUES = (Fcfs(), Sjf(), Wspt(), Edf(), Priority(), Priority(aging_s=0.5))
DENSE = replace(A_MODEL, name="small dense model", kv_heads=4, max_context=300)
SPARSE = Model(
    name="small mixture",
    layers=4,
    hidden=512,
    heads=8,
    kv_heads=4,
    head_dim=64,
    vocab=1000,
    max_context=300,
    dense_intermediate=1024,
    experts=4,
    top_k=2,
    moe_intermediate=768,
    source="made up for tests",
)


MODELS = (
    *(DENSE, SPARSE) * 3,
    replace(DENSE, name="windowed", window=20, full_attention_layers=1),
    replace(DENSE, name="windows apart", window=20, full_attention_layers=2, window_kv_heads=8),
    replace(
        DENSE,
        name="linear",
        full_attention_layers=1,
        linear_key_heads=8,
        linear_value_heads=8,
        linear_head_dim=16,
        linear_conv=4,
    ),
    replace(SPARSE, name="indexed", index_top_k=64, index_heads=2, index_head_dim=60),
    replace(SPARSE, name="latent", attention="mla", kv_lora=96, rope_dim=32, nope_dim=64, v_dim=64),
)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A step's seconds with a term of its own for everything that a step is told.

    ``per_square`` makes the dependence on context quadratic; above ``knee`` tokens a further token
    costs twice. Workers of another role or with more GPUs step at another pace, unless ``even``.
    """

    base: float = 0.010
    per_seq: float = 3e-4
    per_context: float = 2e-6
    per_square: float = 1e-9
    per_token: float = 1e-4
    per_pair: float = 1e-6
    per_past: float = 1e-5
    per_prompt: float = 1e-3
    per_fullest: float = 1e-4
    knee: float = 150.0
    stages: int = 1
    even: bool = False

    def bind(self, worker: WorkerSpec) -> "Terms":
        """Return this worker's terms."""
        if self.even:
            return self
        pace = 1 + 0.125 * ("prefill", "decode", "mixed").index(worker.role)
        return replace(self, base=self.base * pace / worker.layout.gpus)

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the pieces below and above the knee."""
        fixed = self.base + self.per_seq * batch
        lifted = fixed - self.per_context * self.knee
        return [
            Piece(self.knee, fixed, self.per_context, self.per_square),
            Piece(float("inf"), lifted, 2 * self.per_context, self.per_square),
        ]

    def step_seconds(
        self,
        tokens: int,
        pairs: int,
        past: int,
        prompts: int,
        batch: int,
        context: int,
        busiest: Busiest | None = None,
    ) -> float:
        """Return the sum of all terms."""
        _, c0, c1, c2 = next(p for p in self.decode_pieces(batch) if context <= p.upto)
        seconds = c0 + context * (c1 + context * c2)
        seconds += self.per_token * tokens + self.per_pair * pairs
        seconds += self.per_past * past + self.per_prompt * prompts
        fullest = busiest or Busiest(tokens, prompts)
        return seconds + self.per_fullest * (3 * fullest.tokens + 50 * fullest.prompts)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One configuration: what is simulated, under which traffic, how."""

    deployment: Deployment
    traffic: Traffic
    options: RunOptions
    grid: bool

    def __str__(self) -> str:
        load = self.traffic
        rows = [load.arrival_s.tolist(), load.input_tokens.tolist(), load.output_tokens.tolist()]
        named = zip(("arrivals", "prompts", "answers"), rows, strict=True)
        told = [f"{name} = {row}" for name, row in named]
        return "\n".join(
            [
                *(repr(self.deployment), *told, f"clients = {load.concurrency}"),
                *(repr(load.clients), repr(load.following), repr(self.options), repr(load.blocks)),
            ]
        )


def draw(seed: int, *, changing: bool = False, sessions: bool = False) -> Drawn:
    """Return the configuration of a seed. With ``grid`` many things happen at one instant.

    ``changing``: its pools grow and shrink while it runs. ``sessions``: requests wait for others.
    """
    rng = Random(seed)  # noqa: S311 - no secret
    grid = rng.random() < 0.35
    deployment = _deployment(rng, grid=grid)
    load = _traffic(rng, grid=grid)
    until = None
    if rng.random() < 0.25:
        last = float(load.arrival_s[-1])
        until = last * rng.choice([0.5, 1.0, 1.5]) + rng.choice([0.25, 1.0, 2.0])
    options = RunOptions(
        seed=rng.randrange(1000),
        sample_interval_s=rng.choice([0.25, 0.5] if grid else [0.11, 0.37, 1.3]),
        until_s=until,
        leap=rng.choice([None, None, 1, 2, 7, 40]),
    )
    load = replace(load, clients=_clients(rng, grid=grid))
    own = Random(f"doors of {seed}")  # noqa: S311 - no secret
    if own.random() < 0.5:
        load = replace(load, classes=drawn_classes(len(load.arrival_s), own))
        deployment = replace(
            deployment,
            admission=own.choice([AdmitAll(), AdmitAll(), *DOORS]),
            queue=own.choice(QUEUES),
        )
        load = _resending(seed, load, grid=grid)
        if own.random() < 0.4:
            deployment = replace(
                deployment, router=own.choice(OTHERS), decode_router=own.choice(OTHERS)
            )
        if not grid and load.concurrency is None:  # all but at once, so that there are queues
            load = replace(load, arrival_s=load.arrival_s * own.choice([1.0, 0.05]))
    if changing:
        deployment = _changing(rng, deployment, grid=grid)
    if sessions:
        load = replace(load, following=_following(rng, len(load.arrival_s), grid=grid))
    if rng.random() < 0.7:
        load = shared(load, rng.choice([1, 2, 3, 5]), rng.choice([1, 1, 1, 2]), rng.randrange(1000))
        pools = tuple(_uncached(pool, without=rng.random() < 0.15) for pool in deployment.pools)
        deployment = _by_caches(rng, replace(deployment, pools=pools))
    longest = int((load.input_tokens + load.output_tokens).max())
    due = bool(load.classes.of)
    deployment = _tiered(seed, _staying(seed, deployment, due=due), longest, grid=grid)
    if not deployment.computes_locally and own.random() < 0.3:
        threshold = own.choice([0.0, 0.0, 0.2, 1.0])
        deployment = replace(deployment, router_queue_threshold=threshold)
    elif own.random() < 0.3:
        deployment = replace(deployment, router_refresh_s=own.choice([GRID_S, 0.05, 1.0]))
    deployment = _controlled(seed, deployment, grid=grid)
    return Drawn(deployment=deployment, traffic=load, options=options, grid=grid)


def _controlled(seed: int, deployment: Deployment, *, grid: bool) -> Deployment:
    """Return the deployment with flow control at its router: in some cases, where it can."""
    own = Random(f"who leaves the router of {seed}")  # noqa: S311 - no secret
    taken = deployment.computes_locally or deployment.router_queue_threshold is not None
    if taken or own.random() < 0.6:
        return deployment
    scrape_s = own.choice([GRID_S, 1.0] if grid else [0.05, 0.31, 1.7])
    control = Utilization(
        queue=own.choice([1.0, 2.0, 5.0]),
        kv=own.choice([0.2, 0.8]),
        scrape_s=scrape_s,
        stale_s=scrape_s * own.choice([0.25, 0.5, 2.0]),
        staleness=own.choice(["saturated", "ignore"]),
        dispatch_s=own.choice([0.0, GRID_S if grid else 0.013]),
    )
    return replace(deployment, flow_control=control)


def _staying(seed: int, deployment: Deployment, *, due: bool) -> Deployment:
    """Return the deployment with decode workers that compute prompts: in some cases."""
    own = Random(f"who stays of {seed}")  # noqa: S311 - no secret
    if len(deployment.pools) == 1 or own.random() < 0.6:
        return deployment
    some = (*STAYING, *LENDING * 2, *(HELPING * 3 if due else ()))
    chosen = own.choice(some)
    return replace(deployment, local_prefill=chosen)


def _in_blocks(pool: Pool, size: int) -> Pool:
    """Return a pool with blocks of so many tokens, as many tokens as before."""
    batching = pool.batching
    assert batching.kv_blocks is not None
    blocks = -(-batching.kv_blocks * batching.block_size // size)
    return replace(pool, batching=replace(batching, block_size=size, kv_blocks=blocks))


def _at_most(pool: Pool, blocks: int) -> Pool:
    """Return a pool with no more than so many blocks."""
    batching = pool.batching
    return replace(pool, batching=replace(batching, kv_blocks=min(batching.kv_blocks or 1, blocks)))


def _tiered(seed: int, deployment: Deployment, longest: int, *, grid: bool) -> Deployment:
    """Return the deployment with memories beneath its caches: in some cases, where it can."""
    own = Random(f"what is beneath {seed}")  # noqa: S311 - no secret
    writer = Random(f"what is written beneath {seed}")  # noqa: S311 - no secret
    pools = [pool for pool in deployment.pools if pool.batching.prefix_cache]
    if own.random() < 0.4 or not pools:
        return deployment
    size = pools[0].batching.block_size
    deployment = replace(
        deployment, pools=tuple(_in_blocks(pool, size) for pool in deployment.pools)
    )
    if own.random() < 0.6:  # caches that forget soon
        tight = tuple(_at_most(pool, -(-longest // size) + 1) for pool in deployment.pools)
        deployment = replace(deployment, pools=tight)
    decodes = deployment.computes_locally or any(pool.role == "mixed" for pool in pools)
    block = deployment.model.held(pools[0].precision.kv_bytes).bytes(size) / 2**30

    def tier(*writes: str, tokens: tuple[int, ...] = (40, 5000)) -> cache_tiers.Tier:
        return cache_tiers.Tier(
            gib=block * (own.choice(tokens) + 0.5) / size,
            gb_per_s=1e9 if grid else own.uniform(2e-4, 5e-3),
            worker_gb_per_s=None if grid or own.random() < 0.5 else own.uniform(2e-4, 5e-3),
            latency_s=own.choice([0.0, 0.25 if grid else own.uniform(0.0, 0.05)]),
            write=own.choice(writes),
            threshold=own.choice([1.0, 1.0, 1.5]),
            ttl_s=own.choice([None, None, None, 1.0 if grid else own.uniform(0.1, 3.0)]),
            write_gb_per_s=writer.choice([None, 1e9 if grid else writer.uniform(2e-4, 5e-3)]),
        )

    nearest = ("through",) if decodes else ("through", "eviction")
    there = own.choice(["host", "host ssd", "host ssd", "host ssd", "store", "host store"])
    small = (10, 40) if " " in there else (40, 5000)
    host = tier(*nearest, tokens=small) if "host" in there else None
    ssd = tier(*(("through", "eviction") if host else nearest)) if "ssd" in there else None
    store = tier(*(("through", "eviction") if host or ssd else nearest))
    store = store if "store" in there else None
    if own.random() < 0.7:  # else prompts find all they can where they were computed before
        entries = tuple(
            replace(pool, workers=max(pool.workers, 2)) if pool.role != "decode" else pool
            for pool in deployment.pools
        )
        deployment = replace(deployment, pools=entries, router=RoundRobin())
    return replace(deployment, cache_tiers=CacheTiers(host=host, ssd=ssd, store=store))


def draw_raising(seed: int, *, changing: bool = False) -> Drawn:
    """Return the configuration of a seed with prompts that are brought up while they queue.

    They share much, all are let in, workers take turns and keep little, and host memory has less
    than what lies beneath it; pools, clients and what else there is are those of :func:`draw`.
    """
    drawn = draw(seed, changing=changing)
    own, grid = Random(f"who is brought up of {seed}"), drawn.grid  # noqa: S311 - no secret
    requests = own.choice([12, 30, 60])
    span = own.choice([0.1, 1.0, 3.0])
    ticks = int(span / GRID_S)
    when = [
        own.randint(0, ticks) * GRID_S if grid else own.uniform(0, span) for _ in range(requests)
    ]
    longest = own.choice([40, 150])
    prompts = [own.randint(1, longest) for _ in range(requests)]
    load = traffic(sorted(when), prompts, [own.randint(1, 12) for _ in range(requests)])
    load = shared(load, own.choice([2, 5, 16]), own.choice([1, 1, 2]), seed)
    load = replace(load, clients=drawn.traffic.clients, classes=drawn_classes(requests, own))
    queue = own.choice([Fcfs(), Fcfs(), *QUEUES])
    deployment = replace(drawn.deployment, queue=queue, admission=AdmitAll())
    return replace(
        drawn, deployment=_raised(own, deployment, longest + 12, grid=grid), traffic=load
    )


def _raised(own: Random, deployment: Deployment, longest: int, *, grid: bool) -> Deployment:
    """Return the deployment with prompts of so many tokens that are brought up to host memory."""
    size = deployment.pools[0].batching.block_size
    pools = tuple(_in_blocks(_uncached(pool, without=False), size) for pool in deployment.pools)
    least = -(-longest // size) + 1
    pools = tuple(
        replace(
            pool,
            batching=replace(pool.batching, kv_blocks=own.choice([least, 2 * least, 10 * least])),
            workers=max(pool.workers, 2) if pool.role != "decode" else pool.workers,
        )
        for pool in pools
    )
    block = deployment.model.held(pools[0].precision.kv_bytes).bytes(size)

    def tier(tokens: int, **changes: Any) -> cache_tiers.Tier:
        pace = 1e9 if grid and own.random() < 0.3 else own.choice([20, 100, 1000]) * block / size
        return cache_tiers.Tier(
            gib=block * (tokens + 0.5) / size / 2**30,
            gb_per_s=pace / 1e9,
            worker_gb_per_s=own.choice([None, pace / 2e9]),
            latency_s=own.choice([0.0, 0.25 if grid else own.uniform(0.0, 0.05)]),
            threshold=own.choice([1.0, 1.0, 1.5]),
            ttl_s=own.choice([None, None, None, own.uniform(0.5, 1.5)]),
            write_gb_per_s=own.choice([None, None, pace / 1e9 * own.uniform(0.5, 2.0)]),
            **changes,
        )

    ssd = tier(own.choice([100, 5000]), write=own.choice(["through", "eviction"]))
    ssd = own.choice([None, ssd, ssd])
    store = tier(5000) if ssd is None or own.random() < 0.5 else None
    prefetch = cache_tiers.Prefetch(
        policy=own.choice(cache_tiers.POLICIES),
        threshold_tokens=own.choice([0, 1, 10]),
        host_share=own.choice([0.5, 1.0]),
        timeout_s=0.25 if grid else own.uniform(0.0, 0.3),
        timeout_s_per_1024_tokens=0.0 if grid else own.uniform(0.0, 5.0),
        timeout_max_s=own.choice([None, 0.25 if grid else own.uniform(0.05, 0.5)]),
    )
    host = tier(own.choice([longest // 2, longest, 3 * longest]))
    tiers = CacheTiers(host=host, ssd=ssd, store=store, prefetch=prefetch)
    return replace(deployment, pools=pools, router=RoundRobin(), cache_tiers=tiers)


def _by_caches(rng: Random, deployment: Deployment) -> Deployment:
    """Return the deployment with routers that look at caches, where they can: in some cases."""
    entries = [pool for pool in deployment.pools if pool.role != "decode"]
    alike = len({pool.batching.block_size for pool in entries}) == 1
    if alike and rng.random() < 0.5:
        deployment = replace(deployment, router=rng.choice(CACHING))
    if rng.random() < 0.2:
        deployment = replace(deployment, decode_router=rng.choice(CACHING))
    return deployment


def _uncached(pool: Pool, *, without: bool) -> Pool:
    return replace(pool, batching=replace(pool.batching, prefix_cache=not without))


def _changing(rng: Random, deployment: Deployment, *, grid: bool) -> Deployment:
    """Return the deployment with a plan for its pools, after which each has a worker."""
    roles = [pool.role for pool in deployment.pools]
    times = [rng.randint(0, 12) * GRID_S if grid else rng.uniform(0.0, 3.0) for _ in range(4)]
    plan = [
        Change(at_s=at, pool=rng.choice(roles), workers=rng.choice([0, 1, 1, 2, 3, 4]))
        for at in sorted(times)
    ]
    startup = StartUp(
        seconds=rng.choice([0.0, 0.25, 0.5 if grid else rng.uniform(0.0, 1.0)]),
        slow_steps=rng.choice([0, 0, 1, 5]),
        slow_factor=2.0 if grid else rng.uniform(1.0, 5.0),
    )
    last = [Change(at_s=4.0, pool=role, workers=rng.choice([1, 2])) for role in roles]
    return replace(
        deployment,
        elastic=Elastic(startup=startup, changes=(*plan, *last)),
        transfer=replace(deployment.transfer, nics="own"),
    )


def _following(rng: Random, requests: int, *, grid: bool) -> Following | None:
    """Return who waits for whom: chains, trees and joins; ``None`` where nobody does."""
    links: list[tuple[int, int, float, bool]] = []
    near = rng.choice([1, 3, 24])
    for child in range(1, requests):
        if rng.random() < 0.25:
            continue
        parents = {
            rng.randint(max(0, child - near), child - 1) for _ in range(rng.choice([1, 1, 3]))
        }
        for parent in sorted(parents):
            wait = rng.choice([0.0, GRID_S if grid else rng.uniform(0.0, 0.5)])
            links.append((parent, child, wait, rng.random() < 0.15))
    if not links:
        return None
    links.sort()
    parents, children, waits, dispatched = (np.array(column) for column in zip(*links, strict=True))
    return Following(
        requests=requests,
        parent=parents,
        child=children,
        delay_s=waits,
        dispatch=dispatched,
        go_on=rng.random() < 0.3,
    )


def _resending(seed: int, load: Traffic, *, grid: bool) -> Traffic:
    """Return the load with clients that send again what was turned away: in most cases."""
    own = Random(f"who comes again of {seed}")  # noqa: S311 - no secret
    if own.random() < 0.3:
        return load
    after = GRID_S if grid else own.uniform(0.01, 1.0)
    clients = replace(load.clients, resends=own.choice([1, 2, 5]), resend_after_s=after)
    return replace(load, clients=clients)


def _clients(rng: Random, *, grid: bool) -> Clients:
    """Return how patient clients are: in most configurations endlessly."""
    if rng.random() < 0.6:
        return Clients()
    times = [0.5, 1.0, 2.0] if grid else [0.05, 0.3, 1.0, rng.uniform(0.01, 3.0)]
    return Clients(
        first_token_timeout_s=rng.choice([None, *times]),
        timeout_s=rng.choice([None, *times]),
        cancel_probability=rng.choice([0.0, 0.0, 0.5, 1.0]),
        cancel_mean_s=rng.choice([0.1, 1.0]),
    )


def _deployment(rng: Random, *, grid: bool) -> Deployment:
    model = rng.choice(MODELS)
    gpu, fabric = _hardware(rng, grid=grid)
    roles = rng.choice([("prefill", "decode")] * 3 + [("mixed",), ("prefill", "decode", "mixed")])
    sharing = "fifo" if grid else rng.choice(["fifo", "processor_sharing", "max_min"])
    other = replace(gpu, name="other test GPU")
    mode = rng.choice(["pull", "push", "push_layerwise"])
    release = "prompt" if mode == "push_layerwise" else rng.choice(["prompt", "prompt", "idle"])
    return Deployment(
        model=model,
        gpu=gpu,
        fabric=fabric,
        latency=_latency(rng, grid=grid),
        pools=tuple(_pool(rng, role, rng.choice([None, None, other])) for role in roles),
        router=rng.choice(ROUTERS)(),
        decode_router=rng.choice(ROUTERS)(),
        transfer=Transfer(
            mode=mode,
            sharing=sharing,
            messages=rng.choice(["block_layer", "block", "request"]),
            replicas=rng.choice(["each", "each", "once"]),
            nics=rng.choice(["own", "own", "box"]),
            setup_s=rng.choice([0.0, 0.0, 0.25 if grid else rng.uniform(0.0, 0.3)]),
            handover_s=rng.choice([None, 0.0, 0.25 if grid else rng.uniform(0.0, 0.3)]),
            recomputes=rng.choice([None, False, True]),
            release=release,
        ),
        first_token=rng.choice(["prefill", "decode", "decode"]),
        gateway_s=rng.choice([None, 0.0, 0.25 if grid else rng.uniform(0.0, 0.3)]),
    )


def _latency(rng: Random, *, grid: bool) -> Terms:
    stages = rng.choice([1, 1, 2, 3])
    if grid:
        flat = dict.fromkeys(["per_seq", "per_context", "per_square", "per_token", "per_pair"], 0.0)
        flat |= dict.fromkeys(["per_past", "per_prompt", "per_fullest"], 0.0)
        return Terms(base=GRID_S, stages=stages, even=True, **flat)
    return Terms(
        base=rng.uniform(0.005, 0.05), knee=float(rng.choice([40, 150, 10_000])), stages=stages
    )


def _hardware(rng: Random, *, grid: bool) -> tuple[GPU, Fabric]:
    """Return a GPU and a fabric: slow links with latencies, or such as take no time."""

    def link(name: str, bandwidth: float) -> Link:
        if grid:
            return INSTANT
        latency = rng.choice([0.0, rng.uniform(0.0, 0.05)])
        return Link(name=name, bandwidth=bandwidth * rng.uniform(0.5, 2.0), latency_s=latency)

    nic, inside = link("NIC", 1e6), link("scale-up", 3e6)
    bridged = rng.random() < 0.2
    fabric = replace(
        A_FABRIC,
        network=link("switch", rng.choice([1e6, 1e9])),
        domain_gpus=rng.choice([1, 2, 4, 8]),
        nics_per_gpu=rng.choice([0.5, 1.0, 2.0]),
        host_bridge=link("bridge", 2e6) if bridged else None,
        setup_s=rng.choice([0.0, 0.25 if grid else rng.uniform(0.0, 0.1)]),
        scale_up_setup_s=rng.choice([0.0, 0.25 if grid else rng.uniform(0.0, 0.1)]),
        efficiency=rng.choice([1.0, 0.75]),
        scale_up_efficiency=rng.choice([1.0, 0.75]),
        message_s=0.0 if grid else rng.choice([0.0, rng.uniform(0.0, 0.003)]),
        scale_up_message_s=0.0 if grid else rng.choice([0.0, rng.uniform(0.0, 0.003)]),
    )
    domain = 1 if bridged else 8
    return replace(A_GPU, scale_up=inside, nic=nic, scale_up_domain=domain), fabric


def _pool(rng: Random, role: str, gpu: GPU | None) -> Pool:
    tp, pp = rng.choice([1, 1, 2, 8]), rng.choice([1, 1, 2])
    ranks = rng.choice([1, 1, 2, 3])
    seats = rng.choice([1, 2, 4, 8, 12])
    size = rng.choice([1, 2, 3, 16])
    tokens = rng.choice([90, 150, 310, 1000])
    batching = Batching(
        max_num_batched_tokens=max(seats, rng.choice([7, 16, 40, 64, 200])),
        max_num_seqs=seats,
        block_size=size,
        chunked_prefill=rng.random() < 0.6,
        piggyback=rng.random() < 0.6,
        reserve=rng.choice(["prompt", "prompt", "full"]),
        kv_blocks=max(1, tokens // size),
    )
    return Pool(
        role=role,
        workers=rng.choice([1, 1, 2, 3]),
        layout=Layout(tp=tp, pp=pp, attention_dp=ranks),
        batching=batching,
        gpu=gpu,
    )


def _traffic(rng: Random, *, grid: bool) -> Traffic:
    count = rng.randint(1, 24)
    prompt, answer = rng.choice([5, 30, 90]), rng.choice([2, 15, 60])
    rows: list[tuple[float, int, int]] = []
    for _ in range(count):
        long = rng.random() < 0.05
        inputs = rng.randint(1, 320 if long else prompt)
        outputs = rng.randint(1, answer)
        arrival: Any = rng.randint(0, 12) * GRID_S if grid else rng.uniform(0.0, 2.0)
        rows.append((arrival, inputs, outputs))
    rows.sort()
    clients = rng.choice([None, None, None, 1, 2, 5])
    arrivals, inputs, outputs = zip(*rows, strict=True)
    return traffic(arrivals, inputs, outputs, clients)
