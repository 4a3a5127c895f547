"""Memories beneath prefix caches, block by block: part of the second simulator.

What a memory has, since when and in which order is kept for every block by itself; rates of loads
are found anew, by filling the tightest wire first, whenever one begins or ends.
"""

from bisect import insort
from dataclasses import dataclass, field
from math import inf
from typing import Any

from copying import Wire, fill
from plain_cache import Block, named

from simulator.cache_tiers import Tier


@dataclass(eq=False)
class PlainStore:
    """One memory in one place, for ``capacity`` blocks."""

    tier: Tier
    capacity: int
    world: Any
    beneath: "PlainStore | None" = None
    order: dict[Block, tuple[int, int]] = field(default_factory=dict)
    used: dict[Block, float] = field(default_factory=dict)
    chain: dict[Block, list[Block]] = field(default_factory=dict)
    clock: int = 0
    written: int = 0
    loaded: int = 0
    evicted: int = 0
    brought: int = 0  # blocks
    useful: int = 0  # of these
    carried: float = 0.0  # bytes

    def __post_init__(self) -> None:
        self.wire = Wire(self.tier.gb_per_s * 1e9)
        self.write_wire = Wire((self.tier.write_gb_per_s or 0.0) * 1e9)

    @property
    def promised(self) -> int:
        """Blocks for what is being brought up, all that was planned of it."""
        raises = (each for each in self.world.tiers.raises if each.host is self)
        return sum(part[3] - part[2] for each in raises for part in each.plan)

    def expire(self) -> None:
        """Forget what was not used for too long."""
        ttl, now = self.tier.ttl_s, self.world.now
        for block in [b for b, at in self.used.items() if ttl is not None and at + ttl <= now]:
            self.forget(block)

    def forget(self, block: Block) -> None:
        """Have a block no more."""
        del self.order[block], self.used[block]
        self.evicted += 1

    def find(self, blocks: list[Block]) -> list[Block]:
        """Return the first of these that are all here."""
        self.expire()
        gone = [at for at, block in enumerate(blocks) if block not in self.order]
        return blocks[: gone[0]] if gone else blocks

    def keep(self, blocks: list[Block]) -> None:
        """Have all of these, which lead to the last of them; the oldest make room."""
        self.expire()
        self.clock += 1
        for at, block in enumerate(blocks):
            self.written += block not in self.order
            self.order[block] = (self.clock, -at)
            self.used[block] = self.world.now
            self.chain[block] = blocks[: at + 1]
        self.trim()

    def trim(self) -> None:
        """Drop the oldest that have no room beside what is to come."""
        told: set[Block] = set()
        while len(self.order) > self.capacity - self.promised:
            oldest = min(self.order, key=lambda block: self.order[block])
            if self.beneath is not None and oldest not in told:
                self.world.tiers.write(self, self.beneath, self.chain[oldest])
                told |= set(self.chain[oldest])
            self.forget(oldest)


@dataclass(eq=False)
class Load:
    """A prompt being loaded: ``parts`` are from where and how many blocks, those to come last."""

    site: Any
    prompt: Any
    parts: list[tuple[Wire, PlainStore, int]]
    tokens: int
    left: float = 0.0
    rate: float = 0.0

    @property
    def wires(self) -> tuple[Wire, Wire]:
        """What the present part crosses."""
        return self.parts[0][0], self.parts[0][1].wire

    @property
    def store(self) -> PlainStore:
        """Where the present part comes from."""
        return self.parts[0][1]

    @property
    def number(self) -> int:
        """Whose it is."""
        return int(self.prompt.job.number)


@dataclass(eq=False)
class Raise:
    """A prompt being brought up to ``host``: ``plan`` has wire, memory, first and end block each.

    ``at`` is the part under way; nobody begins the prompt before ``until``.
    """

    site: Any
    job: Any
    host: PlainStore
    blocks: list[Block]
    plan: list[tuple[Wire, PlainStore, int, int]]
    until: float
    at: int = 0
    on_wire: bool = False
    flying: bool = False  # off the wire, and not there yet
    left: float = 0.0
    rate: float = 0.0

    @property
    def over(self) -> bool:
        """Whether all of it is there."""
        return self.at == len(self.plan)

    @property
    def wires(self) -> tuple[Wire, Wire]:
        """What the present part crosses."""
        return self.plan[self.at][0], self.plan[self.at][1].wire

    @property
    def store(self) -> PlainStore:
        """Where the present part comes from."""
        return self.plan[self.at][1]

    @property
    def number(self) -> int:
        """Whose it is."""
        return int(self.job.number)


@dataclass(eq=False)
class Write:
    """Blocks that go to a memory from a ``source``, which writes one after the other."""

    source: Any
    store: PlainStore
    blocks: list[Block]
    way: Wire
    number: int = 0
    left: float = 0.0
    rate: float = 0.0

    @property
    def wires(self) -> tuple[Wire, Wire]:
        """What it crosses."""
        return self.way, self.store.write_wire


class PlainTiers:
    """All memories of a deployment."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.tiers = world.deployment.cache_tiers.tiers if world.prompts is not None else {}
        self.rules = world.deployment.cache_tiers.prefetch
        self.raises: list[Raise] = []  # in the order in which prompts joined
        self.writes: list[Write] = []  # in the order in which they came
        self.write_wires: dict[Any, Wire] = {}
        self.begun_writes = 0
        pools = [pool for pool in world.deployment.pools if pool.batching.prefix_cache]
        if not pools:
            self.tiers = {}
            return
        self.size = pools[0].batching.block_size
        model, element = world.deployment.model, pools[0].precision.kv_bytes
        held = model.held(element)
        self.block_bytes = held.per_token * self.size
        self.block_bytes += held.per_window_token * min(self.size, held.window)
        self.stores: dict[Any, PlainStore] = {}
        self.loads: list[Load | Raise | Write] = []
        self.landing: list[tuple[float, int, Load | Raise | Write]] = []
        self.settled_at = 0.0

    def here(self, site: Any) -> dict[str, PlainStore]:
        """Return what memories lie beneath a worker, from near to far."""
        chip = (site.pool.gpu or self.world.deployment.gpu).name
        place = chip, self.world.slots[site].first_domain
        found, above = {}, None
        for name, tier in self.tiers.items():
            key = name, None if name == "store" else place
            if key not in self.stores:
                capacity = int(tier.gib * 2**30 / self.block_bytes)
                self.stores[key] = PlainStore(tier, capacity, self.world)
            found[name] = self.stores[key]
            if above is not None and tier.write == "eviction":
                above.beneath = found[name]
            above = found[name]
        return found

    def open(self, site: Any) -> None:
        """Let a worker's cache write to what is beneath it."""
        if not self.tiers or site.cache is None:
            return
        stores, first = self.here(site), next(iter(self.tiers.values()))
        site.beneath = [
            (Wire((store.tier.worker_gb_per_s or store.tier.gb_per_s) * 1e9), store)
            for store in stores.values()
        ]

        def heard(block: Block, request: int, *, evicted: bool) -> None:
            blocks = named(self.world.prompts, request, self.size)[: block[0] + 1]
            if not evicted:
                for store in stores.values():
                    if store.tier.write == "through":
                        self.write(site, store, blocks)
            elif first.write == "eviction" and site.pool.role == "prefill":
                self.write(site, next(iter(stores.values())), blocks)

        site.cache.heard = heard

    def ranges(self, site: Any, job: Any) -> dict[str, int]:
        """Return the leading tokens of a prompt that each memory beneath a worker has."""
        if not self.tiers or site.cache is None:
            return {}
        blocks = named(self.world.prompts, job.number, self.size)
        memories = zip(self.tiers, site.beneath, strict=True)
        return {name: self.size * len(store.find(blocks)) for name, (_, store) in memories}

    def fetch(self, site: Any, prompt: Any, length: int) -> bool:
        """Load what there is of a prompt just begun beyond what its worker has."""
        if not site.beneath:
            return False
        have = first = site.cache.shared(prompt.job.number)
        blocks = named(self.world.prompts, prompt.job.number, self.size)
        blocks = blocks[: (length - 1) // self.size]
        parts = []
        came = self.settle_up(prompt.job, blocks)
        for wire, store in site.beneath if self.rules is None else site.beneath[:1]:
            found = store.find(blocks)
            if len(found) > have * store.tier.threshold:
                store.keep(found)
                parts.append((wire, store, len(found) - have))
                have = len(found)
        for store, block in came:
            store.useful += block in range(first, have if parts else 0)
        if parts:
            self.begin(Load(site, prompt, parts, self.size * sum(part[2] for part in parts)))
        return bool(parts)

    # --- writing -------------------------------------------------------------------------------

    def write(self, source: Any, store: PlainStore, blocks: list[Block]) -> None:
        """Bring blocks to a memory, after what the same source brings there."""
        if store.tier.write_gb_per_s is None:
            store.keep(blocks)
            return
        if isinstance(source, PlainStore):
            way = source.wire
        else:
            own = store.tier.worker_gb_per_s or store.tier.write_gb_per_s
            way = self.write_wires.setdefault((source, store), Wire(own * 1e9))
        self.writes.append(Write(source, store, blocks, way))
        self.next_write(source, store)

    def next_write(self, source: Any, store: PlainStore) -> None:
        """Begin the next of a source's writes, if none is under way."""
        mine = [each for each in self.writes if (each.source, each.store) == (source, store)]
        for each in mine:
            if each.number:
                return
            lacks = len(each.blocks) - len(store.find(each.blocks))
            if lacks:
                self.begun_writes += 1
                each.number = -self.begun_writes
                self.begin(each, lacks)
                return
            self.writes.remove(each)
            store.keep(each.blocks)

    def lost(self, site: Any) -> None:
        """Write nothing more from a worker that is gone."""
        self.landing = [e for e in self.landing if getattr(e[2], "source", None) is not site]
        for each in [each for each in self.writes if each.source is site]:
            self.writes.remove(each)
            if each in self.loads:
                self.settle()
                self.loads.remove(each)
                self.share()

    # --- bringing up ---------------------------------------------------------------------------

    def line_up(self, site: Any, job: Any) -> None:
        """Bring up what lies far beneath of a prompt that joins a queue."""
        if not site.beneath or self.rules is None:
            return
        blocks = named(self.world.prompts, job.number, self.size)
        blocks = blocks[: (job.prompt + len(job.tokens) - 1) // self.size]
        host = site.beneath[0][1]
        there = len(host.find(blocks))
        first = have = max(there, site.cache.find(job.number, len(blocks) * self.size + 1).blocks)
        end = first + int(self.rules.host_share * host.capacity) - host.promised - there
        plan = []
        for wire, store in site.beneath[1:]:
            found = len(store.find(blocks))
            if found > have * store.tier.threshold and min(found, end) > have:
                plan.append((wire, store, have, min(found, end)))
                have = min(found, end)
        tokens = (have - first) * self.size
        if not plan or tokens < self.rules.threshold_tokens:
            return
        for _, store, _, upto in plan:
            store.keep(blocks[:upto])
        if there:
            host.keep(blocks[:there])
        wait = {"best_effort": 0.0, "wait_complete": inf}.get(self.rules.policy)
        if wait is None:
            wait = self.rules.timeout_s + self.rules.timeout_s_per_1024_tokens * (tokens / 1024)
            wait = min(wait, inf if self.rules.timeout_max_s is None else self.rules.timeout_max_s)
        self.raises.append(Raise(site, job, host, blocks, plan, self.world.now + wait))
        host.trim()
        self.next_of(site)

    def held_back(self, job: Any) -> bool:
        """Tell whether a prompt is not to be begun yet."""
        mine = [each for each in self.raises if each.job is job]
        return any(not each.over and each.until > self.world.now for each in mine)

    def next_of(self, site: Any) -> None:
        """Put the first of what a worker's prompts wait for on its wires, if nothing is."""
        mine = [each for each in self.raises if each.site is site and not each.over]
        if mine and not any(each.on_wire or each.flying for each in mine):
            self.begin(mine[0])

    def settle_up(self, job: Any, blocks: list[Block]) -> list[tuple[PlainStore, int]]:
        """End what is brought up for a prompt that is begun; return what came and was new."""
        new: list[tuple[PlainStore, int]] = []
        for each in [each for each in self.raises if each.job is job]:
            before = len(each.host.find(blocks))
            came = self.let_go(each)
            if came:
                each.host.keep(each.blocks[: came[-1][1] + 1])
            known = max(before, each.site.cache.shared(job.number))
            new = [(store, block) for store, block in came if block >= known]
        return new

    def let_go(self, each: Raise) -> list[tuple[PlainStore, int]]:
        """End what is brought up for a prompt; return the blocks that came, and where from."""
        came: list[tuple[PlainStore, int]] = []
        for at, (_, store, first, end) in enumerate(each.plan[: each.at + 1]):
            size = (end - first) * self.block_bytes
            if at == each.at and not each.flying:
                self.settle()
                size = size - each.left if each.on_wire else 0.0
            store.carried += size
            here = [
                first + n
                for n in range(end - first)
                if (n + 1) * self.block_bytes < size + 1e-6 * self.block_bytes
            ]
            store.brought += len(here)
            came += [(store, block) for block in here]
        self.raises.remove(each)
        self.landing = [entry for entry in self.landing if entry[2] is not each]
        if each.on_wire:
            self.loads.remove(each)
            self.share()
        self.next_of(each.site)
        return came

    def leave(self, job: Any) -> None:
        """Forget a prompt that leaves its queue."""
        for each in [each for each in self.raises if each.job is job]:
            self.let_go(each)

    def begin(self, load: "Load | Raise | Write", lacks: int = 0) -> None:
        """Put the present part of a load on its wires, or what a memory lacks."""
        self.settle()
        if isinstance(load, Write):
            load.left = lacks * self.block_bytes
        elif isinstance(load, Raise):
            _, _, first, end = load.plan[load.at]
            load.left, load.on_wire, load.flying = (end - first) * self.block_bytes, True, False
        else:
            load.left = load.parts[0][2] * self.block_bytes
            load.parts[0][1].loaded += load.parts[0][2]
        self.loads.append(load)
        self.share()

    def settle(self) -> None:
        """Let the bytes flow that have flown since the last change."""
        for load in self.loads:
            load.left = max(0.0, load.left - load.rate * (self.world.now - self.settled_at))
        self.settled_at = self.world.now

    def share(self) -> None:
        """Give max-min fair rates."""
        fill(self.loads, {})

    def ends(self, load: "Load | Raise | Write") -> float:
        """Return when a part is through."""
        return max(self.world.now, self.settled_at + load.left / load.rate)

    def happenings(self, at: int) -> Any:
        """Yield what may happen next."""
        if self.tiers and self.landing:
            yield self.landing[0][0], 1, at, self.land
        if self.tiers and self.loads:
            yield min(map(self.ends, self.loads)), 1, at + 1, self.end
        times = [e.until for e in self.raises if e.until < inf and e.job in e.site.aside]
        if times:
            yield max(self.world.now, min(times)), 1, at + 2, self.stop_waiting

    def stop_waiting(self) -> None:
        """Let prompts be begun that have waited long enough."""
        for each in self.raises:
            if each.until <= self.world.now:
                each.site.back(each.job)

    def end(self) -> None:
        """Take a part that is through off its wires."""
        load = min(self.loads, key=lambda load: (self.ends(load), load.number))
        self.settle()
        self.loads.remove(load)
        if isinstance(load, Raise):
            load.on_wire, load.flying = False, True
        self.world.ended_at(self.world.now)
        when = self.world.now + load.store.tier.latency_s
        insort(self.landing, (when, load.number, load))
        self.share()

    def land(self) -> None:
        """Load the next part, or let the worker go on."""
        while self.landing and self.landing[0][0] <= self.world.now:
            load = self.landing.pop(0)[2]
            if isinstance(load, Write):
                self.writes.remove(load)
                load.store.keep(load.blocks)
                self.next_write(load.source, load.store)
                continue
            if isinstance(load, Raise):
                load.at, load.flying = load.at + 1, False
                if load.over:
                    self.next_of(load.site)
                    load.site.back(load.job)
                else:
                    self.begin(load)
                continue
            load.parts.pop(0)
            if load.parts:
                self.begin(load)
            else:
                load.site.loaded(load.prompt, load.tokens)

    def cancel(self, job: Any) -> None:
        """Stop loading a prompt."""
        self.landing = [each for each in self.landing if each[1] != job.number]
        for load in [load for load in self.loads if load.number == job.number]:
            self.settle()
            self.loads.remove(load)
            self.share()

    def totals(self, name: str) -> dict[str, float]:
        """Return what the engine tells of a tier."""
        stores = [store for (kind, _), store in self.stores.items() if kind == name]
        for store in stores:
            store.expire()
        return {
            "places": len(stores),
            "capacity_blocks": sum(store.capacity for store in stores),
            "blocks": sum(len(store.order) for store in stores),
            "hit_tokens": self.size * sum(store.loaded for store in stores),
            "loaded_bytes": self.block_bytes * sum(store.loaded for store in stores),
            "written_bytes": self.block_bytes * sum(store.written for store in stores),
            "evicted_blocks": sum(store.evicted for store in stores),
            "prefetched_tokens": self.size * sum(store.brought for store in stores),
            "prefetched_bytes": sum(store.carried for store in stores),
            "prefetch_used_bytes": self.block_bytes * sum(store.useful for store in stores),
        }
