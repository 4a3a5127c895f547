"""The page's sections of figures, in their order."""

from collections.abc import Callable

from simulator.report import figures
from simulator.report.figures import Panel, View
from simulator.report.lateness import lateness_panels
from simulator.report.lives import lives_panels
from simulator.report.measured import measured_panels
from simulator.report.quota import quota_panels

SECTIONS: tuple[tuple[str, str, Callable[[View], list[Panel]]], ...] = (
    ("latency", "Latency", figures.cdf_panels),
    ("measured", "Measured beside simulated", measured_panels),
    ("time", "Over time", figures.latency_panels),
    ("load", "Load", figures.load_panels),
    ("memory", "Memory", lambda seen: [figures.memory_panel(seen)]),
    ("workers", "Workers", lambda seen: [*lives_panels(seen), figures.activity_panel(seen)]),
    ("links", "Links", figures.link_panels),
    ("stages", "Stages", figures.stage_panels),
    ("slo", "SLO", figures.slo_panels),
    ("quota", "Services", quota_panels),
    ("lateness", "Lateness", lateness_panels),
)
"""Sections of figures: anchor, title and what builds its panels; none without panels."""
