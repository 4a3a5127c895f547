"""The least of many loads, one of its ties by a draw, and their sum, looking at few of them."""

from collections.abc import Sequence

WIDTH = 16
"""Children of a node: a slice of so many is as quick to scan as a few."""


class Column(list[int]):
    """One load of every worker of a team; rankings over it hear which entries change."""

    __slots__ = ("watchers",)

    def __init__(self, loads: Sequence[int] = ()) -> None:
        super().__init__(loads)
        self.watchers: list[list[int]] = []

    def __setitem__(self, at: int, load: int) -> None:  # type: ignore[override]
        """Set one entry."""
        super().__setitem__(at, load)
        for stale in self.watchers:
            stale.append(at)


class Total:
    """The sum of a column, kept up with what changes in it."""

    __slots__ = ("_column", "_known", "_stale", "_sum")

    def __init__(self, column: Column) -> None:
        self._column = column
        self._known = list(column)
        self._sum = sum(column)
        self._stale: list[int] = []
        column.watchers.append(self._stale)

    def value(self) -> int:
        """Return the sum as it is now."""
        for at in self._stale:
            load = self._column[at]
            self._sum += load - self._known[at]
            self._known[at] = load
        self._stale.clear()
        return self._sum


class Ranking:
    """Finds the workers with the least of some columns, compared in order, in O(log n).

    A tree of nodes with :data:`WIDTH` children each keeps the least key below a node and how many
    have it. Entries that changed are looked at when somebody asks, and what they change above them
    is mended: a node is looked through only when none is left that had its least key. Rebuild the
    tree when a worker comes or goes.
    """

    __slots__ = ("_columns", "_counts", "_least", "_stale")

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._stale: list[int] = []
        for column in columns:
            column.watchers.append(self._stale)
        self._least: list[list[int]] = [[self._key(at) for at in range(len(columns[0]))]]
        self._counts: list[list[int]] = [[1] * len(columns[0])]
        while len(self._least[-1]) > 1:
            below = range(0, len(self._least[-1]), WIDTH)
            level = len(self._least) - 1
            nodes = [self._node(level, at // WIDTH) for at in below]
            self._least.append([least for least, _ in nodes])
            self._counts.append([count for _, count in nodes])

    def _key(self, at: int) -> int:
        """Return a worker's loads as one number that orders as they do."""
        key = 0
        for column in self._columns:
            key = (key << 40) + column[at]
        return key

    def _node(self, level: int, at: int) -> tuple[int, int]:
        """Return the least key of a node over ``level``, and how many workers have it."""
        first = at * WIDTH
        keys = self._least[level][first : first + WIDTH]
        least = min(keys)
        if level == 0:
            return least, keys.count(least)
        counts = self._counts[level][first : first + WIDTH]
        return least, sum(n for key, n in zip(keys, counts, strict=True) if key == least)

    def _refresh(self) -> None:
        """Look at the entries that changed, and mend what stands above them."""
        keys = self._least[0]
        for at in set(self._stale):
            key, before = self._key(at), keys[at]
            if key != before:
                keys[at] = key
                self._mend(at, (before, 1), (key, 1))
        self._stale.clear()

    def _mend(self, at: int, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Let the nodes above an entry know that its least key and their number were others."""
        for level in range(1, len(self._least)):
            at //= WIDTH
            leasts, counts = self._least[level], self._counts[level]
            least, count = node = leasts[at], counts[at]
            (old, gone), (new, come) = before, after
            if new < least:
                least, count = new, come
            else:
                count += (come if new == least else 0) - (gone if old == least else 0)
                if not count:
                    least, count = self._node(level - 1, at)
            before, after = node, (least, count)
            if before == after:
                return
            leasts[at], counts[at] = after

    def choose(self, draw: float) -> int:
        """Return the worker with the least key; of several, by index, the one ``draw`` falls on."""
        if self._stale:
            self._refresh()
        least, skip = self._least[-1][0], int(draw * self._counts[-1][0])
        at = 0
        for level in range(len(self._least) - 2, -1, -1):
            keys, counts = self._least[level], self._counts[level]
            at = keys.index(least, at * WIDTH)
            while skip >= counts[at]:
                skip -= counts[at]
                at = keys.index(least, at + 1)
        return at
