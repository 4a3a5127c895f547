"""What a trace's source measured, beside what was simulated of the very same requests.

A trace may carry each request's time to first token and end-to-end latency
(:mod:`workloads.readers`); a simulation never uses them, so they are there to judge it by.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.aggregates import Statistics

Floats = NDArray[np.float64]

TTFT, E2E = "src_ttft_s", "src_e2e_s"
MEASURED: Mapping[str, tuple[str, pl.Expr]] = {
    "ttft_s": ("TTFT", pl.col(TTFT)),
    "tpot_s": (
        "TPOT",
        pl.when((pl.col("output_tokens") >= 2) & (pl.col(E2E) > pl.col(TTFT))).then(
            (pl.col(E2E) - pl.col(TTFT)) / (pl.col("output_tokens") - 1)
        ),
    ),
    "e2e_s": ("E2E", pl.col(E2E)),
}
"""Per duration of a request: what it is called, and what the source measured of it."""

STATISTICS: Mapping[str, float | None] = {"mean": None, "p50": 50.0, "p90": 90.0, "p99": 99.0}
FEWEST = 2
"""Fewer requests than this have no correlation."""


def has_measurements(requests: pl.LazyFrame) -> bool:
    """Tell whether the requests came with their source's latencies, or with one of them."""
    return bool(_told(requests))


def _told(requests: pl.LazyFrame) -> dict[str, pl.Expr]:
    """Return the durations that the source's columns tell."""
    names = set(requests.collect_schema().names())
    return {
        name: each
        for name, (_, each) in MEASURED.items()
        if names.issuperset(each.meta.root_names())
    }


def pairs(requests: pl.LazyFrame) -> dict[str, tuple[Floats, Floats]]:
    """Return measured and simulated seconds of each duration, of the requests that have both.

    Two arrays of one length each; no entry where no request has both. Nothing without
    measurements.
    """
    told = _told(requests)
    measured = {f"measured {name}": expression for name, expression in told.items()}
    frame = requests.select(*told, **measured).collect() if told else pl.DataFrame()
    found = {}
    for name in told:
        both = frame.select(pl.col(f"measured {name}").cast(pl.Float64), name).drop_nulls()
        if both.height:
            found[name] = (both.to_series(0).to_numpy(), both.to_series(1).to_numpy())
    return found


def beside(
    requests: pl.LazyFrame, aggregates: Mapping[str, Statistics] | None = None
) -> dict[str, dict[str, Any]]:
    """Return, per duration, statistics of both and the simulation's error, ready for JSON.

    ``error`` is simulated / measured − 1 of each statistic; ``correlation`` is Pearson's, of single
    requests, ``None`` where either does not vary. Durations that no single request was measured in
    are put beside ``aggregates``; then ``requests`` are the simulated ones, and ``ranks`` holds
    whatever percentiles are told.
    """
    found = {name: _beside(*both) for name, both in pairs(requests).items()}
    for name, told in (aggregates or {}).items():
        column = requests.select(pl.col(name).cast(pl.Float64)).collect().to_series()
        simulated = column.drop_nulls().drop_nans().to_numpy()
        if name not in found and len(simulated):
            found[name] = _compared(told, simulated) | {"correlation": None, "ranks": dict(told)}
    return found


def apart(measured: pl.DataFrame, simulated: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the same as :func:`beside` of requests that cannot be put together one by one.

    ``measured`` has the source's columns, ``simulated`` durations of a run's requests.
    """
    found = {}
    for name, expression in _told(measured.lazy()).items():
        theirs, ours = (
            frame.select(each.cast(pl.Float64)).to_series().drop_nulls().to_numpy()
            for frame, each in ((measured, expression), (simulated, pl.col(name)))
        )
        if len(theirs) and len(ours):
            found[name] = _compared(_statistics(theirs), ours) | {"correlation": None}
    return found


def _beside(measured: Floats, simulated: Floats) -> dict[str, Any]:
    told = _compared(_statistics(measured), simulated)
    return told | {"correlation": _correlation(measured, simulated)}


def _compared(told: Statistics, simulated: Floats) -> dict[str, Any]:
    ours = _statistics(simulated)
    return {
        "requests": len(simulated),
        "measured": {name: told.get(name) for name in ours},
        "simulated": ours,
        "error": {
            name: value / told[name] - 1 if told.get(name) else None for name, value in ours.items()
        },
    }


def _statistics(values: Floats) -> dict[str, float]:
    return {
        name: float(values.mean() if rank is None else np.percentile(values, rank))
        for name, rank in STATISTICS.items()
    }


def _correlation(measured: Floats, simulated: Floats) -> float | None:
    if len(measured) < FEWEST or not np.ptp(measured) or not np.ptp(simulated):
        return None
    return float(np.corrcoef(measured, simulated)[0, 1])
