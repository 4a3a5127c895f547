"""Policies made of policies: one after another, or one that is shown a forecast."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from simulator.policies.autoscaling import (
    Autoscaler,
    Observation,
    Plan,
    PoolSeen,
    TrafficSeen,
    refusal,
)
from simulator.policies.forecasting import Constant, Demand, Forecaster, Oracle
from simulator.policies.ticks import check_interval, common_tick_s

KNOWN_S = 60.0
"""Seconds of the future that an oracle's rate is taken over."""
MOST_GROWTH = 4.0
"""A forecast counts for at most so many times what is seen, and at least that part of it."""


class Stage(NamedTuple):
    """A policy of a chain and its own interval in seconds."""

    policy: Autoscaler[object]
    every_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Policies in order, each on its interval: a later one sees what earlier ones plan, and rules.

    So an autoscaler may set how many GPUs there are and a rate matcher split them: it finds in
    ``planned`` what was asked for before it. What a policy asked for last holds for the later ones
    until it is asked again.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("chain: stages must hold at least one policy but got none")
        for stage in self.stages:
            check_interval("chain", "every_s", stage.every_s)

    @property
    def interval_s(self) -> float:
        """Seconds between ticks: the stages' greatest common divisor."""
        return common_tick_s(*(stage.every_s for stage in self.stages))

    def refused(self, gpus: Mapping[str, int]) -> str:
        """Return why one of its policies cannot plan for such pools, if so."""
        told = (refusal(stage.policy, gpus) for stage in self.stages)
        return next((each for each in told if each), "")

    def initial(self) -> tuple[tuple[object, Mapping[str, int], float], ...]:
        """Return each policy's state, what it asked for, and when it was last asked."""
        return tuple((stage.policy.initial(), {}, 0.0) for stage in self.stages)

    def decide(
        self, seen: Observation, state: tuple[tuple[object, Mapping[str, int], float], ...]
    ) -> tuple[Plan, tuple[tuple[object, Mapping[str, int], float], ...]]:
        """Return what the policies that are due make of it together."""
        planned: dict[str, int] = dict(seen.planned)
        changed: dict[str, int] = {}
        reasons, after = [], []
        for stage, (inner, asked, at_s) in zip(self.stages, state, strict=True):
            if seen.now_s - at_s + 1e-9 >= stage.every_s:
                plan, inner = stage.policy.decide(replace(seen, planned=planned), inner)
                asked, at_s = dict(plan.workers), seen.now_s
                changed |= asked
                reasons.append(plan.reason)
            planned |= asked
            after.append((inner, asked, at_s))
        return Plan(changed, "; ".join(filter(None, reasons))), tuple(after)


class Ahead(NamedTuple):
    """The inner policy's state, and what was told of the demand so far, in requests/s."""

    inner: object
    demand: Demand = Demand()


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictive:
    """Any autoscaler, shown what is expected ``steps`` ticks ahead in place of what is.

    The rate and lengths are those of the forecast; queues, batches and KV are as many times what is
    seen as the forecast demand is of today's, at most four times and at least a quarter. Latencies
    are as they are. Choose ``steps`` × ``interval_s`` to be what a start takes.
    """

    policy: Autoscaler[object]
    forecaster: Forecaster = field(default_factory=Constant)
    steps: int = 20
    interval_s: float = 5.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"predictive: steps must be at least 1 but got {self.steps!r}")
        check_interval("predictive", "interval_s", self.interval_s)

    @property
    def sees(self) -> Mapping[str, object]:
        """What the inner policy would have observed how."""
        found: Mapping[str, object] = getattr(self.policy, "sees", {})
        return found

    def refused(self, gpus: Mapping[str, int]) -> str:
        """Return why its policy cannot plan for such pools, if so."""
        return refusal(self.policy, gpus)

    def initial(self) -> Ahead:
        """Return the inner state and empty series."""
        return Ahead(self.policy.initial())

    def decide(self, seen: Observation, state: Ahead) -> tuple[Plan, Ahead]:
        """Return what the inner policy makes of the forecast."""
        traffic = seen.traffic
        lengths = (traffic.input_tokens, traffic.output_tokens) if traffic.requests else None
        demand = state.demand.told(self.forecaster, traffic.rate, lengths)
        expected = self._known(seen)
        if expected is None:
            expected = self._expected(traffic, demand)
        shown = replace(
            seen,
            traffic=expected,
            pools={
                role: _grown(pool, _growth(traffic, expected)) for role, pool in seen.pools.items()
            },
        )
        plan, inner = self.policy.decide(shown, state.inner)
        return plan, Ahead(inner, demand)

    @property
    def knows_trace(self) -> bool:
        """Whether it is to be told what will come."""
        return isinstance(self.forecaster, Oracle)

    def _known(self, seen: Observation) -> TrafficSeen | None:
        """Return what will come in the minute that begins ``steps`` ticks from now, if known."""
        if seen.truth is None or not self.knows_trace:
            return None
        at_s = seen.now_s + self.steps * self.interval_s
        requests, inputs, outputs = seen.truth.between(at_s, at_s + KNOWN_S)
        return replace(
            seen.traffic,
            requests=requests,
            rate=requests / KNOWN_S,
            input_tokens=inputs,
            output_tokens=outputs,
        )

    def _expected(self, traffic: TrafficSeen, demand: Demand) -> TrafficSeen:
        if not traffic.requests or not traffic.rate:
            return traffic
        rate, inputs, outputs = demand.ahead(self.forecaster, self.steps)
        return replace(
            traffic,
            rate=rate,
            requests=max(1, round(traffic.requests * rate / traffic.rate)),
            input_tokens=max(1.0, inputs),
            output_tokens=max(1.0, outputs),
        )


def _growth(now: TrafficSeen, then: TrafficSeen) -> float:
    """Return how many times the tokens of now will come, within bounds."""
    if not now.requests or not now.rate or not then.requests:
        return 1.0
    tokens = [each.rate * (each.input_tokens + each.output_tokens) for each in (now, then)]
    return min(max(tokens[1] / tokens[0], 1 / MOST_GROWTH), MOST_GROWTH)


def _grown(pool: PoolSeen, times: float) -> PoolSeen:
    """Return a pool as it would be with loads so many times as large."""
    if times == 1:
        return pool
    counts = ("waiting", "running", "queued_tokens", "kv_tokens", "queued_kv_tokens")
    found: dict[str, tuple[int, ...] | None] = {name: getattr(pool, name) for name in counts}
    grown: dict[str, object] = {
        name: None if values is None else tuple(math.ceil(each * times) for each in values)
        for name, values in found.items()
    }
    if pool.kv_utilization is not None:
        grown["kv_utilization"] = tuple(min(1.0, each * times) for each in pool.kv_utilization)
    if pool.held is not None:
        grown["held"] = math.ceil(pool.held * times)
    return replace(pool, **grown)  # type: ignore[arg-type]
