"""Prompts as runs of KV-block ids: flat arrays while a file is read, a column at the end."""

from array import array
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads.errors import TraceError
from workloads.trace import RUN
from workloads.where import Where

MAX_IDS = 2**32
"""Block ids are 32-bit."""

Run = tuple[int, int]
"""``n`` ids from ``first``."""


class Prompts:
    """The block ids of requests, added one after the other, as runs."""

    def __init__(self) -> None:
        self._first, self._n, self._runs = array("Q"), array("Q"), array("q")

    def add(self, runs: Sequence[Run] | None) -> None:
        """Append one request's runs; ``None`` where nothing is known of its prompt."""
        self._runs.append(-1 if runs is None else len(runs))
        for first, n in runs or ():
            self._first.append(first)
            self._n.append(n)

    def add_ids(self, ids: NDArray[np.int64]) -> None:
        """Append one request's ids, of 0 to 2^32 - 1."""
        starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 2) != 1)
        self._runs.append(starts.size)
        self._first.extend(ids[starts].tolist())
        self._n.extend(np.diff(starts, append=ids.size).tolist())

    def column(self) -> pl.Series:
        """Return all of them as the canonical column."""
        counts = np.frombuffer(self._runs, dtype=np.int64) if self._runs else np.zeros(0, np.int64)
        owner = np.repeat(np.arange(counts.size), np.maximum(counts, 0))
        flat = [
            np.frombuffer(each, dtype=np.uint64) if each else np.zeros(0, np.uint64)
            for each in (self._first, self._n)
        ]
        return as_lists(owner, flat[0], flat[1], pl.Series(counts < 0))


def as_lists(
    owner: NDArray[Any], first: NDArray[Any], n: NDArray[Any], absent: pl.Series
) -> pl.Series:
    """Return runs, each of the row in ``owner``, as one list per row; null where ``absent``."""
    runs = pl.DataFrame(
        {
            "row": owner.astype(np.uint32),
            "first": first.astype(np.uint32),
            "n": n.astype(np.uint32),
        }
    )
    lists = runs.group_by("row", maintain_order=True).agg(pl.struct("first", "n").alias("runs"))
    rows = pl.DataFrame({"row": pl.int_range(absent.len(), dtype=pl.UInt32, eager=True)})
    joined = rows.join(lists, on="row", how="left", maintain_order="left")["runs"]
    empty = pl.Series([[]], dtype=pl.List(RUN))
    filled = pl.select(
        pl.when(pl.lit(joined).is_null() & ~pl.lit(absent)).then(pl.lit(empty)).otherwise(joined)
    )
    return filled.to_series().cast(pl.List(RUN)).alias("block_runs")


class Tree:
    """Numbers blocks by what stands before them, so that an id stands for a whole prefix.

    A block that has an id of its own content alone gets one for each prefix it is met behind.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    @property
    def size(self) -> int:
        """How many ids there are so far."""
        return len(self._known)

    def ids(self, blocks: Iterable[Hashable]) -> NDArray[np.int64]:
        """Return the cumulative ids of a prompt of these blocks."""
        known, at = self._known, -1
        found: list[int] = []
        for block in blocks:
            at = known.setdefault((at, block), len(known))
            found.append(at)
        return np.array(found, dtype=np.int64)

    def of_ids(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the same of blocks with ids of 0 to 2^32 - 1, for half the memory."""
        known, at = self._known, -1
        found: list[int] = []
        for block in ids.tolist():
            at = known.setdefault((at + 1) << 32 | block, len(known))
            found.append(at)
        return np.array(found, dtype=np.int64)


class Sessions:
    """Gives ids that mean something within one session only a place of their own among all."""

    def __init__(self) -> None:
        self._next = 0

    def shifted(self, ids: NDArray[np.int64], base: int) -> NDArray[np.int64]:
        """Return the ids of a session that began at ``base``, and remember how far it reaches."""
        moved = ids + base
        if moved.size:
            self._next = max(self._next, int(moved.max()) + 1)
        return moved

    @property
    def base(self) -> int:
        """Where the next session may begin."""
        return self._next

    def take(self, count: int) -> int:
        """Return the first of ``count`` ids that nobody has."""
        first, self._next = self._next, self._next + count
        return first


def whole_ids(ids: object, name: str, where: Where) -> NDArray[np.int64]:
    """Return a list of ids as they stand; raise ``TraceError`` for anything but whole numbers."""
    if not isinstance(ids, list):
        where.fail(0, name, ids, "a list of block ids")
    if ids and (set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) >= MAX_IDS):
        wrong = next(each for each in ids if type(each) is not int or not 0 <= each < MAX_IDS)
        where.fail(0, name, wrong, f"whole ids in 0..{MAX_IDS - 1}")
    return np.array(ids, dtype=np.int64)


def require_room(count: int, size: int, tokens: int, name: str, where: Where) -> None:
    """Raise ``TraceError`` where a prompt has more ids than its tokens fill blocks."""
    most = -(-tokens // size)
    if count > most:
        where.fail(0, f"number of {name}", count, f"at most {most}, one per {size} input tokens")


def require_ids(used: int, path: str) -> None:
    """Raise ``TraceError`` where a file's prompts need more than 2^32 ids."""
    if used > MAX_IDS:
        raise TraceError(f"{path}: the prompts need {used} block ids, expected at most {MAX_IDS}")


class Streams:
    """Ids for sessions whose text is known by its length alone: each turn goes on with the last.

    A turn's prompt begins with so many tokens of what its parent read and wrote; the rest is its
    own. Only whole blocks have ids (``tail_block`` is ``omitted``).
    """

    def __init__(self, size: int, ids: Sessions) -> None:
        self.size = size
        self._ids = ids
        self._said: dict[int, list[Run]] = {}

    def add(
        self, row: int, parent: int, shared: int, tokens: tuple[int, int], known: Sequence[Run] = ()
    ) -> list[Run]:
        """Return the prompt's runs of request ``row`` with (input, output) ``tokens``.

        ``shared`` tokens are of its ``parent`` (-1: none). ``known`` are the ids of a prompt's
        whole blocks where a file gives them.
        """
        prompt, all_of_it = tokens[0] // self.size, sum(tokens) // self.size
        said = _leading(self._said.get(parent, []), min(shared // self.size, prompt))
        said = said if parent >= 0 else _leading(known, prompt)
        own = all_of_it - sum(n for _, n in said)
        if own:
            first = self._ids.take(own)
            if said and sum(said[-1]) == first:
                said[-1] = (said[-1][0], said[-1][1] + own)
            else:
                said.append((first, own))
        self._said[row] = said
        return _leading(said, prompt)


def _leading(runs: Sequence[Run], count: int) -> list[Run]:
    """Return the first ``count`` ids of ``runs``."""
    found: list[Run] = []
    for first, n in runs:
        if count <= 0:
            break
        found.append((first, min(n, count)))
        count -= n
    return found
