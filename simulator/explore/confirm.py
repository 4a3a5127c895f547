"""What queues leave of a steady state's promise: its best deployments under random arrivals."""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from simulator.explore.advice import Limits
from simulator.explore.exploration import Explored
from simulator.explore.export import experiment, merged
from simulator.explore.space import TRANSFER_MODE

Settings = Mapping[str, Any]
Simulate = Callable[[Settings], Mapping[str, Any]]
"""Runs the experiment of these settings and returns its summary."""

ARRIVALS: Mapping[str, Mapping[str, Any]] = {
    "poisson": {"_target_": "workloads.arrivals.Poisson"},
    "bursty": {"_target_": "workloads.arrivals.Gamma", "cv": 2.0},
}
"""Memoryless arrivals, and ones whose gaps vary twice as much."""

LOADS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of the promised rate to offer, until one meets the limits."""
LIVES, LEAST, MOST = 20, 2_000, 50_000
"""Requests offered: so many times those in flight, between these bounds. Fewer would end before
queues have grown."""
COLUMNS = {
    "rank": pl.Int64,
    "arrivals": pl.String,
    "promised_rate": pl.Float64,
    "surviving_share": pl.Float64,
    "ttft_p99_s": pl.Float64,
    "tpot_p99_s": pl.Float64,
}


def confirm(done: Explored, settings: Settings, simulate: Simulate, count: int) -> pl.DataFrame:
    """Return what survives of the ``count`` best disaggregated deployments' promised rates.

    ``surviving_share`` is the greatest of :data:`LOADS` at which p99 of TTFT and TPOT stay within
    the limits, 0 where none does; the percentiles are those of the last load tried.
    """
    split = done.advice.ranked.filter(kind="disaggregated") if len(done.advice.ranked) else None
    rows = [] if split is None else list(split.head(count).iter_rows(named=True))
    found = [
        {"rank": rank, "arrivals": name, **_survives(done, (settings, simulate), row, arrivals)}
        for rank, row in enumerate(rows, start=1)
        for name, arrivals in ARRIVALS.items()
    ]
    return pl.DataFrame(found, schema=COLUMNS)


def confirmed_lines(table: pl.DataFrame) -> list[str]:
    """Return a line per row of :func:`confirm`'s table."""
    return [
        f"no. {row['rank']} under {row['arrivals']} arrivals: {row['surviving_share']:.0%} of "
        f"{row['promised_rate']:.4g} requests/s survives (p99 TTFT {row['ttft_p99_s']:.3g} s, "
        f"TPOT {row['tpot_p99_s'] * 1e3:.3g} ms at the last load tried)"
        for row in table.iter_rows(named=True)
    ]


def _survives(
    done: Explored,
    engine: tuple[Settings, Simulate],
    row: Mapping[str, Any],
    arrivals: Mapping[str, Any],
) -> dict[str, float]:
    settings, simulate = engine
    exploration = done.exploration
    changes = experiment(row, exploration.platforms, exploration.lengths)
    lengths = changes.pop("workload")
    cell = {"promised_rate": row["rate"], "surviving_share": 0.0}
    for load in LOADS:
        workload = {
            "_target_": "workloads.workload.SyntheticWorkload",
            "requests": _requests(row, exploration.lengths.mean_osl),
            "arrivals": {**arrivals, "rate": load * row["rate"]},
            **{
                name: {"_target_": "workloads.lengths.Constant", **lengths[name]}
                for name in ("input_lengths", "output_lengths")
            },
        }
        changed = merged(settings, {**changes, "transfer": {"mode": TRANSFER_MODE}})
        pools = {**changed["pools"], "mixed": None}
        summary = simulate({**changed, "pools": pools, "workload": workload})
        cell |= {f"{name}_p99_s": summary[f"{name}_s"]["p99"] for name in ("ttft", "tpot")}
        if _within(cell, exploration.limits):
            return {**cell, "surviving_share": load}
    return cell


def _requests(row: Mapping[str, Any], osl: float) -> int:
    """Return the requests to offer a deployment: several lives of all it has in flight."""
    in_flight = row["rate"] * (row["ttft_s"] + row["tpot_s"] * osl)
    return int(min(max(LIVES * in_flight, LEAST), MOST))


def _within(cell: Mapping[str, float], limits: Limits) -> bool:
    pairs = ((cell["ttft_p99_s"], limits.ttft_s), (cell["tpot_p99_s"], limits.tpot_s))
    return all(limit is None or value <= limit for value, limit in pairs)
