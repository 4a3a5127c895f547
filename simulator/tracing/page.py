"""The page of a trace: figures, pictures, fits, and the account of what was read."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from simulator.report import parts, theme
from simulator.report.figures import Panel
from simulator.report.theme import number, seconds, share
from simulator.tracing.study import Studied
from workloads.fitting import Fit
from workloads.inspection import hit_tokens, known_arrivals

Floats = NDArray[np.float64]
BINS = 200
HIT_BINS = 50
POINTS = 300
"""Points of a curve, whatever the size of the trace."""

SHOWN_FITS = 2
COLOURS = (theme.PREFILL, theme.DECODE)


def write_page(done: Studied, text: str, path: Path) -> None:
    """Write the page to ``path``; ``text`` is the configuration."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_pieces(done, text))


def _pieces(done: Studied, text: str) -> Iterable[str]:
    """Yield the page from top to bottom."""
    title = f"Trace {done.trace.meta.name}"
    sections = {
        "arrivals": ("Arrivals", [_rate(done), _dispersion(done), _gaps(done)]),
        "lengths": ("Lengths", [_lengths(done, "input_tokens"), _lengths(done, "output_tokens")]),
        "sharing": ("Sessions and prefixes", [_hits(done), _turns(done), _think(done)]),
    }
    yield parts.head(title)
    places = [("summary", "Summary"), *((name, words) for name, (words, _) in sections.items())]
    yield parts.nav([*places, ("fits", "Fits"), ("account", "Account")])
    yield "<main>"
    yield _overview(done, title)
    for anchor, (words, panels) in sections.items():
        yield parts.section(anchor, words, "".join(map(parts.card, panels)))
    yield parts.section("fits", "Fits", _fits(done))
    yield parts.section("account", "Account", _account(done, text))
    yield "</main>"
    yield parts.figures([panel for _, panels in sections.values() for panel in panels])
    yield from parts.scripts()
    yield "</body></html>\n"


def _overview(done: Studied, title: str) -> str:
    meta = done.trace.meta
    warnings = "".join(
        f'<div class="verdict fair"><strong>Warning</strong> <span>{escape(each)}</span></div>'
        for each in meta.warnings
    )
    words = f"{meta.format}, {meta.rows_kept:,} of {meta.rows_read:,} requests"
    return (
        f'<header id="summary"><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(words)}</p>{warnings}'
        f'<dl class="tiles">{"".join(starmap(parts.tile, _tiles(done)))}</dl></header>\n'
    )


def _tiles(done: Studied) -> Iterator[tuple[str, str, str]]:
    """Yield the headline numbers: label, value and a line of detail."""
    told = done.told
    yield "Requests", f"{told.requests:,}", f"over {seconds(told.duration_s)}"
    if told.rate is not None and told.gap_cv is not None:
        yield "Mean rate", f"{number(told.rate)}/s", f"CV of gaps {told.gap_cv:.2f}; Poisson 1"
    for words, lengths in (("Prompt", told.input_tokens), ("Output", told.output_tokens)):
        detail = f"p50 {lengths['p50']:,.0f}, p99 {lengths['p99']:,.0f}"
        yield f"{words} tokens", f"{lengths['mean']:,.0f}", detail
    if told.hit_rate is not None:
        yield (
            "Prefix hits",
            share(told.hit_rate),
            "of prompt tokens, by a cache that forgets nothing",
        )
    if told.sessions is not None and told.turns is not None:
        yield "Sessions", f"{told.sessions:,}", f"of {told.turns['mean']:.2f} turns on average"


def _rate(done: Studied) -> Panel:
    """Return arrivals per second over the trace."""
    name, title, arrivals = "rate", "Arrivals over time", known_arrivals(done.trace)
    span = float(arrivals[-1]) if arrivals.size else 0.0
    if span <= 0:
        return Panel(name=name, title=title, note="All requests come at once.", figure=None)
    counts, edges = np.histogram(arrivals, bins=BINS, range=(0, span))
    width = span / BINS
    scale, unit = theme.clock(span)
    drawn = theme.figure(
        [theme.line(edges[:-1] * scale, counts / width, "requests/s", theme.PREFILL, step=True)],
        x=f"time ({unit})",
        y="requests/s",
        showlegend=False,
    )
    note = f"Requests per second in bins of {seconds(width)}."
    return Panel(name=name, title=title, note=note, figure=drawn, wide=True)


def _dispersion(done: Studied) -> Panel:
    """Return the index of dispersion by width of window."""
    name, title = "dispersion", "Burstiness by time scale"
    told = done.told.dispersion
    if not told:
        return Panel(name=name, title=title, note="There are too few arrivals.", figure=None)
    widths, index = np.array(list(told)), np.array(list(told.values()))
    lines = [theme.line(widths, np.maximum(index, 1e-3), "this trace", theme.PREFILL)]
    lines.append(theme.line(widths, np.ones(widths.size), "Poisson", theme.MUTED, faint=True))
    if done.fitted is not None and "cv" in (settings := done.fitted.arrivals[0].settings):
        most = np.full(widths.size, float(settings["cv"]) ** 2)
        fitted = f"the fitted {done.fitted.arrivals[0].name}, at most"
        lines.append(theme.line(widths, most, fitted, theme.DECODE, faint=True))
    drawn = theme.figure(
        lines,
        x="window (s)",
        y="variance / mean of arrivals",
        xaxis=theme.log_ticks(float(widths[0]) * 0.9, float(widths[-1]) * 1.1),
        yaxis={"type": "log"},
    )
    note = (
        "Variance over mean of the arrivals in windows. Where it goes on growing beyond the fitted "
        "process's, bursts or a rate that drifts last longer than gaps tell."
    )
    return Panel(name=name, title=title, note=note, figure=drawn)


def _gaps(done: Studied) -> Panel:
    gaps = np.diff(known_arrivals(done.trace))
    fits = () if done.fitted is None else done.fitted.arrivals
    note = "Time from one arrival to the next; zeros are arrivals at one instant."
    return _cdf("gaps", "Gaps between arrivals", (gaps, "gap (s)"), fits, note)


def _lengths(done: Studied, name: str) -> Panel:
    words = {"input_tokens": "Prompt tokens", "output_tokens": "Output tokens"}[name]
    fits: Sequence[Fit] = () if done.fitted is None else getattr(done.fitted, name)
    values = done.trace.column(name).astype(float)
    return _cdf(name, words, (values, "tokens"), fits, "Share of requests up to so many tokens.")


def _cdf(
    name: str, title: str, measured: tuple[Floats, str], fits: Sequence[Fit], note: str
) -> Panel:
    """Return a distribution with the best of its fits on a log axis, values of 0 below it."""
    values, axis = measured
    if not values.size:
        return Panel(name=name, title=title, note="The trace has none.", figure=None)
    shares = np.linspace(0, 1, POINTS)
    curve = np.quantile(values, shares)
    shares, curve = shares[curve > 0], curve[curve > 0]
    if curve.size < 2 or curve[0] == curve[-1]:
        return Panel(name=name, title=title, note="All are the same, or 0.", figure=None)
    lines = [theme.line(curve, shares * 100, "this trace", theme.INK, hover="%{x:,.4~g}")]
    at = np.geomspace(curve[0], curve[-1], POINTS)
    for fit, colour in zip(fits[:SHOWN_FITS], COLOURS, strict=False):
        words = f"{fit.name}, KS {fit.distance:.3f}"
        lines.append(theme.line(at, fit.cdf(at) * 100, words, colour, faint=True))
    ticks = theme.log_ticks(float(curve[0]) * 0.9, float(curve[-1]) * 1.1)
    drawn = theme.figure(lines, x=axis, y="share (%)", xaxis=ticks, hovermode="closest")
    return Panel(name=name, title=title, note=note, figure=drawn)


def _hits(done: Studied) -> Panel:
    """Return the share of prompt tokens found so far, and of each part of the trace."""
    name, title = "hits", "What a cache that forgets nothing finds"
    hits = hit_tokens(done.trace)
    if hits is None:
        return Panel(name=name, title=title, note="The trace has no ids of blocks.", figure=None)
    inputs = done.trace.column("input_tokens").astype(float)
    edges = np.linspace(0, hits.size, min(HIT_BINS, hits.size) + 1).astype(np.int64)
    part = np.add.reduceat(hits, edges[:-1]) / np.add.reduceat(inputs, edges[:-1])
    total = np.cumsum(hits)[edges[1:] - 1] / np.cumsum(inputs)[edges[1:] - 1]
    at = edges[1:].astype(float)
    drawn = theme.figure(
        [
            theme.line(at, part * 100, "of these requests", theme.PREFILL, faint=True),
            theme.line(at, total * 100, "of all so far", theme.INK),
        ],
        x="requests",
        y="prompt tokens found (%)",
    )
    note = "Leading blocks that an earlier request had, in the order of arrivals."
    return Panel(name=name, title=title, note=note, figure=drawn)


def _turns(done: Studied) -> Panel:
    name, title = "turns", "Turns of a session"
    sessions = done.trace.frame["session_id"].drop_nulls()
    if not sessions.len():
        return Panel(name=name, title=title, note="The trace has no sessions.", figure=None)
    counts = sessions.value_counts().group_by("count").len().sort("count")
    bars = go.Bar(
        x=counts["count"].to_numpy(), y=counts["len"].to_numpy(), marker_color=theme.PREFILL
    )
    drawn = theme.figure([bars], x="turns", y="sessions", showlegend=False)
    return Panel(name=name, title=title, note="How many sessions have so many.", figure=drawn)


def _think(done: Studied) -> Panel:
    delays = done.trace.frame["delay_s"].drop_nulls().to_numpy()
    note = "Time from the end of one request to the next one of its session, above 0."
    return _cdf("think", "Think and tool times", (delays, "seconds"), (), note)


def _fits(done: Studied) -> str:
    """Return the table of all fits, or why there is none."""
    if done.fitted is None:
        said = done.unfitted or "trace.fit is false"
        return f'<div class="card wide"><p class="empty">{escape(said)}</p></div>'
    rows = [
        (words, fit.name, f"{fit.distance:.3f}", _settings(fit))
        for name, words in (
            ("arrivals", "gaps between arrivals"),
            ("input_tokens", "prompt tokens"),
            ("output_tokens", "output tokens"),
        )
        for fit in getattr(done.fitted, name)
    ]
    table = parts.table(("of", "distribution", "KS distance", "settings"), rows)
    note = (
        "The largest difference between the trace's cumulative distribution and the fitted one. "
        "The best of each makes the workload in workload/fitted.yaml, lengths tied by a "
        f"correlation of {done.fitted.correlation:.2f}; sessions and prefixes are not fitted."
    )
    return f'<div class="card wide"><p>{escape(note)}</p>{table}</div>'


def _settings(fit: Fit) -> str:
    return ", ".join(f"{key}={value}" for key, value in fit.settings.items() if key != "_target_")


def _account(done: Studied, text: str) -> str:
    """Return what became of the file's rows, and the configuration."""
    meta = done.trace.meta
    rows = [("rows read", f"{meta.rows_read:,}"), ("rows kept", f"{meta.rows_kept:,}")]
    rows += [(f"dropped: {reason}", f"{count:,}") for reason, count in meta.drops.items()]
    rows += [
        (each.name, ", ".join(f"{key} {value}" for key, value in each.counts.items()))
        for each in meta.transforms
    ]
    fields: dict[str, Any] = {
        "format": meta.format,
        "first arrival": meta.t0,
        "times in": meta.time_unit,
        "loop": meta.loop,
        "tokens of a block": meta.block_size,
        "SHA-256": meta.sha256,
    }
    rows += [(name, str(value)) for name, value in fields.items() if value is not None]
    config = (
        f"<details><summary>Resolved configuration</summary><pre>{escape(text)}</pre></details>"
    )
    return f'<div class="card wide">{parts.table(("what", "value"), rows)}{config}</div>'
