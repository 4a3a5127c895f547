"""The slow, obvious prefix cache: block by block, each known by the ids that lead to it.

It shares nothing with the engine's but the question: every look counts everything anew.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from simulator.cluster.workers.prompts import PromptBlocks

Block = tuple[int, int]
"""A block's place in its prompt and the id of its last token."""


@cache
def named(blocks: PromptBlocks, request: int, size: int) -> list[Block]:
    """Return a prompt's whole blocks of ``size`` tokens, one by one."""
    ids: list[int] = []
    for run in range(int(blocks.starts[request]), int(blocks.starts[request + 1])):
        first = int(blocks.first[run])
        ids += range(first, first + int(blocks.count[run]))
    of_token = [each for each in ids for _ in range(blocks.block_size)]
    known = of_token[: int(blocks.tokens[request])]
    return [(at, known[(at + 1) * size - 1]) for at in range(len(known) // size)]


@dataclass(frozen=True)
class Seen:
    """A prompt's first blocks that are there, of which ``idle`` nobody has."""

    leading: list[Block]
    idle: int

    @property
    def blocks(self) -> int:
        """How many they are."""
        return len(self.leading)


@dataclass
class PlainCache:
    """Stands for :class:`simulator.cluster.workers.cache.PrefixCache`."""

    prompts: PromptBlocks
    size: int
    evicted: int = 0
    has: dict[int, list[Block]] = field(default_factory=dict)
    """What each request has that is held."""
    left: dict[Block, tuple[int, int]] = field(default_factory=dict)
    """Blocks of nobody: when they were let go of, and how far from their prompt's start."""
    clock: int = 0
    tell: Any = None
    stored: Any = None
    heard: Any = None
    maker: dict[Block, int] = field(default_factory=dict)
    """Whose prompt each block came with."""

    def news(self, block: Block, request: int, first: int, *, came: bool) -> None:
        """Tell of the blocks from ``first`` to ``block`` of a prompt, in the engine's words."""
        if self.tell is not None:
            self.tell(self.path(block, request), first, came)

    def path(self, block: Block, request: int) -> Any:
        """Return a prompt's path up to a block, in the engine's words."""
        names = self.prompts.path(request, self.size)
        upto = [(min(end, block[0] + 1), name) for end, name in names]
        path = [each for at, each in enumerate(upto) if not at or upto[at - 1][0] < each[0]]
        return tuple(path)

    @property
    def idle(self) -> int:
        """Blocks of nobody."""
        return len(self.left)

    @property
    def owned(self) -> set[Block]:
        """Blocks of somebody."""
        return {block for blocks in self.has.values() for block in blocks}

    def clear(self) -> None:
        """Lose everything."""
        self.has, self.left = {}, {}

    def find(self, request: int, tokens: int) -> Seen:
        """Look for a prompt's first blocks, but never for the last token."""
        leading: list[Block] = []
        owned = self.owned
        for block in named(self.prompts, request, self.size):
            if len(leading) == (tokens - 1) // self.size or block not in owned | set(self.left):
                break
            leading.append(block)
        return Seen(leading, sum(block not in owned for block in leading))

    def hold(self, request: int, found: Seen) -> None:
        """Take what was found."""
        self.has[request] = list(found.leading)
        for block in found.leading:
            self.left.pop(block, None)

    def shared(self, request: int) -> int:
        """Count what a request has."""
        return len(self.has.get(request, []))

    def goes_on(self, request: int, tokens: int) -> int:
        """Name what a request has as the prompt does that begins with it, if nobody minds."""
        if self.prompts.follower is None or request not in self.has:
            return 0
        if not named(self.prompts, request, self.size):
            return 0  # a prompt that fills no block has no name
        follower = int(self.prompts.follower[request])
        if follower < 0:
            return 0
        mine, theirs = self.has[request], named(self.prompts, follower, self.size)
        same = 0
        while same < min(len(mine), len(theirs)) and mine[same] == theirs[same]:
            same += 1
        if mine[same:] and self.minded(request, mine[same]):
            return 0
        if mine[same:]:
            self.news(mine[-1], self.maker[mine[-1]], same, came=False)
        del mine[same:]
        return self.computed(request, tokens, follower)

    def minded(self, request: int, block: Block) -> bool:
        """Tell whether others have a block of a request, or any that goes on from it."""
        others = [x for who, blocks in self.has.items() if who != request for x in blocks]
        rest = {*others, *self.left} - set(self.has[request])
        onward = (named(self.prompts, self.maker[each], self.size) for each in rest)
        return block in others or any(block in each for each in onward)

    def computed(self, request: int, tokens: int, names: int | None = None) -> int:
        """Take what is computed by now; count what others had."""
        if request not in self.has:
            return 0
        mine, owned = self.has[request], self.owned
        names = request if names is None else names
        new = named(self.prompts, names, self.size)[len(mine) : tokens // self.size]
        made = [block for block in new if block not in owned and block not in self.left]
        if made:
            self.maker |= dict.fromkeys(made, names)
            self.news(made[-1], names, made[0][0], came=True)
            if self.stored is not None:
                self.stored(self.path(made[-1], names))
            if self.heard is not None:
                self.heard(made[-1], names, evicted=False)
        for block in new:
            self.left.pop(block, None)
        mine += new
        return sum(block in owned for block in new)

    def release(self, request: int) -> int:
        """Leave everything to nobody; count what others still have."""
        blocks = self.has.pop(request, [])
        self.clock += 1
        owned = self.owned
        for block in blocks:
            if block not in owned:
                self.left[block] = (self.clock, -block[0])
        return sum(block in owned for block in blocks)

    def fit(self, room: int) -> None:
        """Drop the oldest, of these those furthest from the start."""
        told: set[Block] = set()
        while len(self.left) > room:
            block = min(self.left, key=lambda block: self.left[block])
            del self.left[block]
            self.news(block, self.maker[block], block[0], came=False)
            if self.heard is not None and block not in told:
                self.heard(block, self.maker[block], evicted=True)
                told |= set(named(self.prompts, self.maker[block], self.size)[: block[0]])
            self.evicted += 1
