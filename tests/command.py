"""How tests call the command line."""

from collections.abc import Callable
from dataclasses import dataclass

FAST = ("latency=polynomial", "report=none")
TINY = (*FAST, "workload.requests=20")
"""Overrides that make a run take a fraction of a second."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Finished]
