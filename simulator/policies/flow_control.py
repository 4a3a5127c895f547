"""Whether prompts may leave the router: it looks at workers' metrics as they were last read.

Source: llm-d-router's flow control (``pkg/epp/flowcontrol``) and its utilization detector
(``saturationdetector/utilization``) of August 2026, whose staleness policy came with pull request
2492. It ships switched off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from simulator.policies.admission import fullness

STALE = ("saturated", "ignore")
"""What a worker without fresh metrics counts as."""


class Reading(NamedTuple):
    """One worker as last read: requests that wait and run, and the share of its KV in use."""

    waiting: int
    running: int
    kv_utilization: float


class FlowControl(Protocol):
    """A pure decision, and the seconds it goes by.

    Metrics are read every ``scrape_s``, and are stale when they are ``stale_s`` old. From the queue
    at the router prompts leave one at a time, ``dispatch_s`` apart.
    """

    @property
    def scrape_s(self) -> float:
        """Seconds between two readings of workers' metrics."""
        ...

    @property
    def stale_s(self) -> float:
        """The age in seconds from which on a reading is stale."""
        ...

    @property
    def dispatch_s(self) -> float:
        """Seconds between two prompts that leave the queue."""
        ...

    def saturation(self, readings: Sequence[Reading | None]) -> float:
        """Return how full the workers are, of which those without fresh metrics are ``None``.

        At 1 and above nobody leaves the router.
        """
        ...


@dataclass(frozen=True, slots=True)
class NeverHolds:
    """Prompts go to workers as they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """llm-d's utilization detector: the mean over workers of max(waiting / queue, KV / kv).

    With ``staleness`` ``saturated`` a worker whose metrics are missing or stale counts as 1; with
    ``ignore`` it does not count, and where that is so of all, saturation is 0.
    """

    queue: float = 5.0
    kv: float = 0.8
    scrape_s: float = 0.05
    stale_s: float = 0.2
    staleness: str = "saturated"
    dispatch_s: float = 0.001

    def __post_init__(self) -> None:
        for name in ("queue", "kv", "scrape_s", "stale_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"flow_control: {name} must be above 0 but got {getattr(self, name)!r}"
                )
        if not 0 <= self.dispatch_s < math.inf:
            raise ValueError(
                f"flow_control: dispatch_s must be at least 0 but got {self.dispatch_s!r}"
            )
        if self.staleness not in STALE:
            raise ValueError(
                f"flow_control: staleness must be one of {', '.join(STALE)} but got "
                f"{self.staleness!r}"
            )

    def saturation(self, readings: Sequence[Reading | None]) -> float:
        """Return the mean over the workers that count, 1 where there is none at all."""
        if not readings:
            return 1.0
        known = [
            fullness(each.waiting, each.kv_utilization, self.queue, self.kv)
            for each in readings
            if each is not None
        ]
        if self.staleness == "saturated":
            return (sum(known) + len(readings) - len(known)) / len(readings)
        return sum(known) / len(known) if known else 0.0
