"""Colours, number formats and the common look of every figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

PREFILL, TRANSFER, DECODE, MIXED = "#0072b2", "#d98c00", "#008f68", "#a4508b"
INK, MUTED, GRID, TARGET = "#1f2933", "#5f6c7b", "#e6e8eb", "#c43c00"
POOL_COLOURS = {"prefill": PREFILL, "decode": DECODE, "mixed": MIXED}
STAGE_COLOURS = {
    "gateway_s": "#b8bec6",
    "prefill_queue_s": "#9ccbe6",
    "prefill_s": PREFILL,
    "handover_s": "#8d6e97",
    "transfer_queue_s": "#f5d79a",
    "transfer_s": TRANSFER,
    "decode_queue_s": "#99d6c3",
    "first_step_s": "#4fb592",
    "decode_s": DECODE,
}
"""Okabe and Ito's colour-blind-safe hues; a queue is the tint of the stage it waits for."""

STATE_COLOURS = {
    "pending": "#b8bec6",
    "starting": "#f5d79a",
    "ready": "#2f88bd",
    "draining": "#d98c00",
}
"""A worker's states: waiting is grey, as above; coming and going are tints of one hue."""

COLOURS = (
    "#0072b2",
    "#d98c00",
    "#008f68",
    "#c43c00",
    "#a4508b",
    "#56b4e9",
    "#7a6000",
    "#1f2933",
)
"""Of configurations or services, told apart by the colour-blind too; they come round again."""

OTHERS = "#b8bec6"
"""Of what is not told apart."""

HEAT = ((0.0, "#f3f6f9"), (0.35, "#9ccbe6"), (0.7, "#2f88bd"), (1.0, "#0b3c5d"))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"

_SECOND_UNITS = ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min"))
_CLOCK_UNITS = ((180.0, 1.0, "s"), (3 * 3600.0, 1 / 60, "min"), (4 * 86400.0, 1 / 3600, "h"))


def number(value: float | None) -> str:
    """Return ``value`` with separators and three significant digits: 1,234, 12.3, 0.0812 or 5."""
    if value is None:
        return "–"
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"


def seconds(value: float | None) -> str:
    """Return a duration in the unit that reads best: 812 ms, 1.23 s, 3.40 min, 2.10 h."""
    if value is None:
        return "–"
    if value == 0:
        return "0 s"
    for limit, scale, unit in _SECOND_UNITS:
        if abs(value) < limit:
            return f"{number(round(value * scale, 9))} {unit}"
    return f"{number(round(value / 3600, 9))} h"


def statistic(told: Mapping[str, Any], name: str) -> str:
    """Return a duration of a distribution; if it is of requests unfinished, more than what it is.

    It is ``never`` reached where it lies among requests that failed.
    """
    beyond = told.get("at_least", {})
    if name not in beyond:
        return seconds(told[name])
    return "never" if beyond[name] is None else f"> {seconds(beyond[name])}"


def share(value: float | None) -> str:
    """Return a share of 1 as a percentage; never rounded up to 100 % nor down to 0 %."""
    if value is None:
        return "–"
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    if 0 < value < 0.0005:
        return "< 0.1 %"
    return f"{value:.1%}".replace("%", " %").replace(".0 %", " %")


def percent(value: float | None) -> str:
    """Return a relative difference, 0.05 as ``+5.0 %``; a dash where there is none."""
    return "–" if value is None else f"{100 * value:+,.1f} %"


def clock(end_s: float) -> tuple[float, str]:
    """Return the factor from seconds and the unit for a time axis that ends at ``end_s``."""
    for limit, scale, unit in _CLOCK_UNITS:
        if end_s < limit:
            return scale, unit
    return 1 / 86400, "days"


def unit_of(values: NDArray[np.float64]) -> tuple[float, str]:
    """Return the factor from seconds and the unit for an axis of latencies: ms below 2 s."""
    top = float(np.nanmax(values)) if len(values) else 0.0
    return (1e3, "ms") if top < 2.0 else (1.0, "s")


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Return the range and the 1–2–5 (or decade) ticks of a log axis from ``low`` to ``high``."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return {
        "type": "log",
        "range": [np.log10(low), np.log10(high)],
        "tickvals": inside,
        "ticktext": [f"{tick:,.12g}" for tick in inside],
    }


def share_axis(highest: float) -> dict[str, Any]:
    """Return an axis of shares of 1 that gives 90, 99 and 99.9 % equal steps, as for tails.

    It is a log axis of the share that lies beyond, turned round: draw ``1 - share`` on it. It
    reaches a little above ``highest``, and to 99 % in any case.
    """
    nines = max(2.0, -np.log10(1 - highest)) + 0.05
    ticks = [0.0, 0.5, 0.75, *(1 - 10.0**-nine for nine in range(1, int(nines) + 1))]
    return {
        "type": "log",
        "range": [0.0, -nines],
        "tickvals": [1 - tick for tick in ticks],
        "ticktext": [f"{tick * 100:.6g}" for tick in ticks],
    }


def figure(traces: Sequence[Any], *, x: str, y: str, height: int = 300, **layout: Any) -> go.Figure:
    """Return a figure in the house style with axis titles ``x`` and ``y`` (units included)."""
    axis = {
        "gridcolor": GRID,
        "linecolor": "#c8cdd3",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "#c8cdd3",
        "automargin": True,
        "title": {"standoff": 8},
        "tickformat": ",.6~g",
    }
    base = go.Layout(
        template="none",
        height=height,
        margin={"l": 12, "r": 16, "t": 34, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": INK},
        hoverlabel={"font": {"family": FONT, "size": 12}},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        hovermode="x unified",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": PREFILL},
        xaxis=axis,
        yaxis={**axis, "rangemode": "tozero"},
    )
    drawn = go.Figure(data=list(traces), layout=base)
    drawn.update_layout(xaxis_title_text=x, yaxis_title_text=y, **layout)
    return drawn


def line(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    name: str,
    colour: str,
    *,
    faint: bool = False,
    step: bool = False,
    hover: str = "%{y:,.4~g}",
) -> go.Scatter:
    """Return a line; ``faint`` ones are thin and dotted, ``step`` ones hold until the next x."""
    return go.Scatter(
        x=np.round(x, 6),
        y=np.round(y, 6),
        name=name,
        mode="lines" if np.isfinite(y).all() and len(y) > 1 else "lines+markers",
        marker={"size": 3.5 if len(y) > 5 else 8},
        line={
            "color": colour,
            "width": 1.4 if faint else 2,
            "dash": "dot" if faint else "solid",
            "shape": "hv" if step else "linear",
        },
        connectgaps=False,
        hovertemplate=hover,
    )


def mark_target(drawn: go.Figure, value: float, text: str, *, vertical: bool = False) -> None:
    """Draw a dashed target line at ``value``, named at its end."""
    style = {"color": TARGET, "width": 1.5, "dash": "dash"}
    note = {
        "text": text,
        "showarrow": False,
        "font": {"color": TARGET, "size": 11},
        "bgcolor": "rgba(255,255,255,0.85)",
    }
    if vertical:
        logarithmic = drawn.layout.xaxis.type == "log"
        place = np.log10(value) if logarithmic else value  # annotations want the exponent
        drawn.add_shape(type="line", x0=value, x1=value, y0=0, y1=1, yref="y domain", line=style)
        drawn.add_annotation(
            x=place, y=0.04, yref="y domain", xanchor="left", yanchor="bottom", **note
        )
    else:
        drawn.add_shape(type="line", y0=value, y1=value, x0=0, x1=1, xref="x domain", line=style)
        drawn.add_annotation(
            y=value, x=1, xref="x domain", xanchor="right", yanchor="bottom", **note
        )
