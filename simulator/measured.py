"""What a trace's source measured, beside what was simulated of the very same requests.

A trace may carry each request's time to first token and end-to-end latency
(:mod:`workloads.readers`); a simulation never uses them, so they are there to judge it by.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
    """Tell whether the requests came with their source's latencies."""
    names = requests.collect_schema()
    return TTFT in names and E2E in names


def pairs(requests: pl.LazyFrame) -> dict[str, tuple[Floats, Floats]]:
    """Return measured and simulated seconds of each duration, of the requests that have both.

    Two arrays of one length each; no entry where no request has both. Nothing without
    measurements.
    """
    if not has_measurements(requests):
        return {}
    measured = {f"measured {name}": expression for name, (_, expression) in MEASURED.items()}
    frame = requests.select(*MEASURED, **measured).collect()
    found = {}
    for name in MEASURED:
        both = frame.select(pl.col(f"measured {name}").cast(pl.Float64), name).drop_nulls()
        if both.height:
            found[name] = (both.to_series(0).to_numpy(), both.to_series(1).to_numpy())
    return found


def beside(requests: pl.LazyFrame) -> dict[str, dict[str, Any]]:
    """Return, per duration, statistics of both and the simulation's error, ready for JSON.

    ``error`` is simulated / measured − 1 of each statistic; ``correlation`` is Pearson's, of single
    requests, ``None`` where either does not vary.
    """
    return {name: _beside(*both) for name, both in pairs(requests).items()}


def _beside(measured: Floats, simulated: Floats) -> dict[str, Any]:
    told, ours = _statistics(measured), _statistics(simulated)
    return {
        "requests": len(measured),
        "measured": told,
        "simulated": ours,
        "error": {name: ours[name] / told[name] - 1 if told[name] else None for name in told},
        "correlation": _correlation(measured, simulated),
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
