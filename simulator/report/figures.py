"""The report's figures, each from a few hundred numbers whatever the size of the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from simulator.record import WorkerInfo
from simulator.report import series, theme
from simulator.results import DURATIONS, POOLS, STAGES, Results, gap_quantiles

Floats = NDArray[np.float64]
LABELS = {metric.name: metric.label for metric in DURATIONS}
CDF_LABELS = {**LABELS, "itl_s": "ITL"}
NOTHING_SAMPLED = "Nothing was sampled: the run ended before its first sample."


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One figure with its ``title`` and how to read it; without a ``figure``, ``note`` says why."""

    name: str
    title: str
    note: str
    figure: go.Figure | None
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What several figures share: sampled gauges, the time axis, and arrivals in time bins."""

    results: Results
    samples: series.Samples
    scale: float
    unit: str
    end_s: float
    edges: Floats
    bins: NDArray[np.int64]
    pools: tuple[str, ...]

    @property
    def time(self) -> str:
        """The title of a time axis."""
        return f"simulated time ({self.unit})"

    @property
    def span(self) -> list[float]:
        """The range of a time axis, the same in every figure of the page."""
        return [0.0, self.end_s * self.scale]

    @property
    def middles(self) -> Floats:
        """The middles of the arrival bins on the time axis."""
        return (self.edges[1:] + self.edges[:-1]) / 2 * self.scale

    @property
    def bin_words(self) -> str:
        """How wide the bins of arrival time are, in words."""
        return theme.seconds(float(self.edges[1] - self.edges[0])) if len(self.edges) else ""


def view(results: Results) -> View:
    """Return what the figures of ``results`` share."""
    arrivals = results.values("arrival_s")
    edges = series.time_edges(arrivals)
    moments = [arrivals, results.values("finish_s"), results.timeline["time_s"].to_numpy()]
    known = [float(np.nanmax(each)) for each in moments if np.isfinite(each).any()]
    end = max(known, default=1.0)
    scale, unit = theme.clock(end)
    present = {worker.pool for worker in results.workers}
    return View(
        results=results,
        samples=series.sampled(results.timeline, tuple(w.pool for w in results.workers)),
        scale=scale,
        unit=unit,
        end_s=end,
        edges=edges,
        bins=series.bin_of(arrivals, edges) if len(edges) else np.empty(0, dtype=np.int64),
        pools=tuple(pool for pool in POOLS if pool in present),
    )


def label_of(worker: WorkerInfo) -> str:
    """Return a worker's name in figures and tables: decode 3, or whose it is too, chat decode 3."""
    return f"{worker.service} {worker.pool} {worker.worker}".lstrip()


def cdf_panels(seen: View) -> list[Panel]:
    """Return the cumulative distributions of TTFT, TPOT, ITL and E2E."""
    results = seen.results
    curves = {name: series.cdf(results.values(name)) for name in ("ttft_s", "tpot_s", "e2e_s")}
    gaps = results.gaps
    curves["itl_s"] = gap_quantiles(gaps, series.CDF_SHARES) if gaps.counts.sum() else np.empty(0)
    notes = {
        "ttft_s": "Time from arrival to the first token.",
        "tpot_s": "Mean time per output token of each request.",
        "itl_s": "Every single gap between two tokens, all requests pooled.",
        "e2e_s": "Time from arrival to the last token.",
    }
    return [_cdf(seen, name, note, curves[name]) for name, note in notes.items()]


def _cdf(seen: View, name: str, note: str, curve: Floats) -> Panel:
    """Return a distribution on an axis that gives each further nine of the share as much room.

    It ends where fewer than one of the counted requests or gaps lies beyond.
    """
    panel, label = f"cdf_{name}", CDF_LABELS[name]
    if not len(curve):
        return Panel(name=panel, title=label, note="No request has this metric.", figure=None)
    most = 1 - 1 / max(seen.results.summary[name]["count"], 2)
    told = most >= series.CDF_SHARES
    shares, curve = series.CDF_SHARES[told], curve[told]
    scale, unit = theme.unit_of(curve)
    target = seen.results.slo.targets().get(name)
    shown = np.maximum(curve * scale, max(float(curve[-1]) * scale * 1e-6, 1e-6))
    colour = {"ttft_s": theme.PREFILL, "e2e_s": theme.INK}.get(name, theme.DECODE)
    line = theme.line(
        shown,
        1 - shares,
        label,
        colour,
        hover=f"%{{customdata:.6~g}} % within %{{x:,.4~g}} {unit}<extra></extra>",
    ).update(customdata=np.round(shares * 100, 6))
    drawn = theme.figure(
        [line],
        x=f"{label} ({unit})",
        y="share (%)",
        height=260,
        margin_t=14,
        hovermode="closest",
        showlegend=False,
        xaxis=latency_axis(shares, shown, None if target is None else target * scale),
        yaxis=theme.share_axis(float(shares[-1])),
    )
    if target is not None:
        theme.mark_target(drawn, target * scale, f"target {theme.seconds(target)}", vertical=True)
    return Panel(name=panel, title=label, note=note, figure=drawn)


def latency_axis(shares: Floats, values: Floats, target: float | None) -> dict[str, object]:
    """Return a log axis where the bulk of ``values`` spans decades, else one from zero."""
    low, high = float(np.interp(0.01, shares, values)), float(values[-1])
    if target is not None:
        low, high = min(low, target / 1.5), max(high, target * 1.5)
    if low > 0 and high / low > 20:
        return theme.log_ticks(low * 0.8, high * 1.15)
    return {"range": [0, high * 1.06 or 1.0]}


def latency_panels(seen: View) -> list[Panel]:
    """Return TTFT and TPOT over arrival time."""
    notes = {
        "ttft_s": "Requests by arrival, in bins of",
        "tpot_s": "The same bins: the pace a request that arrived then was served at, in bins of",
    }
    return [_over_time(seen, name, note) for name, note in notes.items()]


def _over_time(seen: View, name: str, note: str) -> Panel:
    panel, title = f"time_{name}", f"{LABELS[name]} over time"
    values = seen.results.values(name)
    if not np.isfinite(values).any():
        return Panel(name=panel, title=title, note="No request has this metric.", figure=None)
    ranks = series.binned_percentiles(seen.bins, values, len(seen.edges) - 1, (50.0, 90.0, 99.0))
    scale, unit = theme.unit_of(ranks[np.isfinite(ranks)])
    colour = theme.PREFILL if name == "ttft_s" else theme.DECODE
    x = seen.middles
    drawn = theme.figure(
        [
            theme.line(x, ranks[2] * scale, "p99", colour, faint=True),
            theme.line(x, ranks[1] * scale, "p90", theme.STAGE_COLOURS[_tint(name)]),
            theme.line(x, ranks[0] * scale, "p50", colour),
        ],
        x=seen.time,
        y=f"{LABELS[name]} ({unit})",
        xaxis_range=seen.span,
    )
    target = seen.results.slo.targets().get(name)
    if target is not None:
        theme.mark_target(drawn, target * scale, f"target {theme.seconds(target)}")
    return Panel(name=panel, title=title, note=f"{note} {seen.bin_words}.", figure=drawn, wide=True)


def _tint(name: str) -> str:
    return "prefill_queue_s" if name == "ttft_s" else "decode_queue_s"


def load_panels(seen: View) -> list[Panel]:
    """Return arrivals and completions per second, and requests waiting and running per pool."""
    waiting = "Requests in the queues of each pool, all its workers together."
    running = "Requests being prefilled or decoded, all workers of a pool together."
    return [
        _flow(seen),
        _pool_sums(seen, "waiting", "Waiting requests", waiting),
        _pool_sums(seen, "running", "Running requests", running),
    ]


def _flow(seen: View) -> Panel:
    title = "Arrivals and completions"
    if not len(seen.edges):
        return Panel(name="flow", title=title, note="No request arrived.", figure=None)
    edges = np.linspace(0.0, seen.end_s, len(seen.edges))
    width = edges[1] - edges[0]
    rates = {}
    for name in ("arrival_s", "finish_s"):
        values = seen.results.values(name)
        rates[name] = np.histogram(values[np.isfinite(values)], edges)[0] / width
    x = edges * seen.scale
    drawn = theme.figure(
        [
            theme.line(x, _held(rates["arrival_s"]), "arrivals", theme.MUTED, step=True),
            theme.line(x, _held(rates["finish_s"]), "completions", theme.DECODE, step=True),
        ],
        x=seen.time,
        y="requests per second",
        xaxis_range=seen.span,
    )
    drawn.data[0].update(fill="tozeroy", fillcolor="rgba(95,108,123,0.15)")
    note = f"Mean rate in bins of {theme.seconds(float(width))}."
    return Panel(name="flow", title=title, note=note, figure=drawn, wide=True)


def _held(values: Floats) -> Floats:
    """Return ``values`` with the last repeated, to draw n bins as steps over n + 1 edges."""
    return np.append(values, values[-1:])


def _pool_sums(seen: View, gauge: str, title: str, note: str) -> Panel:
    if not len(seen.samples.time_s):
        return Panel(name=gauge, title=title, note=NOTHING_SAMPLED, figure=None)
    lines = []
    for pool in seen.pools:
        total = series.sum_over_workers(seen.samples.of(pool, gauge))
        x = seen.samples.time_s * seen.scale
        lines.append(theme.line(x, total, pool, theme.POOL_COLOURS[pool]))
    drawn = theme.figure(
        lines, x=seen.time, y=title.lower(), xaxis_range=seen.span, showlegend=True
    )
    return Panel(name=gauge, title=title, note=note, figure=drawn)


def memory_panel(seen: View) -> Panel:
    """Return the share of KV blocks in use over time, per pool."""
    title = "KV cache in use"
    if not len(seen.samples.time_s):
        return Panel(name="kv", title=title, note=NOTHING_SAMPLED, figure=None)
    note = "Share of a worker's KV blocks, reserved ones included: the mean of each pool (solid)"
    note += " and its fullest worker (dotted). At 100 % requests wait or are preempted."
    lines = _mean_and_max(seen, "kv_utilization", seen.pools, scale=100.0)
    lines += (cached := _cached(seen))
    if cached:
        note += " Dashed: with what prefix caches keep that no request has, the mean."
    drawn = theme.figure(lines, x=seen.time, y="KV blocks in use (%)", xaxis_range=seen.span)
    drawn.update_yaxes(range=[0, _roof(lines, 100.0)])
    return Panel(name="kv", title=title, note=note, figure=drawn, wide=True)


def _cached(seen: View) -> list[go.Scatter]:
    """Return the share of blocks in use or kept by prefix caches, of pools that keep any."""
    if "kv_cached" not in seen.samples.gauges:
        return []
    lines = []
    for pool in seen.pools:
        kept = seen.samples.of(pool, "kv_cached")
        if not np.nansum(kept):
            continue
        mean = series.mean_over_workers(seen.samples.of(pool, "kv_utilization") + kept) * 100.0
        x, colour = seen.samples.time_s * seen.scale, theme.POOL_COLOURS[pool]
        line = theme.line(x, mean, f"{pool} with cached", colour)
        lines.append(line.update(line={"dash": "dash"}))
    return lines


def _mean_and_max(
    seen: View, gauge: str, pools: tuple[str, ...], *, scale: float
) -> list[go.Scatter]:
    lines = []
    x = seen.samples.time_s * seen.scale
    for pool in pools:
        values, colour = seen.samples.of(pool, gauge) * scale, theme.POOL_COLOURS[pool]
        mean, top = series.mean_over_workers(values), series.max_over_workers(values)
        lines.append(theme.line(x, mean, f"{pool} mean", colour))
        lines.append(theme.line(x, top, f"{pool} max", colour, faint=True))
    return lines


def _roof(lines: list[go.Scatter], full: float) -> float:
    """Return an axis end: ``full`` once the lines come near it, else a quarter above them."""
    heights = np.concatenate([np.asarray(each.y, dtype=np.float64) for each in lines])
    highest = float(np.nanmax(heights)) if np.isfinite(heights).any() else 0.0
    return full * 1.04 if highest > full * 0.6 or highest <= 0 else highest * 1.25


def activity_panel(seen: View) -> Panel:
    """Return the heat map of busy time, time by worker."""
    title = "Busy workers"
    if not len(seen.samples.time_s):
        return Panel(name="busy", title=title, note=NOTHING_SAMPLED, figure=None)
    names = [label_of(worker) for worker in seen.results.workers]
    hover = f"worker %{{y}}, %{{x:,.4~g}} {seen.unit}: %{{z:.0f}} % busy<extra></extra>"
    drawn = rows_figure(
        seen,
        seen.samples.time_s * seen.scale,
        range(len(names)),
        seen.samples.gauges["busy_fraction"].T * 100,
        names=names,
        legend="busy (%)",
        hover=hover,
    )
    note = "Share of each interval in which a worker was computing; one row per worker."
    return Panel(name="busy", title=title, note=note, figure=drawn, wide=True)


def rows_figure(
    seen: View,
    x: Floats,
    y: Sequence[int | str],
    z: Floats,
    *,
    names: Sequence[str],
    legend: str,
    hover: str,
) -> go.Figure:
    """Return shares in per cent, ``z`` (rows, x), as colours over time: row after row downwards.

    ``names`` stand beside the rows, of which ``hover`` shows ``y``.
    """
    heat = go.Heatmap(
        x=np.round(x, 6),
        y=list(y),
        z=np.round(z, 1).astype(np.float32),
        zmin=0,
        zmax=100,
        colorscale=[list(stop) for stop in theme.HEAT],
        colorbar={
            "title": {"text": legend, "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
        },
        hovertemplate=hover,
        ygap=1 if len(names) <= 60 else 0,
    )
    stride = -(-len(names) // 30)
    return theme.figure(
        [heat],
        x=seen.time,
        y="",
        height=int(np.clip(90 + 22 * len(names), 170, 720)),
        hovermode="closest",
        xaxis_range=seen.span,
        xaxis_showgrid=False,
        yaxis={
            "autorange": "reversed",
            "rangemode": "normal",
            "tickvals": list(y)[::stride],
            "ticktext": list(names)[::stride],
            "showgrid": False,
        },
        margin_t=10,
    )


def link_panels(seen: View) -> list[Panel]:
    """Return bytes sent by the prefill pool and received by the decode pool, against the ports."""
    if not {"prefill", "decode"} <= set(seen.pools):
        note = "Nothing is transferred: mixed workers keep a request's KV from its first token on."
        return [Panel(name="links", title="KV transfers", note=note, figure=None, wide=True)]
    return [
        _link(seen, "prefill", "sent_bytes_per_s", "Sent by prefill workers"),
        _link(seen, "decode", "received_bytes_per_s", "Received by decode workers"),
    ]


def _link(seen: View, pool: str, gauge: str, title: str) -> Panel:
    if not len(seen.samples.time_s):
        return Panel(name=gauge, title=title, note=NOTHING_SAMPLED, figure=None)
    lines = _mean_and_max(seen, gauge, (pool,), scale=1e-9)
    limits = {w.max_transfer_bandwidth for w in seen.results.workers if w.pool == pool}
    limit = max(limits) / 1e9
    drawn = theme.figure(lines, x=seen.time, y="GB/s per worker", xaxis_range=seen.span)
    top = _roof(lines, limit)
    drawn.update_yaxes(range=[0, top])
    note = "Mean over workers (solid) and the busiest one (dotted), averaged over each interval."
    note += f" A worker's ports carry at most {theme.number(limit)} GB/s."
    if top >= limit:
        theme.mark_target(drawn, limit, f"port limit {theme.number(limit)} GB/s")
    return Panel(name=gauge, title=title, note=note, figure=drawn)


GROUPS = (
    ("all requests", None),
    ("slowest 1 % by TTFT", "ttft_s"),
    ("slowest 1 % by E2E", "e2e_s"),
)


def stage_panels(seen: View) -> list[Panel]:
    """Return where the time went: stages up to the first token, and over the whole request."""
    told = np.isfinite(seen.results.values("e2e_s"))
    if not told.any():
        return [
            Panel(
                name="stages", title="Stages", note="No request finished.", figure=None, wide=True
            )
        ]
    means = _stage_means(seen.results, told)
    early: tuple[str, ...] = ("gateway_s", "prefill_queue_s", "prefill_s")
    if seen.results.first_token == "decode":  # noqa: S105 - a place, not a secret
        early = STAGES[:-1]
    first = "Mean seconds of each stage before decode, over all finished requests and over their"
    whole = "Mean seconds of each stage, adding up to E2E. The slowest 1 % are whole requests:"
    return [
        _stages(
            "stages_first",
            "Up to the first token",
            f"{first} slowest 1 %.",
            {name: means[name] for name in early},
        ),
        _stages(
            "stages",
            "From arrival to the last token",
            f"{whole} p99s of separate stages would not add up to anything any request saw.",
            means,
        ),
    ]


def _stage_means(results: Results, told: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return per stage its mean (s; not reached counts 0) over each of :data:`GROUPS`."""
    chosen = [told, *(_slowest(results.values(name), told) for _, name in GROUPS if name)]
    means = {}
    for stage in STAGES:
        spent = np.nan_to_num(results.values(stage))
        means[stage] = [float(spent[group].mean()) for group in chosen]
    return means


def _slowest(values: Floats, told: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the ``told`` are at or above their 99th percentile of ``values``."""
    known = told & np.isfinite(values)
    return known & (values >= np.percentile(values[known], 99)) if known.any() else told


def _stages(name: str, title: str, note: str, means: dict[str, list[float]]) -> Panel:
    longest = max(sum(group) for group in zip(*means.values(), strict=True))
    scale, unit = theme.unit_of(np.array([longest]))
    groups = [label for label, _ in GROUPS]
    bars = [
        go.Bar(
            y=groups,
            x=np.round(np.array(spent) * scale, 4),
            name=LABELS[stage],
            orientation="h",
            marker={"color": theme.STAGE_COLOURS[stage], "line": {"color": "#fff", "width": 1}},
            hovertemplate=f"{LABELS[stage]}: %{{x:,.4~g}} {unit}<extra>%{{y}}</extra>",
        )
        for stage, spent in means.items()
        if max(spent) > 0
    ]
    drawn = theme.figure(
        bars,
        x=f"mean time ({unit})",
        y="",
        height=230,
        barmode="stack",
        bargap=0.35,
        hovermode="closest",
        showlegend=True,
        legend_traceorder="normal",
        yaxis={"autorange": "reversed", "rangemode": "normal", "showgrid": False, "ticks": ""},
    )
    return Panel(name=name, title=title, note=note, figure=drawn, wide=True)


def slo_panels(seen: View) -> list[Panel]:
    """Return SLO attainment over arrival time and by prompt length."""
    results, title = seen.results, "Attainment over time"
    if not len(seen.edges):
        return [Panel(name="slo_time", title=title, note="No request arrived.", figure=None)]
    good = results.scan.select(results.slo.good()).collect().to_series().to_numpy()
    held, _ = series.binned_share(seen.bins, good, len(seen.edges) - 1)
    drawn = theme.figure(
        [theme.line(seen.middles, held * 100, "within every target", theme.INK)],
        x=seen.time,
        y="within the SLO (%)",
        xaxis_range=seen.span,
        yaxis_range=[0, 103],
    )
    note = f"Good requests among those that arrived in each bin of {seen.bin_words}, the rejected"
    note += " counting as missed."
    over_time = Panel(name="slo_time", title=title, note=note, figure=drawn)
    return [over_time, _by_length(seen, good)]


def _by_length(seen: View, good: NDArray[np.bool_]) -> Panel:
    lengths = np.where(seen.bins >= 0, seen.results.values("input_tokens"), np.nan)
    edges = series.length_edges(lengths)
    held, sizes = series.binned_share(series.bin_of(lengths, edges), good, len(edges) - 1)
    names = [f"{low:,.0f}–{high:,.0f}" for low, high in pairwise(edges)]
    bars = go.Bar(
        x=names,
        y=np.round(held * 100, 2),
        customdata=sizes,
        marker={"color": theme.PREFILL, "opacity": 0.85},
        hovertemplate="%{x} tokens: %{y:.4~g} % of %{customdata:,} requests<extra></extra>",
    )
    drawn = theme.figure(
        [bars],
        x="input tokens",
        y="within the SLO (%)",
        hovermode="closest",
        bargap=0.15,
        yaxis_range=[0, 103],
        xaxis_type="category",
        xaxis_tickangle=-35,
    )
    note = "The same by prompt length; each bar stands for about as many requests."
    return Panel(name="slo_length", title="Attainment by prompt length", note=note, figure=drawn)
