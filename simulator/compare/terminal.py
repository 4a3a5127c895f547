"""A comparison in a few lines, for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from simulator.compare import prose
from simulator.compare.comparison import Comparison
from simulator.compare.metrics import METRIC, Metric
from simulator.compare.reading import Found
from simulator.compare.statistics import intervals
from simulator.runs import runs_table

MOST_ROWS = 40
SPREAD = ("slo_attainment", "goodput_rps", "ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "tpot_s.p99")
"""Numbers of one configuration whose intervals a terminal shows."""


def told(comparison: Comparison) -> str:
    """Return the answer, how sure it is, and the main numbers of every configuration."""
    shown = comparison.points[:MOST_ROWS]
    runs = [comparison.runs[point.base] for point in shown]
    rows = [
        (point.name, run.summary, str(run.folder)) for point, run in zip(shown, runs, strict=True)
    ]
    left = len(comparison.points) - len(shown)
    more = [f"… and {left:,} more"] if left else []
    said = [prose.answer(comparison), prose.certainty(comparison)]
    return "\n".join([runs_table(rows), *more, "", *filter(None, said)])


def spread(comparison: Comparison) -> str:
    """Return the answer over repetitions; of a single configuration its numbers' intervals."""
    said = [prose.answer(comparison), prose.certainty(comparison)]
    if len(comparison.points) > 1:
        return "\n".join(filter(None, said))
    frame = intervals(comparison).filter(pl.col("metric").is_in(SPREAD))
    lines = [
        f"{METRIC[row['metric']].label:<14}{METRIC[row['metric']].write(row['mean']):>10}"
        + _range(METRIC[row["metric"]], row)
        for row in frame.iter_rows(named=True)
    ]
    return "\n".join([prose.repetitions(comparison, comparison.points[0]) + ":", *lines])


def _range(metric: Metric, row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return ""
    low, high = (metric.write(row[end]) for end in ("low", "high"))
    return f"   {low} to {high}"


def unfinished(found: Found) -> Sequence[str]:
    """Return what was not finished and hence left out, as a sentence, if anything."""
    folders = found.incomplete
    if not folders:
        return []
    others = f" and {len(folders) - 1:,} more" if len(folders) > 1 else ""
    return [f"Not finished and left out: {folders[0]}{others}."]
