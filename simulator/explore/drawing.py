"""A figure as a small SVG: curves over linear or logarithmic axes, and a legend."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np
import polars as pl

from simulator.explore.space import Floats

COLOURS = (
    "#0072b2",
    "#d98c00",
    "#008f68",
    "#a4508b",
    "#c43c00",
    "#56b4e9",
    "#7a6a00",
    "#5f6c7b",
    "#1f2933",
)
WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 46
LEGEND_ROW = 18

LABELS = {
    "interactivity": "interactivity (tokens/s per user)",
    "throughput": "throughput (output tokens/s per GPU)",
    "cluster_throughput": "throughput (output tokens/s per GPU)",
    "gpu_ratio": "prefill GPUs per decode GPU",
    "gb_per_s": "KV bandwidth (GB/s per GPU)",
    "ttft_s": "first-token latency (s)",
    "batch": "batch of a worker (sequences)",
    "pp": "pipeline stages",
    "prefill_share": "prefill workers, of all",
    "goodput": "goodput (requests/s within both targets)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Curves (``series`` and, among others, the columns ``x`` and ``y``) and how to draw them."""

    title: str
    curves: pl.DataFrame
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values onto pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def over(cls, values: Floats, start: float, end: float, *, log: bool) -> "Axis":
        """Return an axis that spans ``values``; a linear one starts at 0."""
        high = float(values.max())
        low = float(values.min()) if log else 0.0
        return cls(low, high * 1.05 if high > low else low + 1.0, start, end, log)

    def at(self, value: float) -> float:
        """Return the pixel of ``value``."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values along the axis."""
        if not self.log:
            step = 10.0 ** math.floor(math.log10(self.high - self.low))
            step *= 0.5 if (self.high - self.low) / step < 3 else 1.0
            return [step * n for n in range(math.floor(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(decades) <= 5 else (1,)
        every = [step * 10.0**decade for decade in decades for step in steps]
        return [tick for tick in every if self.low <= tick <= self.high]


def svg(figure: Plot) -> str:
    """Return the figure as an SVG document."""
    names = figure.curves["series"].unique(maintain_order=True).to_list()
    rows = -(-len(names) // 2)
    height = HEIGHT + rows * LEGEND_ROW
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="{escape(figure.title)}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *_axes(figure),
            *_legend(names),
            "</svg>\n",
        )
    )


def _scales(figure: Plot) -> tuple[Axis, Axis]:
    x, y = (
        figure.curves[name].drop_nulls().to_numpy().astype(float) for name in (figure.x, figure.y)
    )
    across = Axis.over(x, LEFT, WIDTH - RIGHT, log=figure.log_x)
    return across, Axis.over(y, HEIGHT - BOTTOM, TOP, log=figure.log_y)


def _axes(figure: Plot) -> Iterator[str]:
    across, up = _scales(figure)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in across.ticks():
        x = across.at(tick)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#e6e8eb"/>'
        yield _text(x, bottom + 16, f"{tick:g}", "middle")
    for tick in up.ticks():
        y = up.at(tick)
        yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#e6e8eb"/>'
        yield _text(LEFT - 6, y + 4, f"{tick:g}", "end")
    yield _text((LEFT + right) / 2, HEIGHT - 12, LABELS.get(figure.x, figure.x), "middle")
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 14 {middle:.0f})"'
    yield _text(14, middle, LABELS.get(figure.y, figure.y), "middle", turned)
    for index, (_, curve) in enumerate(figure.curves.group_by("series", maintain_order=True)):
        points = curve.select(figure.x, figure.y).drop_nulls().to_numpy().astype(float)
        yield _line(points, (across, up), COLOURS[index % len(COLOURS)], index)


def _line(points: Floats, axes: tuple[Axis, Axis], colour: str, index: int) -> str:
    across, up = axes
    kept = points[np.unique(np.linspace(0, len(points) - 1, min(len(points), 160)).astype(int))]
    places = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in kept)
    stroke = f'stroke="{colour}" stroke-width="1.8"{_dash(index)}'
    return f'<polyline points="{places}" fill="none" {stroke}/>'


def _dash(index: int) -> str:
    """Return what tells a line from the one that has its colour already."""
    return ' stroke-dasharray="6 3"' if index >= len(COLOURS) else ""


def _legend(names: list[str]) -> Iterator[str]:
    for index, name in enumerate(names):
        x = LEFT + (index % 2) * (WIDTH - LEFT) // 2
        y = HEIGHT + (index // 2) * LEGEND_ROW + 4
        colour = COLOURS[index % len(COLOURS)]
        yield f'<path d="M{x} {y}h18" stroke="{colour}" stroke-width="3"{_dash(index)}/>'
        yield _text(x + 24, y + 4, name, "start")


def _text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#1f2933" {more}>'
        f"{escape(words)}</text>"
    )
