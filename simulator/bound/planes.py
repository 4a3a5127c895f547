"""What work takes at least: prices per token that no step of a worker undercuts.

A worker's step of ``tokens`` new prompt tokens that attend to ``pairs``, beside ``batch`` sequences
over ``context`` KV tokens, takes T seconds. Prices are numbers with

    prompt · tokens + pair · pairs + token · batch + kv · context ≤ T · (1 + slack · batch)

for every step there can be, so that the worker-seconds of any way to serve requests are at least
the prices of what is served. ``slack`` makes batches pay that are too large for a TPOT target: over
all steps of a request T sums up to its answer's seconds, which the target bounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.latency.base import StepModel, WorkerSpec

Floats = NDArray[np.float64]
SLACKS = (0.0, *(float(1 / batch) for batch in np.geomspace(1, 1024, 21)))
CHECKED = 2000
"""Steps drawn at random that prices are fitted to, beside a grid, and as many to check them on."""


class Amounts(NamedTuple):
    """What requests ask of workers: prompt tokens, attended pairs, tokens to decode, their KV."""

    tokens: float
    pairs: float
    decoded: float
    context: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Least worker-seconds of one unit of each of :class:`Amounts`, at a ``slack``."""

    each: Amounts
    slack: float

    def of(self, amounts: Floats) -> tuple[Floats, Floats]:
        """Return the least seconds of prompts and of answers; ``amounts`` are (n, 4)."""
        price = np.array(self.each)
        return amounts[:, :2] @ price[:2], amounts[:, 2:] @ price[2:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a pool's workers do: ``prompts``, ``answers`` or both, in steps of so many at most."""

    steps: StepModel
    spec: WorkerSpec
    max_tokens: int
    max_seqs: int
    prompts: bool
    answers: bool

    @property
    def pace(self) -> float:
        """Steps a worker may have in flight: prompts follow each other through stages."""
        return float(self.steps.stages) if self.prompts and not self.answers else 1.0

    def seconds(self, step: "Step") -> float:
        """Return a step's seconds of a worker."""
        given = (step.tokens, step.pairs, step.past, step.prompts, step.batch, step.context)
        return self.steps.step_seconds(*given) / self.pace

    def grid(self) -> Iterator["Step"]:
        """Yield steps of every kind: with few and many prompts, long and short, early and late."""
        chunks = list(self._chunks()) if self.prompts else [Step()]
        batches = list(self._batches(all_of_them=not self.prompts)) if self.answers else [Step()]
        for one, other in product(chunks, batches):
            if 0 < one.tokens + other.batch <= self.max_tokens:
                yield one.beside(other)

    def _chunks(self) -> Iterator["Step"]:
        longest = self.spec.model.max_context
        if self.answers:
            yield Step()
        for size in _spread(1, min(self.max_tokens, longest), 12):
            for prompts in _spread(1, max(1, min(self.max_seqs, self.max_tokens // size)), 3):
                for done in _spread(0, max(0, min(longest, 65_536) - size), 4):
                    yield Step.of(size, done, prompts)

    def _batches(self, *, all_of_them: bool) -> Iterator["Step"]:
        room = self.spec.memory.kv_blocks * self.spec.memory.block_size
        if self.prompts:
            yield Step()
        sizes = range(1, self.max_seqs + 1) if all_of_them else _spread(1, self.max_seqs, 16)
        for batch in sizes:
            ends = [piece.upto for piece in self.steps.decode_pieces(batch)]
            inner = _spread(batch, max(batch, room), 4)
            for context in sorted({*inner, *(int(e) for e in ends if batch <= e <= room)}):
                yield Step(batch=batch, context=context)

    def drawn(self, rng: np.random.Generator) -> Iterator["Step"]:
        """Yield steps drawn at random, of prompts that differ from one another."""
        room = self.spec.memory.kv_blocks * self.spec.memory.block_size
        for _ in range(CHECKED):
            step = Step()
            if self.answers:
                batch = int(rng.integers(0 if self.prompts else 1, self.max_seqs + 1))
                step = Step(batch=batch, context=int(rng.integers(batch, max(room, batch) + 1)))
            left = self.max_tokens - step.batch
            while self.prompts and left > 0 and step.prompts < self.max_seqs:
                size = int(np.exp(rng.uniform(0, np.log(left + 1))))
                done = int(np.exp(rng.uniform(0, np.log(1 + 32_768)))) - 1
                step = step.beside(Step.of(size, done, 1))
                left -= size
                if rng.random() < 0.3:
                    break
            if step.tokens or step.batch:
                yield step


@dataclass(frozen=True, slots=True)
class Step:
    """One step's contents, as :meth:`StepModel.step_seconds` takes them."""

    tokens: int = 0
    pairs: int = 0
    past: int = 0
    prompts: int = 0
    batch: int = 0
    context: int = 0

    @classmethod
    def of(cls, size: int, done: int, prompts: int) -> "Step":
        """Return a step of chunks of ``size`` tokens after ``done`` earlier ones."""
        pairs = size * done + size * (size + 1) // 2
        return cls(prompts * size, prompts * pairs, prompts * done, prompts)

    def beside(self, other: "Step") -> "Step":
        """Return both in one step."""
        return Step(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.past + other.past,
            self.prompts + other.prompts,
            self.batch + other.batch,
            self.context + other.context,
        )

    @property
    def amounts(self) -> Amounts:
        """What it does of what requests ask for."""
        return Amounts(self.tokens, self.pairs, self.batch, self.context)


def prices(work: Work, asked: Amounts, tpot_s: float | None) -> Prices:
    """Return the prices under which ``asked`` costs most, of a target for TPOT or of none."""
    steps = [*work.grid(), *work.drawn(np.random.default_rng(1))]
    rows = np.array([step.amounts for step in steps], dtype=np.float64)
    seconds = np.array([work.seconds(step) for step in steps])
    weights = np.array(asked)
    if not work.prompts:
        weights[:2] = 0.0
    if not work.answers:
        weights[2:] = 0.0
    slacks = SLACKS if tpot_s is not None and work.answers else (0.0,)
    best, most = Prices(each=Amounts(0, 0, 0, 0), slack=0.0), -np.inf
    for slack in slacks:
        found = _highest(rows, seconds * (1 + slack * rows[:, 2]), weights)
        worth = float(found @ weights) - slack * (tpot_s or 0.0) * weights[2]
        if worth > most:
            best, most = Prices(each=Amounts(*found.tolist()), slack=slack), worth
    return _undercut_by_none(work, best)


def _highest(rows: Floats, limits: Floats, weights: Floats) -> Floats:
    """Return the prices that no row exceeds its limit at and under which the weights cost most."""
    from scipy.optimize import linprog  # here: slow to import, and few runs need it

    scale = np.maximum(rows.max(axis=0), 1.0)
    used = weights > 0
    if not used.any():
        return np.zeros(len(weights))
    answer = linprog(
        -(weights / scale)[used], A_ub=(rows / scale)[:, used], b_ub=limits, method="highs"
    )
    found = np.zeros(len(weights))
    found[used] = answer.x / scale[used]
    return found


def _undercut_by_none(work: Work, found: Prices) -> Prices:
    """Return the prices lowered as far as steps drawn at random undercut them."""
    price, share = np.array(found.each), 1.0
    for step in work.drawn(np.random.default_rng(0)):
        charged = float(price @ np.array(step.amounts))
        if charged > 0:
            paid = work.seconds(step) * (1 + found.slack * step.batch)
            share = min(share, paid / charged)
    return Prices(each=Amounts(*(price * share).tolist()), slack=found.slack * share)


def _spread(low: int, high: int, count: int) -> list[int]:
    """Return whole numbers from one to the other, at about equal factors."""
    if high <= low:
        return [low]
    return sorted({round(each) - 1 + low for each in np.geomspace(1, high - low + 1, count)})
