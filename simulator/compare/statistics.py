"""What chance does to a comparison: intervals over seeds, pairs of requests, and stable orders."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.compare.comparison import Comparison, Point
from simulator.compare.metrics import METRIC, METRICS
from simulator.compare.reading import Run, read_frame
from simulator.intervals import CONFIDENCE, Interval, batch_means, t_interval

Floats = NDArray[np.float64]

IDENTITY = ("input_tokens", "output_tokens")


def confidence_of(comparison: Comparison) -> float:
    """Return the confidence of intervals, where there are any."""
    return comparison.options.confidence or CONFIDENCE


def intervals(comparison: Comparison) -> pl.DataFrame:
    """Return, per point and number, its mean over seeds and the interval of that.

    Of runs with latencies as they are: ``point``, ``name``, ``metric``, ``mean``, ``low``,
    ``high`` (null for a single seed) and ``seeds``.
    """
    sure = confidence_of(comparison)
    rows = []
    columns = [*(metric.path for metric in METRICS), comparison.cost]
    values = {name: comparison.numbers(name) for name in columns}
    for index, point in enumerate(comparison.points):
        chosen = comparison.plain(point)
        for name in columns:
            most = METRIC[name].most if name in METRIC else np.inf
            found = t_interval(values[name][chosen], sure).within(most)
            if found.count:
                ends = (found.mean, found.low, found.high, found.count)
                rows.append((index, point.name, name, *ends))
    schema = {
        "point": pl.Int64,
        "name": pl.String,
        "metric": pl.String,
        "mean": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "seeds": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("low", "high").fill_nan(None)
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Orders:
    """How often each of some points comes before each other one.

    ``cells`` (n, n) counts the repetitions both were run in, a seed and a factor on latencies
    each, ``ahead`` (n, n) in how many of them the row's point was better than the column's. Where
    two are equal neither is ahead. ``points`` are their indices.
    """

    points: tuple[int, ...]
    cells: NDArray[np.int64]
    ahead: NDArray[np.int64]

    def of(self, first: int, second: int) -> tuple[int, int]:
        """Return in how many repetitions one was ahead of another, and how many there are."""
        return int(self.ahead[first, second]), int(self.cells[first, second])


def orders(comparison: Comparison, points: tuple[int, ...]) -> Orders:
    """Return how often which of ``points`` comes before which, by the rule that finds the best."""
    standings = [_standings(comparison, comparison.points[index]) for index in points]
    cells = np.zeros((len(points), len(points)), dtype=np.int64)
    ahead = np.zeros_like(cells)
    for one, other in combinations(range(len(points)), 2):
        for cell in standings[one].keys() & standings[other].keys():
            first, second = standings[one][cell], standings[other][cell]
            cells[one, other] += 1
            cells[other, one] += 1
            ahead[one, other] += first > second
            ahead[other, one] += second > first
    return Orders(points=points, cells=cells, ahead=ahead)


def _standings(
    comparison: Comparison, point: Point
) -> Mapping[tuple[int, float], tuple[bool, float, float]]:
    """Return how a point stands in each of its repetitions: the greater, the better."""
    table, wanted = comparison.table, comparison.options.attainment
    told = {}
    for row in point.runs:
        cost, held = table[comparison.cost][row], table["slo_attainment"][row]
        if cost is None or held is None:
            continue
        enough = held >= wanted
        standing = (True, -cost, held) if enough else (False, held, -cost)
        told[(comparison.runs[row].seed, comparison.runs[row].scale)] = standing
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """In how many of ``cells`` common repetitions one point was ``ahead`` of an ``other``."""

    other: int
    cells: int
    ahead: int


def against(comparison: Comparison, index: int) -> list[Against]:
    """Return how often the point ``index`` comes before each other one."""
    own = _standings(comparison, comparison.points[index])
    told = []
    for other, point in enumerate(comparison.points):
        if other != index:
            theirs = _standings(comparison, point)
            common = own.keys() & theirs.keys()
            ahead = sum(own[cell] > theirs[cell] for cell in common)
            told.append(Against(other=other, cells=len(common), ahead=ahead))
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much later (s) requests have something in ``second`` than in ``first``, pair by pair.

    ``change`` is the mean over pairs; its interval is over seeds where there are several
    (``seeds``), else over batches of consecutive requests of the one seed. ``earlier`` and
    ``later`` are shares of the pairs. ``steady`` tells whether batches look independent of their
    neighbours: where not, the run is too short for its interval.
    """

    metric: str
    first: int
    second: int
    change: Interval
    earlier: float
    later: float
    pairs: int
    seeds: int
    steady: bool = True


def difference(comparison: Comparison, first: int, second: int, metric: str) -> Difference | None:
    """Return how requests fared in two points, or ``None`` where no traffic is the same."""
    sure = confidence_of(comparison)
    parts = []
    for one, other in _common(comparison, first, second):
        moved = paired(one, other, metric)
        if moved is not None and len(moved):
            parts.append(moved)
    if not parts:
        return None
    steady = True
    if len(parts) > 1:
        change = t_interval(np.array([part.mean() for part in parts]), sure)
    else:
        means = batch_means(parts[0])
        change, steady = t_interval(means, sure), independent(means)
    whole = np.concatenate(parts)
    return Difference(
        metric=metric,
        first=first,
        second=second,
        change=change,
        earlier=float((whole < 0).mean()),
        later=float((whole > 0).mean()),
        pairs=len(whole),
        seeds=len(parts),
        steady=steady,
    )


def _common(comparison: Comparison, first: int, second: int) -> list[tuple[Run, Run]]:
    """Return the runs of two points with one seed, latencies as they are."""
    sides = [
        {comparison.runs[row].seed: comparison.runs[row] for row in comparison.plain(point)}
        for point in (comparison.points[first], comparison.points[second])
    ]
    return [(sides[0][seed], sides[1][seed]) for seed in sorted(sides[0].keys() & sides[1].keys())]


def paired(first: Run, second: Run, metric: str) -> Floats | None:
    """Return by how much (s) each request's ``metric`` is greater in ``second``, in their order.

    Of the requests that have it in both; ``None`` where the traffic is not the same, request by
    request: the tokens and, unless clients wait for answers, the arrivals. Those that do send at
    other times in either run, so that nothing is cut of theirs.

    Raises:
        ConfigError: a file of requests cannot be read.
    """
    closed = any(map(_closed, (first, second)))
    same = ("request_id", *IDENTITY) if closed else (*IDENTITY, "arrival_s")
    whole = [replace(run, window=None) if closed else run for run in (first, second)]
    one, other = (read_frame(run, "requests", (*same, metric)) for run in whole)
    if not one.select(same).equals(other.select(same)):
        return None
    moved: Floats = (other[metric] - one[metric]).drop_nulls().cast(pl.Float64).to_numpy()
    return moved


def _closed(run: Run) -> bool:
    """Tell whether clients waited for answers before they sent more."""
    by: object = (run.summary.get("sessions") or {}).get("by")
    return run.settings.get("workload.concurrency") is not None or by == "completion"


def independent(means: Floats) -> bool:
    """Tell whether batch means are no more like their neighbours than chance has it.

    Their lag-one autocorrelation lies below 2 / √n, its two-sigma bound for independent ones.
    """
    spread = means - means.mean() if len(means) else means
    total = float((spread**2).sum())
    if len(means) < 4 or total == 0:
        return len(means) >= 4
    return float((spread[1:] * spread[:-1]).sum()) / total < float(2 / np.sqrt(len(means)))
