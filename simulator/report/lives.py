"""Workers' lives, drawn: a bar for each, and how many of a pool were in which state when."""

import math
import re
from collections.abc import Iterator, Sequence
from html import escape
from textwrap import shorten

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import NDArray

from simulator.record import WorkerInfo
from simulator.report import theme
from simulator.report.figures import Panel, View, label_of
from simulator.results import POOLS, Results

STATES = ("pending", "starting", "ready", "draining")
STACKED = ("ready", "starting", "pending", "draining")
MAX_LIVES = 200
MAX_STEPS = 600
LONGEST_WORDS = 120

_DESIRED = re.compile(r"(?P<pool>\w+): (?P<before>\d+) to (?P<after>\d+),")
_FLIPPING = re.compile(r"(?P<count>\d+) workers from (?P<leaving>\w+) to (?P<joining>\w+),")


def lives_panels(seen: View) -> list[Panel]:
    """Return the workers' lives and the pools' sizes over time; nothing where none changed."""
    moved = [pool for pool in seen.pools if changed(seen.results, pool)]
    if not moved:
        return []
    sizes = [_sizes(seen, pool, wide=len(moved) == 1) for pool in moved]
    ratio = [_ratio(seen)] if {"prefill", "decode"} <= set(seen.pools) else []
    return [_gantt(seen), *sizes, *ratio]


def changed(results: Results, pool: str) -> bool:
    """Return whether a pool had anything beyond initial workers that all lived to the end."""
    members = [worker for worker in results.workers if worker.pool == pool]
    wanted = any(place == pool for _, place, _ in _wishes(results))
    return wanted or any(each.why != "initial" or each.state != "ready" for each in members)


def spans(worker: WorkerInfo, end_s: float) -> dict[str, tuple[float, float]]:
    """Return from when until when (s) a worker was in each state, those it spent no time in apart.

    Who has not ended is in its last one until ``end_s``.
    """
    moments = (worker.asked_s, worker.granted_s, worker.ready_s, worker.draining_s, worker.ended_s)
    found = {}
    for at, state in enumerate(STATES):
        later = [each for each in moments[at + 1 :] if not math.isnan(each)]
        until = min([*later, end_s])
        if moments[at] < until:
            found[state] = (moments[at], until)
    return found


def steps(
    results: Results, pool: str, end_s: float
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.int64]]]:
    """Return the moments (s) at which a pool changed, the first 0 and the last ``end_s``.

    From each on, ``desired`` workers are wanted and so many are in each state. More than
    :data:`MAX_STEPS` moments are thinned out evenly.
    """
    names = ("desired", *STATES)
    moves = list(_moves(results, pool, end_s))
    times = np.unique([0.0, end_s, *(time for time, _, _ in moves)])
    table = np.zeros((len(names), len(times)), dtype=np.int64)
    for time, name, by in moves:
        table[names.index(name), np.searchsorted(times, time)] += by
    table = table.cumsum(axis=1)
    if len(times) > MAX_STEPS:
        grid = np.linspace(0.0, end_s, MAX_STEPS)
        table = table[:, np.searchsorted(times, grid, side="right") - 1]
        times = grid
    return times, dict(zip(names, table, strict=True))


def _moves(results: Results, pool: str, end_s: float) -> Iterator[tuple[float, str, int]]:
    """Yield when (s) which number of a pool changed, and by how much."""
    for worker in results.workers:
        if worker.pool != pool:
            continue
        if worker.why == "initial":
            yield 0.0, "desired", 1
        for state, (start, stop) in spans(worker, end_s).items():
            yield start, state, 1
            if state != worker.state:  # else it was in it to the end of the run
                yield stop, state, -1
    yield from ((time, "desired", by) for time, place, by in _wishes(results) if place == pool)


def _wishes(results: Results) -> Iterator[tuple[float, str, int]]:
    """Yield when (s) which pool was to have how many workers more or less."""
    told = results.events.filter(pl.col("kind").is_in(["desired", "flipping"]))
    for time, kind, detail in told.select("time_s", "kind", "detail").iter_rows():
        match = (_DESIRED if kind == "desired" else _FLIPPING).match(detail)
        if match is None:
            raise ValueError(f"an event of kind {kind} does not say what changed: {detail!r}")
        if kind == "desired":
            yield time, match["pool"], int(match["after"]) - int(match["before"])
        else:
            yield time, match["leaving"], -int(match["count"])
            yield time, match["joining"], int(match["count"])


def _gantt(seen: View) -> Panel:
    lives = seen.results.workers
    shown = sorted(lives[:MAX_LIVES], key=lambda life: (POOLS.index(life.pool), life.worker))
    bars = [bar for state in STATES if (bar := _bars(seen, shown, state)) is not None]
    ticks = list(range(0, len(shown), -(-len(shown) // 30)))
    drawn = theme.figure(
        [*bars, *_failures(seen, shown)],
        x=seen.time,
        y="",
        height=int(np.clip(110 + 20 * len(shown), 190, 720)),
        barmode="overlay",
        hovermode="closest",
        showlegend=True,
        xaxis_range=seen.span,
        yaxis={
            "range": [len(shown) - 0.4, -0.6],
            "rangemode": "normal",
            "tickvals": ticks,
            "ticktext": [label_of(shown[at]) for at in ticks],
            "showgrid": False,
        },
    )
    note = "Each worker from being asked for to its end; pointing at it tells why. A cross marks a "
    note += "failure."
    if len(lives) > MAX_LIVES:
        note += f" The first {MAX_LIVES:,} of {len(lives):,} workers are shown; the other "
        note += f"{len(lives) - MAX_LIVES:,} are in lives.parquet."
    return Panel(name="lives", title="Workers' lives", note=note, figure=drawn, wide=True)


def _bars(seen: View, shown: Sequence[WorkerInfo], state: str) -> go.Bar | None:
    """Return the segments of all lives in one state, or nothing if none was in it."""
    drains = _drains(seen.results)
    found = [(row, life, spans(life, seen.end_s).get(state)) for row, life in enumerate(shown)]
    told = [(row, life, span) for row, life, span in found if span is not None]
    if not told:
        return None
    return go.Bar(
        orientation="h",
        y=[row for row, _, _ in told],
        base=[round(start * seen.scale, 6) for _, _, (start, _) in told],
        x=[round((stop - start) * seen.scale, 6) for _, _, (start, stop) in told],
        width=0.7,
        name=state,
        marker={"color": theme.STATE_COLOURS[state], "line": {"width": 0}},
        customdata=[_words(seen, life, state, drains.get(life.worker)) for _, life, _ in told],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _drains(results: Results) -> dict[int, str]:
    """Return why each worker that was told to stop was."""
    told = results.events.filter(pl.col("kind") == "draining").select("worker", "detail")
    return dict(told.iter_rows())


def _words(seen: View, life: WorkerInfo, state: str, drains: str | None) -> str:
    """Return what pointing at a segment tells, plotly's own markup around escaped words."""
    start, stop = (f"{each * seen.scale:,.6g}" for each in spans(life, seen.end_s)[state])
    lines = [f"{state} from {start} to {stop} {seen.unit}", f"asked for: {_short(life.why)}"]
    if drains is not None:
        lines.append(f"told to stop: {_short(drains)}")
    if life.state in STATES:
        lines.append(f"{life.state} at the end of the run")
    else:
        lines.append(f"{life.state}: {_short(life.because)}")
    return "<br>".join([f"<b>{escape(label_of(life))}</b>, {life.gpus} × {life.gpu}", *lines])


def _short(words: str) -> str:
    return escape(shorten(words, LONGEST_WORDS, placeholder=" …"))


def _failures(seen: View, shown: Sequence[WorkerInfo]) -> list[go.Scatter]:
    """Return a cross at the end of each life that failed."""
    failed = [(row, life) for row, life in enumerate(shown) if life.state == "failed"]
    if not failed:
        return []
    return [
        go.Scatter(
            x=[round(life.ended_s * seen.scale, 6) for _, life in failed],
            y=[row for row, _ in failed],
            mode="markers",
            name="failed",
            marker={"symbol": "x", "size": 9, "color": theme.TARGET},
            text=[_short(life.because) for _, life in failed],
            hovertemplate=f"failed at %{{x:,.6~g}} {seen.unit}: %{{text}}<extra></extra>",
        )
    ]


def _sizes(seen: View, pool: str, *, wide: bool) -> Panel:
    """Return how many workers of a pool were in which state, as steps over time."""
    times, counts = steps(seen.results, pool, seen.end_s)
    x = times * seen.scale
    areas = [
        theme.line(
            x, counts[state].astype(np.float64), state, theme.STATE_COLOURS[state], step=True
        ).update(stackgroup="states", line_width=0, fillcolor=theme.STATE_COLOURS[state])
        for state in STACKED
        if counts[state].any()
    ]
    wanted = theme.line(x, counts["desired"].astype(np.float64), "desired", theme.INK, step=True)
    drawn = theme.figure(
        [*areas, wanted.update(line_dash="dash")],
        x=seen.time,
        y="workers",
        xaxis_range=seen.span,
        showlegend=True,
        legend_traceorder="normal",
    )
    held = np.sum([counts[state] for state in STATES], axis=0)
    if max(held.max(), counts["desired"].max()) <= 10:
        drawn.update_yaxes(dtick=1)
    note = "Stacked by state; the dashed line is how many there shall be."
    return Panel(
        name=f"sizes_{pool}", title=f"Size of the {pool} pool", note=note, figure=drawn, wide=wide
    )


def _ratio(seen: View) -> Panel:
    """Return how many prefill workers served for each decode worker over time, and flips."""
    told = {pool: steps(seen.results, pool, seen.end_s) for pool in ("prefill", "decode")}
    times = np.unique(np.concatenate([moments for moments, _ in told.values()]))
    counts = {
        (pool, name): table[name][np.searchsorted(moments, times, side="right") - 1]
        for pool, (moments, table) in told.items()
        for name in ("ready", "desired")
    }
    ratios = {
        name: np.divide(
            counts["prefill", name],
            counts["decode", name],
            out=np.full(len(times), np.nan),
            where=counts["decode", name] > 0,
        )
        for name in ("ready", "desired")
    }
    x = times * seen.scale
    wanted = theme.line(x, ratios["desired"], "desired", theme.INK, step=True)
    lines = [
        theme.line(x, ratios["ready"], "ready", theme.STATE_COLOURS["ready"], step=True),
        wanted.update(line_dash="dash"),
    ]
    flips = seen.results.events.filter(pl.col("kind") == "flipping")
    if len(flips):
        at = flips["time_s"].to_numpy()
        up = ratios["desired"][np.searchsorted(times, at, side="right") - 1]
        marks = {"symbol": "diamond", "size": 8, "color": theme.TARGET}
        lines.append(
            go.Scatter(x=at * seen.scale, y=up, name="flips", mode="markers", marker=marks)
        )
    drawn = theme.figure(
        lines, x=seen.time, y="prefill : decode", xaxis_range=seen.span, showlegend=True
    )
    note = "Prefill workers for each decode worker: those that serve, and as asked for. A gap: no"
    note += " decode worker. Diamonds are flips."
    return Panel(name="ratio", title="Prefill to decode", note=note, figure=drawn, wide=True)
