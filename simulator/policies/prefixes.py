"""Routers that look at what workers are believed to have of a prompt in their prefix caches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from simulator.policies.routing import Beneath, PoolView, RoutedRequest

KINDS = ("events", "routed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beliefs:
    """How a router knows of caches.

    By ``events``, which caches send as blocks come and go and which arrive ``delay_s`` later; or by
    where it ``routed`` prompts before, each of which it takes to be there for ``ttl_s`` (``None``:
    as long as the worker is), whatever became of it.
    """

    by: str = "events"
    delay_s: float = 0.0
    ttl_s: float | None = None

    def __post_init__(self) -> None:
        if self.by not in KINDS:
            raise ValueError(f"beliefs: by must be one of {', '.join(KINDS)} but got {self.by!r}")
        if not 0 <= self.delay_s < math.inf:
            raise ValueError(f"beliefs: delay_s must be at least 0 s but got {self.delay_s!r}")
        if self.ttl_s is not None and not self.ttl_s > 0:
            raise ValueError(f"beliefs: ttl_s must be above 0 s but got {self.ttl_s!r}")
        if self.by == "routed" and self.delay_s:
            raise ValueError(
                "beliefs: delay_s is of events; a router knows at once where it routed"
            )
        if self.by == "events" and self.ttl_s is not None:
            raise ValueError("beliefs: ttl_s is of routed prompts; events tell when blocks go")


ROUTED = Beliefs(by="routed")


@dataclass(frozen=True, slots=True, kw_only=True)
class KvAware:
    """Dynamo's KV router: the least prefill to compute and blocks to decode together.

    A worker costs ``prefill_scale`` × (prompt blocks placed there and not computed + this
    prompt's − ``overlap_credit`` × those of it that it has, at least 0) + blocks of requests there,
    this one's included + ``request_weight`` × requests there. With a ``temperature`` above 0 it
    draws with weights exp(−(cost − least) / ((most − least) × temperature)), all alike where costs
    are.
    Where it does not ``track_prefill``, as for decode workers, a worker costs max(0, blocks −
    credit) + ``request_weight`` × requests. Ties are drawn.

    Blocks that the host's memory, its SSDs or a store has of the prompt beyond what is nearer are
    credited as well, ``host_credit`` and so on each.

    Blocks are counted per request, shared or not; the decay of credits (0 in Dynamo) is left out.

    Source: ``lib/kv-router/src/scheduling/selector/default.rs`` at 07a6c9ce.
    """

    overlap_credit: float = 1.0
    host_credit: float = 0.75
    ssd_credit: float = 0.25
    store_credit: float = 0.0
    prefill_scale: float = 1.0
    request_weight: float = 0.0
    temperature: float = 0.0
    track_prefill: bool = True
    beliefs: Beliefs | None = field(default_factory=Beliefs)

    def __post_init__(self) -> None:
        credited = ("overlap_credit", "host_credit", "ssd_credit", "store_credit")
        for name in (*credited, "prefill_scale", "request_weight", "temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"kv_aware: {name} must be at least 0 but got {getattr(self, name)!r}"
                )

    @property
    def _credits(self) -> Mapping[str, float]:
        """What a block in each memory is credited."""
        return {"host": self.host_credit, "ssd": self.ssd_credit, "store": self.store_credit}

    def costs(self, request: RoutedRequest, pool: PoolView) -> list[float]:
        """Return what each worker costs."""
        size, tokens = pool.block_size, request.input_tokens
        found = pool.overlaps(request.request)
        own = -(-tokens // size)
        beneath = pool.beneath(request.request) if self.track_prefill else ()
        credited = self._credits if beneath else {}
        costs = []
        for worker, blocks in enumerate(pool.kv_blocks):
            reached = found.get(worker, 0)
            credit = self.overlap_credit * (reached // size)
            for memory, more in _beyond(reached, beneath, worker) if beneath else ():
                credit += credited[memory.name] * (more // size)
            decode = float(blocks + own)
            if self.track_prefill:
                # The router's own account leaves out what it believes to be cached.
                prefill = self.prefill_scale * max(0.0, pool.tokens[worker] / size + own - credit)
                cost = prefill + decode
            else:
                cost = max(0.0, decode - credit)
            costs.append(cost + self.request_weight * pool.requests[worker])
        return costs

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the worker with the least cost, or one drawn by its cost."""
        costs = self.costs(request, pool)
        least = min(costs)
        spread = (max(costs) - least) * self.temperature if self.temperature else 0.0
        if not spread:
            return _drawn([at for at, cost in enumerate(costs) if cost == least], request.draw)
        weights = [math.exp((least - cost) / spread) for cost in costs]
        return _weighted(weights, request.draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAffinity:
    """llm-d's baseline: stay with who has the prompt, unless others are much sooner done.

    Workers that have at least ``sticky_share`` of the prompt are kept, and the others dropped,
    unless the soonest of the kept would take ``patience_s`` longer than the soonest of the others,
    at ``tokens_per_s``. Of what is left the one with the fewest tokens wins: prompt tokens placed
    there and not computed, and what it has not of this prompt; beyond ``most_tokens`` all are
    alike. Ties are drawn.

    Source: llm-d-router ``scheduling/filter/prefixcacheaffinity`` and ``scorer/tokenload`` at
    ebab6879; 15,928 tokens/s are Qwen3-32B's on two H100s.
    """

    sticky_share: float = 0.80
    patience_s: float = 18.0
    tokens_per_s: float = 15_928.0
    most_tokens: int = 4_194_304
    beliefs: Beliefs = ROUTED

    def __post_init__(self) -> None:
        if not 0 < self.sticky_share <= 1:
            raise ValueError(
                f"prefix_affinity: sticky_share must lie in (0, 1] but got {self.sticky_share!r}"
            )
        for name in ("tokens_per_s", "most_tokens"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"prefix_affinity: {name} must be above 0 but got {getattr(self, name)!r}"
                )
        if not self.patience_s >= 0:
            raise ValueError(
                f"prefix_affinity: patience_s must be at least 0 s but got {self.patience_s!r}"
            )

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the worker with the fewest tokens among those that are left."""
        found, total = pool.overlaps(request.request), request.input_tokens
        sticky = {at for at, tokens in found.items() if tokens / total >= self.sticky_share}
        kept: Sequence[int] = range(len(pool.tokens))
        if sticky and len(sticky) < len(kept):
            stays = min(pool.tokens[at] for at in sticky)
            goes = min(load for at, load in enumerate(pool.tokens) if at not in sticky)
            if (stays - goes) / self.tokens_per_s <= self.patience_s:
                kept = sorted(sticky)
        loads = [
            min(pool.tokens[at] + total - min(total, found.get(at, 0)), self.most_tokens)
            for at in kept
        ]
        least = min(loads)
        tied = [at for at, load in zip(kept, loads, strict=True) if load == least]
        return _drawn(tied, request.draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAware:
    """SGLang's gateway: the best match, unless loads are out of balance or nobody matches well.

    Where the most requests at a worker exceed the fewest by more than ``balance_abs`` and more than
    ``balance_rel`` times, the least loaded gets the prompt; else, if somebody has more than
    ``cache_threshold`` of it, who has most; else the least loaded again. Ties are drawn. The
    gateway measures a match in characters of the text, here it is tokens.

    Source: sglang-router 0.3.2 and ``sgl-model-gateway`` at 053b63ff, with the defaults that its
    command line ships.
    """

    cache_threshold: float = 0.3
    balance_abs: int = 64
    balance_rel: float = 1.5
    beliefs: Beliefs = ROUTED

    def __post_init__(self) -> None:
        if not 0 <= self.cache_threshold <= 1:
            raise ValueError(
                f"cache_aware: cache_threshold must lie in [0, 1] but got {self.cache_threshold!r}"
            )
        for name in ("balance_abs", "balance_rel"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"cache_aware: {name} must be at least 0 but got {getattr(self, name)!r}"
                )

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the best match, or the least loaded worker."""
        least, most = min(pool.requests), max(pool.requests)
        if most - least > self.balance_abs and most > self.balance_rel * least:
            return pool.least("requests", draw=request.draw)
        found: Mapping[int, int] = pool.overlaps(request.request)
        best = max(found.values(), default=0)
        if best / request.input_tokens > self.cache_threshold:
            return _drawn(sorted(at for at, n in found.items() if n == best), request.draw)
        return pool.least("requests", draw=request.draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedTtft:
    """The worker that would have the prompt computed first: its queue, and what it has not of it.

    Mooncake's conductor (its Algorithm 1). What a worker has not but a memory beneath it, or a
    store for all, is loaded, which takes its time alone on the wire; what others have in their own
    memory alone is not fetched. Ties are drawn.
    """

    beliefs: Beliefs = field(default_factory=Beliefs)

    def choose(self, request: RoutedRequest, pool: PoolView) -> int:
        """Return the worker with the least estimate of TTFT."""
        found, beneath = pool.overlaps(request.request), pool.beneath(request.request)
        waits = []
        for worker in range(len(pool.requests)):
            reached, load_s = found.get(worker, 0), 0.0
            for memory, more in _beyond(reached, beneath, worker):
                load_s += memory.latency_s + memory.seconds_per_token * more
                reached += more
            left = max(1, request.input_tokens - reached)
            waits.append(pool.estimates.ttft_s(worker, left) + load_s)
        least = min(waits)
        return _drawn([at for at, wait in enumerate(waits) if wait == least], request.draw)


def _beyond(reached: int, beneath: Sequence[Beneath], worker: int) -> Iterator[tuple[Beneath, int]]:
    """Yield the memories that have tokens beyond what is nearer to a worker, and how many."""
    for memory in beneath:
        more = memory.tokens.get(worker, 0) - reached
        if more > 0:
            yield memory, more
            reached += more


def _drawn(tied: Sequence[int], draw: float) -> int:
    """Return the one of these workers on which ``draw``, uniform in [0, 1), falls."""
    return tied[int(draw * len(tied))]


def _weighted(weights: Sequence[float], draw: float) -> int:
    """Return the worker on which ``draw`` falls, each as wide as its weight."""
    left = draw * sum(weights)
    for worker, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return worker
    return len(weights) - 1
