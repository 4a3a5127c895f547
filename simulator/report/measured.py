"""What the traffic's source measured beside what was simulated of the same requests."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from simulator.measured import E2E, MEASURED, Floats, pairs
from simulator.report import series, theme
from simulator.report.figures import Panel, View

SOURCE, OURS = "measured", "simulated"
COLOURS = {SOURCE: theme.INK, OURS: theme.DECODE}


class Curve(NamedTuple):
    """The values (s) of one distribution."""

    label: str
    colour: str
    values: Floats


class Stay(NamedTuple):
    """From when to when (s) requests are in one system."""

    label: str
    colour: str
    arrivals: Floats
    ends: Floats


def measured_panels(seen: View) -> list[Panel]:
    """Return both distributions of each latency, and the requests in the system over time.

    Of what only statistics are known, the simulated distribution and those. Nothing where nothing
    was measured.
    """
    both = pairs(seen.results.scan)
    drawn = [_distributions(name, *values) for name, values in both.items()]
    told = seen.results.summary["measured"]
    alone = {name: told[name]["ranks"] for name in MEASURED if name in told and name not in both}
    drawn += [_percentiles(seen, name, ranks) for name, ranks in alone.items()]
    return [*drawn, _in_flight(seen)] if "e2e_s" in both else drawn


def _percentiles(seen: View, name: str, ranks: Mapping[str, float]) -> Panel:
    """Return the simulated distribution, and the percentiles that were measured of it."""
    values = seen.results.values(name)
    curve = Curve(OURS, COLOURS[OURS], values[np.isfinite(values)])
    note = f"of {len(curve.values):,} simulated requests, and the percentiles that are told."
    return distribution_panel(name, [curve], note, ranks)


def _distributions(name: str, measured: Floats, simulated: Floats) -> Panel:
    both = ((SOURCE, measured), (OURS, simulated))
    curves = [Curve(which, COLOURS[which], values) for which, values in both]
    return distribution_panel(name, curves, f"of the {len(measured):,} requests that have both.")


def distribution_panel(
    name: str, curves: Sequence[Curve], note: str, ranks: Mapping[str, float] | None = None
) -> Panel:
    """Return distributions of a latency (s) over each other, and ``ranks`` measured as points."""
    known = {int(rank[1:]): value for rank, value in (ranks or {}).items() if rank != "mean"}
    everything = [*(each.values for each in curves), np.array([*known.values()])]
    scale, unit = theme.unit_of(np.concatenate(everything))
    hover = f"%{{y:.4~g}} % within %{{x:,.4~g}} {unit}"
    lines = [
        theme.line(
            series.cdf(each.values) * scale,
            series.CDF_SHARES * 100,
            each.label,
            each.colour,
            hover=hover,
        )
        for each in curves
    ]
    if known:
        lines.append(
            go.Scatter(
                x=np.array([known[rank] for rank in sorted(known)]) * scale,
                y=sorted(known),
                name=SOURCE,
                mode="markers",
                marker={"color": COLOURS[SOURCE], "size": 8},
                hovertemplate=hover,
            )
        )
    label = MEASURED[name][0]
    figure = theme.figure(
        lines, x=f"{label} ({unit})", y="share (%)", height=260, hovermode="closest"
    )
    return Panel(name=f"measured_{name}", title=label, note=f"{label} {note}", figure=figure)


def _in_flight(seen: View) -> Panel:
    """Return how many requests were in the system, by arrivals and by either's last tokens."""
    results = seen.results
    arrivals = results.values("arrival_s")
    ends = {SOURCE: arrivals + results.values(E2E), OURS: results.values("finish_s")}
    told = np.isfinite(ends[SOURCE]) & np.isfinite(ends[OURS])
    stays = [
        Stay(which, COLOURS[which], arrivals[told], each[told]) for which, each in ends.items()
    ]
    note = "Requests that arrived and have not got their last token, of those that have both."
    return flight_panel(stays, (seen.scale, seen.time), note)


def flight_panel(stays: Sequence[Stay], time: tuple[float, str], note: str) -> Panel:
    """Return how many requests are in the system, over ``time`` as its scale and axis say."""
    scale, axis = time
    last = max(float(each.ends.max()) for each in stays)
    moments = np.linspace(0.0, last, series.MAX_SAMPLES)
    lines = []
    for each in stays:
        begun, done = (
            np.searchsorted(np.sort(values), moments, side="right")
            for values in (each.arrivals, each.ends)
        )
        inside = (begun - done).astype(float)
        lines.append(theme.line(moments * scale, inside, each.label, each.colour))
    figure = theme.figure(lines, x=axis, y="requests", height=260)
    return Panel(name="measured_flight", title="In the system", note=note, figure=figure)
