"""What made requests late: the bill by cause, over time and in all."""

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go
import polars as pl

from simulator.lateness import CAUSES, bill, late
from simulator.report import parts, series, theme
from simulator.report.figures import LABELS, Panel, View
from simulator.report.theme import number, seconds, share
from simulator.results import Results

MOST = 1_000_000
"""Late requests of a target; more are not told apart, for memory's sake."""

NAMES = {
    **LABELS,
    "signal_age_s": "Age of the signal",
    "tick_s": "Until the next tick",
    "grant_s": "Waiting for GPUs",
    "warm_up_s": "Warming up",
}
COLOURS = {
    **theme.STAGE_COLOURS,
    "signal_age_s": "#e7b7a2",
    "tick_s": "#dd8a63",
    "grant_s": "#c43c00",
    "warm_up_s": "#7a2a05",
}


def lateness_panels(seen: View) -> list[Panel]:
    """Return the seconds by which requests missed each target over arrival time, by cause."""
    if not len(seen.edges):
        return []
    return [_over_time(seen, metric, found) for metric, found in _late(seen.results)]


def _late(results: Results) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the targets that were missed, and by which requests; not those missed too often."""
    for metric in results.slo.targets():
        if 0 < results.summary["missed"][metric]["measured"] <= MOST:
            yield metric, late(results, metric)


def _over_time(seen: View, metric: str, found: pl.DataFrame) -> Panel:
    bins = series.bin_of(found["arrival_s"].to_numpy(), seen.edges)
    count = len(seen.edges) - 1
    spent = {
        cause: np.bincount(bins[bins >= 0], found[cause].to_numpy()[bins >= 0], count)
        for cause in CAUSES
    }
    bars = [
        go.Bar(
            x=seen.middles,
            y=values,
            name=NAMES[cause],
            marker={"color": COLOURS[cause], "line": {"width": 0}},
            hovertemplate=f"{NAMES[cause]}: %{{y:,.4~g}} s<extra></extra>",
        )
        for cause, values in spent.items()
        if values.sum() > 0
    ]
    drawn = theme.figure(
        bars,
        x=seen.time,
        y="lateness (s)",
        barmode="stack",
        bargap=0,
        showlegend=True,
        hovermode="closest",
        xaxis_range=seen.span,
        height=300,
    )
    note = (
        f"Seconds above the {LABELS[metric]} target, summed over the requests that arrived in each"
    )
    note += f" bin of {seen.bin_words}, by what they spent their time on. What a queue waited for a"
    note += " worker that was on its way is told apart."
    title = f"What made {LABELS[metric]} late"
    return Panel(name=f"late_{metric}", title=title, note=note, figure=drawn, wide=True)


def lateness_table(results: Results) -> str:
    """Return the bill of each target that was missed."""
    return "".join(_card(metric, found) for metric, found in _late(results))


def _card(metric: str, found: pl.DataFrame) -> str:
    told = bill(found)
    whole = float(told["late_s"].sum())
    rows = [
        (NAMES[cause], seconds(spent), share(spent / whole), number(requests))
        for cause, spent, requests in told.iter_rows()
    ]
    table = parts.table(("", "lateness", "of all", "requests it cost most"), rows)
    title = f"{LABELS[metric]}: {number(len(found))} late by {seconds(whole)} in all"
    return f'<div class="card wide"><h3>{title}</h3>{table}</div>'
