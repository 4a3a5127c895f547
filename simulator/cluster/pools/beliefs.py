"""What a router believes of prefix caches: told by events, or taken from its own choices."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

from simulator.cluster.clock import Clock
from simulator.cluster.workers.prompts import Path, PromptBlocks
from simulator.deployment import Deployment
from simulator.errors import ConfigError
from simulator.policies.prefixes import Beliefs
from simulator.policies.routing import Beneath

if TYPE_CHECKING:
    from simulator.cluster.pools.router import Router


class Branch:
    """A run of blocks, ``begin`` to ``end`` of their prompts, and since when which workers have it.

    Who has a branch has those above it too, and where times count, since the same or a later one.
    """

    __slots__ = ("begin", "children", "end", "name", "parent", "workers")

    def __init__(self, parent: "Branch | None", name: int, begin: int, end: int) -> None:
        self.parent = parent
        self.name = name
        self.begin, self.end = begin, end
        self.children: dict[int, Branch] = {}
        self.workers: dict[int, float] = {}


class PrefixIndex:
    """A tree of all prompts that any worker has something of.

    A question costs the runs of the prompt, the places where others part from it, and the workers
    that have any of it.
    """

    __slots__ = ("_branches", "_root", "_swept")

    def __init__(self) -> None:
        self._root = Branch(None, -1, 0, 0)
        self._branches = 0
        self._swept = 64

    def add(self, path: Path, begin: int, worker: int, when: float) -> None:
        """Let a worker have a path's blocks from ``begin`` on."""
        at = self._root
        for stop, name in path:
            while at.end < stop:
                branch = at.children.get(name)
                if branch is None:
                    branch = self._grow(at, name, stop)
                elif branch.begin < begin < branch.end:
                    branch = self._split(branch, begin)
                elif branch.end > stop:
                    branch = self._split(branch, stop)
                if branch.end > begin:
                    branch.workers[worker] = when
                alone = at.name == name and len(at.children) == 1 and at.parent is not None
                if alone and at.workers == branch.workers:
                    self._join(at, branch)
                else:
                    at = branch

    def remove(self, path: Path, begin: int, worker: int) -> None:
        """Let a worker no longer have a path's blocks from ``begin`` on, which end what it had."""
        at = self._root
        for stop, name in path:
            while at.end < stop:
                branch = at.children.get(name)
                if branch is None:
                    return
                if branch.begin < begin < branch.end:
                    branch = self._split(branch, begin)
                if branch.end > begin:
                    branch.workers.pop(worker, None)
                at = branch
        self._prune(at)

    def overlaps(self, path: Path, since: float, places: Mapping[int, int]) -> dict[int, int]:
        """Return how many of a path's first blocks who has, by its place; who has none is left out.

        What workers have that was last heard of before ``since`` does not count.
        """
        way, end = self._way(path)
        found: dict[int, int] = {}
        if not way:
            return found
        seen = 0  # workers of the branch below: who has one has those above it
        for branch in reversed(way):
            have = branch.workers
            if len(have) == seen and since == -inf:
                continue  # the same ones
            seen, reach = len(have), min(end, branch.end)
            for worker, when in have.items():
                if when >= since and (place := places.get(worker)) is not None:
                    found.setdefault(place, reach)
            if len(found) == len(places):
                break
        return found

    def _way(self, path: Path) -> tuple[list[Branch], int]:
        """Return the branches that a path leads through, and where it leaves the last."""
        way: list[Branch] = []
        at = self._root
        for stop, name in path:
            while at.end < stop:
                branch = at.children.get(name)
                if branch is None:
                    return way, at.end
                way.append(branch)
                if branch.end > stop:
                    return way, stop
                at = branch
        return way, at.end

    def sweep(self, since: float, places: Mapping[int, int]) -> None:
        """Forget workers that are gone and what is too old, when the tree has doubled."""
        if self._branches <= self._swept:
            return
        stack, leaves = [self._root], []
        while stack:
            branch = stack.pop()
            stack += branch.children.values()
            have = branch.workers
            branch.workers = {w: t for w, t in have.items() if w in places and t >= since}
            if not branch.children:
                leaves.append(branch)
        for leaf in leaves:
            self._prune(leaf)
        self._swept = 2 * self._branches + 64

    def _grow(self, parent: Branch, name: int, end: int) -> Branch:
        branch = Branch(parent, name, parent.end, end)
        parent.children[name] = branch
        self._branches += 1
        return branch

    def _split(self, lower: Branch, at: int) -> Branch:
        """Divide a branch; return the part that ends with block ``at``."""
        parent = lower.parent
        assert parent is not None  # noqa: S101 - the root has no blocks to divide
        upper = Branch(parent, lower.name, lower.begin, at)
        upper.workers = dict(lower.workers)
        upper.children[lower.name] = lower
        parent.children[lower.name] = upper
        lower.parent, lower.begin = upper, at
        self._branches += 1
        return upper

    def _join(self, upper: Branch, lower: Branch) -> None:
        """Make one of a branch and the only one below it, which nothing tells apart any more."""
        upper.end, upper.children = lower.end, lower.children
        for child in upper.children.values():
            child.parent = upper
        lower.parent = None
        self._branches -= 1

    def _prune(self, branch: Branch) -> None:
        """Drop a branch that nobody has any more, and those above it that then lead nowhere."""
        while (parent := branch.parent) is not None and not (branch.workers or branch.children):
            del parent.children[branch.name]
            self._branches -= 1
            branch = parent


Memories = Callable[[int, Mapping[int, int]], Sequence[Beneath]]
"""Returns what memories have of a request's prompt, given the workers' indices by number."""


class Believed:
    """One router's beliefs about its pool; ``places`` are the indices of its workers by number.

    In ``expected`` it notes what prompts are believed to find where they were sent (tokens). A
    choice is one question: what is found holds until the next.
    """

    def __init__(
        self,
        spec: Beliefs,
        clock: Clock,
        blocks: PromptBlocks,
        block_size: int,
        expected: dict[int, int] | None,
    ) -> None:
        self._spec = spec
        self._clock = clock
        self._path_of = blocks.paths(block_size).of
        self.block_size = block_size
        self.places: Mapping[int, int] = {}
        self.freshen: Callable[[], None] | None = None  # makes caches tell what they have to
        self.memories: Memories | None = None  # what lies beneath the caches
        self._index = PrefixIndex()
        self._news: deque[tuple[float, int, Path, int, bool]] = deque()
        self._expected = expected
        self._asked: tuple[int, Mapping[int, int]] | None = None

    @property
    def by_events(self) -> bool:
        """Whether caches are to tell."""
        return self._spec.by == "events"

    def listener(self, worker: int) -> Callable[[Path, int, bool], None]:
        """Return what a worker's cache tells: a path, from which block on, and whether it came."""

        def hear(path: Path, begin: int, came: bool) -> None:
            self._news.append((self._clock.now, worker, path, begin, came))

        return hear

    def overlaps(self, request: int) -> Mapping[int, int]:
        """Return how many of a prompt's first tokens each worker is believed to have."""
        if self._asked is not None and self._asked[0] == request:
            return self._asked[1]
        now = self._clock.now
        if self.freshen is not None:
            self.freshen()
        self._catch_up(now - self._spec.delay_s)
        since = -inf if self._spec.ttl_s is None else now - self._spec.ttl_s
        found = self._index.overlaps(self._path_of(request), since, self.places)
        self._index.sweep(since, self.places)
        tokens = {worker: blocks * self.block_size for worker, blocks in found.items()}
        self._asked = request, tokens
        return tokens

    def beneath(self, request: int) -> Sequence[Beneath]:
        """Return what memories beneath the workers have of a prompt, who tell as caches do."""
        if self.memories is None or not self.by_events:
            return ()
        return self.memories(request, self.places)

    def _catch_up(self, until: float) -> None:
        """Take in the news that have arrived; their times, where what was told grows old."""
        news, index, ages = self._news, self._index, self._spec.ttl_s is not None
        while news and news[0][0] <= until:
            told, worker, path, begin, came = news.popleft()
            if came:
                when = told if ages else 0.0
                index.add(path, begin, worker, when)
            else:
                index.remove(path, begin, worker)

    def forget(self) -> None:
        """Take the last question as never asked: its answer will not do when it is asked anew."""
        self._asked = None

    def chosen(self, request: int, index: int, worker: int) -> None:
        """Hear where the router sent a prompt, and note what of it is believed to be there."""
        if self._expected is not None:
            found = self.overlaps(request).get(index, 0)
            if found:
                self._expected[request] = found
            else:
                self._expected.pop(request, None)
        self._asked = None
        if self._spec.by == "routed":
            when = self._clock.now if self._spec.ttl_s is not None else 0.0
            self._index.add(self._path_of(request), 0, worker, when)


def believe(
    blocks: PromptBlocks | None,
    deployment: Deployment,
    clock: Clock,
    routers: "tuple[Router, Router]",
    expected: dict[int, int],
) -> None:
    """Give the two routers beliefs, where prompts have ids and their policies ask for some.

    What a decode router has no use for itself it may have to know for ``local_prefill``.

    Raises:
        ConfigError: a pool's blocks are of two sizes, or events are late from workers that decode:
            these drop blocks while nobody looks.
    """
    local = deployment.local_prefill
    parts = ((("prefill", "mixed"), expected, None), (("decode",), None, local))
    for router, (roles, noted, other) in zip(routers, parts, strict=True):
        pools = [pool for pool in deployment.pools if pool.role in roles]
        spec, whose = router.beliefs, f"router {router.name}"
        if spec is None and other is not None:
            spec, whose = getattr(other, "beliefs", None), f"local_prefill {type(other).__name__}"
        if blocks is None or spec is None or not pools:
            continue
        sizes = sorted({pool.batching.block_size for pool in pools})
        if len(sizes) > 1:
            raise ConfigError(
                f"{whose}: needs prefill and mixed workers with one block_size but "
                f"got {', '.join(map(str, sizes))}"
            )
        decodes = any(pool.role != "prefill" for pool in pools)
        if decodes and spec.by == "events" and spec.delay_s:
            raise ConfigError(
                f"{whose}: beliefs.delay_s must be 0 over workers that decode but got "
                f"{spec.delay_s!r}"
            )
        router.believed = Believed(spec, clock, blocks, sizes[0], noted)
        if decodes and spec.by == "events":
            router.believed.freshen = router.take_stock
