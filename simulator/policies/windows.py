"""What autoscalers of replicas share: a memory of the last windows, and Kubernetes' limits on it.

Sources: kubernetes/pkg/controller/podautoscaler/horizontal.go and
pkg/apis/autoscaling/v2/defaults.go at 1adaa753.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from simulator.policies.autoscaling import (
    INTERVAL_S,
    METRICS,
    POOLS,
    Observation,
    Plan,
    PoolSeen,
)
from simulator.policies.ticks import check_interval


class Told(NamedTuple):
    """Something recommended, done or read: when, and its value."""

    at_s: float
    value: float


class Memory(NamedTuple):
    """What a controller remembers of one pool.

    Past recommendations, workers added and taken, readings of its signal; ``since_s`` is when it
    began to see or do what it still does (``None``: nothing), and ``held`` the workers it holds.
    """

    recommended: tuple[Told, ...] = ()
    ups: tuple[Told, ...] = ()
    downs: tuple[Told, ...] = ()
    signals: tuple[Told, ...] = ()
    since_s: float | None = None
    held: int = 0


class PoolPolicy(Protocol):
    """Decides for one pool."""

    def decide(self, pool: PoolSeen, seen: Observation, memory: Memory) -> tuple[int, str, Memory]:
        """Return the workers the pool shall have, why, and what to remember."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PerPool:
    """An autoscaler of which each pool has its own; pools not named, or not there, stay.

    They are asked every ``interval_s``, over gauges read every ``scrape_s``, where nothing else is
    said (``None``: as for any policy).

    Raises:
        ValueError: a pool that cannot be, or an interval that is too short.
    """

    pools: Mapping[str, PoolPolicy]
    interval_s: float = INTERVAL_S
    scrape_s: float | None = None

    def __post_init__(self) -> None:
        check_interval("autoscaler", "interval_s", self.interval_s)
        if self.scrape_s is not None:
            check_interval("autoscaler", "scrape_s", self.scrape_s)
        for name in self.pools:
            if name not in POOLS:
                raise ValueError(f"pools must be among {', '.join(POOLS)} but got {name!r}")

    @property
    def sees(self) -> Mapping[str, object]:
        """How often gauges are to be read for it."""
        return {} if self.scrape_s is None else {"scrape_s": self.scrape_s}

    def initial(self) -> Mapping[str, Memory]:
        """Return an empty memory of each pool."""
        return dict.fromkeys(self.pools, Memory())

    def decide(
        self, seen: Observation, state: Mapping[str, Memory]
    ) -> tuple[Plan, Mapping[str, Memory]]:
        """Return what each pool's policy says, and their memories."""
        workers: dict[str, int] = {}
        reasons, after = [], dict(state)
        for name, policy in self.pools.items():
            pool = seen.pools.get(name)
            if pool is not None:
                workers[name], why, after[name] = policy.decide(pool, seen, state[name])
                reasons.append(f"{name}: {why}")
        return Plan(workers, "; ".join(reasons)), after


def since(told: tuple[Told, ...], after_s: float) -> tuple[Told, ...]:
    """Return what was told after a moment."""
    return tuple(each for each in told if each.at_s > after_s)


def mean_since(told: tuple[Told, ...], after_s: float) -> float:
    """Return the mean of the readings after a moment, of which there must be one."""
    values = [each.value for each in since(told, after_s)]
    return sum(values) / len(values)


class Rate(NamedTuple):
    """At most so many workers, or per cent of those there were, within ``period_s``."""

    period_s: float
    workers: int | None = None
    percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """One direction: the window recommendations are stabilised over, and rates.

    Of several rates the one that lets most change counts (Kubernetes' ``selectPolicy: Max``).

    Raises:
        ValueError: a negative window or rate, a period of nothing, a rate of both or neither kind.
    """

    window_s: float
    rates: tuple[Rate, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.window_s < math.inf:
            raise ValueError(f"behavior: window_s must be at least 0 s but got {self.window_s!r}")
        for rate in self.rates:
            if not 0 < rate.period_s < math.inf:
                raise ValueError(f"behavior: period_s must be above 0 s but got {rate.period_s!r}")
            if (rate.workers is None) == (rate.percent is None):
                raise ValueError(f"behavior: a rate has either workers or percent but got {rate!r}")
            if not 0 <= (rate.workers or rate.percent or 0) < math.inf:
                raise ValueError(f"behavior: a rate must be at least 0 but got {rate!r}")

    @property
    def memory_s(self) -> float:
        """How long changes must be remembered."""
        return max((rate.period_s for rate in self.rates), default=0.0)


def _up() -> Behavior:
    return Behavior(window_s=0.0, rates=(Rate(15.0, workers=4), Rate(15.0, percent=100.0)))


def _down() -> Behavior:
    return Behavior(window_s=300.0, rates=(Rate(15.0, percent=100.0),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What becomes of a recommendation: windows, rates and bounds, with Kubernetes' defaults.

    Raises:
        ValueError: ``least`` is not between 1 and ``most``.
    """

    least: int = 1
    most: int = 10
    up: Behavior = field(default_factory=_up)
    down: Behavior = field(default_factory=_down)

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"limits: least must lie in 1..most, {self.most!r}, but got {self.least!r}"
            )

    def apply(self, wanted: int, now: int, at_s: float, memory: Memory) -> tuple[int, Memory]:
        """Return the workers a pool of ``now`` gets of those ``wanted``, and the memory with it.

        A controller that has just begun takes what there is for an earlier recommendation.
        """
        before = memory.recommended or (Told(at_s, now),)
        granted = self._bounded(self._stabilised(before, wanted, now, at_s), now, at_s, memory)
        longest = max(self.up.window_s, self.down.window_s)
        keep_s = at_s - max(self.up.memory_s, self.down.memory_s)
        ups, downs = since(memory.ups, keep_s), since(memory.downs, keep_s)
        if granted > now:
            ups = (*ups, Told(at_s, granted - now))
        elif granted < now:
            downs = (*downs, Told(at_s, now - granted))
        told = (*since(before, at_s - longest), Told(at_s, wanted))
        return granted, memory._replace(recommended=told, ups=ups, downs=downs)

    def _stabilised(self, before: tuple[Told, ...], wanted: int, now: int, at_s: float) -> int:
        """Return ``now``, raised to the least of the up window and cut to the most of the down."""
        ups, downs = (
            [wanted, *(int(each.value) for each in since(before, at_s - behavior.window_s))]
            for behavior in (self.up, self.down)
        )
        steady = max(now, min(ups))
        return min(steady, max(downs))

    def _bounded(self, wanted: int, now: int, at_s: float, memory: Memory) -> int:
        """Return what rates and bounds leave of ``wanted``."""
        if wanted > now:
            reached = [self._most(rate, now, at_s, memory) for rate in self.up.rates]
            wanted = min(wanted, max(now, max(reached, default=wanted)))
        elif wanted < now:
            reached = [self._fewest(rate, now, at_s, memory) for rate in self.down.rates]
            wanted = max(wanted, min(now, min(reached, default=wanted)))
        return min(max(wanted, self.least), self.most)

    def _most(self, rate: Rate, now: int, at_s: float, memory: Memory) -> int:
        began = _began(rate, now, at_s, memory)
        if rate.percent is not None:
            return math.ceil(began * (1 + rate.percent / 100))
        return began + (rate.workers or 0)

    def _fewest(self, rate: Rate, now: int, at_s: float, memory: Memory) -> int:
        began = _began(rate, now, at_s, memory)
        if rate.percent is not None:
            return int(began * (1 - rate.percent / 100))
        return began - (rate.workers or 0)


def _began(rate: Rate, now: int, at_s: float, memory: Memory) -> int:
    """Return the workers there were when the rate's period began."""
    added, taken = (
        sum(int(each.value) for each in since(events, at_s - rate.period_s))
        for events in (memory.ups, memory.downs)
    )
    return now - added + taken


PER_WORKER = ("in_flight", *METRICS)
"""Metrics that :func:`per_worker` returns."""


def check_metric(owner: str, metric: str) -> None:
    """Refuse a metric that no worker has.

    Raises:
        ValueError: naming those there are.
    """
    if metric not in PER_WORKER:
        raise ValueError(
            f"{owner}: metric must be one of {', '.join(PER_WORKER)} but got {metric!r}"
        )


def per_worker(pool: PoolSeen, metric: str) -> tuple[float, ...] | None:
    """Return a metric of each ready worker, ``None`` where the pool's engine does not export it.

    ``in_flight`` is waiting and running requests.
    """
    if metric != "in_flight":
        known: tuple[float, ...] | None = getattr(pool, metric)
        return known
    if pool.waiting is None or pool.running is None:
        return None
    add: Callable[[int, int], int] = int.__add__
    return tuple(map(add, pool.waiting, pool.running))


def nearest_rank(values: tuple[float, ...], share: float) -> float:
    """Return the least value that ``share`` of the values do not exceed; there is one at least."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
