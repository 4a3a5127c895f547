"""What workers write to and load from memories beneath their KV caches, and where these are."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from hardware.rack import Slot
from simulator.cache_tiers import Tier
from simulator.cluster.clock import LOADED, LOADS, Clock
from simulator.cluster.links.sharing import SharedLinks, water_level
from simulator.cluster.links.transfers import Arrivals, Flow, Port
from simulator.cluster.pools.prefetches import Prefetches
from simulator.cluster.pools.team import AnyWorker
from simulator.cluster.pools.writers import Writer
from simulator.cluster.workers.cache import Found, PrefixCache
from simulator.cluster.workers.prompts import Path, PromptBlocks, first
from simulator.deployment import Deployment, Pool
from simulator.errors import ConfigError
from simulator.policies.routing import Beneath
from simulator.record import TierInfo

GIB = 1 << 30
ENDLESS_PROMPT = 1 << 40
"""Tokens of a prompt all of whose blocks are looked for."""


Keep = Callable[[Path], None]
"""Writes a path's blocks to a memory."""


class Store:
    """One memory in one place, of ``capacity`` blocks: whole prefixes of prompts.

    What has no room any more goes to ``beneath``, if there is a memory that takes it. ``reserved``
    blocks are set aside for what is brought up.
    """

    def __init__(self, tier: Tier, cache: PrefixCache, capacity: int, clock: Clock) -> None:
        self._clock = clock
        self._tier = tier
        self._used_at: deque[tuple[float, int]] = deque()  # times and what the cache counts
        self.cache = cache
        self.capacity = capacity
        self.port = Port(tier.gb_per_s * 1e9)
        written = tier.write_gb_per_s
        self.write_port = None if written is None else Port(written * 1e9)
        self.latency_s = tier.latency_s
        self.threshold = tier.threshold
        self.written_blocks = self.loaded_blocks = self.reserved = 0
        self.prefetched_blocks = self.prefetch_used_blocks = 0  # brought up from here
        self.prefetched_bytes = 0.0

    def find(self, request: int, tokens: int) -> Found:
        """Return what is there of a prompt."""
        self.expire()
        return self.cache.find(request, tokens)

    def missing(self, path: Path) -> int:
        """Return how many blocks of a path are not there."""
        self.expire()
        most = path[-1][0]
        return most - self.cache.match(path, most).blocks

    def keep(self, path: Path) -> None:
        """Have all blocks of a path, as those used last."""
        self.expire()
        self.written_blocks += self.cache.keep(path)
        if self._tier.ttl_s is not None:
            self._used_at.append((self._clock.now, self.cache.stamp))
        self.cache.fit(self.capacity - self.reserved)

    def set_aside(self, blocks: int) -> None:
        """Set room for so many blocks more aside, or fewer."""
        self.reserved += blocks
        self.cache.fit(self.capacity - self.reserved)

    def expire(self) -> None:
        """Forget what was not used for too long."""
        ttl, used = self._tier.ttl_s, self._used_at
        old = 0
        while ttl is not None and used and used[0][0] + ttl <= self._clock.now:
            old = used.popleft()[1]
        if old:
            self.cache.expire(old)


@dataclass(slots=True, eq=False)
class Fetch:
    """A prompt that is loaded: from which memories how many blocks are yet to come, last first."""

    worker: AnyWorker
    parts: list[tuple[Port, Store, int]]
    tokens: int
    flow: Flow


class Tiers:
    """The memories of a deployment, and what is being loaded from them.

    A prompt is loaded from one memory after the other, the nearest first. ``blocks`` are the ids of
    all prompts' blocks.
    """

    def __init__(self, deployment: Deployment, clock: Clock, blocks: PromptBlocks | None) -> None:
        self._tiers: dict[str, Tier] = {} if blocks is None else deployment.cache_tiers.tiers
        self._blocks = blocks
        self._clock = clock
        self._stores: dict[tuple[str, tuple[str, int] | None], Store] = {}
        self._reach: dict[int, dict[str, Store]] = {}  # by worker
        self._fetches: dict[int, Fetch] = {}
        self._writers: dict[int, list[Writer]] = {}  # by worker; -1: of memories
        self._writing: dict[int, Writer] = {}  # by the numbers of their flows, which are below 0
        self._written = 0
        self._arrivals = Arrivals(clock, self._deliver, LOADED)
        self.links = SharedLinks(clock, self._arrivals, water_level, _nothing, LOADS)
        self.started_bytes = self.delivered_bytes = self.dropped_bytes = 0.0
        self.prefetches: Prefetches | None = None
        self.prompts_wait = False  # whether some do until they are brought up
        pools = [pool for pool in deployment.pools if pool.batching.prefix_cache]
        if not self._tiers or not pools:
            self._tiers = {}
            return
        self._size = _alike(pools)
        if deployment.computes_locally or any(pool.role == "mixed" for pool in pools):
            _check_writes(*next(iter(self._tiers.items())))
        held = deployment.model.held(pools[0].precision.kv_bytes)
        self._block_bytes = held.bytes(self._size) - deployment.model.linear_state_bytes()
        spec = deployment.cache_tiers.prefetch
        if spec is not None:
            self.prompts_wait = spec.policy != "best_effort"
            self.prefetches = Prefetches(spec, self._size, self._block_bytes, clock, self)

    @property
    def lives(self) -> tuple[Arrivals | SharedLinks, ...]:
        """What is to be woken, if there are memories at all."""
        patience = () if self.prefetches is None else (self.prefetches.patience,)
        return (self._arrivals, self.links, *patience) if self._tiers else ()

    @property
    def stores(self) -> tuple[Store, ...]:
        """Every memory in every place."""
        return tuple(self._stores.values())

    @property
    def bytes_in_flight(self) -> float:
        """KV bytes being loaded, brought up or written."""
        flows = [fetch.flow for fetch in self._fetches.values()]
        flows += [writer.flow for writer in self._writing.values() if writer.flow is not None]
        flows += [] if self.prefetches is None else self.prefetches.flows
        return sum(flow.payload for flow in flows)

    def open(self, worker: AnyWorker, gpu: str, slot: Slot) -> None:
        """Let a worker that starts to serve write to and load from what is beneath it."""
        cache = worker.cache
        if not self._tiers or cache is None:
            return
        within = self._reach[worker.number] = self._within((gpu, slot.first_domain))
        names = list(self._tiers)
        writes = [
            self._way_from(worker, name, store)
            for name, store in within.items()
            if self._tiers[name].write == "through"
        ]
        if writes:
            cache.stored = partial(_keep, writes)
        if self._tiers[names[0]].write == "eviction" and worker.role == "prefill":
            cache.evicts = self._way_from(worker, names[0], within[names[0]])
        reach = []
        for name, store in within.items():
            own = self._tiers[name].worker_gb_per_s
            reach.append((store, Port(store.port.bandwidth if own is None else own * 1e9)))
        worker.beneath = _Beneath(self, worker, reach)

    def _way_from(self, worker: AnyWorker, name: str, store: Store) -> Keep:
        """Return what writes to a memory from a worker."""
        own = self._tiers[name].worker_gb_per_s
        return self._way(worker.number, store, None if own is None else Port(own * 1e9))

    def _way(self, source: int, store: Store, port: Port | None) -> Keep:
        """Return what writes to a memory, through a port (``None``: as fast as it takes it)."""
        if store.write_port is None:
            return store.keep
        writer = Writer(self, store, port or Port(store.write_port.bandwidth))
        self._writers.setdefault(source, []).append(writer)
        return writer.write

    def lost(self, worker: AnyWorker) -> None:
        """Write nothing more from a worker that is gone."""
        for writer in self._writers.pop(worker.number, ()):
            writer.stop()

    def _within(self, place: tuple[str, int]) -> dict[str, Store]:
        """Return the memories of a place, from near to far."""
        found: dict[str, Store] = {}
        for name, tier in reversed(self._tiers.items()):
            where = None if name == "store" else place
            store = self._stores.get((name, where))
            if store is None:
                store = self._stores[name, where] = self._made(tier)
                following = next(reversed(found), None)
                if following is not None and self._tiers[following].write == "eviction":
                    store.cache.evicts = self._way(-1, found[following], store.port)
            found[name] = store
        return dict(reversed(found.items()))

    def _made(self, tier: Tier) -> Store:
        assert self._blocks is not None  # noqa: S101 - without ids there are no memories
        cache = PrefixCache(self._blocks, self._size)
        return Store(tier, cache, int(tier.gib * GIB / self._block_bytes), self._clock)

    def found(self, request: int, places: Mapping[int, int]) -> list[Beneath]:
        """Return what each memory has of a prompt, by the places of the workers above it."""
        return [self._found(name, tier, request, places) for name, tier in self._tiers.items()]

    def _found(self, name: str, tier: Tier, request: int, places: Mapping[int, int]) -> Beneath:
        above: dict[Store, list[int]] = {}
        for number, place in places.items():
            if number in self._reach:
                above.setdefault(self._reach[number][name], []).append(place)
        tokens: dict[int, int] = {}
        for store, workers in above.items():
            blocks = store.find(request, ENDLESS_PROMPT).blocks
            tokens |= dict.fromkeys(workers, blocks * self._size) if blocks else {}
        fastest = min(tier.gb_per_s, tier.worker_gb_per_s or tier.gb_per_s) * 1e9
        return Beneath(name, tokens, self._block_bytes / self._size / fastest, tier.latency_s)

    # --- loading -------------------------------------------------------------------------------

    def fetch(self, worker: AnyWorker, request: int, parts: list[tuple[Port, Store, int]]) -> None:
        """Load blocks of a prompt from memories, the last of ``parts`` first."""
        tokens = sum(blocks for _, _, blocks in parts) * self._size
        self._fetches[request] = Fetch(worker, parts, tokens, self._load(request, parts))

    def _load(self, request: int, parts: list[tuple[Port, Store, int]]) -> Flow:
        port, store, blocks = parts.pop()
        store.loaded_blocks += blocks
        return self.send(request, port, store, blocks)

    def send(self, request: int, port: Port, store: Store, blocks: int) -> Flow:
        """Begin to bring so many blocks for a prompt."""
        size = blocks * self._block_bytes
        self.started_bytes += size
        flow = Flow(request, store.port, port, size, store.latency_s, payload=size)
        self.links.submit(flow)
        return flow

    def put(self, writer: Writer, blocks: int) -> Flow:
        """Begin to bring so many blocks to a memory."""
        store, size = writer.store, blocks * self._block_bytes
        assert store.write_port is not None  # noqa: S101 - it takes time
        self._written -= 1
        self._writing[self._written] = writer
        self.started_bytes += size
        ways = writer.port, store.write_port
        flow = Flow(self._written, *ways, size, store.latency_s, payload=size)
        self.links.submit(flow)
        return flow

    def stop(self, flow: Flow) -> float:
        """Stop bringing; return the bytes that have crossed."""
        self._writing.pop(flow.request, None)
        left = self.links.cancel(flow)
        self.dropped_bytes += left
        self.delivered_bytes += flow.payload - left
        return flow.payload - left

    def _deliver(self, request: int, _: float) -> None:
        """Bring the next part of a prompt, or let its worker go on with it."""
        writer = self._writing.pop(request, None)
        if writer is not None:
            assert writer.flow is not None  # noqa: S101 - it has just come
            self.delivered_bytes += writer.flow.payload
            writer.delivered()
            return
        fetch = self._fetches.get(request)
        if fetch is None:
            assert self.prefetches is not None  # noqa: S101 - who else
            came = self.prefetches.delivered(request)
            self.delivered_bytes += came
            return
        self.delivered_bytes += fetch.flow.payload
        if fetch.parts:
            fetch.flow = self._load(request, fetch.parts)
            return
        del self._fetches[request]
        fetch.worker.loaded(request, fetch.tokens)

    def cancel(self, request: int) -> None:
        """Stop loading a prompt."""
        self.stop(self._fetches.pop(request).flow)

    def infos(self) -> tuple[TierInfo, ...]:
        """Return what was written, loaded and dropped, by tier."""
        for store in self.stores:
            store.expire()
        return tuple(self._info(name) for name in self._tiers)

    def _info(self, name: str) -> TierInfo:
        stores = [store for (kind, _), store in self._stores.items() if kind == name]
        loaded = sum(store.loaded_blocks for store in stores)
        written = sum(store.written_blocks for store in stores)
        used = sum(store.prefetch_used_blocks for store in stores)
        return TierInfo(
            name=name,
            places=len(stores),
            capacity_blocks=sum(store.capacity for store in stores),
            blocks=sum(store.cache.idle for store in stores),
            hit_tokens=loaded * self._size,
            loaded_bytes=loaded * self._block_bytes,
            written_bytes=written * self._block_bytes,
            evicted_blocks=sum(store.cache.evicted for store in stores),
            prefetched_tokens=sum(store.prefetched_blocks for store in stores) * self._size,
            prefetched_bytes=sum(store.prefetched_bytes for store in stores),
            prefetch_used_bytes=used * self._block_bytes,
        )


class _Beneath:
    """The memories one worker reaches, from near to far, and through which port."""

    __slots__ = ("_reach", "_tiers", "_worker")

    def __init__(self, tiers: Tiers, worker: AnyWorker, reach: list[tuple[Store, Port]]) -> None:
        self._tiers = tiers
        self._worker = worker
        self._reach = reach

    def prefetch(self, request: int, tokens: int) -> bool:
        """Bring up what lies far beneath of a prompt that joins; tell whether it is to wait."""
        prefetches = self._tiers.prefetches
        if prefetches is None:
            return False
        return prefetches.begin(self._worker, self._reach, request, tokens)

    def give_up(self, request: int) -> None:
        """Bring up nothing more of a prompt, and let go of what came: it leaves the queue."""
        if self._tiers.prefetches is not None:
            self._tiers.prefetches.give_up(request)

    def fetch(self, request: int, blocks: int, tokens: int) -> bool:
        """Load what there is of a prompt beyond its first ``blocks``, if anything.

        Where prompts are brought up, that is what host memory has.
        """
        prefetches = self._tiers.prefetches
        if prefetches is None:
            return self._load(self._reach, request, blocks, tokens) > 0
        raised = prefetches.stage(request, tokens)
        upto = self._load(self._reach[:1], request, blocks, tokens)
        prefetches.count(raised, blocks, upto)
        return upto > 0

    def _load(self, reach: list[tuple[Store, Port]], request: int, blocks: int, tokens: int) -> int:
        """Load what memories have of a prompt; return up to which block, 0 if there is nothing."""
        parts: list[tuple[Port, Store, int]] = []
        for store, port in reach:
            found = store.find(request, tokens)
            if found.blocks > blocks * store.threshold:
                store.keep(first(found.path, found.blocks))
                parts.append((port, store, found.blocks - blocks))
                blocks = found.blocks
        if not parts:
            return 0
        self._tiers.fetch(self._worker, request, parts[::-1])
        return blocks

    def cancel(self, request: int) -> None:
        """Stop loading a prompt."""
        self._tiers.cancel(request)


def _keep(ways: list[Keep], path: Path) -> None:
    """Write blocks to memories."""
    for way in ways:
        way(path)


def _nothing(request: int, now: float) -> None:
    """Do nothing about a flow that starts."""


def _alike(pools: list[Pool]) -> int:
    """Return the block size of all pools.

    Raises:
        ConfigError: they have several, or KV of several precisions.
    """
    sizes = sorted({pool.batching.block_size for pool in pools})
    if len(sizes) > 1:
        raise ConfigError(
            f"cache_tiers: needs pools with one block_size but got {', '.join(map(str, sizes))}"
        )
    kinds = sorted({pool.precision.kv for pool in pools})
    if len(kinds) > 1:
        raise ConfigError(
            f"cache_tiers: needs pools with one precision of KV but got {', '.join(kinds)}"
        )
    return sizes[0]


def _check_writes(name: str, nearest: Tier) -> None:
    """Refuse to write what workers drop that also decode: they do so while nobody looks."""
    if nearest.write == "eviction":
        raise ConfigError(
            f"cache_tiers: {name}.write must be through where workers compute prompts beside "
            f"decodes but got {nearest.write!r}"
        )
