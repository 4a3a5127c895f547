"""Some configurations side by side: distributions, stages and gauges of a run of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import NDArray

from simulator.compare import prose
from simulator.compare.comparison import Comparison
from simulator.compare.reading import Run, read_frame
from simulator.errors import ConfigError
from simulator.report import series, theme
from simulator.report.figures import LABELS, Panel, latency_axis
from simulator.report.theme import COLOURS
from simulator.results import POOLS, STAGES

Floats = NDArray[np.float64]

CURVES = {
    "ttft_s": "Time from arrival to the first token.",
    "tpot_s": "Mean time per output token of each request.",
    "ttst_s": "The gap between the first and the second token.",
    "e2e_s": "Time from arrival to the last token.",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Drawn:
    """One configuration in the pictures: its letter, colour and point, and the run shown of it."""

    letter: str
    colour: str
    point: int
    name: str
    run: Run


def drawn(comparison: Comparison) -> list[Drawn]:
    """Return what is drawn side by side: the best, then the fronts, then the rest in order."""
    marks = comparison.table.group_by("point").agg(pl.col("best", "pareto", "front").first())
    ranked = marks.sort("best", "pareto", "front", "point", descending=[True, True, True, False])
    return [
        Drawn(
            letter=letter(at),
            colour=COLOURS[at % len(COLOURS)],
            point=index,
            name=comparison.points[index].name,
            run=comparison.runs[comparison.points[index].base],
        )
        for at, index in enumerate(ranked["point"].head(comparison.options.pictures))
    ]


def letter(at: int) -> str:
    """Return A to Z, then A2 and so on."""
    again, place = divmod(at, 26)
    return f"{chr(ord('A') + place)}{again + 1 if again else ''}"


def key(comparison: Comparison) -> str:
    """Return the list of what the letters stand for."""
    chosen = drawn(comparison)
    rows = "".join(
        f'<dt><span style="color:{each.colour}">■</span> {each.letter}</dt>'
        f"<dd>{escape(each.name)}</dd>"
        for each in chosen
    )
    left = len(comparison.points) - len(chosen)
    more = f" {left:,} more are not drawn (compare.pictures)." if left else ""
    seed = " One run of each: the first seed, latencies as they are." if comparison.repeated else ""
    return (
        f'<div class="card wide"><p>The best, then the fronts.{seed}{more}</p>'
        f'<dl class="glossary">{rows}</dl></div>'
    )


def cdf_panels(comparison: Comparison) -> list[Panel]:
    """Return the distributions of every configuration laid over each other."""
    chosen = drawn(comparison)
    frames = [read_frame(each.run, "requests", tuple(CURVES)) for each in chosen]
    return [_cdf(chosen, frames, name, note) for name, note in CURVES.items()]


def _cdf(chosen: Sequence[Drawn], frames: Sequence[pl.DataFrame], name: str, note: str) -> Panel:
    title = LABELS[name]
    curves = [
        (each, _tail(frame[name].drop_nulls().to_numpy(), _unfinished(each.run, name)))
        for each, frame in zip(chosen, frames, strict=True)
    ]
    curves = [(each, found) for each, found in curves if len(found[1])]
    if not curves:
        return Panel(name=f"cdf_{name}", title=title, note="No request has it.", figure=None)
    everything = np.concatenate([values for _, (_, values) in curves])
    scale, unit = theme.unit_of(everything)
    last = max(float(values[-1]) for _, (_, values) in curves) * scale
    targets = {each.run.summary["slo"].get(name) for each in chosen}
    target = targets.pop() if len(targets) == 1 else None
    least = float(everything.max()) * scale * 1e-6
    lines = [_curve(each, found, (scale, least, unit)) for each, found in curves]
    low = min(float(np.interp(0.01, shares, values)) for _, (shares, values) in curves) * scale
    axis = latency_axis(
        np.array([0.0, 1.0]),
        np.array([low, last]),
        None if target is None else target * scale,
    )
    figure = theme.figure(
        lines,
        x=f"{title} ({unit})",
        y="share (%)",
        height=300,
        hovermode="closest",
        showlegend=True,
        xaxis=axis,
        yaxis=theme.share_axis(max(float(shares[-1]) for _, (shares, _) in curves)),
    )
    if target is not None:
        theme.mark_target(figure, target * scale, f"target {theme.seconds(target)}", vertical=True)
    return Panel(name=f"cdf_{name}", title=title, note=note, figure=figure)


def _curve(each: Drawn, found: tuple[Floats, Floats], axis: tuple[float, float, str]) -> go.Scatter:
    """Return one configuration's shares beyond each value, none of which is drawn below a least."""
    (shares, values), (scale, least, unit) = found, axis
    hover = f"{each.letter}: %{{customdata:.6~g}} % in %{{x:,.4~g}} {unit}<extra></extra>"
    line = theme.line(
        np.maximum(values * scale, least), 1 - shares, each.letter, each.colour, hover=hover
    )
    return line.update(customdata=np.round(shares * 100, 6))


def _tail(values: Floats, unfinished: int) -> tuple[Floats, Floats]:
    """Return shares and quantiles, up to where fewer than one request lies beyond.

    The ``unfinished`` count as slower than all: the curve ends below them.
    """
    curve = series.cdf(values)
    if not len(curve):
        return curve, curve
    told = 1 - 1 / max(len(values), 2) >= series.CDF_SHARES
    return series.CDF_SHARES[told] * len(values) / (len(values) + unfinished), curve[told]


def _unfinished(run: Run, name: str) -> int:
    """Return how many requests should have a duration and have not."""
    count = run.summary[name].get("unfinished", 0)
    return count if isinstance(count, int) and count > 0 else 0


def stage_panels(comparison: Comparison) -> list[Panel]:
    """Return where each configuration's requests spent their time, stage upon stage."""
    means = [(each, _stage_means(each.run)) for each in drawn(comparison)]
    told = [(each.letter, mean) for each, mean in means if mean]
    if not told:
        return []
    note = "Mean seconds of each stage over the finished requests, those that skip it counting 0."
    early = f"{note} What comes before the decode batch, and the first step there."
    return [
        _stages("stages_first", "Before decode", early, told, STAGES[:-1]),
        _stages("stages", "From arrival to the last token", f"{note} They add up to E2E.", told),
    ]


def _stages(
    name: str,
    title: str,
    note: str,
    told: Sequence[tuple[str, Mapping[str, float]]],
    stages: Sequence[str] = STAGES,
) -> Panel:
    longest = max(sum(mean[stage] for stage in stages) for _, mean in told)
    scale, unit = theme.unit_of(np.array([longest]))
    bars = [
        go.Bar(
            y=[letter for letter, _ in told],
            x=[round(mean[stage] * scale, 4) for _, mean in told],
            name=LABELS[stage],
            orientation="h",
            marker={"color": theme.STAGE_COLOURS[stage], "line": {"color": "#fff", "width": 1}},
            hovertemplate=f"{LABELS[stage]}: %{{x:,.4~g}} {unit}<extra>%{{y}}</extra>",
        )
        for stage in stages
        if any(mean[stage] > 0 for _, mean in told)
    ]
    figure = theme.figure(
        bars,
        x=f"mean time ({unit})",
        y="",
        height=140 + 34 * len(told),
        barmode="stack",
        bargap=0.35,
        hovermode="closest",
        showlegend=True,
        legend_traceorder="normal",
        yaxis={"autorange": "reversed", "rangemode": "normal", "showgrid": False, "ticks": ""},
    )
    return Panel(name=name, title=title, note=note, figure=figure, wide=True)


def _stage_means(run: Run) -> dict[str, float]:
    """Return the mean (s) of each stage over the finished requests; nothing without any."""
    frame = read_frame(run, "requests", (*STAGES, "e2e_s")).drop_nulls("e2e_s")
    if not len(frame):
        return {}
    means = frame.select(pl.col(stage).fill_null(0.0).mean() for stage in STAGES).row(0, named=True)
    return dict(means)


def timeline_panels(comparison: Comparison) -> list[Panel]:
    """Return, per configuration, requests waiting and running over time, on the same axes."""
    chosen = drawn(comparison)
    gauges = [_gauges(each.run) for each in chosen]
    known = [each for each in gauges if each is not None]
    if not known:
        return []
    end = max(float(time[-1]) for time, _ in known)
    scale, unit = theme.clock(end)
    gauged = ("waiting", "running")
    tops = {gauge: _top([lines[gauge] for _, lines in known]) for gauge in gauged}
    return [
        _small(each, found, gauge, (scale, unit, end, tops[gauge]))
        for each, found in zip(chosen, gauges, strict=True)
        for gauge in gauged
    ]


def _top(lines: Sequence[Mapping[str, Floats]]) -> float:
    """Return where an axis of all ``lines`` ends."""
    tops = [float(np.nanmax(values)) for pools in lines for values in pools.values()]
    return max(tops, default=1.0) * 1.05 or 1.0


def _small(
    each: Drawn,
    found: tuple[Floats, dict[str, dict[str, Floats]]] | None,
    gauge: str,
    axes: tuple[float, str, float, float],
) -> Panel:
    scale, unit, end, top = axes
    name, title = f"{gauge}_{each.letter}", f"{each.letter}: {gauge} requests"
    if found is None:
        return Panel(name=name, title=title, note="Nothing was sampled.", figure=None)
    time, lines = found
    figure = theme.figure(
        [
            theme.line(time * scale, values, pool, theme.POOL_COLOURS[pool])
            for pool, values in lines[gauge].items()
        ],
        x=f"simulated time ({unit})",
        y=f"{gauge} requests",
        height=210,
        xaxis_range=[0, end * scale],
        yaxis_range=[0, top],
        showlegend=True,
    )
    return Panel(name=name, title=title, note=prose.shortened(each.name), figure=figure)


SAMPLED = (
    *("time_s", "worker", "waiting", "running", "kv_utilization", "busy_fraction"),
    *("sent_bytes_per_s", "received_bytes_per_s"),
)
"""Columns of a run's timeline that :func:`series.sampled` reads."""


def _gauges(run: Run) -> tuple[Floats, dict[str, dict[str, Floats]]] | None:
    """Return sample times (s) and each gauge summed over every pool's workers, if any.

    Raises:
        ConfigError: a sample is of a worker that the run did not have.
    """
    timeline = read_frame(run, "timeline", SAMPLED).cast({"worker": pl.Int64})
    if not len(timeline):
        return None
    pools = tuple(read_frame(run, "lives", ("worker", "pool")).sort("worker")["pool"])
    workers = timeline["worker"]
    if workers.null_count() or not workers.is_between(0, len(pools) - 1).all():
        raise ConfigError(
            f"{run.folder}: timeline.parquet has workers that are not in lives.parquet"
        )
    samples = series.sampled(timeline, pools)
    return samples.time_s, {
        gauge: {
            pool: series.sum_over_workers(samples.of(pool, gauge))
            for pool in POOLS
            if pool in pools
        }
        for gauge in ("waiting", "running")
    }
