"""Autoscalers of llm-d's workload variant autoscaler and of AIBrix, over Kubernetes' windows.

Sources: llm-d-autoscaling docs at 88d68329 and ``internal/engines/analyzers/saturation_v2`` and its
forerunner at b08b1c7; AIBrix ``pkg/controller/podautoscaler`` at e3e10f9e.
"""

import math
from dataclasses import dataclass, field
from statistics import median_low
from typing import NamedTuple

from simulator.policies.autoscaling import Observation, PoolSeen, TrafficSeen
from simulator.policies.engines import Engine
from simulator.policies.ticks import check_interval
from simulator.policies.windows import Limits, Memory, Told, check_metric, per_worker, since

SAMPLES = 10
"""Readings of a full worker that the analyzer averages."""
EVERY_S = 60.0
"""Seconds between two looks of the variant autoscaler (``GLOBAL_OPT_INTERVAL``)."""


class _Loads(NamedTuple):
    """One worker's requests waiting, and its KV tokens in use."""

    waiting: int
    in_use: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WvaTokens:
    """llm-d's variant autoscaler by token capacity (V2), of one variant, over Kubernetes' windows.

    A worker holds the lesser of ``kv`` of its KV tokens and what it held when ``queue`` requests
    waited: this look's, else the mean of the last ten such, else what its settings let it hold at
    n·(I + O/2) tokens, n = min(step tokens·O/(I + O), sequences). Demand is the tokens in use and
    those of waiting prompts, and of requests at the router what of their prompts is not cached and,
    but for a prefill pool, their answers. It asks for ceil((demand/``up`` − supply, pending
    workers' included) / worker) more, or floor((supply − demand/``down``) / worker) fewer, one at
    least being left. It looks every ``every_s``; what it asked for then holds until it looks again.
    """

    kv: float = 0.8
    queue: int = 5
    up: float = 0.85
    down: float = 0.70
    every_s: float = EVERY_S
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_interval("wva_v2", "every_s", self.every_s)
        for name in ("kv", "up", "down"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"wva_v2: {name} must lie in (0, 1] but got {getattr(self, name)!r}"
                )
        if not self.down < self.up:
            raise ValueError(
                f"wva_v2: down must be less than up, {self.up!r}, but got {self.down!r}"
            )
        if self.queue < 1:
            raise ValueError(f"wva_v2: queue must be at least 1 request but got {self.queue!r}")

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        if not _due(memory, seen.now_s, self.every_s):
            return _stands(pool, seen, memory, self.limits)
        loads = _loads(pool)
        if pool.engine is None or not loads:
            return pool.desired, "no metric can be read", memory
        full = [each.in_use for each in loads if each.waiting >= self.queue and each.in_use]
        told = (*memory.signals, *(Told(seen.now_s, each) for each in full))[-SAMPLES:]
        memory = memory._replace(signals=told)
        worker = self._holds(pool.engine, loads, seen.traffic, told)
        waiting = sum(each.waiting for each in loads)
        prompt = seen.traffic.input_tokens if waiting and seen.traffic.requests else 0.0
        demand = sum(each.in_use for each in loads) + waiting * prompt + _held(pool, seen.traffic)
        wanted = self.wanted(pool, demand, worker)
        memory = memory._replace(since_s=seen.now_s, held=wanted)
        granted, after = self.limits.apply(wanted, pool.desired, seen.now_s, memory)
        return granted, f"{demand:.0f} tokens of {worker:.0f} a worker ask for {wanted}", after

    def _holds(
        self, engine: Engine, loads: list[_Loads], traffic: TrafficSeen, told: tuple[Told, ...]
    ) -> float:
        """Return the tokens a worker holds: the median over the pool."""
        memory_bound = engine.kv_tokens * self.kv
        usual = _derived(engine, traffic) or memory_bound
        if told:
            usual = sum(each.value for each in told) / len(told)
        each = [
            min(memory_bound, load.in_use if load.waiting >= self.queue and load.in_use else usual)
            for load in loads
        ]
        return (
            median_low(each) if len(each) % 2 else sum(sorted(each)[len(each) // 2 - 1 :][:2]) / 2
        )

    def wanted(self, pool: PoolSeen, demand: float, worker: float) -> int:
        """Return the workers that a demand asks for, of which each holds ``worker`` tokens."""
        coming = pool.pending + pool.starting
        missing = demand / self.up - (pool.ready + coming) * worker
        if missing > 0:
            return pool.desired + math.ceil(missing / worker)
        spare = pool.ready * worker - demand / self.down
        if spare > 0:
            return max(1, pool.desired - math.floor(spare / worker))
        return pool.desired


def _due(memory: Memory, now_s: float, every_s: float) -> bool:
    """Tell whether it is time for another look."""
    return memory.since_s is None or now_s - memory.since_s >= every_s - 1e-9


def _stands(
    pool: PoolSeen, seen: Observation, memory: Memory, limits: Limits
) -> tuple[int, str, Memory]:
    """Return what becomes of what was asked for at the last look."""
    granted, after = limits.apply(memory.held, pool.desired, seen.now_s, memory)
    return granted, f"{memory.held} are still asked for", after


def _loads(pool: PoolSeen) -> list[_Loads]:
    if pool.waiting is None or pool.kv_utilization is None or pool.engine is None:
        return []
    pairs = zip(pool.waiting, pool.kv_utilization, strict=True)
    return [_Loads(waiting, used * pool.engine.kv_tokens) for waiting, used in pairs]


def _derived(engine: Engine, traffic: TrafficSeen) -> float:
    """Return the tokens its settings let a worker hold, 0 where lengths are not known."""
    if not traffic.requests or traffic.output_tokens <= 0:
        return 0.0
    prompt, answer = traffic.input_tokens, traffic.output_tokens
    steady = engine.max_num_batched_tokens * answer / (prompt + answer)
    return min(steady, engine.max_num_seqs) * (prompt + answer / 2)


def _held(pool: PoolSeen, traffic: TrafficSeen) -> float:
    """Return the tokens that requests at the router will take of a pool."""
    if not pool.held or not traffic.requests:
        return 0.0
    answers = 0.0 if pool.role == "prefill" else traffic.output_tokens
    return pool.held * (traffic.input_tokens * (1 - traffic.hit_rate) + answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class WvaPercent:
    """llm-d's variant autoscaler by shares (V1, the older one), over Kubernetes' windows.

    Workers under ``kv`` of their KV and with fewer than ``queue`` requests waiting are not
    saturated. One worker is added where the mean of what these have left is below ``kv_spare`` or
    ``queue_spare``, or none is left; one is taken where that would not be so with one fewer. The
    thresholds are those of the shipped ConfigMap: without it they are 0, and every worker counts as
    saturated. Loads are the peaks of a minute there; here they are the scrape's. It looks every
    ``every_s``; what it asked for then holds until it looks again, and while not all workers that
    shall be export metrics (its docs' "model-level transition blocking").
    """

    kv: float = 0.80
    queue: float = 5.0
    kv_spare: float = 0.1
    queue_spare: float = 3.0
    every_s: float = EVERY_S
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_interval("wva_v1", "every_s", self.every_s)
        for name in ("kv", "queue", "kv_spare", "queue_spare"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"wva_v1: {name} must be at least 0 but got {getattr(self, name)!r}"
                )

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        if not _due(memory, seen.now_s, self.every_s):
            return _stands(pool, seen, memory, self.limits)
        if not pool.waiting or not pool.kv_utilization:
            return pool.desired, "no metric can be read", memory
        if len(pool.waiting) != pool.desired:
            asked = pool.desired if memory.since_s is None else memory.held
            memory = memory._replace(since_s=seen.now_s, held=asked)
            return _stands(pool, seen, memory, self.limits)
        wanted = self.wanted(pool, pool.waiting, pool.kv_utilization)
        memory = memory._replace(since_s=seen.now_s, held=wanted)
        granted, after = self.limits.apply(wanted, pool.desired, seen.now_s, memory)
        return granted, f"spare capacity asks for {wanted}", after

    def wanted(self, pool: PoolSeen, waiting: tuple[int, ...], used: tuple[float, ...]) -> int:
        """Return one more, one fewer, or what there is."""
        pairs = zip(waiting, used, strict=True)
        free = [(queue, kv) for queue, kv in pairs if kv < self.kv and queue < self.queue]
        if not free:
            return pool.desired + 1
        queue, kv = (sum(column) / len(free) for column in zip(*free, strict=True))
        if not self._spare(queue, kv):
            return pool.desired + 1
        share = len(free) / (len(free) - 1) if len(free) > 1 else math.inf
        if len(free) > 1 and self._spare(queue * share, kv * share):
            return pool.desired - 1
        return pool.desired

    def _spare(self, queue: float, kv: float) -> bool:
        """Tell whether enough of both is left at such loads."""
        return self.kv - kv >= self.kv_spare and self.queue - queue >= self.queue_spare


@dataclass(frozen=True, slots=True, kw_only=True)
class AibrixApa:
    """AIBrix's pod autoscaler (APA): the mean of a ``metric`` over workers, held at ``target``.

    r = mean / target beyond ``tolerance``: up to min(ceil(n·r), ceil(``up_rate``·n)), down to
    max(ceil(n·r), floor(n/``down_rate``)). Its windows are those of Kubernetes turned round, by
    reading: on the way up the largest recommendation of ``up_s`` counts, on the way down the
    smallest of ``down_s``. So it does not wait to shrink, and may go below what it asks for now.
    """

    metric: str = "running"
    target: float
    tolerance: float = 0.1
    up_rate: float = 2.0
    down_rate: float = 2.0
    up_s: float = 0.0
    down_s: float = 300.0
    least: int = 1
    most: int = 10

    def __post_init__(self) -> None:
        check_metric("aibrix_apa", self.metric)
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"aibrix_apa: least must lie in 1..most, {self.most!r}, but got {self.least!r}"
            )
        if not 0 < self.target < math.inf:
            raise ValueError(f"aibrix_apa: target must be above 0 but got {self.target!r}")
        for name in ("up_rate", "down_rate"):
            if not 1 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"aibrix_apa: {name} must be above 1 but got {getattr(self, name)!r}"
                )
        for name in ("tolerance", "up_s", "down_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"aibrix_apa: {name} must be at least 0 but got {getattr(self, name)!r}"
                )

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        values = per_worker(pool, self.metric)
        if not values:
            return pool.desired, "no metric can be read", memory
        now, now_s = pool.desired, seen.now_s
        asked = min(max(self.wanted(values, now), self.least), self.most)
        longest = max(self.up_s, self.down_s)
        told = (*since(memory.recommended, now_s - longest), Told(now_s, asked))
        wanted = asked
        if asked > now:
            wanted = max(int(each.value) for each in _within(told, now_s - self.up_s))
        elif asked < now:
            wanted = min(int(each.value) for each in _within(told, now_s - self.down_s))
        return wanted, f"{self.metric} asks for {asked}", memory._replace(recommended=told)

    def wanted(self, values: tuple[float, ...], now: int) -> int:
        """Return what the metric asks for, before windows."""
        ratio = sum(values) / len(values) / self.target
        if ratio > 1 + self.tolerance:
            return min(math.ceil(now * ratio), math.ceil(self.up_rate * now))
        if ratio < 1 - self.tolerance:
            return max(math.ceil(now * ratio), math.floor(now / self.down_rate))
        return now


def _within(told: tuple[Told, ...], after_s: float) -> tuple[Told, ...]:
    """Return what was told after a moment, the latest always."""
    return since(told, after_s) or told[-1:]
