"""Whether a request is let in.

Asked once for each request, when the router has chosen a worker for it and before it joins its
queue. Sources: Mooncake (FAST '25, algorithm 1 and section 7.4); llm-d-router's probabilistic
admitter at ebab6879; Dynamo 1.6.1's RouterQueueDepthTiers.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from simulator.policies.classes import ServiceClass
from simulator.record import TURNED_AWAY

ADMITTED = ""
QUEUE_FULL, EARLY, SHED = TURNED_AWAY


class Arrival(NamedTuple):
    """The request at the door: lengths in tokens, its class, and a draw.

    ``uncached_tokens`` of its prompt have to be computed, as far as that is known. ``draw`` is
    uniform in [0, 1) from a stream of its own, the same for every policy.
    """

    request: int
    input_tokens: int
    output_tokens: int
    uncached_tokens: int
    service: ServiceClass
    draw: float


class Entrance(Protocol):
    """What a policy may see, read only and as of now unless it says otherwise."""

    @property
    def workers(self) -> int:
        """The ready workers that an arrival may go to."""
        ...

    @property
    def waiting(self) -> int:
        """The prompts before this one at the worker chosen for it, none of them begun.

        Those in its queue, and its share of those at the router.
        """
        ...

    @property
    def tokens(self) -> int:
        """The prompt tokens not computed yet, on all those workers and at the router."""
        ...

    def saturation(self, queue: float, kv: float, refresh_s: float) -> float:
        """Return the mean over all ready workers of :func:`fullness`.

        Gauges are read anew when the last reading is ``refresh_s`` old.
        """
        ...

    def ttft_s(self) -> float:
        """Return the seconds from arrival to this prompt's end where that is soonest.

        That is what has passed, the prompt tokens ahead at the pace of full steps, a worker's share
        of those at the router among them, the prompt alone, and the hand-over's fixed delay; no
        transfer, no decodes beside it.
        """
        ...

    def tpot_s(self) -> float:
        """Return a step's seconds on the decode worker with the least KV, with this request."""
        ...

    def tpot_ahead_s(self, decode_s: float) -> float:
        """Return that of an average decode worker when this prompt's end is due.

        Whoever was let in is there from the end then foreseen of its prompt on for ``decode_s``.
        """
        ...


class Admission(Protocol):
    """A pure decision."""

    def decide(self, arrival: Arrival, entrance: Entrance) -> str:
        """Return nothing (``""``) to let the request in, or why not, one of :data:`TURNED_AWAY`."""
        ...


def fullness(waiting: float, kv_utilization: float, queue: float, kv: float) -> float:
    """Return how full a worker is: its queue over ``queue`` or its KV's share over ``kv``."""
    return max(waiting / queue, kv_utilization / kv)


@dataclass(frozen=True, slots=True)
class AdmitAll:
    """Everybody is let in."""

    def decide(self, arrival: Arrival, entrance: Entrance) -> str:  # noqa: ARG002
        """Return that the request is let in."""
        return ADMITTED


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCap:
    """Nobody joins a queue of ``waiting`` prompts: the worker chosen answers that it is busy.

    A worker's share of those that wait at the router is part of its queue.
    """

    waiting: int = 32

    def __post_init__(self) -> None:
        _least("queue_cap", "waiting", self.waiting, 1)

    def decide(self, arrival: Arrival, entrance: Entrance) -> str:  # noqa: ARG002
        """Return ``queue_full`` where so many prompts wait."""
        return QUEUE_FULL if entrance.waiting >= self.waiting else ADMITTED


class Tier(NamedTuple):
    """Prompts of ``uncached_tokens`` and more: the tokens that may be pending for each worker."""

    uncached_tokens: int
    pending_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTiers:
    """Dynamo's queue-depth tiers: the more of a prompt is uncached, the sooner it is refused.

    It is let in as long as the prompt tokens pending, over all workers, do not exceed its tier's
    for each of them. Its tier is the last that begins at or below its uncached tokens; a shorter
    prompt has none and is let in.
    """

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        if not self.tiers:
            raise ValueError("token_tiers: tiers must hold at least one but got none")
        for tier in self.tiers:
            _least("token_tiers", "uncached_tokens", tier.uncached_tokens, 0)
            _least("token_tiers", "pending_tokens", tier.pending_tokens, 0)
        starts = [tier.uncached_tokens for tier in self.tiers]
        if any(later <= earlier for earlier, later in pairwise(starts)):
            raise ValueError(f"token_tiers: uncached_tokens of tiers must rise but got {starts}")

    def decide(self, arrival: Arrival, entrance: Entrance) -> str:
        """Return ``queue_full`` where more is pending than the request's tier allows."""
        mine = [tier for tier in self.tiers if tier.uncached_tokens <= arrival.uncached_tokens]
        if mine and entrance.tokens > mine[-1].pending_tokens * entrance.workers:
            return QUEUE_FULL
        return ADMITTED


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyRejection:
    """Mooncake's: who could not be served in time is not begun.

    A request is refused when its least TTFT exceeds its target, or the decode worker's step with
    it the TPOT target; a target that is not set is not asked for. By what decode workers hold
    now, or with ``predicts`` by what they will hold when the prompt is due, each answer taking
    ``decode_s``: without that, requests that are still in prefill are not seen, too many are let
    in, then too few, and the load swings.
    """

    predicts: bool = False
    decode_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.decode_s < math.inf:
            raise ValueError(f"early_rejection: decode_s must be above 0 s, not {self.decode_s!r}")

    def needs(self, service: ServiceClass) -> str:
        """Return what a class lacks to be judged, or nothing."""
        return "" if service.ttft_s or service.tpot_s else "ttft_s or tpot_s"

    def decide(self, arrival: Arrival, entrance: Entrance) -> str:
        """Return ``early_rejection`` where a target would be missed."""
        service = arrival.service
        if service.ttft_s is not None and entrance.ttft_s() > service.ttft_s:
            return EARLY
        if service.tpot_s is None:
            return ADMITTED
        ahead = entrance.tpot_ahead_s(self.decode_s) if self.predicts else entrance.tpot_s()
        return EARLY if ahead > service.tpot_s else ADMITTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Shed:
    """llm-d's probabilistic shedding: p = min(factor · saturation^power, 1) of those that may be.

    Those are requests of a priority below 0; others are never shed. Saturation is the mean over
    workers of max(waiting / ``queue``, KV / ``kv``), read every ``refresh_s``.
    """

    factor: float = 300.0
    power: float = 5.0
    queue: float = 5.0
    kv: float = 0.8
    refresh_s: float = 0.05

    def __post_init__(self) -> None:
        for name in ("factor", "power", "queue", "kv"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"shed: {name} must be above 0 but got {getattr(self, name)!r}")
        if not 0 <= self.refresh_s < math.inf:
            raise ValueError(f"shed: refresh_s must be at least 0 s but got {self.refresh_s!r}")

    def probability(self, saturation: float) -> float:
        """Return the share of sheddable requests to turn away."""
        if saturation >= 1 and self.factor >= 1:  # its power may be beyond all numbers
            return 1.0
        return min(self.factor * math.pow(saturation, self.power), 1.0)

    def decide(self, arrival: Arrival, entrance: Entrance) -> str:
        """Return ``shed`` where the draw falls on it."""
        if arrival.service.priority >= 0:
            return ADMITTED
        saturation = entrance.saturation(self.queue, self.kv, self.refresh_s)
        return SHED if arrival.draw < self.probability(saturation) else ADMITTED


def _least(owner: str, name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{owner}: {name} must be at least {least} but got {value!r}")
