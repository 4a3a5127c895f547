"""Small plots as plain SVG text: they need no browser and no library to be seen."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from simulator.validation.replay import Replayed
from simulator.validation.score import Scored

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 440, 62, 34, 150, 46
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#888888")
"""Tableau's ten, the first eight: told apart by most colour-blind readers too."""

Points = Sequence[tuple[float, float]]
Axis = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Titles of a plot and its axes."""

    title: str
    x: str
    y: str


def scatter(frame: Frame, groups: Mapping[str, Points]) -> str:
    """Return predicted (y) over measured (x), both logarithmic, with lines at ±25 %."""
    values = [value for points in groups.values() for pair in points for value in pair if value > 0]
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high) + 1e-9)
    decades = math.log10(high / low) or 1.0
    across: Axis = lambda value: _right(math.log10(value / low) / decades)  # noqa: E731
    up: Axis = lambda value: _up(math.log10(value / low) / decades)  # noqa: E731
    ticks = [low * 10**step for step in range(round(decades) + 1)]
    body = [*_ticks(ticks, across, ticks, up)]
    for factor, dash in ((1.0, ""), (1.25, "4 4"), (0.8, "4 4")):
        start, end = low * max(1.0, 1 / factor), high * min(1.0, 1 / factor)
        ends = ((start, start * factor), (end, end * factor))
        body.append(_line([(across(x), up(y)) for x, y in ends], "#555555", dash))
    for (name, points), colour in zip(sorted(groups.items()), _colours(), strict=False):
        body.append(_dots([(across(x), up(y)) for x, y in points if x > 0 and y > 0], colour))
        body.append(_legend(name, colour, sorted(groups).index(name)))
    return _drawing(frame, body)


def lines(frame: Frame, series: Mapping[str, Points]) -> str:
    """Return lines over linear axes that begin at zero; names ending in "measured" are dashed."""
    most_x = max((x for points in series.values() for x, _ in points), default=1.0) or 1.0
    most_y = max((y for points in series.values() for _, y in points), default=1.0) or 1.0
    across: Axis = lambda value: _right(value / most_x)  # noqa: E731
    up: Axis = lambda value: _up(value / most_y)  # noqa: E731
    body = [*_ticks(_round_steps(most_x), across, _round_steps(most_y), up)]
    for number, ((name, points), colour) in enumerate(zip(series.items(), _paired(), strict=False)):
        dash = "5 4" if name.endswith("measured") else ""
        body.append(_line([(across(x), up(y)) for x, y in points], colour, dash))
        body.append(_legend(name, colour, number, dash))
    return _drawing(frame, body)


def step_plot(rows: Sequence[Scored]) -> str:
    """Return the scatter of step latencies by GPU, in milliseconds."""
    frame = Frame(title="One forward step", x="measured (ms)", y="predicted (ms)")
    return scatter(frame, _grouped(rows, ("steps",), "gpu", 1e3))


def tpot_plot(rows: Sequence[Scored]) -> str:
    """Return the scatter of TPOT of whole runs by engine and kind, in milliseconds."""
    frame = Frame(title="TPOT of serving runs", x="measured (ms)", y="simulated (ms)")
    return scatter(frame, _grouped(rows, ("e2e_agg_tpot", "e2e_disagg_tpot"), "engine", 1e3))


def throughput_plot(rows: Sequence[Scored]) -> str:
    """Return the scatter of output throughput of whole runs by model, in tokens per second."""
    frame = Frame(title="Output throughput", x="measured (tokens/s)", y="simulated (tokens/s)")
    return scatter(frame, _grouped(rows, ("e2e_throughput",), "phase", 1.0))


def queue_plot(replayed: Replayed) -> str:
    """Return running and waiting requests over time, measured and simulated."""
    series = {}
    for name in ("running", "waiting"):
        for side, queue in (("simulated", replayed.queue), ("measured", replayed.measured.queue)):
            if queue is not None:
                points = zip(queue.time_s.tolist(), getattr(queue, name).tolist(), strict=True)
                series[f"{name}, {side}"] = list(points)
    title = replayed.measured.name.replace("_", " ")
    return lines(Frame(title=title, x="seconds since the first arrival", y="requests"), series)


def _grouped(
    rows: Sequence[Scored], sets: tuple[str, ...], by: str, scale: float
) -> dict[str, list[tuple[float, float]]]:
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.set in sets and row.measured is not None and row.predicted is not None:
            point = (row.measured * scale, row.predicted * scale)
            groups.setdefault(getattr(row, by) or "unknown", []).append(point)
    return groups


def _right(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _up(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _colours() -> Iterator[str]:
    while True:
        yield from COLOURS


def _paired() -> Iterator[str]:
    for colour in COLOURS:
        yield colour
        yield colour


def _round_steps(most: float) -> list[float]:
    """Return about five round ticks from zero."""
    step = 10.0 ** math.floor(math.log10(most / 5))
    step *= next(part for part in (1, 2, 5, 10) if most / (step * part) <= 6)
    return [step * number for number in range(int(most / step + 1e-9) + 1)]


def _ticks(xs: Sequence[float], across: Axis, ys: Sequence[float], up: Axis) -> Iterator[str]:
    bottom, left = _up(0.0), _right(0.0)
    for x in xs:
        yield f'<path d="M{across(x):.1f} {bottom}V{_up(1.0)}" stroke="#e5e5e5"/>'
        yield _text(across(x), bottom + 16, f"{x:g}", "middle")
    for y in ys:
        yield f'<path d="M{left} {up(y):.1f}H{_right(1.0)}" stroke="#e5e5e5"/>'
        yield _text(left - 6, up(y) + 4, f"{y:g}", "end")


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(points: Points, colour: str, dash: str = "") -> str:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-dasharray="{dash}"/>'


def _dots(points: Points, colour: str) -> str:
    """Return round dots, one per tenth of a pixel however many rows share it."""
    places = dict.fromkeys(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return (
        f'<path d="{"".join(places)}" stroke="{colour}" stroke-width="4" stroke-opacity="0.55" '
        'stroke-linecap="round"/>'
    )


def _legend(name: str, colour: str, number: int, dash: str = "") -> str:
    x, y = WIDTH - RIGHT + 12, TOP + 12 + 18 * number
    width = 1.5 if dash else 5
    mark = (
        f'<path d="M{x} {y - 4}h14" stroke="{colour}" stroke-width="{width}" '
        f'stroke-dasharray="{dash}"/>'
    )
    return mark + _text(x + 18, y, name)


def _drawing(frame: Frame, body: Sequence[str]) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    titles = [
        f'<g font-size="14">{_text(middle, 20, frame.title, "middle")}</g>',
        _text(middle, HEIGHT - 8, frame.x, "middle"),
        f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(frame.y)}</text>",
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="11" fill="#333333">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            *titles,
            *body,
            "</svg>\n",
        ]
    )
