"""A worker's prefix cache: what KV it still has of prompts, as a tree of runs of blocks.

A prompt's blocks have cumulative ids: one names a block's tokens and all before them, so the blocks
that a cache has of a prompt are its first ones. Everything here goes by runs of ids that follow
each other, never by single blocks: of a run there are the first so many, and the first so many of
these are somebody's.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from simulator.cluster.workers.prompts import Path, PromptBlocks, common, first

_NOBODY = -1
"""Stands for a request where blocks are kept that none has."""


class Run:
    """Blocks of one name that follow each other, ``begin`` to ``end`` of their prompts.

    Those up to ``held`` are somebody's: ``users`` counts the requests, and the runs ``below`` with
    blocks of somebody, by the block up to which they need it. Of the others, those from ``start``
    up to where the part before begins were let go of at ``stamp``: ``idle`` are these parts, the
    last first, which are the oldest.
    """

    __slots__ = ("above", "begin", "below", "end", "held", "idle", "name", "users")

    def __init__(self, above: "Run | None", begin: int, name: int) -> None:
        self.above = above
        self.begin = self.held = self.end = begin
        self.name = name
        self.below: dict[tuple[int, int], Run] = {}  # by begin and name
        self.users: dict[int, int] = {}
        self.idle: list[tuple[int, int]] = []  # start and stamp


class Found(NamedTuple):
    """The first ``blocks`` of a prompt's ``path``, which end in ``run``; ``idle`` are nobody's."""

    path: Path
    run: Run
    blocks: int
    idle: int


class Held:
    """A request that is held: of its ``path`` the first ``blocks``, which end in ``run``."""

    __slots__ = ("blocks", "path", "run")

    def __init__(self, path: Path, run: Run, blocks: int) -> None:
        self.path, self.run, self.blocks = path, run, blocks


class PrefixCache:
    """Blocks of requests that are held, each counted once, and ``idle`` ones of nobody any more.

    Idle blocks go in the order in which they were let go of, those at the end of a prompt before
    those they follow. A request costs the runs of its prompt, and O(log n) for what is let go of
    and goes. Whoever listens is told (``tell``) of blocks that come and go: the path that ends with
    them, the first of them, and whether they came. ``stored`` hears of the path that ends with
    blocks just computed, ``evicts`` of one that ends with blocks that are about to make room.
    """

    __slots__ = (
        "_crowded",
        "_followers",
        "_heap",
        "_held",
        "_path_of",
        "_root",
        "_size",
        "evicted",
        "evicts",
        "idle",
        "stamp",
        "stored",
        "tell",
    )  # fmt: skip

    def __init__(self, blocks: PromptBlocks, block_size: int) -> None:
        self._path_of = blocks.paths(block_size).of
        self._followers = None if blocks.follower is None else blocks.follower.data
        self._size = block_size
        self.tell: Callable[[Path, int, bool], None] | None = None
        self.stored: Callable[[Path], None] | None = None
        self.evicts: Callable[[Path], None] | None = None
        self.evicted = 0
        self.stamp = 0  # when blocks were last let go of, as a count
        self.clear()

    def clear(self) -> None:
        """Lose everything."""
        self._root = Run(None, 0, -1)
        self._heap: list[tuple[int, int, Run]] = []  # idle parts: stamp, -begin; some are no more
        self._crowded = 64  # parts, above which those that are no more are taken out
        self._held: dict[int, Held] = {}
        self.idle = 0

    # --- looking -------------------------------------------------------------------------------

    def find(self, request: int, tokens: int) -> Found:
        """Return what is there of a prompt of which the last of ``tokens`` is to be computed."""
        return self.match(self._path_of(request), (tokens - 1) // self._size)

    def match(self, path: Path, most: int) -> Found:
        """Return what is there of the first ``most`` blocks of a path."""
        run, at, idle = self._root, 0, 0
        for stop, name in path:
            below = run.below.get((at, name)) if at < most else None
            if below is None:
                break
            run, upto = below, stop if stop < most else most
            at = upto if upto < run.end else run.end
            if run.held < at:
                idle += at - run.held
            if at < stop:
                break
        return Found(path, run, at, idle)

    def shared(self, request: int) -> int:
        """Return how many blocks of what a request has are known by name."""
        held = self._held.get(request)
        return held.blocks if held else 0

    # --- holding -------------------------------------------------------------------------------

    def hold(self, request: int, found: Found) -> None:
        """Let a request have what was found of its prompt."""
        if not found.path:
            return
        self._held[request] = Held(found.path, found.run, found.blocks)
        self._pin(found.run, found.blocks)

    def computed(self, request: int, tokens: int) -> int:
        """Hear that a held request's first ``tokens`` tokens are (being) computed.

        Returns:
            How many of its blocks others that are held have too: it gives its own back.
        """
        held, most = self._held.get(request), tokens // self._size
        if held is None or most <= held.blocks:
            return 0
        run, had, start, both, new = held.run, held.blocks, 0, 0, -1
        for stop, name in held.path:
            upto = stop if stop < most else most
            if upto > had:
                if start >= had:
                    run = run.below.get((start, name)) or self._grow(run, start, name)
                if run.held > had:
                    both += min(run.held, upto) - max(had, start)
                if run.end < upto:
                    new = run.end if new < 0 else new
                    self.idle += upto - run.end  # until it is pinned
                    run.end = upto
            start = upto
            if upto == most:
                break
        if start > had:
            self._pin(run, start)
            self._unpin(held.run, had)  # of which it has one still: what is held beyond
            held.run, held.blocks = run, start
        if new >= 0:
            self._came(first(held.path, start), new)
        return both

    @staticmethod
    def _grow(above: Run, begin: int, name: int) -> Run:
        run = above.below[begin, name] = Run(above, begin, name)
        return run

    def _came(self, path: Path, begin: int) -> None:
        """Tell of the blocks from ``begin`` on that end a path."""
        if self.tell is not None:
            self.tell(path, begin, True)
        if self.stored is not None:
            self.stored(path)

    def keep(self, path: Path) -> int:
        """Have blocks that nobody holds, all of a path, as those let go of last; count the new."""
        before = self.idle
        self.hold(_NOBODY, Found(path, self._root, 0, 0))
        self.computed(_NOBODY, path[-1][0] * self._size)
        self.release(_NOBODY)
        return self.idle - before

    def _pin(self, run: Run, upto: int) -> None:
        """Have one user more of what leads to a run's block, all of which is held from now on."""
        while (above := run.above) is not None:
            run.users[upto] = run.users.get(upto, 0) + 1
            before = run.held
            if upto <= before:
                return
            self.idle -= upto - before
            run.held = upto
            if run.idle:
                self._take_up(run, upto)
            if before > run.begin:
                return  # what is above knows of it
            run, upto = above, run.begin

    @staticmethod
    def _take_up(run: Run, upto: int) -> None:
        """Have none of a run's blocks up to one be idle."""
        idle = run.idle
        while idle and idle[-1][0] < upto:
            _, stamp = idle.pop()
            end = idle[-1][0] if idle else run.end
            if end > upto:
                idle.append((upto, stamp))
                return

    def goes_on(self, request: int, tokens: int) -> int:
        """Hear that a request's answer is whole: ``tokens`` of its prompt and answer are there.

        Where another prompt begins with them, they go by that one's names from now on; not where
        the prompt fills no block, or others have, or go on from, what would change its name.

        Returns:
            How many of its blocks others that are held have too: it gives its own back.
        """
        held, followers = self._held.get(request), self._followers
        if held is None or followers is None or followers[request] < 0:
            return 0
        path = self._path_of(followers[request])
        shared = min(common(held.path, path), held.blocks)
        if not self._own_from(held, shared):
            return 0
        if held.blocks > shared and self.tell is not None:
            self.tell(first(held.path, held.blocks), shared, False)
        self._cut(held, shared)
        held.path = path
        return self.computed(request, tokens)

    @staticmethod
    def _own_from(held: Held, begin: int) -> bool:
        """Tell whether a request has its blocks from one on alone, and none go on from them."""
        run, upto, onward = held.run, held.blocks, 0
        while upto > begin and run.above is not None:
            others = sum(count for at, count in run.users.items() if at > begin) - 1
            goes_on = sum(below.begin > begin for below in run.below.values()) - onward
            if others or goes_on or run.end > upto:
                return False
            run, upto, onward = run.above, run.begin, 1
        return True

    @staticmethod
    def _cut(held: Held, end: int) -> None:
        """Take a request's blocks from ``end`` on out of the tree, which it has alone."""
        run, upto = held.run, held.blocks
        while run.above is not None and run.begin >= end and upto > end:
            del run.above.below[run.begin, run.name]
            run, upto = run.above, run.begin
        if upto > end:
            del run.users[upto]
            run.users[end] = run.users.get(end, 0) + 1
            run.held = run.end = end
        held.run, held.blocks = run, end

    # --- letting go ----------------------------------------------------------------------------

    def release(self, request: int) -> int:
        """Let go of what a request has; return the blocks of it that others still have."""
        held = self._held.pop(request, None)
        if held is None:
            return 0
        self.stamp += 1
        return self._unpin(held.run, held.blocks)

    def _unpin(self, run: Run, upto: int) -> int:
        """Have one user fewer of what leads to a run's block; return up to where others have it."""
        while (above := run.above) is not None:
            users = run.users
            users[upto] -= 1
            if users[upto]:
                return upto
            del users[upto]
            if upto < run.held:
                return upto
            run.held = max(users) if users else run.begin
            self._let_go(run, upto)
            if users:
                return run.held
            run, upto = above, run.begin
        return 0

    def _let_go(self, run: Run, upto: int) -> None:
        """Let a run's blocks from where it is held up to one go when it is their turn."""
        self.idle += upto - run.held
        run.idle.append((run.held, self.stamp))
        heappush(self._heap, (self.stamp, -run.begin, run))
        if len(self._heap) > self._crowded:
            self._heap = [entry for entry in self._heap if self._is_idle(entry)]
            heapify(self._heap)
            self._crowded = 2 * len(self._heap) + 64

    @staticmethod
    def _is_idle(entry: tuple[int, int, Run]) -> bool:
        """Tell whether there is still anything of a part that was let go of."""
        stamp, _, run = entry
        return any(each == stamp for _, each in run.idle)

    def _oldest(self) -> Run:
        """Return the run whose last blocks were let go of first."""
        heap = self._heap
        while True:
            stamp, _, run = heap[0]
            if run.idle and run.idle[0][1] == stamp:
                return run
            heappop(heap)

    def fit(self, room: int) -> None:
        """Drop idle blocks until at most ``room`` are left."""
        told: dict[Run, int] = {}
        while (surplus := self.idle - room) > 0:
            run = self._oldest()
            start, end = run.idle[0][0], run.end
            begin = start if end - start < surplus else end - surplus
            if self.tell is not None:
                self.tell(self._way_to(run), begin, False)
            if self.evicts is not None and told.get(run, 0) < run.end:
                self.evicts(self._way_to(run))
                self._tell_above(run, told)
            self._drop(run, begin)

    @staticmethod
    def _tell_above(run: Run, told: dict[Run, int]) -> None:
        """Note what lies on the way to a run's end: who heard of this has heard of that."""
        above, upto = run, run.end
        while above.above is not None and told.get(above, 0) < upto:
            told[above] = upto
            above, upto = above.above, above.begin

    def expire(self, stamp: int) -> None:
        """Drop all that was let go of at ``stamp`` or before."""
        while self.idle and (run := self._oldest()).idle[0][1] <= stamp:
            self._drop(run, run.idle[0][0])

    def _way_to(self, run: Run) -> Path:
        """Return the path of the blocks up to the end of a run."""
        path = [(run.end, run.name)]
        while (above := run.above) is not None and above.above is not None:
            path.append((run.begin, above.name))
            run = above
        return tuple(reversed(path))

    def _drop(self, run: Run, begin: int) -> None:
        """Drop a run's last blocks from ``begin`` on, which are those let go of first."""
        self.idle -= run.end - begin
        self.evicted += run.end - begin
        run.end = begin
        if run.idle[0][0] == begin:
            del run.idle[0]
        if begin == run.begin and run.above is not None:
            del run.above.below[run.begin, run.name]
