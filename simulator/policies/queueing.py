"""Which prompt of a worker's queue is computed next.

A policy gives each prompt a key when it joins a queue; the least goes first, of equal ones whoever
came first. What was preempted stands before all others, as engines do it. Source of the keys:
Dynamo 1.6.1's router queue (``lib/kv-router/src/scheduling/policy.rs``) for :class:`Wspt`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from simulator.policies.classes import ServiceClass

Key = tuple[float, ...]


class Queued(NamedTuple):
    """A prompt that joins a queue: when its request arrived, its tokens, its class.

    ``uncached_tokens`` have to be computed, as far as that is known.
    """

    request: int
    arrival_s: float
    input_tokens: int
    uncached_tokens: int
    service: ServiceClass


class QueueOrder(Protocol):
    """A pure choice of order."""

    def key(self, prompt: Queued) -> Key:
        """Return what the prompt is ordered by, the least first: numbers, compared in turn."""
        ...


@dataclass(frozen=True, slots=True)
class Fcfs:
    """First come, first served."""

    def key(self, prompt: Queued) -> Key:  # noqa: ARG002
        """Return nothing to order by: they stand as they come."""
        return ()


@dataclass(frozen=True, slots=True)
class Sjf:
    """The shortest job first: the fewest tokens to compute. Long prompts may wait for ever."""

    def key(self, prompt: Queued) -> Key:
        """Return the tokens to compute."""
        return (prompt.uncached_tokens,)


@dataclass(frozen=True, slots=True)
class Wspt:
    """Weighted shortest processing time, Smith's rule as Dynamo has it.

    A higher priority goes before everything; then the greatest (1 + jump) / max(1, tokens).
    """

    def key(self, prompt: Queued) -> Key:
        """Return the priority and the weight per token, turned round."""
        weight = (1 + prompt.service.jump) / max(1, prompt.uncached_tokens)
        return (-prompt.service.priority, -weight)


@dataclass(frozen=True, slots=True)
class Edf:
    """The earliest deadline first: arrival and the TTFT that the request's class was promised."""

    def needs(self, service: ServiceClass) -> str:
        """Return what a class lacks to have a deadline, or nothing."""
        return "" if service.ttft_s else "ttft_s"

    def key(self, prompt: Queued) -> Key:
        """Return the deadline."""
        ttft_s = prompt.service.ttft_s
        return (math.inf if ttft_s is None else prompt.arrival_s + ttft_s,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority:
    """The highest priority first, then who arrived first.

    With ``aging_s`` waiting that long makes up for one step of priority, so that nobody waits for
    ever (``None``: priorities are strict).
    """

    aging_s: float | None = None

    def __post_init__(self) -> None:
        if self.aging_s is not None and not 0 < self.aging_s < math.inf:
            raise ValueError(f"priority: aging_s must be above 0 s or null, not {self.aging_s!r}")

    def key(self, prompt: Queued) -> Key:
        """Return the priority less what has been waited, which orders as it did at any moment."""
        if self.aging_s is None:
            return (-prompt.service.priority, prompt.arrival_s)
        return (prompt.arrival_s / self.aging_s - prompt.service.priority,)
