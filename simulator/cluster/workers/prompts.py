"""What prompts have in common: the ids of their KV blocks, as a trace has them."""

from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.errors import ConfigError
from workloads.trace import Trace

Path = tuple[tuple[int, int], ...]
"""A prompt's whole KV blocks: each run's end (in blocks from the prompt's start) and its name.

Blocks at one place of two prompts are the same if and only if their runs have the same name.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptBlocks:
    """What the requests' prompts have in common: runs of ``count`` ids from ``first``, in order.

    Request r has those in ``starts[r]`` to ``starts[r + 1]``. An id stands for ``block_size``
    tokens of its prompt and all before them. ``tokens`` are the prompts' lengths; ids that lie
    beyond, of a prompt that was cut off, name nothing. ``follower`` is the request whose prompt
    begins with a request's prompt and answer, if there is one (else -1).

    Raises:
        ConfigError: the arrays do not belong together.
    """

    block_size: int
    starts: NDArray[np.int64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    tokens: NDArray[np.int32]
    follower: NDArray[np.int64] | None = None
    _paths: "dict[int, Paths]" = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.block_size >= 1:
            raise ConfigError(
                f"prompt blocks: block_size must be at least 1 token but got {self.block_size!r}"
            )
        starts, runs = self.starts, len(self.first)
        rises = len(starts) > 0 and starts[0] == 0 and starts[-1] == runs == len(self.count)
        if not rises or len(starts) != len(self.tokens) + 1 or (np.diff(starts) < 0).any():
            raise ConfigError(
                "prompt blocks: starts must rise from 0 to the number of runs, one per request and "
                "one more"
            )
        if self.follower is not None and len(self.follower) != len(self.tokens):
            raise ConfigError("prompt blocks: follower must be said of every request or of none")
        if runs and (self.count.min() < 1 or self.first.min() < 0):
            raise ConfigError("prompt blocks: a run needs a first id of at least 0, and an id")

    def paths(self, block_size: int) -> "Paths":
        """Return what tells prompts' paths in blocks of ``block_size`` tokens, one for all."""
        if block_size not in self._paths:
            self._paths[block_size] = Paths(self, block_size)
        return self._paths[block_size]

    def path(self, request: int, block_size: int) -> Path:
        """Return one prompt's path."""
        return self.paths(block_size).of(request)


KEPT = 4096
"""Paths that are remembered: a router asks for a prompt's, then the worker, then the next one."""


class Paths:
    """Prompts' whole blocks of ``block_size`` tokens.

    A block goes by the id of its last token, so sizes need not divide each other: one that lies
    across two ids is known only with the second of them.
    """

    __slots__ = ("_block_size", "_count", "_first", "_known", "_size", "_starts", "_tokens")

    def __init__(self, blocks: PromptBlocks, block_size: int) -> None:
        self._size, self._block_size = blocks.block_size, block_size
        self._known: dict[int, Path] = {}
        columns = blocks.starts, blocks.first, blocks.count, blocks.tokens
        # Read one by one a memoryview is quicker than an array.
        self._starts, self._first, self._count, self._tokens = (
            np.ascontiguousarray(column).data for column in columns
        )

    def of(self, request: int) -> Path:
        """Return a prompt's path."""
        known = self._known.get(request)
        if known is not None:
            return known
        if len(self._known) == KEPT:
            self._known.clear()
        path = self._known[request] = self._made(request)
        return path

    def _made(self, request: int) -> Path:
        at, ends, tokens, count = 0, 0, self._tokens[request], self._count
        path: list[tuple[int, int]] = []
        for run in range(self._starts[request], self._starts[request + 1]):
            name = self._first[run] - at
            at += count[run]
            end = min(at * self._size, tokens) // self._block_size
            if end == ends:
                continue
            if path and path[-1][1] == name:
                path.pop()
            path.append((end, name))
            ends = end
        return tuple(path)


def blocks_of(trace: Trace) -> PromptBlocks | None:
    """Return the block ids of a trace's prompts; ``None`` where it has none.

    Ids local to a session are told apart from other sessions'; a request without one is alone.

    Raises:
        ConfigError: the trace has ids, but nobody says of how many tokens each.
    """
    runs, meta = trace.frame["block_runs"], trace.meta
    if runs.null_count() == len(runs):
        return None
    if meta.block_size is None:
        raise ConfigError(
            f"trace {meta.name!r}: column block_runs has ids, but block_size, the tokens of each, "
            "is not said"
        )
    counts = runs.list.len().fill_null(0).to_numpy().astype(np.int64)
    fields = runs.drop_nulls().explode(empty_as_null=False).struct
    first = fields.field("first").to_numpy().astype(np.int64)
    if meta.block_scope == "session":
        first = first + np.repeat(_sessions(trace), counts)
    blocks = PromptBlocks(
        block_size=meta.block_size,
        starts=np.concatenate(([0], np.cumsum(counts))),
        first=first,
        count=fields.field("n").to_numpy().astype(np.int64),
        tokens=trace.column("input_tokens"),
    )
    parents = trace.frame["parent_id"]
    if parents.null_count() == len(parents):
        return blocks
    return replace(blocks, follower=_followers(blocks, parents, trace.column("output_tokens")))


def _followers(
    blocks: PromptBlocks, parents: pl.Series, answers: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return each request's first child whose prompt goes on from its prompt and answer.

    That is so where the child's prompt is as long as both at least, and has all ids of the
    parent's but for that of a last, partial block.
    """
    follower = np.full(len(parents), -1, np.int64)
    path_of = blocks.paths(blocks.block_size).of
    whole = blocks.tokens.astype(np.int64) + answers
    for child, parent in enumerate(parents.to_list()):
        if parent is None or follower[parent] >= 0 or blocks.tokens[child] < whole[parent]:
            continue
        if goes_on(path_of(parent), path_of(child)):
            follower[parent] = child
    return follower


def common(one: Path, other: Path) -> int:
    """Return how many blocks two prompts have in common from their start."""
    shared = 0
    for (end, name), (other_end, other_name) in zip(one, other, strict=False):
        if name != other_name:
            break
        shared = min(end, other_end)
        if end != other_end:
            break
    return shared


def first(path: Path, blocks: int) -> Path:
    """Return the path of a path's first ``blocks``, of which it has as many."""
    if path and path[-1][0] == blocks:
        return path
    kept: list[tuple[int, int]] = []
    for end, name in path:
        kept.append((min(end, blocks), name))
        if end >= blocks:
            break
    return tuple(kept)


def goes_on(path: Path, longer: Path) -> bool:
    """Tell whether a prompt's whole blocks are all another's first ones."""
    return not path or common(path, longer) == path[-1][0]


def _sessions(trace: Trace) -> NDArray[np.int64]:
    """Return what sets the ids of each request's session apart from all others."""
    sessions = trace.frame["session_id"].cast(pl.Int64)
    alone = pl.int_range(len(sessions), eager=True) + (1 << 30)
    numbers = pl.select(pl.when(sessions.is_null()).then(alone).otherwise(sessions)).to_series()
    shifted: NDArray[np.int64] = numbers.to_numpy() << 32
    return shifted
