"""What a policy may know of a pool's workers: their step times and limits, and what these carry.

The searches for capacity are those of Dynamo's planner, ai-dynamo 1.6.1,
``dynamo/planner/core/perf_model/engine_query.py``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from simulator.latency.base import StepModel

MOST_CANDIDATES = 128
"""Batch sizes looked at; more are thinned out evenly."""
MOST_HITS = 0.95
"""A cache is never taken to save more of a prompt than this."""


class Capacity(NamedTuple):
    """Requests/s that one worker sustains at a batch of ``batch``, and its latencies in seconds.

    ``within`` tells whether these keep their targets. What a role does not have is 0.
    """

    rate: float
    within: bool
    batch: int
    ttft_s: float = 0.0
    tpot_s: float = 0.0


class Targets(NamedTuple):
    """Latencies in seconds that capacity is looked for within."""

    ttft_s: float
    tpot_s: float


def check_targets(owner: str, why: str, ttft_s: float | None, tpot_s: float | None) -> None:
    """Refuse a policy's latency targets where one is missing or no time.

    Raises:
        ValueError: which says ``why`` the ``owner`` needs them.
    """
    for name, value in (("ttft_s", ttft_s), ("tpot_s", tpot_s)):
        if value is None or not 0 < value < math.inf:
            raise ValueError(f"{owner}: {name} must be above 0 s, as {why}, but got {value!r}")


class Shape(NamedTuple):
    """A request: mean tokens of its prompt and its answer, and the share of prompts in caches."""

    input_tokens: float
    output_tokens: float
    hit_rate: float = 0.0

    @property
    def computed(self) -> int:
        """Prompt tokens left to compute, at least one."""
        hit = min(max(self.hit_rate, 0.0), MOST_HITS)
        return max(1, math.ceil(self.input_tokens * (1 - hit)))

    @property
    def context(self) -> int:
        """KV tokens of a sequence half way through its answer."""
        return max(1, int(self.input_tokens) + int(self.output_tokens) // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One worker's step times and limits: tokens and sequences of a step, KV and context tokens."""

    steps: StepModel
    gpus: int
    max_num_batched_tokens: int
    max_num_seqs: int
    kv_tokens: int
    max_context: int

    def step_s(self, batch: int, context: int) -> float:
        """Return the seconds of a decode iteration of ``batch`` sequences of ``context`` in all."""
        return self.steps.step_seconds(0, 0, 0, 0, batch, context)

    def prompts_s(self, tokens: float, each: float, batch: int = 0, context: int = 0) -> float:
        """Return the seconds to compute ``tokens`` of prompts, ``each`` on average, in full steps.

        ``batch`` sequences of ``context`` KV tokens in all decode beside them. Prompts' tokens are
        taken to attend as on average over their prompt.
        """
        budget = self.max_num_batched_tokens
        full, tail = divmod(math.ceil(tokens), budget)
        seconds = full * self.mixed_s(budget, each, batch, context) if full else 0.0
        return seconds + self.mixed_s(tail, each, batch, context) if tail else seconds

    def mixed_s(self, chunk: int, each: float, batch: int, context: int) -> float:
        """Return the seconds of one step of ``chunk`` such prompt tokens beside such a batch."""
        length = max(1, math.ceil(each))
        prompts = max(1, min(self.max_num_seqs, round(chunk / length)))
        past = max(0, (length - chunk) // 2)
        pairs = chunk * (length + 1) // 2
        return self.steps.step_seconds(chunk, pairs, past, prompts, batch, context)

    # --- what it sustains ----------------------------------------------------------------------

    def capacity(self, role: str, shape: Shape, targets: Targets) -> Capacity | None:
        """Return what a worker of a role sustains of requests of a shape, if that can be told."""
        if shape.input_tokens < 1:
            return None
        if role == "prefill":
            return self.prefill_capacity(shape, targets)
        if role == "decode":
            return self.decode_capacity(shape, targets)
        return self.mixed_capacity(shape, targets)

    def prefill_capacity(self, shape: Shape, targets: Targets) -> Capacity | None:
        """Return the highest rate of prompts whose batch is computed within the TTFT."""
        each, budget = shape.computed, self.max_num_batched_tokens
        most = max(1, min(self.max_num_seqs, budget // each))  # one longer than a step goes alone
        best = None
        for batch in candidates(most):
            seconds = self.prompts_s(batch * each, each)
            if seconds > 0:
                within = seconds <= targets.ttft_s
                best = _better(best, Capacity(batch / seconds, within, batch, seconds))
        return best

    def decode_capacity(self, shape: Shape, targets: Targets) -> Capacity | None:
        """Return the highest rate of answers whose batch's iteration keeps the TPOT."""
        if shape.output_tokens < 1:
            return None
        best = None
        for batch in candidates(self._most_sequences(shape)):
            seconds = self.step_s(batch, batch * shape.context)
            if seconds > 0:
                rate = batch / (shape.output_tokens * seconds)
                within = seconds <= targets.tpot_s
                best = _better(best, Capacity(rate, within, batch, 0.0, seconds))
        return best

    def mixed_capacity(self, shape: Shape, targets: Targets) -> Capacity | None:
        """Return the highest rate of whole requests, whose prompts ride on every iteration.

        An iteration carries the prompt tokens that keep its batch full; a new prompt waits behind
        as many.
        """
        if shape.output_tokens < 1 or self.max_num_batched_tokens <= 1:
            return None
        best = None
        most = min(self._most_sequences(shape), self.max_num_batched_tokens - 1)
        for batch in candidates(most):
            riding = math.ceil(batch * shape.computed / shape.output_tokens)
            if riding > self.max_num_batched_tokens - batch:
                continue
            context = batch * shape.context
            seconds = self.mixed_s(riding, shape.computed, batch, context)
            if seconds <= 0:
                continue
            first = self.prompts_s(riding + shape.computed, shape.computed, batch, context)
            within = first <= targets.ttft_s and seconds <= targets.tpot_s
            rate = batch / (shape.output_tokens * seconds)
            best = _better(best, Capacity(rate, within, batch, first, seconds))
        return best

    def _most_sequences(self, shape: Shape) -> int:
        return min(self.max_num_seqs, self.kv_tokens // shape.context)


def _better(best: Capacity | None, found: Capacity) -> Capacity:
    """Return the faster of two, one within its targets before one that is not."""
    if best is None or (found.within and not best.within):
        return found
    return found if found.within == best.within and found.rate > best.rate else best


def candidates(most: int) -> Iterator[int]:
    """Yield the batch sizes to look at: all up to ``most``, or so many of them evenly spaced."""
    if most <= MOST_CANDIDATES:
        yield from range(1, most + 1)
        return
    for at in range(MOST_CANDIDATES):
        yield 1 + at * (most - 1) // (MOST_CANDIDATES - 1)
