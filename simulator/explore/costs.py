"""Seconds and KV room of a platform's workers: one machine, one memory plan per layout and step."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from simulator.explore.space import Floats, Platform
from simulator.latency.base import WorkerSpec
from simulator.latency.engine import memory_rule
from simulator.latency.passes import Load
from simulator.latency.speculative import Speculative
from simulator.latency.step import Step as Pass
from simulator.layout import Layout, Memory, MemoryBudget, find_memory
from simulator.memory import MemoryRule

BLOCK = 4096
"""Points costed at a time: their columns stay in the cache."""


@dataclass(slots=True, eq=False)
class Costs:
    """What a platform's workers cost; remembers what it has planned."""

    platform: Platform
    _passes: dict[tuple[Layout, int], Pass] = field(default_factory=dict)
    _plans: dict[tuple[Layout, str, int, int], Memory | None] = field(default_factory=dict)
    _rule: MemoryRule = field(init=False)

    def __post_init__(self) -> None:
        self._rule = memory_rule(self.platform.latency)

    def seconds(
        self, layout: Layout, memory: Memory, load: Load, drafts: int | None = None
    ) -> Floats:
        """Return seconds of steps of per-rank loads: numbers and flat columns of one length.

        A decode step drafts ``drafts`` tokens per sequence (``None``: as the platform says); its
        seconds are those per token a sequence gains. Prompts take the same whatever is drafted.
        """
        step = self._bound(layout, memory, self.platform.drafts if drafts is None else drafts)
        size = max(np.size(each) for each in load)
        seconds = np.empty(size)
        for start in range(0, size, BLOCK):
            part = slice(start, start + BLOCK)
            cut = (each[part] if isinstance(each, np.ndarray) else each for each in load)
            seconds[part] = step.seconds(Load(*cut))
        return seconds

    def plan(self, layout: Layout, role: str, tokens: int, seqs: int) -> Memory | None:
        """Return the memory of a worker with such steps per attention rank; ``None`` if too small.

        Raises:
            LayoutError: the layout does not divide the model.
        """
        key = layout, role, tokens, seqs
        if key not in self._plans:
            self._plans[key] = self._planned(layout, role, tokens, seqs)
        return self._plans[key]

    def _planned(self, layout: Layout, role: str, tokens: int, seqs: int) -> Memory | None:
        platform = self.platform
        budget = MemoryBudget(
            block_size=platform.block_size,
            memory_utilization=platform.memory_utilization,
            max_num_batched_tokens=tokens,
            max_num_seqs=seqs,
            role=role,
            rule=self._rule,
        )
        return find_memory(platform.model, layout, platform.precision, platform.gpu, budget)

    def _bound(self, layout: Layout, memory: Memory, drafts: int) -> Pass:
        """Return the pass of a layout's workers; they share the first one's machine."""
        known, key = self._passes, (layout, drafts)
        if key not in known:
            worker, platform = self.worker(layout, memory), self.platform
            own = drafts == platform.drafts
            latency = platform.latency if own else platform.drafting(drafts).latency
            if not known:
                known[key] = latency.step(worker)
            else:
                first = next(iter(known.values()))
                known[key] = replace(
                    first,
                    spec=latency.pass_spec(worker),
                    speculative=latency.speculative or Speculative(),
                )
        return known[key]

    def worker(self, layout: Layout, memory: Memory) -> WorkerSpec:
        """Return what a latency model needs to know of a worker."""
        platform = self.platform
        return WorkerSpec(
            model=platform.model,
            layout=layout,
            precision=platform.precision,
            gpu=platform.gpu,
            fabric=platform.fabric,
            memory=memory,
            role="mixed",
        )

    def blocks(self, tokens: float) -> int:
        """Return the KV blocks ``tokens`` tokens fill."""
        return -int(-tokens // self.platform.block_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """KV blocks of one attention rank as steps grow with the batch: from ``first`` to ``last``.

    What a step reserves is affine in the batch and the fullest stage decides, so room is concave:
    the line between two plans never promises a block that is not there.
    """

    memory: Memory
    last: int
    at_first: int
    at_last: int

    @classmethod
    def find(
        cls, costs: Costs, layout: Layout, step: "Step", need: float, most: int
    ) -> "Room | None":
        """Return the room for batches of 1 to ``most``, each of ``need`` blocks, as far as any fit.

        ``last`` is a batch whose plan exists; whether its KV fits too is :meth:`fits`'s to say.
        """
        memory = costs.plan(layout, step.role, *step.at(1))
        if memory is None:
            return None
        first = memory.kv_blocks // layout.attention_dp
        last = max(1, min(most, int(first // need)))
        while (plan := costs.plan(layout, step.role, *step.at(last))) is None:
            last = max(1, last // 2)
        return cls(
            memory=memory,
            last=last,
            at_first=first,
            at_last=plan.kv_blocks // layout.attention_dp,
        )

    def fits(self, batch: Floats, need: Floats) -> NDArray[np.bool_]:
        """Return where ``need`` blocks in all fit beside steps of this batch."""
        share = (batch - 1) / max(self.last - 1, 1)
        room = np.floor(self.at_first + (self.at_last - self.at_first) * share)
        fits: NDArray[np.bool_] = (batch <= self.last) & (need <= room)
        return fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The largest step of a worker per attention rank: ``fixed`` tokens and ``each`` per batch."""

    role: str
    fixed: int = 0
    each: int = 0
    seqs: int = 1

    def at(self, batch: int) -> tuple[int, int]:
        """Return the tokens and sequences of a step of this batch."""
        return max(1, self.fixed + self.each * batch), self.seqs * batch
