"""A comparison in a few lines, for a terminal."""

from collections.abc import Sequence

import polars as pl

from simulator.compare import measured, prose
from simulator.compare.comparison import Comparison
from simulator.compare.measured import Beside
from simulator.compare.metrics import METRIC, Metric
from simulator.compare.reading import Found
from simulator.compare.statistics import confidence_of, intervals
from simulator.report.theme import share
from simulator.runs import runs_table

MOST_ROWS = 40
SPREAD = ("slo_attainment", "goodput_rps", "ttft_s.p50", "ttft_s.p99", "tpot_s.p50", "tpot_s.p99")
"""Numbers of one configuration whose intervals a terminal shows."""


def told(comparison: Comparison, beside: Beside | None = None) -> str:
    """Return the answer, how sure it is, and the main numbers of every configuration.

    What was measured stands ``beside`` them.
    """
    shown = comparison.points[:MOST_ROWS]
    runs = [comparison.runs[point.base] for point in shown]
    rows = [
        (point.name, run.summary, str(run.folder)) for point, run in zip(shown, runs, strict=True)
    ]
    left = len(comparison.points) - len(shown)
    more = [f"… and {left:,} more"] if left else []
    said = [prose.answer(comparison), prose.certainty(comparison)]
    around = [] if beside is None else ["", measured.told(comparison, beside)]
    return "\n".join([runs_table(rows), *more, "", *filter(None, said), *around])


def spread(comparison: Comparison) -> str:
    """Return the answer over repetitions; of a single configuration its numbers' intervals."""
    said = [prose.answer(comparison), prose.certainty(comparison)]
    if len(comparison.points) > 1:
        return "\n".join(filter(None, said))
    point, ends = comparison.points[0], intervals(comparison)
    lines = [
        f"{METRIC[path].label:<16}{comparison.told(METRIC[path])[0]:>10}"
        + _range(METRIC[path], ends.filter(metric=path))
        for path in SPREAD
    ]
    sure = confidence_of(comparison)
    seeds = len(comparison.plain(point))
    of = f"mean of {seeds} seeds, {sure * 100:g} % interval" if seeds > 1 else "of one seed"
    told = comparison.table["slo_attainment"].drop_nulls().to_list()
    over = f"{share(min(told))} to {share(max(told))}" if told else "–"
    every = f"in SLO over all of {prose.repetitions(comparison, point)}: {over}"
    return "\n".join([f"{'':<16}{of}", *lines, every])


def _range(metric: Metric, found: pl.DataFrame) -> str:
    if not len(found) or found["low"][0] is None:
        return ""
    return f"   {metric.write(found['low'][0])} to {metric.write(found['high'][0])}"


def unfinished(found: Found) -> Sequence[str]:
    """Return what was not finished and hence left out, as a sentence, if anything."""
    folders = found.incomplete
    if not folders:
        return []
    others = f" and {len(folders) - 1:,} more" if len(folders) > 1 else ""
    return [f"Not finished and left out: {folders[0]}{others}."]
