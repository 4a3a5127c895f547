"""What the traffic's source measured beside what was simulated of the same requests."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from simulator.measured import E2E, MEASURED, Floats, pairs
from simulator.report import series, theme
from simulator.report.figures import Panel, View

SOURCE, OURS = "measured", "simulated"
COLOURS = {SOURCE: theme.INK, OURS: theme.DECODE}


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
    values = values[np.isfinite(values)]
    known = {int(rank[1:]): value for rank, value in ranks.items() if rank != "mean"}
    scale, unit = theme.unit_of(np.array([*values, *known.values()]))
    hover = f"%{{y:.4~g}} % within %{{x:,.4~g}} {unit}"
    line = theme.line(
        series.cdf(values) * scale, series.CDF_SHARES * 100, OURS, COLOURS[OURS], hover=hover
    )
    points = go.Scatter(
        x=np.array([known[rank] for rank in sorted(known)]) * scale,
        y=sorted(known),
        name=SOURCE,
        mode="markers",
        marker={"color": COLOURS[SOURCE], "size": 8},
        hovertemplate=hover,
    )
    label = MEASURED[name][0]
    figure = theme.figure(
        [line, points], x=f"{label} ({unit})", y="share (%)", height=260, hovermode="closest"
    )
    note = f"{label} of {len(values):,} simulated requests, and the percentiles that are told."
    return Panel(name=f"measured_{name}", title=label, note=note, figure=figure)


def _distributions(name: str, measured: Floats, simulated: Floats) -> Panel:
    scale, unit = theme.unit_of(np.concatenate([measured, simulated]))
    label = MEASURED[name][0]
    hover = f"%{{y:.4~g}} % within %{{x:,.4~g}} {unit}"
    lines = [
        theme.line(
            series.cdf(values) * scale, series.CDF_SHARES * 100, which, COLOURS[which], hover=hover
        )
        for which, values in ((SOURCE, measured), (OURS, simulated))
    ]
    figure = theme.figure(
        lines, x=f"{label} ({unit})", y="share (%)", height=260, hovermode="closest"
    )
    note = f"{label} of the {len(measured):,} requests that have both."
    return Panel(name=f"measured_{name}", title=label, note=note, figure=figure)


def _in_flight(seen: View) -> Panel:
    """Return how many requests were in the system, by arrivals and by either's last tokens."""
    results = seen.results
    arrivals = results.values("arrival_s")
    ends = {SOURCE: arrivals + results.values(E2E), OURS: results.values("finish_s")}
    last = max(float(np.nanmax(each)) for each in ends.values() if np.isfinite(each).any())
    moments = np.linspace(0.0, last, series.MAX_SAMPLES)
    told = np.isfinite(ends[SOURCE]) & np.isfinite(ends[OURS])
    begun = np.searchsorted(np.sort(arrivals[told]), moments, side="right")
    lines = [
        theme.line(
            moments * seen.scale,
            (begun - np.searchsorted(np.sort(each[told]), moments, side="right")).astype(float),
            which,
            COLOURS[which],
        )
        for which, each in ends.items()
    ]
    figure = theme.figure(lines, x=seen.time, y="requests", height=260)
    note = "Requests that arrived and have not got their last token, of those that have both."
    return Panel(name="measured_flight", title="In the system", note=note, figure=figure)
