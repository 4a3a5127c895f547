"""Runs side by side: one row each, gathered into points that differ in more than chance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.compare.cutting import cut
from simulator.compare.flat import deployment, differing, in_deployment, telling
from simulator.compare.metrics import METRICS, Metric, Value, at, least
from simulator.compare.reading import Run
from simulator.errors import ConfigError
from simulator.explore.pareto import front

Floats = NDArray[np.float64]

CHANCE = ("seed", "latency.scale")
"""Settings in which repetitions of one point differ, and nothing else."""

REPEATED = ("seed", "latency.scale", "seeds", "band", "name", "tags")
"""Overrides that ask for repetitions or call a run something: they tell no point from another."""

MOST_SIGNS = 40
"""Of a setting's value in words; the table has it whole."""

LEAST = ".at_least"
"""Ends the name of a column that says what an unknown percentile is at least."""

STAYS = {
    "autoscaler._target_": "simulator.policies.autoscaling.Static",
    "rate_matcher._target_": "simulator.policies.matching.Unmatched",
    "flipping._target_": "simulator.policies.flipping.NeverFlip",
    "changes": "[]",
}
"""Settings under which no pool changes, of services too."""
PER = 1000.0
"""Costs are told per so many requests that arrived, so that runs of other lengths compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a measured run's requests are read: settings of :func:`workloads.readers.read_trace`."""

    format: str = "auto"
    time_unit: str = "auto"
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How runs are compared.

    The best is the cheapest with at least ``attainment`` of its requests within the SLO.
    ``confidence`` of intervals; ``null`` is 0.95 where there is more than one seed and none
    elsewhere, and a number demands them. ``pictures`` is of how many points single requests and
    gauges are drawn, the best and the front first. Requests count that arrive at least
    ``warm_up_s`` after a run's first one and ``cool_down_s`` before its last. ``measured`` says how
    a measured run beside them is read.
    """

    attainment: float = 0.9
    confidence: float | None = None
    pictures: int = 8
    warm_up_s: float = 0.0
    cool_down_s: float = 0.0
    measured: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        if not 0 < self.attainment <= 1:
            raise ConfigError(
                f"compare.attainment must be above 0 and at most 1 but got {self.attainment!r}"
            )
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise ConfigError(
                f"compare.confidence must be at least 0.5 and below 1, or null, but got "
                f"{self.confidence!r}"
            )
        if self.pictures < 0:
            raise ConfigError(f"compare.pictures must be at least 0 but got {self.pictures!r}")
        for name in ("warm_up_s", "cool_down_s"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise ConfigError(f"compare.{name} must be at least 0 s but got {value!r}")

    @property
    def cuts(self) -> bool:
        """Whether anything is left out of runs."""
        return self.warm_up_s > 0 or self.cool_down_s > 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Point:
    """One configuration: its ``runs``, rows of the table that differ by chance alone.

    ``base`` is the run that stands for it in pictures: the latencies as they are, the first seed.
    ``plain`` are those with latencies as the base has them.
    """

    name: str
    runs: tuple[int, ...]
    base: int
    plain: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Comparison:
    """Some runs, compared.

    ``table`` has a row per run, in their order: ``run``, ``point``, ``name``, ``deployment``,
    ``folder``, ``seed``, ``latency.scale``, the settings that differ by dotted key (``keys``; those
    that tell the others are ``shown``), ``tags`` where any run has some, the numbers of
    :data:`METRICS` by their place in ``summary.json``, and what :func:`_derived` and
    :func:`_marks` add. ``notes`` are sentences to
    know before numbers are trusted.
    """

    options: Options
    runs: tuple[Run, ...]
    points: tuple[Point, ...]
    keys: tuple[str, ...]
    shown: tuple[str, ...]
    table: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def cost(self) -> str:
        """The column that costs are compared by: money where every GPU has a price."""
        priced = self.table["usd"].null_count() == 0
        return "usd_per_1k_requests" if priced else "gpu_hours_per_1k_requests"

    @property
    def repeated(self) -> bool:
        """Whether any point was run more than once."""
        return len(self.runs) > len(self.points)

    def numbers(self, column: str) -> Floats:
        """Return a number of every run: nan where unknown, infinite among unfinished requests."""
        values: Floats = self.table[column].cast(pl.Float64).to_numpy()
        beyond = f"{column}{LEAST}"
        if beyond not in self.table.columns:
            return values
        return np.where(self.table[beyond].is_not_null().to_numpy(), np.inf, values)

    def means(self, column: str) -> Floats:
        """Return a number of every point, the mean of its seeds with latencies as they are."""
        values = self.numbers(column)
        means = values[[point.plain[0] for point in self.points]]
        for index, point in enumerate(self.points):
            if len(point.plain) > 1:
                means[index] = _mean(values[list(point.plain)])
        return means

    def told(self, metric: Metric) -> list[str]:
        """Return a number's means in words, a percentile among unfinished requests as a bound."""
        means, beyond = self.means(metric.path), f"{metric.path}{LEAST}"
        words = [metric.write(None if not np.isfinite(mean) else float(mean)) for mean in means]
        for index in np.nonzero(np.isinf(means))[0]:
            most = max(self.table[beyond][self.plain(self.points[index])].drop_nulls())
            words[index] = f"> {metric.write(most)}" if np.isfinite(most) else "never"
        return words

    def plain(self, point: Point) -> list[int]:
        """Return a point's rows with latencies as its base has them."""
        return list(point.plain)


def compare(
    runs: Sequence[Run], options: Options | None = None, notes: Sequence[str] = ()
) -> Comparison:
    """Return the comparison of ``runs``; ``notes`` join its own.

    Raises:
        ConfigError: there is no run, or an interval is asked of a single seed.
    """
    if not runs:
        raise ConfigError("there is no finished run to compare")
    options = options or Options()
    runs, more = _once(runs)
    if options.cuts:
        runs = [cut(run, options.warm_up_s, options.cool_down_s) for run in runs]
    settings = [run.settings for run in runs]
    keys = differing(settings)
    own = [key for key in keys if key not in CHANCE]
    shown = telling(own, settings)
    points = _points(runs, own, shown)
    frame = _frame(runs, points, own)
    found = Comparison(
        options=options,
        runs=tuple(runs),
        points=points,
        keys=tuple(own),
        shown=tuple(shown),
        table=frame,
        notes=(
            *(*notes, *more, *_cut(options)),
            *(*_notes(runs, keys), *_uneven(runs, points)),
        ),
    )
    _check_seeds(found)
    return _marked(found)


def _cut(options: Options) -> list[str]:
    """Return what is left out at runs' starts and ends, if anything."""
    if not options.cuts:
        return []
    return [
        f"Numbers are of the requests that arrived at least {options.warm_up_s:g} s after a run's "
        f"first and {options.cool_down_s:g} s before its last one, and of the GPU time between; "
        "ITL is pooled over a whole run and so not told."
    ]


def _check_seeds(found: Comparison) -> None:
    """Refuse to promise intervals of what was run with one seed."""
    wanted = found.options.confidence
    for point in found.points if wanted is not None else ():
        if len(found.plain(point)) < 2:
            raise ConfigError(
                f"compare.confidence={wanted:g} asks for intervals, but {point.name} was run with "
                "one seed: repeat it with seeds=8"
            )


def _once(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return every run once, and what was left out."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(str(run.summary["config_digest"]), run)
    again = len(runs) - len(first)
    told = f"{again:,} of the folders hold a run that another one holds too: told once."
    return list(first.values()), [told] if again else []


def _points(runs: Sequence[Run], own: Sequence[str], shown: Sequence[str]) -> tuple[Point, ...]:
    """Return the runs gathered by what they do not leave to chance."""
    gathered: dict[object, list[int]] = {}
    for row, run in enumerate(runs):
        key = (*(run.settings.get(each, _ABSENT) for each in own), run.head)
        gathered.setdefault(key, []).append(row)
    groups = list(gathered.values())
    bases = [min(rows, key=lambda row: _plainness(runs[row])) for rows in groups]
    pools = any(key.startswith("pools.") for key in own)
    names = _names([runs[base] for base in bases], shown, pools=pools)
    return tuple(
        Point(
            name=name,
            runs=tuple(rows),
            base=base,
            plain=tuple(row for row in rows if runs[row].scale == runs[base].scale),
        )
        for name, rows, base in zip(names, groups, bases, strict=True)
    )


_ABSENT = ("absent",)


def _plainness(run: Run) -> tuple[float, int]:
    return abs(np.log(run.scale)), run.seed


def _names(runs: Sequence[Run], shown: Sequence[str], *, pools: bool) -> list[str]:
    """Return what tells each of ``runs`` from the others.

    That is the name it was given, else overrides, settings, or its folder.

    ``pools`` says that the pools differ.
    """
    called = [run.labels.name for run in runs]
    if len({*called, None}) > len(called):  # each has a name of its own
        return [str(name) for name in called]
    given = [run.overrides for run in runs]
    told = [each for each in given if each is not None]
    if len(told) == len(given) and len(runs) > 1:
        shared = {one for one in told[0] if all(one in each for each in told)}
        own = [[o for o in each if o not in shared and not _repeats(o)] for each in told]
        names = [" ".join(each) for each in own]
    else:
        names = [_by_settings(run.settings, shown, pools=pools) for run in runs]
    clash = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} ({run.folder})".lstrip() if name in clash else name or str(run.folder)
        for name, run in zip(names, runs, strict=True)
    ]


def _repeats(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0] in REPEATED


def _by_settings(settings: Mapping[str, Value], shown: Sequence[str], *, pools: bool) -> str:
    told = [deployment(settings)] if pools or not shown else []
    rest = [key for key in shown if key in settings and not (pools and in_deployment(key))]
    told += [f"{short(key)}={words(settings[key])}" for key in rest]
    return ", ".join(told)


def short(key: str) -> str:
    """Return a setting's key as it is given: a class or a name stands for its group."""
    return key.removesuffix("._target_").removesuffix(".name")


def words(value: Value) -> str:
    """Return a setting's value, a class by its own name."""
    if isinstance(value, str) and value.startswith(("simulator.", "workloads.", "hardware.")):
        return value.rpartition(".")[2]
    text = "null" if value is None else str(value)
    return text if len(text) <= MOST_SIGNS else f"{text[: MOST_SIGNS - 1]}…"


def _frame(runs: Sequence[Run], points: Sequence[Point], keys: Sequence[str]) -> pl.DataFrame:
    of = {row: index for index, point in enumerate(points) for row in point.runs}
    order = range(len(runs))
    columns: dict[str, Any] = {
        "run": pl.Series(order, dtype=pl.Int64),
        "point": pl.Series([of[row] for row in order], dtype=pl.Int64),
        "name": [points[of[row]].name for row in order],
        "deployment": [deployment(run.settings) for run in runs],
        "folder": [str(run.folder) for run in runs],
        "seed": pl.Series([run.seed for run in runs], dtype=pl.Int64),
        "latency.scale": pl.Series([run.scale for run in runs], dtype=pl.Float64),
        **{key: _column([run.settings.get(key) for run in runs]) for key in keys},
    }
    numbers = {
        metric.path: pl.Series([at(run.summary, metric.path) for run in runs], dtype=pl.Float64)
        for metric in METRICS
    }
    for metric in METRICS:
        bounds = [least(run.summary, metric.path) for run in runs]
        if any(bound is not None for bound in bounds):
            numbers[f"{metric.path}{LEAST}"] = pl.Series(bounds, dtype=pl.Float64)
    if any(run.labels.tags for run in runs):
        columns["tags"] = [", ".join(run.labels.tags) for run in runs]
    static = pl.Series([_static(run.settings) for run in runs], dtype=pl.Boolean)
    warned = pl.Series([len(run.summary.get("warnings") or ()) for run in runs], dtype=pl.Int64)
    frame = pl.DataFrame({**columns, **numbers, "static": static, "warnings": warned})
    return frame.with_columns(_derived())


def _column(values: Sequence[Value]) -> pl.Series:
    """Return a setting's column: numbers where all are, else words."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known):
        return pl.Series(values, dtype=pl.Boolean)
    if all(isinstance(value, int) and abs(value) < 1 << 63 for value in known):
        return pl.Series(values, dtype=pl.Int64)
    small = [value for value in known if isinstance(value, int | float) and abs(value) < 1e300]
    if len(small) == len(known):
        return pl.Series([None if v is None else float(v) for v in values], dtype=pl.Float64)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)


def _derived() -> list[pl.Expr]:
    """Return what two numbers of a run give: costs per 1,000 arrivals, tokens/s of one user."""
    arrived = pl.col("requests.arrived")
    pace = pl.col("tpot_s.p50")
    return [
        *(
            pl.when(arrived > 0).then(PER * pl.col(cost) / arrived).alias(f"{name}_per_1k_requests")
            for name, cost in (("usd", "usd"), ("gpu_hours", "gpu_hours.total"))
        ),
        pl.when(pace > 0).then(1.0 / pace).alias("interactivity"),
    ]


def _static(settings: Mapping[str, Value]) -> bool:
    """Tell whether no pool of a run ever changes, by anybody's plan."""
    return all(
        value == stays
        for key, value in settings.items()
        for name, stays in STAYS.items()
        if key == name or (key.startswith("services.") and key.endswith(f".{name}"))
    )


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _marked(found: Comparison) -> Comparison:
    """Return the comparison with the best point and the fronts marked in its table."""
    cost, held = found.means(found.cost), found.means("slo_attainment")
    best = best_of(cost, held, found.options.attainment)
    marks = {
        "best": [best] if best is not None else [],
        "pareto": front_of(-cost, held),
        "front": front_of(found.means("interactivity"), found.means("output_tokens_per_s_per_gpu")),
    }
    of = found.table["point"].to_numpy()
    columns = [pl.Series(name, np.isin(of, list(chosen))) for name, chosen in marks.items()]
    return replace(found, table=found.table.with_columns(columns))


def best_of(cost: Floats, held: Floats, attainment: float) -> int | None:
    """Return the cheapest of those with enough ``held`` (share), else the one with most.

    Of equally cheap ones the one that holds more; ``None`` where nothing is known.
    """
    (known,) = np.nonzero(np.isfinite(cost) & np.isfinite(held))
    enough = [each for each in known if held[each] >= attainment]
    if enough:
        return int(min(enough, key=lambda each: (cost[each], -held[each])))
    return int(max(known, key=lambda each: (held[each], -cost[each]))) if len(known) else None


def front_of(x: Floats, y: Floats) -> list[int]:
    """Return which of the known points none beats in both, by rising ``x``."""
    (known,) = np.nonzero(np.isfinite(x) & np.isfinite(y))
    return [int(known[each]) for each in front(x[known], y[known])]


def _uneven(runs: Sequence[Run], points: Sequence[Point]) -> list[str]:
    """Return that not all points have met the same seeds, if so."""
    seeds = {frozenset(runs[row].seed for row in point.runs) for point in points}
    if len(seeds) < 2:
        return []
    return [
        "Not every configuration was run with the same seeds: each one's numbers are means over "
        "its own, and only common ones are paired."
    ]


def traffic(keys: Sequence[str], runs: Sequence[Run]) -> str:
    """Return in what the traffic of ``runs`` differs: settings, or files; nothing if it does not.

    ``keys`` are the settings that differ.
    """
    other = dict.fromkeys(short(key) for key in keys if key.startswith("workload."))
    files = {tuple(line for line in run.head[1:] if line.startswith("# workload")) for run in runs}
    return ", ".join(list(other)[:4]) or ("the workload's file" if len(files) > 1 else "")


def _notes(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Return what makes these runs less comparable than they look."""
    told = []
    other = traffic(keys, runs)
    if other:
        told.append(
            f"The runs are on different traffic ({other}): they are compared as they are, and "
            "requests are paired only where the traffic is the same."
        )
    slo = [key for key in keys if key.startswith("slo.")]
    if slo:
        told.append(
            f"The targets differ ({', '.join(slo)}): attainment and goodput are by each run's own."
        )
    versions = sorted({run.head[0].lstrip("# ") for run in runs if run.head})
    if len(versions) > 1:
        told.append(f"The runs were made by different versions ({', '.join(versions)}).")
    warned = [run for run in runs if run.summary.get("warnings")]
    if warned:
        told.append(
            f"{len(warned):,} of {len(runs):,} runs carry a warning of their own, as "
            f"{warned[0].folder}: {warned[0].summary['warnings'][0]}"
        )
    return told
