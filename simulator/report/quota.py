"""Services that share GPUs: who held how many when, who waited for some, and how each fared."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from simulator.joined import SERVICE
from simulator.record import WorkerInfo
from simulator.report import parts, series, theme
from simulator.report.figures import Panel, View, rows_figure
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


def told_apart(
    counts: Mapping[str, Floats], times: Floats, most: int = len(theme.COLOURS)
) -> Iterator[tuple[str, str, Floats]]:
    """Yield services, their colours and their counts from each of ``times`` (s) on.

    Where there are more than ``most``, which is as many as there are colours, it is those with the
    greatest sums over time, the last in place of all others together.
    """
    names = list(counts)
    if len(names) > most:
        sums = {name: float((each[:-1] * np.diff(times)).sum()) for name, each in counts.items()}
        first = sorted(names, key=lambda name: -sums[name])[: most - 1]
        names = [name for name in names if name in first]
    for name, colour in zip(names, theme.COLOURS, strict=False):
        yield name, colour, counts[name]
    rest = [each for name, each in counts.items() if name not in names]
    if rest:
        yield f"{len(rest)} others", theme.OTHERS, np.sum(rest, axis=0)


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


def _names(seen: View) -> list[str]:
    return list(seen.results.summary["services"])


def _counted(seen: View, spans: Sequence[Sequence[Span]]) -> Iterator[tuple[str, str, go.Scatter]]:
    """Yield services to be told apart, their colours and their lines of GPUs over time."""
    times, counts = gpus_over_time(spans, seen.end_s)
    named = dict(zip(_names(seen), counts, strict=True))
    for name, colour, each in told_apart(named, times):
        yield name, colour, theme.line(times * seen.scale, each, name, colour, step=True)


def _held(seen: View) -> Panel:
    """Return the GPUs that each service held, stacked under the quota."""
    spans = [
        [(w.granted_s, w.ended_s, w.gpus) for w in _of(seen, name) if not np.isnan(w.granted_s)]
        for name in _names(seen)
    ]
    areas: list[go.Scatter] = []
    for _, colour, area in _counted(seen, spans):
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
        for name in _names(seen)
    ]
    lines = [line for _, _, line in _counted(seen, spans)]
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
    shares = {
        name: series.binned_share(
            np.where((whose == name).to_numpy(), seen.bins, -1), good, len(seen.edges) - 1
        )[0]
        * 100
        for name in _names(seen)
    }
    note = f"Good requests among those that arrived in each bin of {seen.bin_words}."
    drawn = _lines(seen, shares) if len(shares) <= len(theme.COLOURS) else _rows(seen, shares)
    return Panel(name="quota_slo", title=title, note=note, figure=drawn, wide=True)


def _lines(seen: View, shares: Mapping[str, Floats]) -> go.Figure:
    """Return a line of shares over time for each of few services."""
    lines = [
        theme.line(seen.middles, share, name, colour)
        for (name, share), colour in zip(shares.items(), theme.COLOURS, strict=False)
    ]
    return theme.figure(
        lines,
        x=seen.time,
        y="within its targets (%)",
        xaxis_range=seen.span,
        yaxis_range=[0, 103],
        showlegend=True,
    )


def _rows(seen: View, shares: Mapping[str, Floats]) -> go.Figure:
    """Return a row of colours over time for each of many services."""
    hover = f"%{{y}}, %{{x:,.4~g}} {seen.unit}: %{{z:.0f}} % within its targets<extra></extra>"
    names = list(shares)
    return rows_figure(
        seen,
        seen.middles,
        names,
        np.array(list(shares.values())),
        names=names,
        legend="within its targets (%)",
        hover=hover,
    )
