"""Prompts that begin alike: shared prefixes as runs of KV-block ids, and who has which.

A block's id stands for all tokens up to its end, so two prompts share a block id exactly where they
are alike up to there. Only whole blocks have ids (``tail_block`` ``omitted``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads import checks
from workloads.errors import TraceError
from workloads.lengths import OPEN_UNIT, Lengths
from workloads.trace import RUN

Whole = NDArray[np.int64]

MAX_IDS = 2**32
MAX_GROUPS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefixes:
    """What prompts begin with: ``root_tokens`` that all have, then a group's own.

    A session belongs to one of ``groups`` (tenants, agents' kinds), the k-th most popular with a
    probability proportional to 1/k^``zipf``; a group's system prompt has ``tokens`` (``None``: 0).
    """

    root_tokens: int = 0
    groups: int = 1
    zipf: float = 0.0
    tokens: Lengths | None = None

    def __post_init__(self) -> None:
        checks.whole("prefixes", "root_tokens", self.root_tokens, 0)
        checks.whole("prefixes", "groups", self.groups, 1)
        if self.groups > MAX_GROUPS:
            raise TraceError(
                f"prefixes: groups must be at most {MAX_GROUPS} but got {self.groups!r}"
            )
        checks.at_least("prefixes", "zipf", self.zipf, 0)

    def draw(self, sessions: int, rng: np.random.Generator) -> tuple[Whole, Whole]:
        """Return each session's group, and each group's tokens, root included."""
        who, size = rng.spawn(2)
        own = drawn("prefixes: tokens", self.tokens, self.groups, size)
        return zipf(self.groups, self.zipf, sessions, who), own + self.root_tokens


def drawn(name: str, lengths: Lengths | None, n: int, rng: np.random.Generator) -> Whole:
    """Return ``n`` lengths, which are anybody's to give, as whole numbers; 0 of ``None``."""
    if lengths is None:
        return np.zeros(n, dtype=np.int64)
    u = np.clip(rng.random(n), *OPEN_UNIT)
    owner = f"{name} {type(lengths).__name__}"
    found = checks.numbers(owner, "quantile", lengths.quantile(u), count=n, kinds="iu")
    return found.astype(np.int64)


def zipf(count: int, exponent: float, n: int, rng: np.random.Generator) -> Whole:
    """Return ``n`` numbers below ``count``, k as likely as 1/(k + 1)^``exponent``."""
    bounds = np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -exponent)
    found = np.searchsorted(bounds, rng.random(n) * bounds[-1], side="right")
    return np.asarray(np.minimum(found, count - 1), dtype=np.int64)


def owned(blocks: Whole, owner: Whole, start: int) -> tuple[Whole, int]:
    """Return the first id of each row's own blocks, and the first one that is free after them.

    Rows of one ``owner`` (0, 1, …) have ids in common, as many as the row with most ``blocks``.
    """
    most = np.zeros(int(owner.max()) + 1 if owner.size else 0, dtype=np.int64)
    np.maximum.at(most, owner, blocks)
    ends = start + np.cumsum(most)
    end = int(ends[-1]) if ends.size else start
    if end >= MAX_IDS:
        raise TraceError(
            f"prefixes: the prompts have {end} different KV blocks, expected fewer than 2^32: "
            "choose fewer requests or a larger block_size"
        )
    return (ends - most)[owner], end


def runs_column(parts: Sequence[tuple[Whole, Whole]]) -> pl.Series:
    """Return ``block_runs`` of rows that have ``parts`` in turn, (first id, count) each."""
    count = len(parts[0][0])
    rows = np.tile(np.arange(count), len(parts))
    first, n = (np.concatenate([part[at] for part in parts]) for at in range(2))
    some = n > 0
    order = np.argsort(rows[some], kind="stable")
    flat = pl.DataFrame(
        {
            "row": rows[some][order],
            "first": first[some][order].astype(np.uint32),
            "n": n[some][order].astype(np.uint32),
        }
    )
    lists = flat.group_by("row", maintain_order=True).agg(
        pl.struct("first", "n").alias("block_runs")
    )
    every = pl.DataFrame({"row": np.arange(count)})
    found = every.join(lists, on="row", how="left", maintain_order="left")["block_runs"]
    empty: Any = pl.lit([], dtype=pl.List(RUN))
    return found.to_frame().select(pl.col("block_runs").fill_null(empty))["block_runs"]
