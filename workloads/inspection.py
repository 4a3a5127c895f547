"""What a trace is like: how fast and evenly requests come, how long they are, what they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads.trace import Trace

Floats = NDArray[np.float64]
WINDOWS_S = (0.1, 1.0, 10.0, 60.0, 600.0)
"""Windows in which arrivals are counted for the index of dispersion."""

LEAST_WINDOWS = 20
"""Fewer windows tell nothing of a variance."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Figures of a trace, by name; what it has nothing of is ``None``.

    ``dispersion`` is the variance over the mean of the arrivals in windows of so many seconds: 1 of
    a Poisson process at any width. ``hit_rate`` is the share of prompt tokens that a prefix cache
    which forgets nothing finds, ``shared`` that of requests which find any.
    """

    requests: int
    duration_s: float
    rate: float | None
    gap_cv: float | None
    dispersion: Mapping[float, float]
    input_tokens: Mapping[str, float]
    output_tokens: Mapping[str, float]
    rank_correlation: float | None
    hit_rate: float | None
    shared: float | None
    sessions: int | None
    turns: Mapping[str, float] | None
    think_s: Mapping[str, float] | None


def inspect(trace: Trace) -> Inspection:
    """Return the figures of ``trace``; rates are those of requests whose times it has."""
    arrivals = known_arrivals(trace)
    span = float(arrivals[-1] - arrivals[0]) if arrivals.size else 0.0
    gaps = np.diff(arrivals)
    hits = hit_tokens(trace)
    inputs, outputs = trace.column("input_tokens"), trace.column("output_tokens")
    return Inspection(
        requests=len(trace),
        duration_s=span,
        rate=(arrivals.size - 1) / span if span > 0 else None,
        gap_cv=float(gaps.std() / gaps.mean()) if span > 0 else None,
        dispersion=dispersion(arrivals),
        input_tokens=described(inputs),
        output_tokens=described(outputs),
        rank_correlation=rank_correlation(inputs, outputs),
        hit_rate=None if hits is None else float(hits.sum() / inputs.sum(dtype=np.int64)),
        shared=None if hits is None else float((hits > 0).mean()),
        **_sessions(trace),
    )


def known_arrivals(trace: Trace) -> Floats:
    """Return the arrival times that are known, in order."""
    return np.asarray(trace.frame["arrival_s"].drop_nulls().sort().to_numpy())


def dispersion(arrivals: Floats) -> dict[float, float]:
    """Return the index of dispersion of counts, by width of window, where there are enough."""
    found = {}
    for width in WINDOWS_S:
        windows = int((arrivals[-1] - arrivals[0]) / width) if arrivals.size else 0
        if windows < LEAST_WINDOWS:
            continue
        at = ((arrivals - arrivals[0]) / width).astype(np.int64)
        held, counts = np.unique(at[at < windows], return_counts=True)
        mean = counts.sum() / windows
        square = float((counts.astype(float) ** 2).sum()) / windows
        found[width] = (square - mean**2) / mean if held.size else 0.0
    return found


def described(values: NDArray[Any]) -> dict[str, float]:
    """Return the mean and quantiles of ``values``."""
    told = {"mean": float(values.mean())}
    return told | {name: float(np.quantile(values, share)) for name, share in QUANTILES.items()}


def rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Return Spearman's correlation; ``None`` where either never varies."""
    ranks = pl.DataFrame({"one": one, "other": other}).select(pl.all().rank())
    if ranks["one"].n_unique() < 2 or ranks["other"].n_unique() < 2:
        return None
    return float(ranks.select(pl.corr("one", "other")).item())


def hit_tokens(trace: Trace) -> NDArray[np.int64] | None:
    """Return the prompt tokens of each request that an unbounded prefix cache has, in order.

    The leading blocks seen before, at most the prompt itself. ``None`` where no prompt has ids.
    """
    size = trace.meta.block_size
    runs = trace.frame["block_runs"]
    if size is None or runs.null_count() == len(trace):
        return None
    counts = runs.list.len().fill_null(0).to_numpy()
    flat = runs.drop_nulls().explode(empty_as_null=False).struct.unnest()
    first = flat["first"].cast(pl.Int64).to_numpy()
    hit = _leading(first, first + flat["n"].cast(pl.Int64).to_numpy(), counts)
    return np.minimum(hit * size, trace.column("input_tokens").astype(np.int64))


def _leading(
    first: NDArray[np.int64], end: NDArray[np.int64], counts: NDArray[Any]
) -> NDArray[np.int64]:
    """Return how many leading ids of each request were there before it.

    Ids are cut where any run begins or ends, so that a piece is seen whole or not at all.
    """
    cuts = np.unique(np.concatenate((first, end)))
    low, high = np.searchsorted(cuts, first), np.searchsorted(cuts, end)
    seen = np.zeros(cuts.size, dtype=bool)
    hits = np.zeros(counts.size, dtype=np.int64)
    at = 0
    for row, count in enumerate(counts):
        going = True
        for run in range(at, at + int(count)):
            pieces = seen[low[run] : high[run]]
            if going:
                going = bool(pieces.all())
                new = high[run] if going else low[run] + int(pieces.argmin())
                hits[row] += cuts[new] - first[run]
            pieces[:] = True
        at += int(count)
    return hits


def _sessions(trace: Trace) -> dict[str, Any]:
    """Return the figures of sessions, where there are any."""
    frame = trace.frame.filter(pl.col("session_id").is_not_null())
    if not frame.height:
        return {"sessions": None, "turns": None, "think_s": None}
    turns = frame.group_by("session_id").len()["len"].to_numpy()
    think = trace.frame["delay_s"].drop_nulls().to_numpy()
    return {
        "sessions": int(turns.size),
        "turns": described(turns),
        "think_s": described(think) if think.size else None,
    }
