"""Which worker serves in another role from now on, asked as requests come.

Source: xLLM-service, ``scheduler/managers/instance_mgr.cpp`` at c8033e00 (Arrow).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from simulator.policies.classes import ServiceClass


class Crowd(NamedTuple):
    """What is seen when a prompt has just been given to a prefill worker.

    So many ready workers of both pools; the mean seconds until a prefill worker has computed the
    prompts it has, this one included; the least seconds of a decode worker's step with this
    request.
    """

    prefill: int
    decode: int
    backlog_s: float
    tpot_s: float


class Flipping(Protocol):
    """A pure decision; a pool always keeps one ready worker, whatever it says."""

    @property
    def update_s(self) -> float:
        """Seconds between two looks at idle decode workers."""
        ...

    def to_decode(self, seen: Crowd, service: ServiceClass) -> bool:
        """Return whether the worker that was given the prompt is to decode from now on."""
        ...

    def to_prefill(self, requests: int) -> bool:
        """Return whether a decode worker with so many requests is to compute prompts."""
        ...


@dataclass(frozen=True, slots=True)
class NeverFlip:
    """Workers stay what they are, but for plans and rate matchers."""

    update_s: float = math.inf

    def to_decode(self, seen: Crowd, service: ServiceClass) -> bool:  # noqa: ARG002
        """Return false."""
        return False

    def to_prefill(self, requests: int) -> bool:  # noqa: ARG002
        """Return false."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrowFlips:
    """Arrow's two flips.

    Prefill to decode: no decode worker would hold the TPOT target with this request, and either the
    mean backlog is below TTFT · (P − 1) / P or there are fewer decode workers than prefill workers;
    the worker that flips is the one just given the prompt. Decode to prefill: whoever has no
    request left at an update. Arrow has no cool-down, and this neither.
    """

    update_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.update_s < math.inf:
            raise ValueError(
                f"arrow_flips: update_s must be at least 0 s but got {self.update_s!r}"
            )

    def needs(self, service: ServiceClass) -> str:
        """Return what a class lacks to be judged, or nothing."""
        lacks = (name for name in ("ttft_s", "tpot_s") if getattr(service, name) is None)
        return next(lacks, "")

    def to_decode(self, seen: Crowd, service: ServiceClass) -> bool:
        """Return whether decode lacks a worker that prefill can spare."""
        ttft_s, tpot_s = service.ttft_s or math.inf, service.tpot_s or math.inf
        if seen.prefill < 2 or seen.tpot_s <= tpot_s:
            return False
        spare = seen.backlog_s < ttft_s * (seen.prefill - 1) / seen.prefill
        return spare or seen.decode < seen.prefill

    def to_prefill(self, requests: int) -> bool:
        """Return whether it has nothing to do."""
        return requests == 0
