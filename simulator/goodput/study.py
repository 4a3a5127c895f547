"""The search: on each draw alone, checked on draws it has not seen, and drawn as a curve."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from simulator.errors import ConfigError
from simulator.experiment import Experiment, pools_text
from simulator.goodput.options import Options
from simulator.goodput.search import Bracket, cheapest, fewest, highest
from simulator.goodput.trials import OnTrial, Row, Trials
from simulator.intervals import Interval, around, t_interval
from simulator.policies.autoscaling import Static
from workloads.offered import at_rate, own_rate

REACH = 1_000.0
"""So many times the workload's own rate, up and down, is looked at where no bound is given."""
RETRIES = 12
"""Steps by which an answer that does not hold on fresh draws is lowered, at most."""
CURVE = (0.4, 0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
MAP = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5)
"""Shares of the rate found, for the curve and the map."""
MAP_SPLITS = 9
"""Ways of dealing out the workers on a map, at most."""
MOST_GPUS = 64
"""So many times the deployment's own GPUs are looked at where no bound is given."""
SEARCH_TRIALS = (10, 5)
"""Trials a search takes on the first draw, and on each further one, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of a search; ``counts`` are the workers per pool, ``rate`` requests/s.

    ``rate`` and ``counts`` are ``None`` where nothing looked at holds; ``own`` is then the last
    that failed. ``capped``: the highest rate looked at holds. ``each`` is what was found on each
    draw (rates, or GPUs), ``interval`` its 95 % interval (of GPUs: the least and the most).
    ``check`` are the fresh draws' trials at the answer, ``own`` the trial of the workload as the
    settings draw it, of whose run ``summary`` is. ``alike``: every draw gives the same requests, as
    a recorded trace's.
    """

    experiment: Experiment
    options: Options
    rate: float | None
    counts: tuple[int, ...] | None
    capped: bool
    each: tuple[float, ...]
    interval: tuple[float, float] | None
    check: tuple[Row, ...]
    own: Row
    alike: bool
    own_rate: float
    table: pl.DataFrame
    summary: Mapping[str, Any]

    @property
    def gpus(self) -> int | None:
        """GPUs of the answer."""
        if self.counts is None:
            return None
        pools = zip(self.experiment.deployment.pools, self.counts, strict=True)
        return sum(pool.layout.gpus * count for pool, count in pools)

    @property
    def usd_per_hour(self) -> float | None:
        """What the answer's GPUs cost, in USD an hour; ``None`` where one has no price."""
        if self.counts is None:
            return None
        deployment, total = self.experiment.deployment, 0.0
        for pool, count in zip(deployment.pools, self.counts, strict=True):
            price = (pool.gpu or deployment.gpu).usd_per_hour
            if price is None:
                return None
            total += price * pool.layout.gpus * count
        return total

    @property
    def checked(self) -> Interval:
        """Attainment at the answer on fresh draws; on the one draw there is, by batches."""
        if self.alike:
            half = self.own["attainment_half"]
            return around(self.own["attainment"], math.nan if half is None else half, 1)
        return t_interval([row["attainment"] for row in self.check])

    @property
    def pools(self) -> str:
        """The answer's pools in a few words."""
        deployment = self.experiment.deployment
        if self.counts is None:
            return pools_text(deployment)
        pools = zip(deployment.pools, self.counts, strict=True)
        workers = tuple(replace(pool, workers=count) for pool, count in pools)
        return pools_text(replace(deployment, pools=workers))


@dataclass(slots=True, eq=False)
class Study:
    """One search under way."""

    trials: Trials
    options: Options
    own_rate: float
    alike: bool

    @property
    def draws(self) -> range:
        """The draws to search on."""
        return range(1 if self.alike else self.options.seeds)

    @property
    def fresh(self) -> Sequence[int]:
        """Draws nobody searched on: as many again; the only one where all are alike."""
        return (0,) if self.alike else range(self.options.seeds, 2 * self.options.seeds)

    # --- the highest rate -------------------------------------------------------------------

    def rate_at(self, step: int) -> float:
        """Return the rate of a step: they are a factor apart, the workload's own is step 0."""
        return float(f"{self.own_rate * (1 + self.options.precision) ** step:.6g}")

    @property
    def bounds(self) -> tuple[int, int]:
        """The steps between which to look."""
        width = math.log1p(self.options.precision)
        low, high = self.options.low, self.options.high
        least = self.own_rate / REACH if low is None else low
        most = max(self.own_rate, least) * REACH if high is None else high
        if least > most:
            least = most / REACH
        slack = 1e-9
        steps = (math.log(each / self.own_rate) / width for each in (least, most))
        first, last = next(steps), next(steps)
        return math.ceil(first - slack), math.floor(last + slack)

    def rate(self) -> Found:
        """Return the highest rate that holds."""
        brackets: list[Bracket] = []
        for draw in self.draws:
            first = brackets[0].holds or 0 if brackets else 0

            def holds(step: int, draw: int = draw) -> bool:
                return self.trials.holds(self.rate_at(step), draw)

            found = highest(holds, first, self.bounds, stride=1 if brackets else 4)
            if found.holds is None:
                return self._no_rate(draw)
            brackets.append(found)
        steps = [each.holds for each in brackets if each.holds is not None]
        checked = self._checked_step(min(steps[0], math.floor(np.mean(steps))))
        if checked is None:
            return self._no_rate(0)
        rate = self.rate_at(checked)
        self._curve(rate)
        each = tuple(self.rate_at(step) for step in steps)
        return self._found(
            rate=rate,
            counts=self.trials.counts,
            capped=checked == self.bounds[1],
            each=each,
            interval=self._rates_interval(each),
        )

    def _checked_step(self, step: int) -> int | None:
        """Return the highest step from here down that is confirmed."""
        self.trials.why = "check"
        for each in range(step, step - RETRIES - 1, -1):
            if each < self.bounds[0]:
                return None
            if self._confirmed(lambda draw, at=each: self.trials.at(self.rate_at(at), draw)):  # type: ignore[misc]
                return each
        return None

    def _confirmed(self, tried: Callable[[int], Row]) -> bool:
        """Tell whether enough requests hold the targets, as the seed draws them and elsewhere.

        That is on the workload's own draw, and on average over draws nobody searched on.
        """
        held = [tried(draw)["attainment"] for draw in self.fresh]
        own: float = tried(0)["attainment"]
        return min(own, float(np.mean(held))) >= self.options.attainment

    def _no_rate(self, draw: int) -> Found:
        lowest = self.rate_at(self.bounds[0])
        return self._found(
            rate=None, counts=None, capped=False, each=(), interval=None, own=(lowest, draw, None)
        )

    def _rates_interval(self, each: Sequence[float]) -> tuple[float, float] | None:
        """Return the 95 % interval of the rate: over draws, or of the one trace by its parts."""
        if self.alike:
            return self._of_parts()
        logs = t_interval(np.log(each))
        if math.isnan(logs.half):
            return None
        return math.exp(logs.low), math.exp(logs.high) * (1 + self.options.precision)

    def _of_parts(self) -> tuple[float, float] | None:
        """Return between which rates tried the attainment surely holds, and surely does not."""
        counts = {pool.role: pool.workers for pool in self.trials.experiment.deployment.pools}
        rows = self.trials.table().filter(**counts).unique("rate").sort("rate")
        half = rows["attainment_half"]
        if half.null_count():
            return None
        held, share = rows["attainment"], self.options.attainment
        surely = ((held - half) >= share).to_list()
        surely_not = ((held + half) < share).to_list()
        rates = rows["rate"].to_list()
        below = next((at for at, sure in enumerate(surely) if not sure), len(rates))
        above = next((at for at in range(len(rates), 0, -1) if not surely_not[at - 1]), 0)
        if below == 0 or above == len(rates):
            return None
        return rates[below - 1], rates[above]

    def _curve(self, rate: float, counts: tuple[int, ...] | None = None) -> None:
        """Try the workload's own draw at rates around the answer."""
        self.trials.why = "curve"
        width = math.log1p(self.options.precision)
        for share in CURVE:
            step = round(math.log(share * rate / self.own_rate) / width)
            low, high = self.bounds
            if low <= step <= high:
                self.trials.at(self.rate_at(step), 0, counts)

    # --- the fewest GPUs --------------------------------------------------------------------

    def gpus(self) -> Found:
        """Return the fewest GPUs that hold the rate."""
        rate, unit = self.options.rate or self.own_rate, self.trials.unit
        most = self._most_units(unit)
        first = min(self.trials.counts[0] // unit[0], most)
        brackets: list[Bracket] = []
        for draw in self.draws:

            def holds(units: int, draw: int = draw) -> bool:
                return self.trials.holds(rate, draw, _times(unit, units))

            found = fewest(holds, brackets[0].holds or first if brackets else first, (1, most))
            if found.holds is None:
                return self._no_gpus(rate, _times(unit, most), draw)
            brackets.append(found)
        units = [each.holds for each in brackets if each.holds is not None]
        needed = max(units[0], math.ceil(np.mean(units)))
        chosen = self._checked_counts(rate, unit, (needed, most))
        if chosen is None:
            return self._no_gpus(rate, _times(unit, most), self.fresh[0])
        if self.options.ratio == "free" and len(chosen) == 2:
            chosen = self._freely(rate, chosen)
        self._curve(rate, chosen)
        each = tuple(float(self.trials.gpus(_times(unit, count))) for count in units)
        return self._found(
            rate=rate, counts=chosen, capped=False, each=each, interval=_spread(each)
        )

    def _most_units(self, unit: tuple[int, ...]) -> int:
        own = self.trials.gpus(self.trials.counts)
        limit = self.options.max_gpus or own * MOST_GPUS
        most = limit // self.trials.gpus(unit)
        if most < 1:
            raise ConfigError(
                f"goodput: max_gpus {limit} must be at least the {self.trials.gpus(unit)} GPUs of "
                "the smallest deployment in the pools' ratio"
            )
        return most

    def _checked_counts(
        self, rate: float, unit: tuple[int, ...], units: tuple[int, int]
    ) -> tuple[int, ...] | None:
        """Return the fewest from here up that are confirmed."""
        self.trials.why = "check"
        first, most = units
        for count in range(first, min(first + RETRIES, most) + 1):
            counts = _times(unit, count)
            if self._confirmed(lambda draw, at=counts: self.trials.at(rate, draw, at)):  # type: ignore[misc]
                return counts
        return None

    def _freely(self, rate: float, kept: tuple[int, ...]) -> tuple[int, ...]:
        """Return the cheapest counts of any ratio that hold, ``kept`` if none is cheaper."""
        self.trials.why = "search"
        first, second = self._costs()
        pairs = cheapest(
            lambda some, others: self.trials.holds(rate, 0, (some, others)),
            (first, second),
            kept[0] * first + kept[1] * second,
        )
        self.trials.why = "check"
        for pair in reversed(pairs):
            if self._confirmed(lambda draw, at=pair: self.trials.at(rate, draw, at)):  # type: ignore[misc]
                return pair
        return kept

    def _costs(self) -> list[int]:
        """Return what a worker of each pool costs: GPUs, or hundredths of a cent an hour."""
        deployment = self.trials.experiment.deployment
        if self.options.by == "gpus":
            return [pool.layout.gpus for pool in deployment.pools]
        prices = [(pool.gpu or deployment.gpu).usd_per_hour for pool in deployment.pools]
        return [
            max(1, round(1e4 * (price or 0.0) * pool.layout.gpus))
            for price, pool in zip(prices, deployment.pools, strict=True)
        ]

    def _no_gpus(self, rate: float, most: tuple[int, ...], draw: int) -> Found:
        return self._found(
            rate=None, counts=None, capped=False, each=(), interval=None, own=(rate, draw, most)
        )

    # --- every way of dealing out the workers -----------------------------------------------

    def map(self, found: Found) -> None:
        """Try every split of the answer's GPUs over rates around it, on the workload's own draw."""
        pools = self.trials.experiment.deployment.pools
        if len(pools) != 2 or found.rate is None or found.counts is None:
            return
        self.trials.why = "map"
        splits = list(_splits(self.trials.gpus(found.counts), [pool.layout.gpus for pool in pools]))
        chosen = {round(at) for at in np.linspace(0, len(splits) - 1, MAP_SPLITS)}
        some = [split for at, split in enumerate(splits) if at in chosen or split == found.counts]
        self.trials.about = len(self.trials.rows) + len(some) * len(MAP)
        for share in MAP:
            for split in some:
                self.trials.at(float(f"{share * found.rate:.6g}"), 0, split)

    def _found(self, *, own: tuple[float, int, Any] | None = None, **values: Any) -> Found:
        """Return what was found, with the trials it rests on."""
        check: tuple[Row, ...] = ()
        if own is None:
            kept = values["counts"] == self.trials.counts and self.options.find == "rate"
            counts = None if kept else values["counts"]
            own = (values["rate"], 0, counts)
            self.trials.why = "check"
            check = tuple(self.trials.at(own[0], draw, counts) for draw in self.fresh)
        return Found(
            experiment=self.trials.experiment,
            options=self.options,
            check=check,
            own=self.trials.at(*own),
            alike=self.alike,
            own_rate=self.own_rate,
            table=self.trials.table(),
            summary=self.trials.summary(*own),
            **values,
        )


def goodput(experiment: Experiment, options: Options, progress: OnTrial | None = None) -> Found:
    """Look for the goodput of an experiment's deployment under its workload.

    Raises:
        ConfigError: no target to hold, or pools that change where workers are counted.
        TraceError: a workload without a rate: a closed loop, or all at once.
    """
    return search(trials_of(experiment, options, progress), options)


def trials_of(experiment: Experiment, options: Options, progress: OnTrial | None = None) -> Trials:
    """Return the trials of a search that has yet to begin; raise as :func:`goodput`."""
    if not experiment.slo.targets():
        raise ConfigError(
            "task=goodput needs a latency target to hold: slo.ttft_s, tpot_s, ttst_s or e2e_s"
        )
    deployment = experiment.deployment
    changes = bool(deployment.elastic.changes) or not isinstance(deployment.control.policy, Static)
    if options.find == "gpus" and changes:
        raise ConfigError(
            "goodput: find=gpus counts the workers of pools that stay as they are, but changes or "
            "an autoscaler change them"
        )
    for gpu in [pool.gpu or deployment.gpu for pool in deployment.pools]:
        if options.by == "usd" and not gpu.usd_per_hour:
            raise ConfigError(f"goodput: by=usd needs the price of {gpu.name}: usd_per_hour")
    first, further = SEARCH_TRIALS
    about = first + (options.seeds - 1) * further + options.seeds + len(CURVE)
    return Trials(experiment, options.attainment, progress, about=about)


def search(trials: Trials, options: Options) -> Found:
    """Carry out a search; whatever ends it early, ``trials`` has all that was tried."""
    experiment = trials.experiment
    trace = experiment.trace()
    if experiment.workload.concurrency is not None:
        at_rate(experiment.workload, 1.0)  # says that it has no rate
    study = Study(
        trials=trials,
        options=options,
        own_rate=own_rate(experiment.workload, trace),
        alike=_alike(experiment),
    )
    if study.alike:
        trials.about = SEARCH_TRIALS[0] + len(CURVE)
    found = study.rate() if options.find == "rate" else study.gpus()
    if options.map:
        study.map(found)
    return replace(found, table=trials.table())


def _alike(experiment: Experiment) -> bool:
    """Tell whether another seed draws the same requests, as of a recorded trace."""
    one, other = (
        replace(experiment, seed=experiment.seed + draw).trace().frame for draw in range(2)
    )
    return one.equals(other)


def _times(unit: tuple[int, ...], units: int) -> tuple[int, ...]:
    return tuple(units * count for count in unit)


def _spread(each: Sequence[float]) -> tuple[float, float] | None:
    return (min(each), max(each)) if len(each) > 1 else None


def _splits(gpus: int, costs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the ways to deal out GPUs to two pools, as many of the second as fit beside."""
    first, second = costs
    for count in range(1, (gpus - second) // first + 1):
        yield count, (gpus - count * first) // second
