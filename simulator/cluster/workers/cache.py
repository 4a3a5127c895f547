"""A worker's prefix cache: what KV it still has of prompts, as a tree of runs of blocks.

A prompt's blocks have cumulative ids: one names a block's tokens and all before them, so the blocks
that a cache has of a prompt are its first ones. Everything here goes by runs of ids that follow
each other, never by single blocks.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from simulator.cluster.workers.prompts import Path, PromptBlocks, common

_NOBODY = -1
"""Stands for a request where blocks are kept that none has."""


class Node:
    """A run of blocks, ``begin`` to ``end`` of their prompts, of one ``name``.

    ``users`` are the requests held that end with it, and those of its ``children`` that have any;
    without any it was last let go of at ``stamp``.
    """

    __slots__ = ("begin", "children", "end", "name", "parent", "stamp", "users")

    def __init__(self, parent: "Node | None", name: int, begin: int, end: int) -> None:
        self.parent = parent
        self.name = name
        self.begin, self.end = begin, end
        self.children: dict[int, Node] = {}
        self.users = 0
        self.stamp = 0


class Found(NamedTuple):
    """The first ``blocks`` of a prompt's ``path``, which end in ``node``; ``idle`` are nobody's."""

    path: Path
    node: Node
    blocks: int
    idle: int


class Held:
    """A request that is held: its prompt's ``path``, and ``node``, where what it has of it ends."""

    __slots__ = ("node", "path")

    def __init__(self, path: Path, node: Node) -> None:
        self.path, self.node = path, node


class PrefixCache:
    """Blocks of requests that are held, each counted once, and ``idle`` ones of nobody any more.

    Idle blocks go in the order in which they were let go of, those at the end of a prompt before
    those they follow. A request costs the runs of its prompt and the places where others' prompts
    part from it, and O(log n) for what is let go of and goes. Whoever listens is told (``tell``) of
    blocks that come and go: the path that ends with them, the first of them, and whether they came.
    ``stored`` hears of the path that ends with blocks just computed, ``evicts`` of one that ends
    with blocks that are about to make room.
    """

    __slots__ = (
        "_followers",
        "_heap",
        "_held",
        "_nodes",
        "_path_of",
        "_root",
        "_serial",
        "_size",
        "_stamp",
        "evicted",
        "evicts",
        "idle",
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
        self._stamp = self._serial = 0
        self.clear()

    def clear(self) -> None:
        """Lose everything."""
        self._root = Node(None, -1, 0, 0)
        self._heap: list[tuple[int, int, Node]] = []  # leaves; may hold stale entries
        self._held: dict[int, Held] = {}
        self._nodes = 0
        self.idle = 0

    # --- looking -------------------------------------------------------------------------------

    def find(self, request: int, tokens: int) -> Found:
        """Return what is there of a prompt of which the last of ``tokens`` is to be computed."""
        return self.match(self._path_of(request), (tokens - 1) // self._size)

    def match(self, path: Path, most: int) -> Found:
        """Return what is there of the first ``most`` blocks of a path."""
        node, at, idle = self._root, 0, 0
        for end, name in path:
            upto = end if end < most else most
            while at < upto:
                if at == node.end:
                    child = node.children.get(name)
                    if child is None:
                        return Found(path, node, at, idle)
                    node = child
                elif node.name != name:
                    return Found(path, node, at, idle)
                reach = upto if upto < node.end else node.end
                if not node.users:
                    idle += reach - at
                at = reach
        return Found(path, node, at, idle)

    def shared(self, request: int) -> int:
        """Return how many blocks of what a request has are known by name."""
        held = self._held.get(request)
        return held.node.end if held else 0

    # --- holding -------------------------------------------------------------------------------

    def hold(self, request: int, found: Found) -> None:
        """Let a request have what was found of its prompt."""
        if not found.path:
            return
        node = found.node
        if found.blocks < node.end:
            node = self._split(node, found.blocks)
        self._held[request] = Held(found.path, node)
        self._pin(node)

    def computed(self, request: int, tokens: int) -> int:
        """Hear that a held request's first ``tokens`` tokens are (being) computed.

        Returns:
            How many of its blocks others that are held have too: it gives its own back.
        """
        held = self._held.get(request)
        if held is None:
            return 0
        most, before, both = tokens // self._size, held.node, 0
        node, known = before, -1  # up to where others had it, once that is found
        for end, name in held.path:
            upto = end if end < most else most
            while node.end < upto:
                child = node.children.get(name)
                if child is None:
                    known = node.end if known < 0 else known
                    node = self._grow(node, name, upto, alone=node is before)
                    continue
                if child.end > upto:
                    child = self._split(child, upto)
                if child.users:
                    both += child.end - child.begin
                node = child
        if node is not before:
            held.node = node
            self._pin(node)
            before.users -= 1  # it keeps one: its child is held
        if known >= 0 and self.tell is not None:
            self.tell(self._way_to(node, node.end), known, True)
        if known >= 0 and self.stored is not None:
            self.stored(self._way_to(node, node.end))
        return both

    def keep(self, path: Path) -> int:
        """Have blocks that nobody holds, all of a path, as those let go of last; count the new."""
        before = self.idle
        self._held[_NOBODY] = Held(path, self._root)
        self._pin(self._root)
        self.computed(_NOBODY, path[-1][0] * self._size)
        self.release(_NOBODY)
        return self.idle - before

    @staticmethod
    def _alone(node: Node, name: int) -> bool:
        """Tell whether a node of this name has a single user, whose blocks end with it."""
        same = node.name == name and node.parent is not None
        return same and node.users == 1 and not node.children

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
        shared = min(common(held.path, path), held.node.end)
        if not self._own_from(held.node, shared):
            return 0
        if held.node.end > shared and self.tell is not None:
            self.tell(self._way_to(held.node, held.node.end), shared, False)
        held.node, held.path = self._cut(held.node, shared), path
        return self.computed(request, tokens)

    @staticmethod
    def _own_from(node: Node, begin: int) -> bool:
        """Tell whether a request that ends with a node has its blocks from ``begin`` on alone."""
        branches = 0
        while node.end > begin:
            if node.users != 1 or len(node.children) != branches or node.parent is None:
                return False
            node, branches = node.parent, 1
        return True

    def _cut(self, node: Node, end: int) -> Node:
        """Take the blocks from ``end`` on out of the tree, which one request has alone."""
        while node.begin >= end and node.parent is not None and node.end > end:
            parent = node.parent
            del parent.children[node.name]
            node.parent = None
            self._nodes -= 1
            node = parent
        if node.end > end:
            node.end = end
            node.children.clear()
        return node

    def _grow(self, node: Node, name: int, end: int, *, alone: bool) -> Node:
        """Add blocks up to ``end`` after a node; to itself if it is a request's ``alone``."""
        if alone and self._alone(node, name):
            node.end = end
            return node
        child = Node(node, name, node.end, end)
        node.children[name] = child
        self._nodes += 1
        self.idle += end - node.end
        return child

    def _pin(self, node: Node) -> None:
        """Count one user more, and with the first the blocks as held."""
        while node.parent is not None:
            node.users += 1
            if node.users > 1:
                return
            self.idle -= node.end - node.begin
            node = node.parent
        node.users += 1

    def _split(self, lower: Node, at: int) -> Node:
        """Divide a node; return the part that ends with block ``at``."""
        parent = lower.parent
        assert parent is not None  # noqa: S101 - the root has no blocks to divide
        upper = Node(parent, lower.name, lower.begin, at)
        upper.stamp, upper.users = lower.stamp, 1 if lower.users else 0
        upper.children[lower.name] = lower
        parent.children[lower.name] = upper
        lower.parent, lower.begin = upper, at
        self._nodes += 1
        return upper

    # --- letting go ----------------------------------------------------------------------------

    def release(self, request: int) -> int:
        """Let go of what a request has; return the blocks of it that others still have."""
        held = self._held.pop(request, None)
        if held is None:
            return 0
        self._stamp += 1
        node = held.node
        while node.parent is not None:
            node.users -= 1
            if node.users:
                return node.end
            node.stamp = self._stamp
            self.idle += node.end - node.begin
            if not node.children:
                self._rank(node)
            self._take_in_parents(node)
            node = node.parent
        node.users -= 1
        return 0

    def _take_in_parents(self, node: Node) -> None:
        """Make one of a node and those above it that were held for its sake and nobody else's."""
        while (parent := node.parent) is not None and (above := parent.parent) is not None:
            if parent.name != node.name or parent.users > 1 or len(parent.children) > 1:
                return
            self.idle += parent.end - parent.begin
            node.begin, node.parent = parent.begin, above
            above.children[node.name] = node
            parent.parent = None
            self._nodes -= 1

    def _rank(self, leaf: Node) -> None:
        """Let a leaf of nobody go when it is its turn."""
        self._serial += 1
        heappush(self._heap, (leaf.stamp, self._serial, leaf))
        if len(self._heap) > 4 * self._nodes + 64:
            self._heap = [entry for entry in self._heap if self._due(entry)]
            heapify(self._heap)

    @staticmethod
    def _due(entry: tuple[int, int, Node]) -> bool:
        stamp, _, node = entry
        gone = node.parent is None
        return not (gone or node.users or node.children) and node.stamp == stamp

    def fit(self, room: int) -> None:
        """Drop idle blocks until at most ``room`` are left."""
        told: set[Node] = set()
        while self.idle > room:
            entry = self._heap[0]
            if not self._due(entry):
                heappop(self._heap)
                continue
            leaf, surplus = entry[2], self.idle - room
            size = leaf.end - leaf.begin
            if self.tell is not None:
                first = max(leaf.begin, leaf.end - surplus)
                self.tell(self._way_to(leaf, leaf.end), first, False)
            if self.evicts is not None and leaf not in told:
                self.evicts(self._way_to(leaf, leaf.end))
                self._tell_above(leaf, told)
            if surplus < size:
                leaf.end -= surplus
                self._count(surplus)
                return
            heappop(self._heap)
            self._count(size)
            self._drop(leaf)

    @staticmethod
    def _tell_above(leaf: Node, told: set[Node]) -> None:
        """Note what lies on the way to a leaf: who heard of this one has heard of them."""
        node = leaf.parent
        while node is not None and node not in told:
            told.add(node)
            node = node.parent

    @property
    def stamp(self) -> int:
        """When blocks were last let go of, as a count."""
        return self._stamp

    def expire(self, stamp: int) -> None:
        """Drop all that was let go of at ``stamp`` or before."""
        while self._heap and self._heap[0][0] <= stamp:
            entry = heappop(self._heap)
            if self._due(entry):
                self._count(entry[2].end - entry[2].begin)
                self._drop(entry[2])

    def _way_to(self, node: Node, end: int) -> Path:
        """Return the path of the blocks up to ``end`` in a node."""
        path = [(end, node.name)]
        while (above := node.parent) is not None and above.parent is not None:
            if above.name != path[-1][1]:
                path.append((above.end, above.name))
            node = above
        return tuple(reversed(path))

    def _count(self, blocks: int) -> None:
        self.idle -= blocks
        self.evicted += blocks

    def _drop(self, leaf: Node) -> None:
        parent = leaf.parent
        assert parent is not None  # noqa: S101 - the root is no leaf
        del parent.children[leaf.name]
        leaf.parent = None
        self._nodes -= 1
        if parent.parent is not None and not (parent.children or parent.users):
            self._rank(parent)
