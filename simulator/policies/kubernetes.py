"""Kubernetes' horizontal pod autoscaler, and KEDA's triggers on top of it.

One law underneath, :class:`Hpa`: triggers give a recommendation each, the largest counts, and
:class:`~simulator.policies.windows.Limits` stabilises and limits it. What vendors deploy differs in
the triggers alone. Sources: kubernetes/pkg/controller/podautoscaler/replica_calculator.go at
00067268; llm-d's workload-autoscaling guides (keda-epp-saturation, README.slo-aware.md at
d38c9f0c).
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from simulator.policies.autoscaling import Observation, PoolSeen, TrafficSeen
from simulator.policies.engines import Engine
from simulator.policies.windows import (
    Behavior,
    Limits,
    Memory,
    Rate,
    Told,
    check_metric,
    mean_since,
    nearest_rank,
    per_worker,
    since,
)

TOLERANCE = 0.1
"""Kubernetes' default: a ratio this near to 1 changes nothing."""


class Trigger(Protocol):
    """One metric's recommendation."""

    def wanted(self, pool: PoolSeen) -> int | None:
        """Return the workers the metric asks for; ``None`` where it cannot be read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PerWorker:
    """Hold the mean of a ``metric`` over workers at ``target`` (Kubernetes' ``Pods`` metrics).

    Workers that are not ready are left out, but counted as idle where the rest ask for more; if the
    answer then points the other way, nothing changes.
    """

    metric: str = "in_flight"
    target: float
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        check_metric("per_worker", self.metric)
        _positive("per_worker", "target", self.target)

    def wanted(self, pool: PoolSeen) -> int | None:
        """Return ceil(mean / target × workers it is the mean of)."""
        values = per_worker(pool, self.metric)
        if not values:
            return None
        ratio = sum(values) / len(values) / self.target
        unready = pool.pending + pool.starting
        if ratio <= 1 or not unready:
            near = abs(1 - ratio) <= self.tolerance
            return pool.desired if near else math.ceil(ratio * len(values))
        count = len(values) + unready
        ratio = sum(values) / count / self.target
        wanted = math.ceil(ratio * count)
        if ratio - 1 <= self.tolerance or wanted < pool.desired:
            return pool.desired
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Hold the sum of a ``metric`` at ``target`` for each worker (``AverageValue``, as KEDA asks).

    All workers there shall be count, ready or not.
    """

    metric: str = "running"
    target: float
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        check_metric("total", self.metric)
        _positive("total", "target", self.target)

    def wanted(self, pool: PoolSeen) -> int | None:
        """Return ceil(sum / target), what there is where that is near enough."""
        values = per_worker(pool, self.metric)
        return None if values is None else _average_value(sum(values), self, pool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """The mean over workers of how full they are: the queue over ``queue``, or KV over ``kv``.

    llm-d's pool saturation is a mean already, and ``AverageValue`` divides by the target alone: it
    asks for ceil(saturation / target) workers however many there are. So does this.
    """

    queue: float = 5.0
    kv: float = 0.8
    target: float = 0.7
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        for name in ("queue", "kv", "target"):
            _positive("saturation", name, getattr(self, name))

    def wanted(self, pool: PoolSeen) -> int | None:
        """Return ceil(saturation / target)."""
        if not pool.waiting or not pool.kv_utilization:
            return None
        pairs = zip(pool.waiting, pool.kv_utilization, strict=True)
        full = [max(queue / self.queue, used / self.kv) for queue, used in pairs]
        return _average_value(sum(full) / len(full), self, pool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A ``metric``'s mean over ready workers under ``AverageValue``: ceil(mean / target) workers.

    llm-d's endpoint picker exports such means (``inference_pool_average_kv_cache_utilization``,
    ``…_queue_size``), and Kubernetes divides them by the target alone, so the answer does not
    depend on how many workers there are: a share of KV asks for two at most.

    Raises:
        ValueError: ``target`` is not above 0.
    """

    metric: str = "waiting"
    target: float
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        _positive("mean", "target", self.target)

    def wanted(self, pool: PoolSeen) -> int | None:
        """Return ceil(mean / target), what there is where that is near enough."""
        values = per_worker(pool, self.metric)
        return _average_value(sum(values) / len(values), self, pool) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterQueue:
    """Hold the requests that wait at the router at ``target`` for each worker (``AverageValue``).

    llm-d's trigger on its endpoint picker's flow-control queue. Where the router keeps no queue
    there is no such metric. Both prefill and decode pools are told of the whole queue.
    """

    target: float = 1.0
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        _positive("router_queue", "target", self.target)

    def wanted(self, pool: PoolSeen) -> int | None:
        """Return ceil(queue / target), what there is where that is near enough."""
        return None if pool.held is None else _average_value(pool.held, self, pool)


class _Averaged(Protocol):
    @property
    def target(self) -> float: ...

    @property
    def tolerance(self) -> float: ...


def _average_value(total: float, trigger: _Averaged, pool: PoolSeen) -> int:
    """Return ceil(total / target) in thousandths, which is how Kubernetes is told of metrics."""
    asked = int(total * 1000) / round(trigger.target * 1000)
    if pool.desired and abs(asked / pool.desired - 1) <= trigger.tolerance:
        return pool.desired
    return math.ceil(asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hpa:
    """The horizontal pod autoscaler: the largest of its triggers' recommendations, limited.

    Where a trigger cannot be read the others may ask for more, but nothing is taken away. A pool of
    no workers stays so: scaling is off at 0 replicas.
    """

    triggers: tuple[Trigger, ...]
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.triggers:
            raise ValueError("hpa: triggers must hold at least one but got none")

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        if not pool.desired:
            return 0, "off at 0 workers", memory
        told = [trigger.wanted(pool) for trigger in self.triggers]
        known = [each for each in told if each is not None]
        wanted = max(known, default=pool.desired)
        if len(known) < len(told) and wanted < pool.desired:
            return pool.desired, "a metric is missing", memory
        if not known:
            return pool.desired, "no metric can be read", memory
        granted, after = self.limits.apply(wanted, pool.desired, seen.now_s, memory)
        return granted, f"metrics ask for {wanted}", after


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledObject:
    """KEDA around its HPA: with no trigger active for ``cooldown_s`` a pool has ``idle`` workers.

    A trigger is active while it asks for a worker at all, KEDA's activation threshold of 0; one
    that cannot be read is not. From ``idle`` an active one brings back the HPA's least at once. The
    cooldown delays this drop alone: all else is the HPA's (KEDA at 8b4f083c).

    Raises:
        ValueError: a negative cooldown, or ``idle`` not below the HPA's least.
    """

    hpa: Hpa
    idle: int = 0
    cooldown_s: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.cooldown_s < math.inf:
            raise ValueError(
                f"scaled_object: cooldown_s must be at least 0 s but got {self.cooldown_s!r}"
            )
        if not 0 <= self.idle < self.hpa.limits.least:
            raise ValueError(
                f"scaled_object: idle must lie below limits.least, {self.hpa.limits.least}, but "
                f"got {self.idle!r}"
            )

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        active = any(trigger.wanted(pool) for trigger in self.hpa.triggers)
        last = seen.now_s if active or memory.since_s is None else memory.since_s
        memory = memory._replace(since_s=last)
        if not active and seen.now_s - last >= self.cooldown_s:
            return self.idle, f"no trigger active for {self.cooldown_s:g} s", memory
        if active and pool.desired <= self.idle:
            return self.hpa.limits.least, "a trigger is active", memory
        if pool.desired <= self.idle:
            return pool.desired, "no trigger is active", memory
        return self.hpa.decide(pool, seen, memory)


# --- llm-d's SLO-aware law ------------------------------------------------------------------


class Band(NamedTuple):
    """Shares of the SLO between which nothing changes."""

    low: float = 0.40
    high: float = 0.55


def _slo_limits() -> Limits:
    return Limits(
        least=3,
        most=8,
        up=Behavior(window_s=30.0, rates=(Rate(60.0, workers=4), Rate(60.0, percent=100.0))),
        down=Behavior(window_s=180.0, rates=(Rate(120.0, workers=1),)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SloKeda:
    """llm-d's SLO-aware KEDA law: p90 latencies as shares of their targets, held in a band.

    The share is the mean over ``average_s`` of the worse of TTFT and TPOT, no more than ``cap``,
    and 0 without traffic. While workers start, a rise counts only the ready ones' share.
    A target of ``None`` is not looked at: a prefill pool has no TPOT.

    ``signal`` ``observed`` reads the latencies of the rate window, as requests got their tokens;
    ``predicted`` what the next request would meet, the worst of the last ``rate_s`` (which the p90
    of as many seconds of arrivals comes to). llm-d's predictor is learnt; here the workers' step
    times are known.
    """

    ttft_s: float | None = 3.0
    tpot_s: float | None = 0.1
    average_s: float = 45.0
    rate_s: float = 60.0
    cap: float = 2.0
    signal: str = "observed"
    band: Band = field(default_factory=Band)
    limits: Limits = field(default_factory=_slo_limits)

    def __post_init__(self) -> None:
        if self.signal not in ("observed", "predicted"):
            raise ValueError(
                f"slo_keda: signal must be observed or predicted but got {self.signal!r}"
            )
        _positive("slo_keda", "rate_s", self.rate_s)
        if self.ttft_s is None and self.tpot_s is None:
            raise ValueError("slo_keda: needs ttft_s or tpot_s but got neither")
        for name in ("ttft_s", "tpot_s"):
            if getattr(self, name) is not None:
                _positive("slo_keda", name, getattr(self, name))
        if not 0 < self.band.low < self.band.high:
            raise ValueError(f"slo_keda: band must rise from above 0 but got {self.band!r}")
        _positive("slo_keda", "average_s", self.average_s)

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        now_s = seen.now_s
        kept_s = self.average_s + (self.rate_s if self.signal == "predicted" else 0.0)
        told = (*since(memory.signals, now_s - kept_s), Told(now_s, self._raw(pool, seen.traffic)))
        share = self._averaged(told, now_s)
        wanted = self.wanted(pool, share)
        after = memory._replace(signals=told)
        granted, after = self.limits.apply(wanted, pool.desired, now_s, after)
        return granted, f"{share:.2f} of the SLO asks for {wanted}", after

    def _raw(self, pool: PoolSeen, traffic: TrafficSeen) -> float:
        if self.signal == "observed":
            return self.share(traffic)
        each = expected(pool, traffic)
        if not each:
            return 0.0
        ttft, tpot = map(max, zip(*each, strict=True))
        pairs = ((ttft, self.ttft_s), (tpot, self.tpot_s))
        worst: float = max(value / target for value, target in pairs if target)
        return min(worst, self.cap)

    def _averaged(self, told: tuple[Told, ...], now_s: float) -> float:
        """Return the mean over ``average_s``; of predictions each is the worst of ``rate_s``."""
        if self.signal == "observed":
            return mean_since(told, now_s - self.average_s)
        looks = [each.at_s for each in since(told, now_s - self.average_s)]
        worst = (
            max(each.value for each in told if at_s - self.rate_s < each.at_s <= at_s)
            for at_s in looks
        )
        return sum(worst) / len(looks)

    def share(self, traffic: TrafficSeen) -> float:
        """Return the window's p90 latencies as a share of their targets."""
        pairs = ((traffic.ttft_s, self.ttft_s), (traffic.tpot_s, self.tpot_s))
        worst = [
            nearest_rank(values, 0.9) / target for values, target in pairs if values and target
        ]
        return min(max(worst, default=0.0), self.cap)

    def wanted(self, pool: PoolSeen, share: float) -> int:
        """Return what the law asks for at this share."""
        workers = pool.desired
        if share > self.band.high and workers:
            warm = pool.ready / workers if pool.pending + pool.starting else 1.0
            return workers + max(0, math.ceil(workers * (share * warm / self.band.high - 1)))
        if share < self.band.low:
            return workers - math.floor(workers * (1 - share / self.band.low))
        return workers


def expected(pool: PoolSeen, traffic: TrafficSeen) -> tuple[tuple[float, float], ...]:
    """Return the TTFT and TPOT that a next request would meet at each worker, in seconds.

    Prompts wait for those queued, and sequences for the KV of those that are ahead of them to be
    free; iterations carry the prompts that arrive meanwhile. Nothing where it cannot be told.
    """
    columns = (pool.queued_tokens, pool.waiting, pool.running, pool.kv_tokens)
    if pool.engine is None or not pool.ready or not traffic.requests:
        return ()
    known = [each for each in columns if each is not None]
    if len(known) < len(columns):
        return ()
    arriving = traffic.rate * traffic.input_tokens / pool.ready
    found = {
        load: _next(pool.engine, traffic, arriving, load) for load in set(zip(*known, strict=True))
    }
    return tuple(found[load] for load in zip(*known, strict=True))


def _next(
    engine: Engine, traffic: TrafficSeen, arriving: float, load: tuple[int, ...]
) -> tuple[float, float]:
    queued, waiting, running, kv = load
    each, answer = traffic.input_tokens, max(1.0, traffic.output_tokens)
    batch, context = running + 1, math.ceil(kv + each)
    gap = engine.step_s(batch, context)
    for _ in range(3):  # an iteration carries what arrives in it
        riding = min(math.ceil(arriving * gap), engine.max_num_batched_tokens - batch)
        gap = engine.mixed_s(max(1, riding), each, batch, context)
    first = engine.prompts_s(queued + each, each, running, max(1, kv))
    seats = min(engine.max_num_seqs, engine.kv_tokens / (each + answer / 2))
    over = max(0.0, waiting + running + 1 - seats)
    return max(first, over * answer * gap / max(1.0, seats)), gap


def _positive(owner: str, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{owner}: {name} must be above 0 but got {value!r}")
