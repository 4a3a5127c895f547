"""Requests whose prompts begin alike: trees of shared prefixes, and groups over documents."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads import checks
from workloads.errors import TraceError
from workloads.prefixes import MAX_GROUPS, Whole, owned, runs_column, zipf
from workloads.trace import Trace, Transform
from workloads.workload import SyntheticWorkload

HALVINGS = 40
"""Steps in which the shared part is found that gives a hit rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefixes(SyntheticWorkload):
    """A synthetic workload whose prompts go down a tree of shared text, then on by themselves.

    ``branches`` is how many ways lead on from each node, level by level: ``[1, 4, 25]`` is a root
    that all share, 4 below it and 25 below each. A request belongs to one of the leaves, the k-th
    most popular with a probability proportional to 1/k^``zipf``. The first ``share`` of its prompt,
    in whole blocks of ``block_size`` tokens, is its leaf's text, which the levels are equal parts
    of; or the share is the one with which a cache that forgets nothing finds ``hit_rate`` of all
    prompt tokens, first visits included.
    """

    branches: tuple[int, ...] = (1, 20)
    zipf: float = 0.0
    share: float | None = None
    hit_rate: float | None = None
    block_size: int = 16

    def __post_init__(self) -> None:
        SyntheticWorkload.__post_init__(self)
        owner = "shared prefixes"
        branches = self.branches
        if isinstance(branches, str) or not hasattr(branches, "__len__") or not len(branches):
            raise TraceError(f"{owner}: branches must be a list of numbers but got {branches!r}")
        object.__setattr__(self, "branches", tuple(branches))
        for each in self.branches:
            checks.whole(owner, "branches", each, 1)
        leaves = int(np.prod(np.array(self.branches, dtype=np.float64)))
        if leaves > MAX_GROUPS:
            raise TraceError(
                f"{owner}: branches make {leaves} leaves, expected at most {MAX_GROUPS}"
            )
        checks.at_least(owner, "zipf", self.zipf, 0)
        checks.whole(owner, "block_size", self.block_size, 1)
        if (self.share is None) == (self.hit_rate is None):
            raise TraceError(f"{owner}: give share or hit_rate, and not both")
        for name in ("share", "hit_rate"):
            value = getattr(self, name)
            if value is not None:
                checks.number(owner, name, value)
                if not 0 <= value < 1:
                    raise TraceError(f"{owner}: {name} must lie in [0, 1) but got {value!r}")

    def trace(self, rng_arrivals: np.random.Generator, rng_lengths: np.random.Generator) -> Trace:
        """Return the drawn requests; raise ``TraceError`` where the hit rate cannot be reached."""
        (leaf_rng,) = rng_lengths.spawn(1)
        plain = SyntheticWorkload.trace(self, rng_arrivals, rng_lengths)
        inputs = plain.column("input_tokens").astype(np.int64)
        tree = _Tree(self.branches, self._leaves(len(plain), leaf_rng), inputs, self.block_size)
        share = self.share if self.share is not None else tree.share_for(self.hit_rate or 0.0)
        counts = {"share": share, "hit_rate": tree.hit_rate(share), "leaves": tree.leaves}
        meta = plain.meta.after(Transform(name="shared_prefixes", counts=counts))
        meta = replace(meta, block_size=self.block_size, block_scope="global", tail_block="omitted")
        return Trace(plain.frame.with_columns(tree.runs(share)), meta)

    def _leaves(self, count: int, rng: np.random.Generator) -> Whole:
        """Return each request's leaf; the popular ones lie anywhere in the tree."""
        which, where = rng.spawn(2)
        leaves = int(np.prod(self.branches))
        return where.permutation(leaves)[zipf(leaves, self.zipf, count, which)]


class _Tree:
    """Which of a tree's text each request begins with, in blocks, for any shared part."""

    def __init__(self, branches: tuple[int, ...], leaf: Whole, inputs: Whole, block: int) -> None:
        self.leaves = int(np.prod(branches))
        below = self.leaves // np.cumprod(branches)  # leaves under a node of each level
        self._nodes = [leaf // each for each in below]
        self._orders = [np.argsort(nodes, kind="stable") for nodes in self._nodes]
        self._inputs, self._block = inputs, block

    def shared(self, share: float) -> Whole:
        """Return each prompt's shared blocks."""
        return np.floor(share * self._inputs / self._block).astype(np.int64)

    def _bounds(self, shared: Whole) -> list[int]:
        """Return the block at which each level begins; the last one has no end."""
        mean = float(shared.mean())
        levels = len(self._nodes)
        return [round(mean * level / levels) for level in range(levels)]

    def hit_rate(self, share: float) -> float:
        """Return what part of all prompt tokens a cache that forgets nothing finds."""
        shared = self.shared(share)
        bounds = [*self._bounds(shared), int(shared.max())]
        hits = np.zeros(shared.size, dtype=np.int64)
        for level, (nodes, order) in enumerate(zip(self._nodes, self._orders, strict=True)):
            seen = _most_before(shared, nodes, order)
            hits = np.maximum(hits, np.minimum(np.minimum(shared, seen), bounds[level + 1]))
        return float(hits.sum() * self._block / self._inputs.sum())

    def share_for(self, hit_rate: float) -> float:
        """Return the least shared part that gives a hit rate, by halving."""
        low, high = 0.0, 1.0
        most = self.hit_rate(high)
        if most < hit_rate:
            raise TraceError(
                f"shared prefixes: hit_rate {hit_rate!r} cannot be reached, as {self._inputs.size} "
                f"requests on {self.leaves} leaves find at most {most:.3f}: more requests, fewer "
                "branches or smaller blocks"
            )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.hit_rate(middle) >= hit_rate else (middle, high)
        return high

    def runs(self, share: float) -> pl.Series:
        """Return the prompts' blocks: of each level's node in turn, then the request's own."""
        shared = self.shared(share)
        bounds = [*self._bounds(shared), int(shared.max())]
        parts, free = [], 0
        for level, nodes in enumerate(self._nodes):
            part = np.clip(shared, bounds[level], bounds[level + 1]) - bounds[level]
            first, free = owned(part, nodes, free)
            parts.append((first, part))
        own = self._inputs // self._block - shared
        first, _ = owned(own, np.arange(own.size), free)
        return runs_column([*parts, (first, own)])


def _most_before(values: Whole, nodes: Whole, order: NDArray[np.intp]) -> Whole:
    """Return, per request, the greatest of ``values`` among earlier ones of its node (0: none).

    ``order`` sorts requests by node and then as they come.
    """
    step = int(values.max()) + 1
    sorted_nodes = nodes[order]
    lifted = values[order] + sorted_nodes * step  # a running maximum starts anew at each node
    running = np.maximum.accumulate(lifted) - sorted_nodes * step
    first = np.append(True, sorted_nodes[1:] != sorted_nodes[:-1])
    before = np.where(first, 0, np.append(0, running[:-1]))
    found = np.empty_like(values)
    found[order] = before
    return found
