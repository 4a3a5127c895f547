"""How a budget of GPUs is split between prefill and decode, again and again while traffic changes.

An autoscaler says how many GPUs there shall be, a rate matcher how many of them are of which pool;
:class:`RateMatched` puts the two together, each with its own interval. What one worker sustains
comes from the pool's own step times at the lengths of the traffic seen. The steady-state rules are
those of :mod:`simulator.policies.rate_matching`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from simulator.errors import ConfigError
from simulator.policies.autoscaling import (
    Autoscaler,
    Flip,
    Observation,
    Plan,
    Static,
)
from simulator.policies.engines import Shape, Targets
from simulator.policies.forecasting import Demand, Forecaster, Kalman
from simulator.policies.rate_matching import (
    Balanced,
    Engine,
    RateMatcher,
    Replicated,
    WithinBudget,
)
from simulator.policies.ticks import check_interval, common_tick_s, crossed
from simulator.policies.windows import nearest_rank

PREFILL, DECODE = "prefill", "decode"
STARTUP_S = 60.0
"""What a start is taken to last where nobody says."""


class Counts(NamedTuple):
    """Workers of the two pools."""

    prefill: int
    decode: int


class Pair(NamedTuple):
    """Something of each of the two pools."""

    prefill: float
    decode: float


class View(NamedTuple):
    """What a matcher sees: the observation, GPUs to split, GPUs of one worker, and the counts now.

    ``now`` are the workers that there shall be; ``rates`` the requests/s that one sustains of the
    traffic seen (``None``: nothing was seen, or nobody knows).
    """

    seen: Observation
    budget: int
    gpus: Counts
    now: Counts
    rates: Pair | None


class Answer(NamedTuple):
    """The workers each pool shall have (``None``: as now), why, and what to remember."""

    counts: Counts | None
    reason: str
    state: Any = None


class Matcher(Protocol):
    """A pure choice of a split; what it remembers is the state it returns."""

    @property
    def common(self) -> "Common":
        """When it is asked, and over which GPUs."""
        ...

    def initial(self) -> Any:
        """Return the state before the first tick."""
        ...

    def split(self, view: View, state: Any) -> Answer:
        """Return the workers each pool shall have within the budget."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every matcher is told: when it is asked, over which GPUs, how workers change pools.

    It is asked every ``interval_s``. The budget is ``gpus``, or what the autoscaler asks for, or
    with a static one what the pools began with. With ``flips`` workers of equal size change pools
    on their own GPUs (drained, then ``elastic.flip_s``) instead of stopping here and starting
    there. Rates are looked for within ``ttft_s`` and ``tpot_s``, and only the share
    ``utilization`` of them is counted on: chance needs room.
    """

    ttft_s: float | None
    tpot_s: float | None
    interval_s: float = 30.0
    gpus: int | None = None
    flips: bool = False
    utilization: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            value = getattr(self, name)
            if value is None or not 0 < value < math.inf:
                raise ValueError(
                    f"common: {name} must be above 0 s, as workers' rates are looked for "
                    f"within it, but got {value!r}: set slo.{name}"
                )
        check_interval("common", "interval_s", self.interval_s)
        if not 0 < self.utilization <= 1:
            raise ValueError(f"common: utilization must lie in (0, 1] but got {self.utilization!r}")
        if self.gpus is not None and self.gpus < 2:
            raise ValueError(
                f"common: gpus must be at least 2, one for each pool, but got {self.gpus!r}"
            )

    @property
    def targets(self) -> Targets:
        """The latencies that rates are looked for within."""
        return Targets(self.ttft_s or 0.0, self.tpot_s or 0.0)


# --- rules over steady rates -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Nobody splits anything: pools are as the autoscaler says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The workers whose GPUs stand in the ratio ``prefill`` : ``decode``, as near as they can.

    Of all splits of the budget the one that gives the pool that is worse off the most of its share.
    """

    common: Common
    prefill: float = 1.0
    decode: float = 1.0

    def __post_init__(self) -> None:
        for name in (PREFILL, DECODE):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"fixed_ratio: {name} must be above 0 but got {getattr(self, name)!r}"
                )

    def initial(self) -> None:
        """Return nothing to remember."""

    def split(self, view: View, state: None) -> Answer:  # noqa: ARG002
        """Return the split nearest to the ratio."""
        worth = Pair(view.gpus.prefill / self.prefill, view.gpus.decode / self.decode)
        found = best(view, splits(view), lambda counts: (least(counts, worth), sum(counts)))
        return Answer(found, f"{self.prefill:g}:{self.decode:g} of {view.budget} GPUs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """The paper's rate matching: as many of the fewest balanced workers as the budget holds.

    Balanced are pools whose rates differ by at most ``tolerance`` (arXiv 2506.05508). Where not
    even the fewest fit, the highest rate within the budget.
    """

    common: Common
    tolerance: float = 0.03

    def __post_init__(self) -> None:
        Balanced(tolerance=self.tolerance)

    def initial(self) -> None:
        """Return nothing to remember."""

    def split(self, view: View, state: None) -> Answer:  # noqa: ARG002
        """Return copies of the smallest balanced deployment."""
        balanced = Replicated(rule=Balanced(tolerance=self.tolerance), gpus=view.budget)
        answer = steady(balanced, view)
        if answer.counts == Counts(0, 0):
            return steady(WithinBudget(gpus=view.budget), view)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Aiconfigurator:
    """AIConfigurator's max–min: the most of min(0.90·n_p·R_p, 0.92·n_d·R_d) within the budget.

    Of equal ones the fewest GPUs: what the slower pool cannot use is left alone.
    """

    common: Common
    prefill: float = 0.90
    decode: float = 0.92

    def __post_init__(self) -> None:
        WithinBudget(gpus=2, prefill=self.prefill, decode=self.decode)

    def initial(self) -> None:
        """Return nothing to remember."""

    def split(self, view: View, state: None) -> Answer:  # noqa: ARG002
        """Return the split with the highest rate."""
        rule = WithinBudget(gpus=view.budget, prefill=self.prefill, decode=self.decode)
        return steady(rule, view)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVelocity:
    """Each stage's token rate over what one worker of it can take (TokenScale).

    Prompt tokens arrive at rate · ISL, a prefill worker computes R_p · ISL of them; answers need
    rate · (ISL + OSL) tokens of KV, a decode worker frees R_d · (ISL + OSL). Where the budget does
    not hold both, each pool gets its share of it. The link's velocity is not looked at.
    """

    common: Common

    def initial(self) -> None:
        """Return nothing to remember."""

    def split(self, view: View, state: None) -> Answer:  # noqa: ARG002
        """Return ceil(arriving / one worker's) of each, or their shares of the budget."""
        if view.rates is None:
            return Answer(None, "no traffic yet")
        rate, rates = view.seen.traffic.rate, view.rates
        needs = Counts(*(max(1, math.ceil(rate / each - 1e-9)) for each in rates))
        why = f"{rate:.3g} requests/s ask for {needs.prefill} and {needs.decode}"
        if cost(needs, view.gpus) <= view.budget:
            return Answer(needs, why)
        return Answer(
            best(view, splits(view), lambda counts: (least(counts, rates), -sum(counts))), why
        )


# --- rules over what is measured ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBalance:
    """The split whose longer wait is shortest: prompts queued, and sequences waiting to decode.

    A pool's wait is what waits, at the router too, and what comes in the next interval, over what
    it would serve with so many workers. It changes only for a wait that is shorter by more than the
    share ``gain``.
    """

    common: Common
    gain: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.gain < 1:
            raise ValueError(f"queue_balance: gain must lie in [0, 1) but got {self.gain!r}")

    def initial(self) -> None:
        """Return nothing to remember."""

    def split(self, view: View, state: None) -> Answer:  # noqa: ARG002
        """Return the split with the least greatest wait."""
        pools, rates = view.seen.pools, view.rates
        queued, waiting = pools[PREFILL].waiting, pools[DECODE].waiting
        if rates is None or queued is None or waiting is None:
            return Answer(None, "a queue cannot be read" if rates else "no traffic yet")
        lines = Counts(sum(queued) + (pools[PREFILL].held or 0), sum(waiting))
        if not any(lines):
            return Answer(None, "nobody waits")

        coming = view.seen.traffic.rate * self.common.interval_s

        def wait_s(counts: Counts) -> float:
            each = zip(lines, counts, rates, strict=True)
            return max((line + coming) / (count * rate) for line, count, rate in each)

        found = best(view, splits(view), lambda counts: (-wait_s(counts), sum(counts)))
        why = f"{lines.prefill} and {lines.decode} wait"
        if found is None or wait_s(found) > (1 - self.gain) * wait_s(view.now):
            return Answer(None, f"{why}; no split is better by more than {self.gain:.0%}")
        return Answer(found, f"{why}, {wait_s(found):.3g} s at most")


class Moved(NamedTuple):
    """When a worker was moved last."""

    at_s: float = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class SloFeedback:
    """One worker to the pool that misses its target, from one that holds its own with room.

    A pool's share is the ``quantile`` of TTFT or TPOT over its target. A worker moves when one
    share is above 1 and the other below ``hysteresis``, at most every ``cooldown_s``.
    """

    common: Common
    quantile: float = 0.9
    hysteresis: float = 0.8
    cooldown_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("quantile", "hysteresis"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"slo_feedback: {name} must lie in (0, 1] but got {getattr(self, name)!r}"
                )
        if not 0 <= self.cooldown_s < math.inf:
            raise ValueError(
                f"slo_feedback: cooldown_s must be at least 0 s but got {self.cooldown_s!r}"
            )

    def initial(self) -> Moved:
        """Return that nothing was moved yet."""
        return Moved()

    def split(self, view: View, state: Moved) -> Answer:
        """Return one worker moved, or nothing."""
        traffic, targets = view.seen.traffic, self.common.targets
        if not traffic.ttft_s or not traffic.tpot_s:
            return Answer(None, "no latency measured yet", state)
        ttft_s = nearest_rank(traffic.ttft_s, self.quantile)
        tpot_s = nearest_rank(traffic.tpot_s, self.quantile)
        shares = Pair(ttft_s / targets.ttft_s, tpot_s / targets.tpot_s)
        why = f"TTFT at {shares.prefill:.0%}, TPOT at {shares.decode:.0%} of target"
        if min(shares) >= self.hysteresis or max(shares) <= 1:
            return Answer(None, why, state)
        if view.seen.now_s - state.at_s < self.cooldown_s:
            return Answer(None, f"{why}; one was moved lately", state)
        moved = shifted(view, to_prefill=shares.prefill > shares.decode)
        if moved is None:
            return Answer(None, f"{why}; there is none to spare", state)
        return Answer(moved, why, Moved(view.seen.now_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPredictive:
    """The split that costs least over a horizon of forecast traffic.

    Of every split within the budget that changes no pool by more than ``reach``: its GPU-seconds,
    ``late`` for each second that a request which cannot be served waits, and ``change`` for each
    worker that starts or stops, over ``horizon`` intervals. More workers serve from ``startup_s``
    on (``None``: 60 s), fewer at once. Costs are in GPU-seconds.
    """

    common: Common
    forecaster: Forecaster = field(default_factory=Kalman)
    horizon: int = 4
    reach: int = 8
    startup_s: float | None = None
    late: float = 10.0
    change: float = 30.0

    def __post_init__(self) -> None:
        for name in ("horizon", "reach"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"model_predictive: {name} must be at least 1 but got {getattr(self, name)!r}"
                )
        for name in ("startup_s", "late", "change"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"model_predictive: {name} must be at least 0 but got {value!r}")

    def initial(self) -> Demand:
        """Return nothing told."""
        return Demand()

    def split(self, view: View, state: Demand) -> Answer:
        """Return the split of the least cost over what is forecast."""
        traffic = view.seen.traffic
        if not traffic.requests:
            return Answer(None, "no traffic", state.told(self.forecaster, 0.0, None))
        lengths = traffic.input_tokens, traffic.output_tokens
        told = state.told(self.forecaster, traffic.rate, lengths)
        ahead = []
        for step in range(1, self.horizon + 1):
            rate, prompt, answer = told.ahead(self.forecaster, step)
            shape = Shape(prompt, answer, traffic.hit_rate)
            ahead.append((rate, rates_of(view.seen, shape, self.common)))
        known = [(rate, rates) for rate, rates in ahead if rates is not None]
        if len(known) < len(ahead):
            return Answer(None, "a worker's rate is not known", told)
        prefill = view.seen.pools[PREFILL]
        waiting = float(sum(prefill.waiting or ()) + (prefill.held or 0))
        found = best(
            view, near(view, self.reach), lambda counts: (-self.cost(view, counts, known, waiting),)
        )
        return Answer(found, f"{known[0][0]:.3g} requests/s forecast", told)

    def cost(
        self, view: View, counts: Counts, ahead: list[tuple[float, Pair]], waiting: float
    ) -> float:
        """Return the GPU-seconds that a split costs, with what it lets wait and changes."""
        step_s = self.common.interval_s
        startup_s = STARTUP_S if self.startup_s is None else self.startup_s
        total = self.change * sum(abs(n - m) for n, m in zip(counts, view.now, strict=True))
        for at, (rate, rates) in enumerate(ahead):
            started = at * step_s >= startup_s
            serving = counts if started else Counts(*map(min, counts, view.now))
            backlog = waiting + (rate - least(serving, rates)) * step_s
            total += step_s * cost(counts, view.gpus)
            total += self.late * step_s * (waiting + max(0.0, backlog)) / 2
            waiting = max(0.0, backlog)
        return total


# --- what they share ---------------------------------------------------------------------------


def cost(counts: Counts, gpus: Counts) -> int:
    """Return the GPUs of so many workers."""
    return counts.prefill * gpus.prefill + counts.decode * gpus.decode


def least(counts: Counts, rates: Pair) -> float:
    """Return what the slower pool serves."""
    return min(counts.prefill * rates.prefill, counts.decode * rates.decode)


def splits(view: View) -> Iterator[Counts]:
    """Yield every split of the whole budget with a worker of each pool."""
    for prefill in range(1, view.budget // view.gpus.prefill + 1):
        decode = (view.budget - prefill * view.gpus.prefill) // view.gpus.decode
        if decode:
            yield Counts(prefill, decode)


def near(view: View, reach: int) -> Iterator[Counts]:
    """Yield the splits within the budget that change neither pool by more than ``reach``."""
    low = Counts(*(max(1, each - reach) for each in view.now))
    for prefill in range(low.prefill, view.now.prefill + reach + 1):
        for decode in range(low.decode, view.now.decode + reach + 1):
            if cost(Counts(prefill, decode), view.gpus) <= view.budget:
                yield Counts(prefill, decode)


def best(
    view: View, candidates: Iterable[Counts], worth: Callable[[Counts], tuple[float, ...]]
) -> Counts | None:
    """Return the split worth most; of equal ones the nearest to what there is."""

    def moves(counts: Counts) -> int:
        return sum(abs(n - m) for n, m in zip(counts, view.now, strict=True))

    return max(candidates, key=lambda each: (*worth(each), -moves(each)), default=None)


def steady(rule: RateMatcher, view: View) -> Answer:
    """Return what a steady-state rule makes of the rates."""
    if view.rates is None:
        return Answer(None, "no traffic yet")
    engines = [Engine(rate, gpus) for rate, gpus in zip(view.rates, view.gpus, strict=True)]
    match = rule.match(*engines)
    found = Counts(int(match.prefill_workers.item()), int(match.decode_workers.item()))
    rates = view.rates
    return Answer(found, f"{rates.prefill:.3g} and {rates.decode:.3g} requests/s a worker")


def shifted(view: View, *, to_prefill: bool) -> Counts | None:
    """Return the counts after a worker has gone to another pool, with room for it there.

    Where workers differ in size as many leave as make room for one.
    """
    now, gpus = view.now, view.gpus
    if to_prefill:
        spare = view.budget - cost(now, gpus)
        leave = max(1, -(-(gpus.prefill - spare) // gpus.decode))
        moved = Counts(now.prefill + 1, now.decode - leave)
    else:
        spare = view.budget - cost(now, gpus)
        leave = max(1, -(-(gpus.decode - spare) // gpus.prefill))
        moved = Counts(now.prefill - leave, now.decode + 1)
    return moved if min(moved) >= 1 else None


def rates_of(seen: Observation, shape: Shape, common: Common) -> Pair | None:
    """Return the requests/s that one worker of each pool sustains of such requests."""
    if not (shape.input_tokens >= 1 and shape.output_tokens >= 1):  # NaN where none were seen
        return None
    engines = seen.pools[PREFILL].engine, seen.pools[DECODE].engine
    if engines[0] is None or engines[1] is None:
        return None
    prefill = engines[0].prefill_capacity(shape, common.targets)
    decode = engines[1].decode_capacity(shape, common.targets)
    if prefill is None or decode is None:
        return None
    return Pair(prefill.rate * common.utilization, decode.rate * common.utilization)


# --- together with an autoscaler ---------------------------------------------------------------


class Remembered(NamedTuple):
    """The states of both, the GPUs to split, and when they were asked last."""

    scaler: Any
    matcher: Any
    budget: int | None = None
    ticked_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateMatched:
    """An autoscaler that sets how many GPUs there shall be, and a matcher that splits them.

    Each is asked at its own interval. The split has both its legs or neither, and waits until the
    last one is carried out, as Dynamo's planner does; pools that the matcher does not know (mixed
    ones) are as the autoscaler says.
    """

    roles: ClassVar[tuple[str, ...]] = (PREFILL, DECODE)
    matcher: Matcher
    autoscaler: Autoscaler[Any] = field(default_factory=Static)
    scaler_s: float | None = None

    @property
    def interval_s(self) -> float:
        """Seconds between ticks: the intervals' greatest common divisor."""
        if isinstance(self.autoscaler, Static):
            return self.matcher.common.interval_s
        return common_tick_s(self._scaler_s, self.matcher.common.interval_s)

    @property
    def _scaler_s(self) -> float:
        own: float = getattr(self.autoscaler, "interval_s", 15.0)
        return own if self.scaler_s is None else self.scaler_s

    @property
    def sees(self) -> Mapping[str, object]:
        """How the autoscaler would have it observed."""
        told: Mapping[str, object] = getattr(self.autoscaler, "sees", {})
        return told

    def check(self, gpus: Mapping[str, int], quota: int | None) -> None:
        """Refuse pools that cannot be split: ``gpus`` of one worker of each, of a ``quota``.

        Raises:
            ConfigError: there are no two pools, or no room for a worker of each.
        """
        name, given = type(self.matcher).__name__, self.matcher.common.gpus
        missing = [role for role in self.roles if role not in gpus]
        if missing:
            raise ConfigError(
                f"rate_matcher {name}: splits GPUs between prefill and decode, but there is no "
                f"{missing[0]} pool, only {', '.join(gpus)}"
            )
        smallest = sum(gpus[role] for role in self.roles)
        for key, most in (("rate_matcher.common.gpus", given), ("elastic.quota_gpus", quota)):
            if most is not None and most < smallest:
                raise ConfigError(
                    f"{key}: {most} GPUs are less than the {smallest} that one prefill and one "
                    "decode worker take"
                )
        if given is not None and quota is not None and given > quota:
            raise ConfigError(
                f"rate_matcher.common.gpus: {given} is more than elastic.quota_gpus, {quota}"
            )

    def initial(self) -> Remembered:
        """Return the states before the first tick."""
        return Remembered(self.autoscaler.initial(), self.matcher.initial())

    def decide(self, seen: Observation, state: Remembered) -> tuple[Plan, Remembered]:
        """Return what whoever is due asks for."""
        plan, budget = Plan({}), self._budget(seen, state)
        if not isinstance(self.autoscaler, Static) and crossed(
            state.ticked_s, seen.now_s, self._scaler_s
        ):
            plan, scaler = self.autoscaler.decide(seen, state.scaler)
            state = state._replace(scaler=scaler)
            if self.matcher.common.gpus is None and set(plan.workers) & set(self.roles):
                budget = self._asked(seen, plan)
        changed = state.budget not in (None, budget)
        every_s = self.matcher.common.interval_s
        due = changed or crossed(state.ticked_s, seen.now_s, every_s)
        state = state._replace(budget=budget, ticked_s=seen.now_s)
        moving = self._moving(seen) if due else ""
        if not due or moving:
            others = {role: n for role, n in plan.workers.items() if role not in self.roles}
            return (Plan(others, moving) if moving else plan._replace(workers=others)), state
        answer = self.matcher.split(self._view(seen, budget), state.matcher)
        return self._plan(seen, plan, answer), state._replace(matcher=answer.state)

    def _moving(self, seen: Observation) -> str:
        """Return which pool's last change is still under way: nothing is split until it is over.

        Else the last workers that serve could be told to leave before others have come.
        """
        pools = {role: seen.pools[role] for role in self.roles}
        moving = [role for role, pool in pools.items() if pool.ready != pool.desired]
        return f"{moving[0]} workers are still to come" if moving else ""

    def _budget(self, seen: Observation, state: Remembered) -> int:
        if self.matcher.common.gpus is not None:
            return self.matcher.common.gpus
        return self._asked(seen, Plan({})) if state.budget is None else state.budget

    def _asked(self, seen: Observation, plan: Plan) -> int:
        """Return the GPUs of both pools as planned, or where nothing is as they shall be."""
        pools = {role: seen.pools[role] for role in self.roles}
        return sum(
            plan.workers.get(role, pool.desired) * pool.gpus_per_worker
            for role, pool in pools.items()
        )

    def _view(self, seen: Observation, budget: int) -> View:
        prefill, decode = (seen.pools[role] for role in self.roles)
        traffic = seen.traffic
        shape = Shape(traffic.input_tokens, traffic.output_tokens, traffic.hit_rate)
        return View(
            seen=seen,
            budget=budget,
            gpus=Counts(prefill.gpus_per_worker, decode.gpus_per_worker),
            now=Counts(prefill.desired, decode.desired),
            rates=rates_of(seen, shape, self.matcher.common),
        )

    def _plan(self, seen: Observation, plan: Plan, answer: Answer) -> Plan:
        """Return the split as a plan; where there is none, what the autoscaler asked for."""
        why = "; ".join(each for each in (plan.reason, answer.reason) if each)
        if answer.counts is None or min(answer.counts) < 1:
            return plan._replace(reason=why)
        workers = {**plan.workers, **dict(zip(self.roles, answer.counts, strict=True))}
        flips: tuple[Flip, ...] = ()
        pools = [seen.pools[role] for role in self.roles]
        changes = [workers[r] - p.desired for r, p in zip(self.roles, pools, strict=True)]
        same_size = pools[0].gpus_per_worker == pools[1].gpus_per_worker
        if self.matcher.common.flips and same_size and changes[0] * changes[1] < 0:
            count = min(abs(each) for each in changes)
            to = self.roles[changes[1] > 0]
            flips = (Flip(self.roles[changes[1] < 0], to, count),)
        return Plan(workers, why, flips=flips, together=True)
