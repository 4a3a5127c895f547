"""What Dynamo's load loop expects of each worker, now and were there one worker fewer.

Sources, of ai-dynamo 1.6.1: ``dynamo/planner/core/load_scaling.py`` and
``core/perf_model/ais_adapter.py``.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from simulator.policies.autoscaling import PoolSeen
from simulator.policies.engines import MOST_HITS, Engine, Targets

SAMPLES = 64
"""Looks at what is scheduled that the next prompt's length is the mean of."""


class Looks(NamedTuple):
    """Of one pool's workers at each look: tokens per scheduled prompt, and tokens at once.

    Each worker is looked at by itself, those that compute no prompt too. Nothing is kept from
    before the first prompt, but ``seen`` counts every worker looked at.
    """

    lengths: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    seen: int = 0

    def after(self, pool: PoolSeen) -> "Looks":
        """Return the looks with one more at each worker; 0 where nothing is scheduled."""
        if not pool.scheduled_tokens or not pool.scheduled_prompts:
            return self
        lengths, seen = list(self.lengths), list(self.tokens)
        for tokens, prompts in zip(pool.scheduled_tokens, pool.scheduled_prompts, strict=True):
            if prompts or lengths:
                lengths.append(tokens / prompts if prompts else 0.0)
                seen.append(tokens)
        count = self.seen + len(pool.scheduled_tokens)
        return Looks(tuple(lengths[-SAMPLES:]), tuple(seen[-SAMPLES:]), count)

    @property
    def length(self) -> float:
        """Mean tokens of a next prompt: what steps held of each, not what clients sent."""
        return sum(self.lengths) / len(self.lengths) if self.lengths else 0.0

    @property
    def riding(self) -> int:
        """Mean prompt tokens of a step, rounded up."""
        return math.ceil(sum(self.tokens) / len(self.tokens)) if self.tokens else 0


class Burden(NamedTuple):
    """One worker's: prompt tokens queued, sequences decoding, their KV, and KV waiting to."""

    queued: int
    running: int
    kv: int
    coming: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What estimates are judged by: targets, the part of them a reduction may fill, the floor.

    ``consolidated``: a reduction is judged by what the others would then have to do; else by what
    each has now.
    """

    targets: Targets
    sensitivity: float
    least: int
    consolidated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """Over the workers of one pool; distinct ones only, as all or none of them count."""

    role: str
    ready: int
    engine: Engine
    burdens: frozenset[Burden]
    looks: Looks
    computed: float
    terms: Terms

    @classmethod
    def of(
        cls, role: str, pool: PoolSeen, looks: Looks, hit_rate: float, terms: Terms
    ) -> "Estimates | None":
        """Return the estimates, ``None`` where a metric or the engine is not known.

        A share ``hit_rate`` of prompts, 0.95 at most, is taken to be in caches.
        """
        none = (0,) * pool.ready
        queued = none if role == "decode" else pool.queued_tokens
        running, kv, coming = (
            (none, none, none)
            if role == "prefill"
            else (pool.running, pool.kv_tokens, pool.queued_kv_tokens)
        )
        if pool.engine is None or queued is None or running is None or kv is None or coming is None:
            return None
        return cls(
            role=role,
            ready=pool.ready,
            engine=pool.engine,
            burdens=frozenset(map(Burden, queued, running, kv, coming)),
            looks=looks,
            computed=1 - min(max(hit_rate, 0.0), MOST_HITS),
            terms=terms,
        )

    def wanted(self, pending: int) -> int | None:
        """Return one worker more, one fewer, or ``None``; of ``pending`` ones some may be spared.

        A mixed pool grows where prompts or the batch ask for it, and shrinks where both let it.
        """
        if not self.burdens:
            return None
        if self.role == "prefill":
            return self._judged(self._prompts_late, self._prompts_absorbed, pending)
        gap = self._judged(self._batch_slow, self._batch_absorbed, pending)
        if self.role == "decode":
            return gap
        first = self._judged(self._prompts_late, self._prompts_absorbed, pending)
        if self.ready + 1 in (first, gap):
            return self.ready + 1
        return None if first is None else gap  # either lets one go, to the same count

    def _judged(self, late: bool, absorbed: bool, pending: int) -> int | None:
        if late:
            return self.ready + 1
        if absorbed and (self.ready > 1 or pending):
            return max(self.ready - 1, self.terms.least)
        return None

    @property
    def _scale(self) -> float:
        """How much more each of one worker fewer has to do."""
        return self.ready / (self.ready - 1) if self.ready > 1 else 1.0

    # --- prompts: the next one, behind the queue -----------------------------------------------

    @property
    def _prompts_late(self) -> bool:
        target = self.terms.targets.ttft_s
        return all(
            self._first_s(each, 1.0, each.kv, each.running) > target for each in self.burdens
        )

    @property
    def _prompts_absorbed(self) -> bool:
        return all(map(self._queue_fits, self.burdens))

    def _queue_fits(self, at: Burden) -> bool:
        """Tell whether the queue's part of the time, one worker fewer, leaves a margin."""
        if not self.terms.consolidated:
            now = self._first_s(at, 1.0, at.kv, at.running)
            return now < self.terms.targets.ttft_s * self.terms.sensitivity
        scale = self._scale
        kv = math.ceil((at.kv + at.coming) * scale)
        batch = math.ceil((at.running + self._sequences(at, at.coming)) * scale)
        own = self._first_s(at, 0.0, kv, batch)
        room = (self.terms.targets.ttft_s - own) * self.terms.sensitivity
        return room > 0 and self._first_s(at, scale, kv, batch) - own < room

    def _first_s(self, at: Burden, queue: float, kv: int, batch: int) -> float:
        """Return seconds until a next prompt is computed behind ``queue`` times the queue."""
        each = self.looks.length
        tokens = (at.queued * queue + each) * self.computed
        return self.engine.prompts_s(tokens, each, batch, kv)

    # --- the batch: with what waits to join it -------------------------------------------------

    @property
    def _batch_slow(self) -> bool:
        target = self.terms.targets.tpot_s
        return all(self._step_s(each, 1.0, 0) > target for each in self.burdens)

    @property
    def _batch_absorbed(self) -> bool:
        return all(map(self._batch_fits, self.burdens))

    def _batch_fits(self, at: Burden) -> bool:
        """Tell whether one worker fewer had KV for all, and a margin to the target."""
        target = self.terms.targets.tpot_s * self.terms.sensitivity
        if not self.terms.consolidated:
            return self._step_s(at, 1.0, 0) < target
        if int((at.kv + at.coming + at.queued) * self._scale) >= self.engine.kv_tokens:
            return False
        return self._step_s(at, self._scale, at.queued) < target  # decode workers queue no prompts

    def _step_s(self, at: Burden, scale: float, queued: int) -> float:
        """Return the seconds of an iteration with all that decodes and waits to, scaled."""
        more = at.coming + queued
        batch = math.ceil((at.running + self._sequences(at, more)) * scale)
        if not batch:
            return 0.0
        kv = max(1, math.ceil((at.kv + more) * scale))
        riding = self.looks.riding if self.role == "mixed" else 0
        if riding:
            return self.engine.mixed_s(riding, self.looks.length, batch, kv)
        return self.engine.step_s(batch, kv)

    def _sequences(self, at: Burden, kv: int) -> int:
        """Return how many sequences waiting KV is, each as long as those that decode."""
        each = at.kv / at.running if at.running and at.kv else max(1.0, self.looks.length)
        return math.ceil(kv / each)
