"""The figures of arXiv 2506.05508 (disaggregated inference), each with its claims checked.

Shapes, orderings, ratios and crossings are checked, not absolute tokens/s: the paper's figures
are normalised. Thresholds are stated with each claim. What does not hold is reported as such.

A figure is a :class:`Sheet`: what it explores in the :class:`Laboratory`, the curves it draws of
that, and a table of statements, each with the function that judges it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from simulator.explore.paper import chunks, gains, layouts, ratios, traffic
from simulator.explore.paper.claims import Claim, Figure, Sheet, Statement, Verdict
from simulator.explore.paper.laboratory import HUGE, LARGE, MODELS, NAMES, R1, SMALL, Laboratory

__all__ = [
    "FIGURES",
    "HUGE",
    "LARGE",
    "MODELS",
    "NAMES",
    "R1",
    "SMALL",
    "Claim",
    "Figure",
    "Laboratory",
    "Sheet",
    "Statement",
    "Verdict",
]

FIGURES: Mapping[str, Callable[[Laboratory], Figure]] = MappingProxyType(
    {
        "F1": gains.F1.draw,
        "F5": chunks.F5.draw,
        "F6": chunks.F6.draw,
        "F7": gains.F7.draw,
        "F8": gains.F8.draw,
        "T": layouts.T.draw,
        "F9": ratios.F9.draw,
        "F10": ratios.F10.draw,
        "F11": layouts.F11.draw,
        "F12": traffic.F12.draw,
        "F14": traffic.F14.draw,
    }
)
"""The figures by id, in the paper's order."""
