"""The comparison's pictures: fronts first, then what single runs look like side by side."""

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from simulator.compare import prose
from simulator.compare.comparison import Comparison, front_of
from simulator.report import theme
from simulator.report.figures import Panel

Floats = NDArray[np.float64]

MOST_MARKS = 2_000
"""Points of a scatter: a browser draws no more in a moment."""


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
    drawn.update_yaxes(range=[0, 104])
    theme.mark_target(drawn, comparison.options.attainment * 100, "asked for")
    note = "Left is cheaper, up holds more. The line joins the best of the pools that never change;"
    note += " what lies above or left of it gains from changing them."
    return Panel(
        name="plane", title="Cost and attainment", note=note + _thinned(cost), figure=drawn
    )


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
    drawn = np.unique(
        np.concatenate([np.linspace(0, len(up) - 1, min(len(up), MOST_MARKS)).astype(int), line])
    ).astype(int)
    names = [each.name for each in comparison.points]

    def marks(rows: list[int], name: str, colour: str, **marker: object) -> go.Scatter:
        return go.Scatter(
            x=across[rows],
            y=up[rows],
            name=name,
            mode="markers",
            marker={"color": colour, "size": 8, "opacity": 0.75, **marker},
            customdata=[theme_text(names[row]) for row in rows],
            hovertemplate=f"%{{customdata}}<br>{hover}<extra></extra>",
        )

    front = go.Scatter(
        x=across[line],
        y=up[line],
        name=line_name,
        mode="lines",
        line={"color": theme.MUTED, "width": 1.5},
        hoverinfo="skip",
    )
    return theme.figure(
        [
            front,
            marks(drawn.tolist(), "configurations", theme.PREFILL),
            marks(star, "best", theme.TARGET, symbol="star", size=15, opacity=1.0),
        ],
        x=x,
        y=y,
        height=340,
        hovermode="closest",
        showlegend=True,
    )


def theme_text(name: str) -> str:
    """Return a name as plotly shows it: no markup of its own, and not too long."""
    kept = name if len(name) <= 160 else f"{name[:157]}…"
    return kept.replace("&", "&amp;").replace("<", "&lt;")


SECTIONS: tuple[tuple[str, str, Callable[[Comparison], list[Panel]]], ...] = (
    ("fronts", "Fronts", front_panels),
)
"""Sections of pictures: anchor, title, and what builds its panels; an empty one is left out."""
