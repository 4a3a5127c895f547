"""What a router believes of prefix caches: told by events, or taken from its own choices."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from simulator.cluster.clock import Clock
from simulator.cluster.workers.prompts import Path, PromptBlocks
from simulator.deployment import Deployment
from simulator.errors import ConfigError
from simulator.policies.prefixes import Beliefs
from simulator.policies.routing import Beneath

if TYPE_CHECKING:
    from simulator.cluster.pools.router import Router


H = TypeVar("H")


class Run(Generic[H]):
    """Blocks of one name that follow each other, from ``begin`` on, in the prompts that have them.

    What workers ``have`` of them is said by worker; who has any has all of the runs ``above``.
    """

    __slots__ = ("above", "begin", "below", "have", "name")

    def __init__(self, above: "Run[H] | None", begin: int, name: int) -> None:
        self.above = above
        self.begin, self.name = begin, name
        self.below: dict[tuple[int, int], Run[H]] = {}  # by begin and name
        self.have: dict[int, H] = {}


class Runs(Generic[H]):
    """A tree of the runs of all prompts that any worker has something of.

    A question costs the runs of the prompt and, for each, the workers that have any of it.
    """

    __slots__ = ("_root", "_runs", "_swept")

    def __init__(self) -> None:
        self._root: Run[H] = Run(None, 0, -1)
        self._runs = 0
        self._swept = 64

    def __len__(self) -> int:
        """Return how many runs there are."""
        return self._runs

    def _grow(self, above: Run[H], begin: int, name: int) -> Run[H]:
        run: Run[H] = Run(above, begin, name)
        above.below[begin, name] = run
        self._runs += 1
        return run

    def _prune(self, run: Run[H]) -> None:
        """Drop a run that nobody has any more, and those above it that then lead nowhere."""
        while (above := run.above) is not None and not (run.have or run.below):
            del above.below[run.begin, run.name]
            self._runs -= 1
            run = above

    def _sweep(self, keep: Callable[[dict[int, H]], dict[int, H]]) -> None:
        """Have every run's workers be those to ``keep``, when the tree has doubled."""
        if self._runs <= self._swept:
            return
        stack, ends = [self._root], []
        while stack:
            run = stack.pop()
            stack += run.below.values()
            run.have = keep(run.have)
            if not run.below:
                ends.append(run)
        for run in ends:
            self._prune(run)
        self._swept = 2 * self._runs + 64


class PrefixIndex(Runs[int]):
    """Up to which block each worker has the runs of prompts."""

    __slots__ = ()

    def add(self, path: Path, begin: int, worker: int) -> None:
        """Let a worker have a path's blocks from ``begin`` on."""
        run, start = self._root, 0
        for stop, name in path:
            run = run.below.get((start, name)) or self._grow(run, start, name)
            if stop > begin and run.have.get(worker, 0) < stop:
                run.have[worker] = stop
            start = stop

    def remove(self, path: Path, begin: int, worker: int) -> None:
        """Let a worker no longer have a path's blocks from ``begin`` on, which end what it had."""
        run, start = self._root, 0
        for stop, name in path:
            below = run.below.get((start, name))
            if below is None:
                break
            run = below
            if begin <= start:
                run.have.pop(worker, None)
            elif begin < stop and run.have.get(worker, 0) > begin:
                run.have[worker] = begin
            start = stop
        if not run.have:
            self._prune(run)

    def overlaps(self, path: Path, places: Mapping[int, int]) -> dict[int, int]:
        """Return how many of a path's first blocks who has, by its place; who has none is left out.

        The last run of which a worker has something tells, as it has all of those above.
        """
        found: dict[int, int] = {}
        run, start = self._root, 0
        for stop, name in path:
            below = run.below.get((start, name))
            if below is None:
                break
            run = below
            for worker, upto in run.have.items():
                place = places.get(worker)
                if place is not None:
                    found[place] = upto if upto < stop else stop
            start = stop
        return found

    def sweep(self, places: Mapping[int, int]) -> None:
        """Forget workers that are gone, now and then."""
        self._sweep(
            lambda have: {worker: upto for worker, upto in have.items() if worker in places}
        )


class FadingIndex(Runs[list[tuple[int, float]]]):
    """When each worker was last sent the runs of prompts: up to a block, at a time.

    The latest comes first; one that reaches no further than a later one is left out.
    """

    __slots__ = ()

    def add(self, path: Path, worker: int, when: float) -> None:
        """Let a worker have a path's blocks, from ``when`` on."""
        run, start = self._root, 0
        for stop, name in path:
            run = run.below.get((start, name)) or self._grow(run, start, name)
            further = [each for each in run.have.get(worker, ()) if each[0] > stop]
            run.have[worker] = [(stop, when), *further]
            start = stop

    def overlaps(self, path: Path, since: float, places: Mapping[int, int]) -> dict[int, int]:
        """Return how many of a path's first blocks who was sent ``since`` then, by its place."""
        found: dict[int, int] = {}
        run, start = self._root, 0
        for stop, name in path:
            below = run.below.get((start, name))
            if below is None:
                break
            run = below
            for worker, times in run.have.items():
                place = places.get(worker)
                upto = max((end for end, when in times if when >= since), default=0)
                if upto and place is not None:
                    found[place] = min(upto, stop)
            start = stop
        return found

    def sweep(self, since: float, places: Mapping[int, int]) -> None:
        """Forget workers that are gone, and what was before ``since``, now and then."""

        def keep(
            have: dict[int, list[tuple[int, float]]],
        ) -> dict[int, list[tuple[int, float]]]:
            recent = {
                worker: [each for each in times if each[1] >= since]
                for worker, times in have.items()
                if worker in places
            }
            return {worker: times for worker, times in recent.items() if times}

        self._sweep(keep)


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
        self._routed = FadingIndex()  # in its place where what was routed grows old
        self._news: deque[tuple[float, int, Path, int, bool]] = deque()
        self._expected = expected
        self._asked: tuple[int, Mapping[int, int]] | None = None

    @property
    def by_events(self) -> bool:
        """Whether caches are to tell."""
        return self._spec.by == "events"

    def listener(self, worker: int) -> Callable[[Path, int, bool], None]:
        """Return what a worker's cache tells: a path, from which block on, and whether it came."""

        def hear_late(path: Path, begin: int, came: bool) -> None:
            self._news.append((self._clock.now, worker, path, begin, came))

        def hear(path: Path, begin: int, came: bool) -> None:
            (index.add if came else index.remove)(path, begin, worker)

        index = self._index
        return hear_late if self._spec.delay_s else hear

    def overlaps(self, request: int) -> Mapping[int, int]:
        """Return how many of a prompt's first tokens each worker is believed to have."""
        if self._asked is not None and self._asked[0] == request:
            return self._asked[1]
        if self.freshen is not None:
            self.freshen()
        if self._news:
            self._catch_up(self._clock.now - self._spec.delay_s)
        found = self._found(self._path_of(request))
        tokens = {worker: blocks * self.block_size for worker, blocks in found.items()}
        self._asked = request, tokens
        return tokens

    def beneath(self, request: int) -> Sequence[Beneath]:
        """Return what memories beneath the workers have of a prompt, who tell as caches do."""
        if self.memories is None or not self.by_events:
            return ()
        return self.memories(request, self.places)

    def _catch_up(self, until: float) -> None:
        """Take in the news that have arrived."""
        news = self._news
        while news and news[0][0] <= until:
            _, worker, path, begin, came = news.popleft()
            (self._index.add if came else self._index.remove)(path, begin, worker)

    def _found(self, path: Path) -> dict[int, int]:
        """Return how many of a path's first blocks who is believed to have, by its place."""
        if self._spec.ttl_s is None:
            found = self._index.overlaps(path, self.places)
            self._index.sweep(self.places)
            return found
        since = self._clock.now - self._spec.ttl_s
        found = self._routed.overlaps(path, since, self.places)
        self._routed.sweep(since, self.places)
        return found

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
        if self._spec.by == "routed" and self._spec.ttl_s is not None:
            self._routed.add(self._path_of(request), worker, self._clock.now)
        elif self._spec.by == "routed":
            self._index.add(self._path_of(request), 0, worker)


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
