"""Services that share GPUs: who held how many when, who waited for some, and how each fared."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from simulator.joined import SERVICE
from simulator.record import WorkerInfo
from simulator.report import parts, series, theme
from simulator.report.figures import Panel, View
from simulator.report.theme import number, seconds, share, statistic
from simulator.results import Results

Floats = NDArray[np.float64]
Span = tuple[float, float, int]


def quota_panels(seen: View) -> list[Panel]:
    """Return who held and wanted GPUs over time, and each service's attainment; nothing of one."""
    if not seen.results.summary["services"]:
        return []
    return [_held(seen), _waiting(seen), _attainment(seen)]


def services_table(results: Results) -> str:
    """Return how each service fared by its own targets; nothing where there is but one."""
    rows = [
        (
            escape(name),
            number(told["requests"]["arrived"]),
            share(told["slo_attainment"]),
            *(
                f"{statistic(told[metric], 'p50')} / {statistic(told[metric], 'p99')} of "
                f"{seconds(told['targets'][metric])}"
                for metric in ("ttft_s", "tpot_s")
            ),
            number(told["gpus"]),
            number(told["gpu_hours"]),
            seconds(told["longest_pending_s"]),
        )
        for name, told in results.summary["services"].items()
    ]
    if not rows:
        return ""
    heads = (
        *("", "arrived", "within its targets", "TTFT p50 / p99", "TPOT p50 / p99"),
        *("GPUs", "GPU-hours", "longest wait for GPUs"),
    )
    return f'<div class="card wide"><h3>By service</h3>{parts.table(heads, rows)}</div>'


def _colours(seen: View) -> Iterable[tuple[str, str]]:
    for at, name in enumerate(seen.results.summary["services"]):
        yield name, theme.COLOURS[at % len(theme.COLOURS)]


def gpus_over_time(spans: Sequence[Sequence[Span]], end_s: float) -> tuple[Floats, list[Floats]]:
    """Return moments (s), the first 0 and the last ``end_s``, and everybody's GPUs from each on.

    ``spans`` are, by service, from when until when (s) so many GPUs counted.
    """
    edges = [edge for own in spans for start, stop, _ in own for edge in (start, stop)]
    times = np.unique([0.0, end_s, *edges])
    counts = []
    for own in spans:
        moves = np.zeros(len(times))
        for start, stop, gpus in own:
            moves[np.searchsorted(times, start)] += gpus
            moves[np.searchsorted(times, stop)] -= gpus
        held = np.cumsum(moves)
        held[-1] = held[-2]  # who held some to the end
        counts.append(held)
    return times, counts


def _of(seen: View, service: str) -> list[WorkerInfo]:
    return [worker for worker in seen.results.workers if worker.service == service]


def _held(seen: View) -> Panel:
    """Return the GPUs that each service held, stacked under the quota."""
    spans = [
        [(w.granted_s, w.ended_s, w.gpus) for w in _of(seen, name) if not np.isnan(w.granted_s)]
        for name, _ in _colours(seen)
    ]
    times, counts = gpus_over_time(spans, seen.end_s)
    areas: list[go.Scatter] = []
    for (name, colour), held in zip(_colours(seen), counts, strict=True):
        area = theme.line(times * seen.scale, held, name, colour, step=True)
        areas.append(area.update(stackgroup="held", line_width=0, fillcolor=colour))
    quota = seen.results.context.get("quota_gpus")
    if quota is not None:
        ends = np.array([0.0, seen.end_s]) * seen.scale
        level = np.full(2, float(quota))
        areas.append(theme.line(ends, level, "quota", theme.INK).update(line_dash="dash"))
    drawn = theme.figure(areas, x=seen.time, y="GPUs held", xaxis_range=seen.span, showlegend=True)
    note = "From the moment a worker gets its GPUs until it gives them back, starting and draining"
    note += " included. The dashed line is the quota of one kind of GPU."
    return Panel(name="quota_held", title="GPUs by service", note=note, figure=drawn)


def _waiting(seen: View) -> Panel:
    """Return the GPUs that each service asked for and did not have."""
    spans = [
        [(w.asked_s, until, w.gpus) for w in _of(seen, name) if (until := _got(w)) > w.asked_s]
        for name, _ in _colours(seen)
    ]
    times, counts = gpus_over_time(spans, seen.end_s)
    lines = [
        theme.line(times * seen.scale, waiting, name, colour, step=True)
        for (name, colour), waiting in zip(_colours(seen), counts, strict=True)
    ]
    drawn = theme.figure(
        lines, x=seen.time, y="GPUs waited for", xaxis_range=seen.span, showlegend=True
    )
    note = "GPUs of workers that were asked for and have none yet."
    return Panel(name="quota_pending", title="Waiting for GPUs", note=note, figure=drawn)


def _got(worker: WorkerInfo) -> float:
    """Return when a worker got its GPUs, or ended without."""
    return worker.ended_s if np.isnan(worker.granted_s) else worker.granted_s


def _attainment(seen: View) -> Panel:
    """Return the share of each service's requests within its own targets, by arrival."""
    title = "Attainment by service"
    if not len(seen.edges):
        return Panel(name="quota_slo", title=title, note="No request arrived.", figure=None)
    results = seen.results
    good = results.scan.select(results.slo.good()).collect().to_series().to_numpy()
    whose = results.scan.select(SERVICE).collect().to_series()
    lines = []
    for name, colour in _colours(seen):
        bins = np.where((whose == name).to_numpy(), seen.bins, -1)
        held, _ = series.binned_share(bins, good, len(seen.edges) - 1)
        lines.append(theme.line(seen.middles, held * 100, name, colour))
    drawn = theme.figure(
        lines,
        x=seen.time,
        y="within its targets (%)",
        xaxis_range=seen.span,
        yaxis_range=[0, 103],
        showlegend=True,
    )
    note = f"Good requests among those that arrived in each bin of {seen.bin_words}."
    return Panel(name="quota_slo", title=title, note=note, figure=drawn, wide=True)
