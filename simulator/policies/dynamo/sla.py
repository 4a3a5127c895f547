"""Dynamo's planner where ``optimization_target`` is ``sla``: two loops over an engine model.

Sources, all of ai-dynamo 1.6.1: ``dynamo/planner/core/throughput_scaling.py``,
``core/load_scaling.py``, ``core/perf_model/ais_adapter.py``, ``plugins/builtins/local_planner.py``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from simulator.policies.autoscaling import Observation, Plan, PoolSeen, TrafficSeen
from simulator.policies.dynamo.budget import Counts
from simulator.policies.dynamo.estimates import Estimates, Looks, Terms
from simulator.policies.dynamo.inventory import (
    Budget,
    Inventory,
    Waiting,
    Wanted,
    budget_refused,
    inventory,
    reductions,
    sustained,
)
from simulator.policies.dynamo.thresholds import Settling, settled
from simulator.policies.engines import Shape, Targets, check_targets
from simulator.policies.forecasting import Arima, Demand, Forecaster, Oracle, last
from simulator.policies.ticks import check_interval, common_tick_s, crossed

LEAST_LOOKS = 5
"""Looks before the load loop trusts its model."""


class Known(NamedTuple):
    """What the planner remembers: the demand of past intervals, and its loops."""

    demand: Demand = Demand()
    floors: tuple[int, ...] = ()
    looks: tuple[Looks, ...] = ()
    waiting: Waiting | None = None
    ticked_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoSla:
    """Workers for the forecast demand, within latency targets; a load loop may be added.

    Every ``throughput_s`` each pool gets ceil(demand / what one worker sustains), at most
    ``max_change`` workers more or fewer; a target nobody can keep is sized by the fastest batch.
    With ``load`` that is only a lower bound, and every ``load_s`` one worker is added where every
    one's estimate exceeds its target, or taken where the others would stay within ``sensitivity``
    of it (not ``consolidated``: where each is within it now, the rule before PR 9294).
    ``latency_floor`` is the rule of PR 8861, taken back by PR 11624: at least ceil(one prompt's
    time / its target) prefill workers, whatever the demand. Dynamo corrects its engine model by
    what it measures; here the model is exact.
    """

    sees: ClassVar[Mapping[str, object]] = MappingProxyType(
        {"scrape_s": 5.0, "window_s": 180.0, "demand": "completion"}
    )
    ttft_s: float | None = 0.5
    tpot_s: float | None = 0.05
    throughput_s: float = 180.0
    load: bool = False
    load_s: float = 5.0
    sensitivity: float = 0.8
    consolidated: bool = True
    latency_floor: bool = False
    max_change: int = 8
    forecaster: Forecaster = field(default_factory=Arima)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        check_targets("dynamo_sla", "the planner sizes pools by it", self.ttft_s, self.tpot_s)
        for name in ("throughput_s", "load_s"):
            check_interval("dynamo_sla", name, getattr(self, name))
        if not 0 < self.sensitivity <= 1:
            raise ValueError(
                f"dynamo_sla: sensitivity must lie in (0, 1] but got {self.sensitivity!r}"
            )
        if self.max_change < 1:
            raise ValueError(
                f"dynamo_sla: max_change must be at least 1 worker but got {self.max_change!r}"
            )

    @property
    def interval_s(self) -> float:
        """Seconds between ticks: the loops' greatest common divisor."""
        if not self.load:
            return self.throughput_s
        return common_tick_s(self.throughput_s, self.load_s)

    @property
    def targets(self) -> Targets:
        """What latencies are to keep."""
        return Targets(self.ttft_s or 0.0, self.tpot_s or 0.0)

    def refused(self, gpus: Mapping[str, int]) -> str:
        """Return why it cannot plan for such pools, if so."""
        return budget_refused(self.budget, gpus)

    def initial(self) -> Known:
        """Return nothing known."""
        return Known()

    def decide(self, seen: Observation, state: Known) -> tuple[Plan, Known]:
        """Return what the loops that are due ask for."""
        there = inventory(seen)
        before = state.looks or (Looks(),) * len(there.roles)
        looks = tuple(
            each.after(seen.pools[role]) for role, each in zip(there.roles, before, strict=True)
        )
        known = state._replace(looks=looks, ticked_s=seen.now_s)
        plan = Plan({}, "")
        if crossed(state.ticked_s, seen.now_s, self.throughput_s):
            plan, known = self._throughput(seen, there, known)
        if self.load and crossed(state.ticked_s, seen.now_s, self.load_s):
            plan, known = self._load(seen, there, known)
        return plan, known

    # --- the throughput loop -------------------------------------------------------------------

    def _throughput(self, seen: Observation, there: Inventory, known: Known) -> tuple[Plan, Known]:
        known = self._told(known, seen.traffic)
        if not known.demand.requests.points:
            return Plan({}, "no traffic yet"), known
        demand, shape = self._expected(seen, known)
        sized = tuple(self._sized(role, seen.pools[role], shape, demand) for role in there.roles)
        rates = [each for each in sized if each is not None]
        if len(rates) < len(sized):
            return Plan({}, "a worker's rate is not known"), known._replace(floors=there.ready)
        asked = tuple(
            max(self._near(each, ready), self.budget.min_endpoint)
            for each, ready in zip(rates, there.ready, strict=True)
        )
        lengths = f"{shape.input_tokens:.0f}/{shape.output_tokens:.0f}"
        why = f"{demand:.3g} requests/s of {lengths} ask for {' and '.join(map(str, sized))}"
        return self._acted(seen, there, known, (asked, why))

    @property
    def knows_trace(self) -> bool:
        """Whether it is to be told what will come."""
        return isinstance(self.forecaster, Oracle)

    def _expected(self, seen: Observation, known: Known) -> tuple[float, Shape]:
        """Return the requests/s of the next interval, and what they are like."""
        requests, prompt, answer = known.demand.ahead(self.forecaster)
        demand = requests / self.throughput_s
        if seen.truth is not None and self.knows_trace:
            coming, *exact = seen.truth.between(seen.now_s, seen.now_s + self.throughput_s)
            demand = coming / self.throughput_s
            prompt, answer = exact if coming else (prompt, answer)
        return demand, Shape(prompt, answer, seen.traffic.hit_rate)

    def _told(self, known: Known, traffic: TrafficSeen) -> Known:
        """Return the series with one more interval; without requests lengths are as before."""
        demand, lengths = known.demand, (traffic.input_tokens, traffic.output_tokens)
        if not traffic.requests:
            if not demand.requests.points:
                return known
            lengths = last(demand.inputs), last(demand.outputs)
        requests = traffic.rate * self.throughput_s
        return known._replace(demand=demand.told(self.forecaster, requests, lengths))

    def _sized(self, role: str, pool: PoolSeen, shape: Shape, demand: float) -> int | None:
        found = None if pool.engine is None else pool.engine.capacity(role, shape, self.targets)
        if found is None or found.rate <= 0:
            return None
        least = self.budget.min_endpoint
        if self.latency_floor and role == "prefill" and pool.engine is not None:
            alone = pool.engine.prompts_s(shape.computed, shape.computed)
            least = max(least, math.ceil(alone / self.targets.ttft_s))
        return max(math.ceil(demand / found.rate), least)

    def _near(self, asked: int, ready: int) -> int:
        return min(max(asked, max(0, ready - self.max_change)), ready + self.max_change)

    def _acted(
        self, seen: Observation, there: Inventory, known: Known, sized: tuple[Counts, str]
    ) -> tuple[Plan, Known]:
        """Return the plan within the budget, or with a load loop its lower bound."""
        asked, why = sized
        band = self.budget.band(tuple(seen.pools[role].gpus_per_worker for role in there.roles))
        if there.starting and not self.load:
            cut = reductions(asked, there, band)
            due, waiting = sustained(cut, there, known.waiting, seen.now_s, self.load_s)
            why = why if due else f"{why}; workers are starting"
            plan = _named(there.roles, cut) if due else {}
            return Plan(plan, why), known._replace(waiting=waiting)
        ceiling = replace(band, least=None)
        below = any(n < floor for n, floor in zip(there.ready, band.floors, strict=True))
        fitted = ceiling.clamped(asked) if below else ceiling.fitted(there.ready, asked)
        if self.load:
            return Plan({}, f"{why} at least"), known._replace(floors=fitted)
        if there.moving:
            return Plan({}, f"{why}; scaling in progress"), known
        granted, held = band.guarded(there.ready, fitted)
        changed = (g if g != n else None for g, n in zip(granted, there.ready, strict=True))
        return Plan(_named(there.roles, tuple(changed)), f"{why}{held and '; '}{held}"), known

    # --- the load loop -------------------------------------------------------------------------

    def _load(self, seen: Observation, there: Inventory, known: Known) -> tuple[Plan, Known]:
        if min(looks.seen for looks in known.looks) < LEAST_LOOKS:
            return Plan({}, "has not looked often enough"), known

        terms = Terms(
            targets=self.targets,
            sensitivity=self.sensitivity,
            least=self.budget.min_endpoint,
            consolidated=self.consolidated,
        )

        def propose(role: str, pool: PoolSeen, pending: int) -> int | None:
            hits = seen.traffic.hit_rate
            looks = known.looks[there.roles.index(role)]
            estimates = Estimates.of(role, pool, looks, hits, terms)
            return None if estimates is None else estimates.wanted(pending)

        rules = Settling(self.budget, self.load_s, known.waiting, known.floors)
        plan, waiting = settled(seen, there, propose, rules)
        return plan, known._replace(waiting=waiting)


def _named(roles: tuple[str, ...], counts: Wanted) -> dict[str, int]:
    """Return the counts there are by role."""
    return {role: count for role, count in zip(roles, counts, strict=True) if count is not None}
