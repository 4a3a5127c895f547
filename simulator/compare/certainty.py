"""How sure a comparison is, drawn: intervals, pairs of requests, and how often who is ahead."""

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import NDArray

from simulator.compare import prose, side
from simulator.compare.comparison import Comparison
from simulator.compare.metrics import METRIC
from simulator.compare.statistics import (
    Difference,
    confidence_of,
    difference,
    orders,
)
from simulator.intervals import BATCHES, t_interval
from simulator.report import theme
from simulator.report.figures import LABELS, Panel

Floats = NDArray[np.float64]

SHOWN = ("slo_attainment", "goodput_rps", "ttft_s.p99", "tpot_s.p50")
"""Numbers whose intervals are drawn, beside the cost."""

PAIRED = ("ttft_s", "tpot_s", "e2e_s")
"""Durations that are compared request by request."""


def certainty_panels(comparison: Comparison) -> list[Panel]:
    """Return what is known of chance: nothing of it is drawn where nothing was repeated."""
    return [*_order_panels(comparison), *_pair_panels(comparison), *_interval_panels(comparison)]


def _interval_panels(comparison: Comparison) -> list[Panel]:
    chosen = side.drawn(comparison)
    if all(len(comparison.plain(comparison.points[each.point])) < 2 for each in chosen):
        return []
    return [_forest(comparison, chosen, path) for path in (comparison.cost, *SHOWN)]


def _forest(comparison: Comparison, chosen: list[side.Drawn], path: str) -> Panel:
    """Return a number of every configuration with its interval over seeds."""
    sure = confidence_of(comparison)
    values = comparison.numbers(path)
    most = METRIC[path].most if path in METRIC else np.inf
    rows = [comparison.plain(comparison.points[each.point]) for each in chosen]
    found = [t_interval(values[each], sure).within(most) for each in rows]
    scale, unit = _unit(path, np.array([each.mean for each in found]))
    label = METRIC[path].label if path in METRIC else prose.COSTS[path]
    marks = go.Scatter(
        x=[each.mean * scale for each in found],
        y=[each.letter for each in chosen],
        mode="markers",
        marker={"size": 9, "color": [each.colour for each in chosen]},
        error_x={
            "symmetric": False,
            "array": [np.nan_to_num(each.high - each.mean) * scale for each in found],
            "arrayminus": [np.nan_to_num(each.mean - each.low) * scale for each in found],
            "color": theme.INK,
        },
        customdata=[[each.low * scale, each.high * scale] for each in found],
        hovertemplate="%{y}: %{x:,.4~g}, %{customdata[0]:,.4~g} to %{customdata[1]:,.4~g}"
        "<extra></extra>",
    )
    figure = _rows([marks], f"{label}{f' ({unit})' if unit else ''}", len(chosen))
    figure.update_xaxes(rangemode="normal")
    counts = sorted({each.count for each in found})
    seeds = " to ".join(f"{count}" for count in dict.fromkeys((counts[0], counts[-1])))
    return Panel(
        name=f"interval_{path.replace('.', '_')}",
        title=label,
        note=f"Mean and {sure * 100:g} % interval (Student's t) over {seeds} seeds, latencies as "
        "they are.",
        figure=figure,
    )


def _unit(path: str, values: Floats) -> tuple[float, str]:
    if path == "slo_attainment":
        return 100.0, "%"
    if path.rpartition(".")[0] in ("ttft_s", "tpot_s"):
        return theme.unit_of(values[np.isfinite(values)])
    return 1.0, ""


def _rows(traces: list[go.Scatter], x: str, count: int) -> go.Figure:
    return theme.figure(
        traces,
        x=x,
        y="",
        height=110 + 30 * count,
        hovermode="closest",
        margin_t=12,
        yaxis={"autorange": "reversed", "rangemode": "normal", "type": "category"},
    )


def differences(comparison: Comparison) -> list[Difference]:
    """Return how requests fared in every drawn configuration against the first of them."""
    chosen = side.drawn(comparison)
    found = (
        difference(comparison, chosen[0].point, other.point, metric)
        for metric in PAIRED
        for other in chosen[1:]
    )
    return [each for each in found if each is not None]


def _pair_panels(comparison: Comparison) -> list[Panel]:
    chosen = side.drawn(comparison)
    told = differences(comparison) if len(chosen) > 1 else []
    letters = {each.point: each for each in chosen}
    panels = []
    for metric in PAIRED:
        own = [each for each in told if each.metric == metric and each.pairs]
        if own:
            panels.append(_pairs(metric, own, letters, confidence_of(comparison)))
    return panels


def _pairs(
    metric: str, told: list[Difference], letters: dict[int, side.Drawn], sure: float
) -> Panel:
    scale, unit = theme.unit_of(np.array([abs(each.change.mean) for each in told]))
    names = [letters[each.second].letter for each in told]
    marks = go.Scatter(
        x=[each.change.mean * scale for each in told],
        y=names,
        mode="markers",
        marker={"size": 9, "color": [letters[each.second].colour for each in told]},
        error_x={
            "array": [np.nan_to_num(each.change.half) * scale for each in told],
            "color": theme.INK,
        },
        customdata=[
            f"{each.pairs:,} pairs: {theme.share(each.earlier)} sooner, "
            f"{theme.share(each.later)} later"
            for each in told
        ],
        hovertemplate="%{y}: %{x:,.4~g} ± %{error_x.array:,.3~g}<br>%{customdata}<extra></extra>",
    )
    base = letters[told[0].first].letter
    figure = _rows([marks], f"{LABELS[metric]} − that of {base} ({unit})", len(told))
    figure.update_xaxes(rangemode="normal")
    figure.add_vline(x=0, line={"color": theme.MUTED, "width": 1})
    return Panel(
        name=f"pairs_{metric}",
        title=f"{LABELS[metric]}, request by request against {base}",
        note=_pair_note(told, letters, sure),
        figure=figure,
    )


def _pair_note(told: list[Difference], letters: dict[int, side.Drawn], sure: float) -> str:
    """Return what the pairs are and what their intervals are over."""
    percent = f"{sure * 100:g} %"
    most = max(each.seeds for each in told)
    if most > 1:
        over = f"over {most} seeds"
    else:
        over = f"over at most {BATCHES} batches of consecutive requests of the one seed there is"
    note = (
        f"The same requests, those served both ways; mean difference and {percent} interval "
        f"{over}. Right of 0 is slower."
    )
    short = [letters[each.second].letter for each in told if not each.steady]
    if short:
        note += (
            f" For {', '.join(short)} neighbouring batches are alike, so the run is too short for "
            "its interval: take more requests or seeds."
        )
    return note


def order_table(comparison: Comparison) -> pl.DataFrame:
    """Return, per pair of drawn configurations, in how many of their repetitions who is ahead."""
    chosen = side.drawn(comparison)
    found = orders(comparison, tuple(each.point for each in chosen))
    rows = [
        (one.point, other.point, one.name, other.name, *found.of(first, second))
        for first, one in enumerate(chosen)
        for second, other in enumerate(chosen)
        if first != second
    ]
    schema = {
        "point": pl.Int64,
        "than": pl.Int64,
        "name": pl.String,
        "than_name": pl.String,
        "ahead": pl.Int64,
        "repetitions": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _order_panels(comparison: Comparison) -> list[Panel]:
    chosen = side.drawn(comparison)
    found = orders(comparison, tuple(each.point for each in chosen))
    if len(chosen) < 2 or found.cells.max() < 2:
        return []
    cells = found.cells
    share = np.where(cells > 0, found.ahead / np.maximum(cells, 1), np.nan)
    letters = [each.letter for each in chosen]
    texts = [
        [f"{a}/{n}" if n else "" for a, n in zip(ahead, count, strict=True)]
        for ahead, count in zip(found.ahead.tolist(), cells.tolist(), strict=True)
    ]
    heat = go.Heatmap(
        x=letters,
        y=letters,
        z=np.round(share * 100, 1),
        zmin=0,
        zmax=100,
        text=texts,
        texttemplate="%{text}",
        colorscale=[[0.0, "#f5d79a"], [0.5, "#f3f6f9"], [1.0, "#4fb592"]],
        colorbar={"title": {"text": "ahead (%)", "side": "right"}, "thickness": 12},
        hovertemplate="%{y} ahead of %{x} in %{text}<extra></extra>",
    )
    figure = theme.figure(
        [heat],
        x="than",
        y="better",
        height=120 + 44 * len(letters),
        hovermode="closest",
        margin_t=12,
        xaxis={"type": "category", "side": "top"},
        yaxis={"autorange": "reversed", "rangemode": "normal", "type": "category"},
    )
    note = (
        "In how many repetitions (a seed and a factor on latencies each) the row's configuration "
        "comes before the column's: enough within the SLO before not enough, then the cheaper, or "
        "below that what holds more. Equals count for neither."
    )
    return [
        Panel(
            name="orders", title="How often one beats another", note=note, figure=figure, wide=True
        )
    ]
