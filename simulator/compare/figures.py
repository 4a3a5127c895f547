"""The comparison's pictures: fronts first, then what single runs look like side by side."""

from collections.abc import Callable, Mapping

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from simulator.compare import prose
from simulator.compare.certainty import certainty_panels
from simulator.compare.comparison import Comparison, front_of, short, words
from simulator.compare.metrics import METRIC, Value
from simulator.compare.side import cdf_panels, stage_panels, timeline_panels
from simulator.report import theme
from simulator.report.figures import Panel

Floats = NDArray[np.float64]

MOST_MARKS = 1_000
"""Points of a scatter: a browser draws no more in a moment."""


MOST_BANDS = 60
"""Points of a scatter whose repetitions are drawn as bars."""


def front_panels(comparison: Comparison) -> list[Panel]:
    """Return the cost–attainment plane and the throughput–interactivity front."""
    return [_plane(comparison), _interactivity(comparison)]


def _plane(comparison: Comparison) -> Panel:
    cost, held = comparison.means(comparison.cost), comparison.means("slo_attainment")
    static = np.zeros(len(cost), dtype=bool)
    static[comparison.table.filter("static")["point"].unique().to_numpy()] = True
    line = front_of(np.where(static, -cost, np.nan), held)
    drawn = _scatter(
        comparison,
        (cost, held * 100),
        line=line[::-1],
        line_name="static frontier",
        x=prose.COSTS[comparison.cost],
        y="within the SLO (%)",
        hover="%{x:,.4~g}, %{y:.4~g} % within the SLO",
    )
    bands = comparison.repeated and len(cost) <= MOST_BANDS
    if bands:
        drawn.data[1].update(
            error_x=_band(comparison, comparison.cost), error_y=_band(comparison, "slo_attainment")
        )
    drawn.update_yaxes(range=[0, 104])
    theme.mark_target(drawn, comparison.options.attainment * 100, "asked for")
    note = "Left is cheaper, up holds more. The line joins the best of the pools that never change;"
    note += " what lies above or left of it gains from changing them."
    if bands:
        note += " Bars reach over all repetitions, of every seed and latency."
    return Panel(
        name="plane", title="Cost and attainment", note=note + _thinned(cost), figure=drawn
    )


def _band(comparison: Comparison, path: str) -> dict[str, object]:
    """Return the bars from a number's mean to its least and greatest over all repetitions."""
    scale = 100 if path == "slo_attainment" else 1
    means, values = comparison.means(path), comparison.numbers(path)
    spans = [values[list(point.runs)] for point in comparison.points]
    high = [np.nan_to_num(each.max() - mean) for each, mean in zip(spans, means, strict=True)]
    low = [np.nan_to_num(mean - each.min()) for each, mean in zip(spans, means, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": np.array(high) * scale,
        "arrayminus": np.array(low) * scale,
        "thickness": 1,
        "width": 0,
        "color": theme.MUTED,
    }


def _interactivity(comparison: Comparison) -> Panel:
    pace = comparison.means("interactivity")
    out = comparison.means("output_tokens_per_s_per_gpu")
    drawn = _scatter(
        comparison,
        (pace, out),
        line=front_of(pace, out),
        line_name="front",
        x="tokens/s of one user (1 / TPOT p50)",
        y="output tokens/s/GPU",
        hover="%{x:,.4~g} tokens/s of one user, %{y:,.4~g} tokens/s/GPU",
    )
    note = "Right is faster for one user, up serves more per GPU."
    return Panel(
        name="interactivity",
        title="Throughput and interactivity",
        note=note + _thinned(pace),
        figure=drawn,
    )


def _thinned(values: Floats) -> str:
    many = len(values) > MOST_MARKS
    return (
        f" {MOST_MARKS:,} of the {len(values):,} are drawn, the front among them." if many else ""
    )


def _scatter(
    comparison: Comparison,
    values: tuple[Floats, Floats],
    *,
    line: list[int],
    line_name: str,
    x: str,
    y: str,
    hover: str,
) -> go.Figure:
    """Return points with their front as a line and the best as a star."""
    across, up = values
    point = prose.best(comparison)
    star = [] if point is None else [comparison.points.index(point)]
    spread = np.linspace(0, len(up) - 1, min(len(up), MOST_MARKS)).astype(int)
    drawn = sorted({*spread.tolist(), *line})
    marks = [
        _marks(values, drawn, name="configurations", marker={**MARK, "color": theme.PREFILL}),
        _marks(values, star, name="best", marker={**STAR, "color": theme.TARGET}),
    ]
    for each, rows in zip(marks, (drawn, star), strict=True):
        each.customdata = [theme_text(comparison.points[row].name) for row in rows]
        each.hovertemplate = f"%{{customdata}}<br>{hover}<extra></extra>"
    front = go.Scatter(
        x=across[line],
        y=up[line],
        name=line_name,
        mode="lines",
        line={"color": theme.MUTED, "width": 1.5},
        hoverinfo="skip",
    )
    return theme.figure([front, *marks], x=x, y=y, height=340, hovermode="closest", showlegend=True)


MARK = {"size": 8, "opacity": 0.75}
STAR = {"size": 15, "opacity": 1.0, "symbol": "star"}


def _marks(values: tuple[Floats, Floats], rows: list[int], **look: object) -> go.Scatter:
    across, up = values
    return go.Scatter(x=across[rows], y=up[rows], mode="markers", **look)


def theme_text(name: str) -> str:
    """Return a name as plotly shows it: no markup of its own, and not too long."""
    kept = name if len(name) <= 160 else f"{name[:157]}…"
    return kept.replace("&", "&amp;").replace("<", "&lt;")


GRID = 10_000
"""Cells of a heat map, at most."""

CHANGED = "changed"
MAPPED = ("slo_attainment", "goodput_rps", "cost", "ttft_s.p99", "tpot_s.p50")


def map_panels(comparison: Comparison) -> list[Panel]:
    """Return a heat map over the two settings that were swept the most, where two were."""
    axes = _axes(comparison)
    if axes is None:
        return []
    paths = [comparison.cost if path == "cost" else path for path in MAPPED]
    layers = {_label(path): _cells(comparison, *axes, path) for path in paths}
    known = {label: cells for label, cells in layers.items() if np.isfinite(cells).any()}
    if not known:
        return []
    heats = [_heat(axes, cells, label) for label, cells in known.items()]
    for each in heats[1:]:
        each.visible = False
    (across, _), (up, rows) = axes
    figure = theme.figure(
        heats,
        x=short(across),
        y=short(up),
        height=int(np.clip(150 + 34 * len(rows), 260, 640)),
        hovermode="closest",
        margin_t=46,
        xaxis_type="category",
        yaxis={"type": "category", "rangemode": "normal", "showgrid": False},
        updatemenus=[_chooser(list(known))],
    )
    others = [short(key) for key in comparison.shown if key not in (across, up)]
    note = "The two settings with most values; the list chooses what is shown."
    if others:
        note += f" A cell is the mean over what else differs: {', '.join(others[:4])}."
    return [Panel(name="map", title="Two settings", note=note, figure=figure, wide=True)]


Axis = tuple[str, list[Value]]


def _label(path: str) -> str:
    if path == CHANGED:
        return "workers started, stopped and flipped"
    return METRIC[path].label if path in METRIC else prose.COSTS[path]


def _heat(axes: tuple[Axis, Axis], cells: Floats, label: str) -> go.Heatmap:
    """Return the cells of one number."""
    (across, columns), (up, rows) = axes
    named = f"{short(across)}=%{{x}}, {short(up)}=%{{y}}"
    return go.Heatmap(
        x=[words(value) for value in columns],
        y=[words(value) for value in rows],
        z=cells,
        visible=True,
        colorscale=[list(stop) for stop in theme.HEAT],
        texttemplate="%{z:,.3~g}" if cells.size <= 60 else "",
        colorbar={"title": {"text": label, "side": "right"}, "thickness": 12},
        hovertemplate=f"{named}: %{{z:,.4~g}}<extra></extra>",
    )


def _chooser(owners: list[str]) -> dict[str, object]:
    """Return the list that shows the traces of one label; ``owners`` are all traces' labels."""
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"visible": [owner == label for owner in owners]}],
        }
        for label in dict.fromkeys(owners)
    ]
    return {"buttons": buttons, "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}


def _axes(comparison: Comparison) -> tuple[Axis, Axis] | None:
    """Return the two settings with most values, across and up, with their values in order."""
    values: dict[str, list[Value]] = {}
    bases = [comparison.runs[point.base].settings for point in comparison.points]
    for key in comparison.shown:
        found = {settings.get(key) for settings in bases}
        if 2 <= len(found) <= GRID:
            values[key] = sorted(found, key=_order)
    ranked = sorted(values, key=lambda key: -len(values[key]))[:2]
    if len(ranked) < 2 or len(values[ranked[0]]) * len(values[ranked[1]]) > GRID:
        return None
    if len(comparison.points) < 4:
        return None
    return (ranked[0], values[ranked[0]]), (ranked[1], values[ranked[1]])


def _order(value: Value) -> tuple[int, float, str]:
    number = isinstance(value, int | float)
    return (0 if number else 1, float(value) if isinstance(value, int | float) else 0.0, str(value))


def _cells(comparison: Comparison, across: Axis, up: Axis, path: str) -> Floats:
    """Return the mean of a number in every cell, nan where no configuration lies."""
    means = comparison.means(path) * (100 if path == "slo_attainment" else 1)
    total = np.zeros((len(up[1]), len(across[1])))
    count = np.zeros_like(total)
    for index, point in enumerate(comparison.points):
        settings = comparison.runs[point.base].settings
        if np.isfinite(means[index]):
            cell = up[1].index(settings.get(up[0])), across[1].index(settings.get(across[0]))
            total[cell] += means[index]
            count[cell] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


MOST_LINES = 8
"""Lines of a sweep's picture; where there would be more there is none."""

SWEPT = ("slo_attainment", CHANGED, "ttft_s.p99", "tpot_s.p99", "goodput_rps", "cost")


def sweep_panels(comparison: Comparison) -> list[Panel]:
    """Return numbers against the numeric setting that was swept the most, a line for all else.

    Nothing where no setting has three values at least, or too much else differs.
    """
    key = _swept(comparison)
    if key is None:
        return []
    others = [each for each in comparison.shown if each != key]
    bases = [comparison.runs[point.base].settings for point in comparison.points]
    lines: dict[tuple[Value, ...], list[int]] = {}
    for index in sorted(range(len(bases)), key=lambda at: _order(bases[at].get(key))):
        lines.setdefault(tuple(bases[index].get(each) for each in others), []).append(index)
    if len(lines) > MOST_LINES or min(map(len, lines.values())) < 2:
        return []
    across = np.array([_order(settings.get(key))[1] for settings in bases])
    shown = {}
    for path in (comparison.cost if each == "cost" else each for each in SWEPT):
        up, bars = _numbers(comparison, path)
        if np.isfinite(up).any():
            shown[_label(path)] = [
                _line(across[rows], up[rows], _named(comparison, rows[0], key), (at, bars, rows))
                for at, rows in enumerate(lines.values())
            ]
    return [_sweep(key, shown)] if shown else []


def _swept(comparison: Comparison) -> str | None:
    """Return the setting with most numbers, if any has three."""
    bases = [comparison.runs[point.base].settings for point in comparison.points]
    counts = {}
    for key in comparison.shown:
        values = {settings.get(key) for settings in bases}
        if all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
            counts[key] = len(values)
    most = max(counts, key=lambda key: counts[key], default=None)
    return most if most is not None and counts[most] >= 3 else None


def _numbers(comparison: Comparison, path: str) -> tuple[Floats, dict[str, object] | None]:
    """Return a number of every point, and its bars where points are repeated."""
    if path == CHANGED:
        lives = [comparison.runs[point.base].summary["workers"] for point in comparison.points]
        return np.array([float(_changes(each)) for each in lives]), None
    scale = 100 if path == "slo_attainment" else 1
    bars = _band(comparison, path) if comparison.repeated else None
    return comparison.means(path) * scale, bars


def _changes(workers: Mapping[str, Mapping[str, int]]) -> int:
    """Return how many workers started and stopped; one that flips does both."""
    return sum(pool["started"] + pool["stopped"] for pool in workers.values())


def _named(comparison: Comparison, row: int, key: str) -> str:
    """Return a point's name without what the sweep says."""
    told = comparison.points[row].name.split(" ")
    kept = [each for each in told if each.partition("=")[0] not in (key, short(key))]
    return theme_text(" ".join(kept)) or "all"


def _line(
    x: Floats, y: Floats, name: str, drawn: tuple[int, dict[str, object] | None, list[int]]
) -> go.Scatter:
    """Return one line of a sweep, with its bars."""
    at, bars, rows = drawn
    colour = theme.COLOURS[at % len(theme.COLOURS)]
    line = go.Scatter(x=x, y=y, name=name, mode="lines+markers", line={"color": colour, "width": 2})
    if bars is not None:
        sides = {side: np.asarray(bars[side])[rows] for side in ("array", "arrayminus")}
        line.update(error_y={**bars, **sides, "color": colour})
    return line


def _sweep(key: str, shown: Mapping[str, list[go.Scatter]]) -> Panel:
    """Return the picture of a sweep; a list chooses the number."""
    traces = [
        line.update(visible=at == 0) for at, each in enumerate(shown.values()) for line in each
    ]
    figure = theme.figure(
        traces,
        x=short(key),
        y="",
        height=360,
        margin_t=46,
        showlegend=len(traces) > len(shown),
        updatemenus=[_chooser([label for label, lines in shown.items() for _ in lines])],
    )
    figure.update_layout(legend={"y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left"})
    note = "The setting with most values; the list chooses what is shown. Bars reach over all"
    note += " repetitions."
    return Panel(name="sweep", title=f"Over {short(key)}", note=note, figure=figure, wide=True)


def services_panels(comparison: Comparison) -> list[Panel]:
    """Return what each service attained in every configuration; nothing where none has several."""
    points = comparison.points
    names = list(_services(comparison, points[0].base)) if points else []
    if not names or any(list(_services(comparison, point.base)) != names for point in points):
        return []
    drawn = theme.figure(
        [_service_bars(comparison, name, at) for at, name in enumerate(names)],
        x="",
        y="within its targets (%)",
        hovermode="closest",
        barmode="group",
        showlegend=True,
        yaxis_range=[0, 104],
        xaxis_type="category",
    )
    note = "Each service by its own targets, a mean over all repetitions."
    if comparison.repeated:
        note += " Bars reach over all of them, of every seed and latency."
    return [
        Panel(name="services", title="Attainment by service", note=note, figure=drawn, wide=True)
    ]


def _service_bars(comparison: Comparison, name: str, at: int) -> go.Bar:
    """Return one service's bars, number ``at``, with their least and greatest."""
    values = [
        np.array([100 * _services(comparison, row)[name] for row in point.runs])
        for point in comparison.points
    ]
    means = [each.mean() for each in values]
    return go.Bar(
        x=[theme_text(point.name) for point in comparison.points],
        y=np.round(means, 3),
        name=theme_text(name),
        marker={"color": theme.COLOURS[at % len(theme.COLOURS)]},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [each.max() - mean for each, mean in zip(values, means, strict=True)],
            "arrayminus": [mean - each.min() for each, mean in zip(values, means, strict=True)],
            "thickness": 1,
            "color": theme.MUTED,
            "visible": comparison.repeated,
        },
        hovertemplate="%{x}<br>%{y:.4~g} % within its targets<extra></extra>",
    )


def _services(comparison: Comparison, row: int) -> dict[str, float]:
    """Return what each service of a run attained; 0 where it had no request."""
    told = comparison.runs[row].summary.get("services", {})
    return {name: each.get("slo_attainment") or 0.0 for name, each in told.items()}


SECTIONS: tuple[tuple[str, str, Callable[[Comparison], list[Panel]]], ...] = (
    ("fronts", "Fronts", front_panels),
    ("services", "Services", services_panels),
    ("sweep", "Sweep", sweep_panels),
    ("map", "Map", map_panels),
    ("certainty", "Certainty", certainty_panels),
    ("latency", "Latency", cdf_panels),
    ("stages", "Stages", stage_panels),
    ("time", "Over time", timeline_panels),
)
"""Sections of pictures: anchor, title, and what builds its panels; an empty one is left out."""

LETTERED = ("certainty", "latency", "stages", "time")
"""Sections whose pictures name configurations by letters."""
