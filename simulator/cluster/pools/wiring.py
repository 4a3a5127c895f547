"""From a deployment to its workers' specifications, their places and the routes between them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hardware.rack import Slot
from simulator.cluster.links.transfers import ENDLESS, Links, Port
from simulator.deployment import Deployment, Pool
from simulator.errors import ConfigError, InvariantError
from simulator.latency.base import WorkerSpec
from simulator.latency.engine import memory_rule
from simulator.layout import MemoryBudget, plan_memory
from simulator.wire import End, Wire, wire


def worker_spec(deployment: Deployment, pool: Pool) -> WorkerSpec:
    """Return what a latency model needs to know of a pool's workers, their memory planned.

    A decode worker that may compute prompts has room for steps with as many tokens as they have.

    Raises:
        ConfigError: the layout does not divide the model, or the model does not fit; it names
            the pool.

    """
    gpu, batching = pool.gpu or deployment.gpu, pool.batching
    ranks = pool.layout.attention_dp
    budget = MemoryBudget(
        block_size=batching.block_size,
        memory_utilization=batching.memory_utilization,
        max_num_batched_tokens=batching.rank_tokens(ranks),
        max_num_seqs=batching.rank_seqs(ranks),
        role="mixed" if deployment.computes_locally else pool.role,
        kv_blocks=batching.kv_blocks,
        rule=memory_rule(deployment.latency),
    )
    try:
        memory = plan_memory(deployment.model, pool.layout, pool.precision, gpu, budget)
    except ConfigError as error:
        raise type(error)(f"{pool.role} pool: {error}") from error
    return WorkerSpec(
        model=deployment.model,
        layout=pool.layout,
        precision=pool.precision,
        gpu=gpu,
        fabric=deployment.fabric,
        memory=memory,
        role=pool.role,
        step_tokens=batching.max_num_batched_tokens,
    )


@dataclass(slots=True, eq=False)
class Lanes:
    """A worker's ports of one kind and direction, one per attention-DP rank, taken in turn.

    ``full`` is the bandwidth of one of them in bytes/s, and ``bandwidth`` what they carry together,
    when nothing is wrong with them. Ranks on the NICs of a box have all the same port.
    """

    ports: list[Port]
    full: float
    bandwidth: float
    taken: int = 0

    def next(self) -> Port:
        """Return the port of the rank the next request's KV lies on."""
        ports = self.ports
        if len(ports) == 1:
            return ports[0]
        self.taken += 1
        return ports[self.taken % len(ports)]


MOST_SIZES = 1 << 16
"""Sizes of prompts kept by a route before starting over."""


@dataclass(slots=True, eq=False)
class Route:
    """What ways of one kind between prefill and decode workers have in common.

    A prompt's KV lies in ``layers`` equal parts; ``latency_s`` passes beside the time on the wire,
    and no transfer goes faster than ``cap`` bytes/s.
    """

    kind: str
    latency_s: float
    wire: Wire
    layers: int
    cap: float
    _sizes: dict[int, tuple[float, float]] = field(default_factory=dict)

    def sizes(self, tokens: int) -> tuple[float, float]:
        """Return the bytes of a prompt that cross the wire, and those of them that are distinct."""
        found = self._sizes.get(tokens)
        if found is None:
            if len(self._sizes) >= MOST_SIZES:
                self._sizes.clear()
            found = self._sizes[tokens] = self.wire.size(tokens), self.wire.payload(tokens)
        return found


class Way(NamedTuple):
    """From one prefill to one decode worker."""

    egress: Lanes
    ingress: Lanes
    route: Route


class Ways:
    """The ways between workers that live.

    Pulling asks for the KV first, which crosses the path once more.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._fabric = deployment.fabric
        self._transfer = transfer = deployment.transfer
        self._layers = deployment.model.layers
        pools = {pool.role: _pool_end(pool) for pool in deployment.pools}
        self._wire: Wire | None = None
        if "prefill" in pools:
            self._wire = wire(deployment.model, pools["prefill"], pools["decode"], transfer)
        self._moving: Wire | None = None  # between decode workers
        if "decode" in pools and deployment.moves_sequences:
            self._moving = wire(deployment.model, pools["decode"], pools["decode"], transfer)
        self._ends: dict[int, _End] = {}
        self._shares: dict[str, float] = {}
        self.links: Links
        self.layerwise = transfer.mode == "push_layerwise"
        self._shared = transfer.nics == "box"
        self._boxes: dict[tuple[str, int, str], Port] = {}
        self._taken: dict[tuple[str, int], int] = {}  # GPUs of a box whose worker has others too
        self._routes: dict[tuple[str, str, bool], Route] = {}
        self._moves: dict[tuple[str, str, bool], Route] = {}

    def open(self, worker: int, spec: WorkerSpec, slot: Slot) -> None:
        """Give a worker that starts to serve its ports, of either kind."""
        kinds, place = ("scale_up", "scale_out"), (spec, slot)
        lanes, outs = {}, {}
        if self._wire is not None and spec.role != "mixed":
            sends = spec.role == "prefill"
            lanes = {kind: self._lanes(self._wire, place, kind, sends=sends) for kind in kinds}
        if self._moving is not None and spec.role == "decode":
            outs = {kind: self._lanes(self._moving, place, kind, sends=True) for kind in kinds}
        self._ends[worker] = end = _End.of(spec, slot, lanes, outs)
        share = self._shares.get(spec.role, 1.0)
        if share != 1.0:
            self._squeeze(end, share)

    def set_share(self, whose: str | int, share: float) -> None:
        """Let the ports of a pool (of a worker) run at a share of their bandwidth from now on.

        A worker on its box's NICs has these in common with its neighbours.
        """
        if isinstance(whose, int):
            if whose in self._ends:
                self._squeeze(self._ends[whose], share)
            return
        self._shares[whose] = share
        for end in self._ends.values():
            if end.spec.role == whose:
                self._squeeze(end, share)

    def _squeeze(self, end: "_End", share: float) -> None:
        for lanes in (*end.lanes.values(), *end.outs.values()):
            for port in lanes.ports:
                self.links.set_bandwidth(port, lanes.full * share)

    def between(self, source: int, target: int) -> Way:
        """Return the way from one worker to another."""
        here, there = self._ends[source], self._ends[target]
        moves = here.spec.role == there.spec.role
        near = here.place == there.place is not None
        routes = self._moves if moves else self._routes
        route = routes.get((here.gpu, there.gpu, near))
        if route is None:
            carried = self._moving if moves else self._wire
            route = routes[here.gpu, there.gpu, near] = self._route(here, there, carried)
        return Way((here.outs if moves else here.lanes)[route.kind], there.lanes[route.kind], route)

    def _route(self, here: "_End", there: "_End", carried: Wire | None) -> Route:
        path = self._fabric.path(here.slot, there.slot, here.spec.gpu, there.spec.gpu)
        trips = 2 if self._transfer.mode == "pull" else 1
        if carried is None:
            raise InvariantError("KV is to be handed over, but there are no pools for it")
        return Route(
            kind=path.kind,
            latency_s=path.latency_s * trips + path.setup_s + self._transfer.setup_s,
            wire=carried,
            layers=self._layers,
            cap=carried.posted(path.message_s) if self._shared else ENDLESS,
        )

    def _lanes(
        self, wire: Wire, place: tuple[WorkerSpec, Slot], kind: str, *, sends: bool
    ) -> Lanes:
        """Return a worker's idle ports of a kind.

        The GPUs of a rank that move a request's KV do so side by side, no faster than those that
        post its messages can. A box's NICs are one port for all workers that lie in it alone.
        """
        spec, slot = place
        fabric, ranks = self._fabric, spec.layout.attention_dp
        posted = ENDLESS
        if sends != wire.pulled:
            posted = wire.posted(fabric.message_cost(kind))
        if kind == "scale_out" and self._shared:
            box, full = self._box(spec, slot, "egress" if sends else "ingress")
            if box is not None:
                return Lanes([box], full, min(full, ranks * posted))
        gpus = wire.senders if sends else wire.receivers
        width = min(gpus * fabric.reach(spec.gpu, kind), posted)
        return Lanes([Port(width) for _ in range(ranks)], width, width * ranks)

    def _box(self, spec: WorkerSpec, slot: Slot, way: str) -> tuple[Port | None, float]:
        """Return the port of a worker's box and its bandwidth, if it lies in one box alone.

        A worker of several boxes uses its own GPUs' NICs, which the last of these boxes then lacks.
        """
        gpu, fabric, last = spec.gpu, self._fabric, slot.last_domain
        size = fabric.domain_size(gpu)
        place = gpu.name, last
        if slot.first_domain != last:
            self._taken[place] = slot.first_gpu + slot.gpus - last * size
            for each in ("egress", "ingress"):
                self._boxes.pop((*place, each), None)
            return None, 0.0
        if slot.first_gpu - last * size < self._taken.get(place, 0):
            del self._taken[place]  # its worker has gone
        nics = (size - self._taken.get(place, 0)) * fabric.reach(gpu, "scale_out")
        found = self._boxes.get((*place, way))
        if found is None:
            found = self._boxes[*place, way] = Port(nics)
        return found, nics

    def bandwidths(self) -> dict[int, float]:
        """Return the bytes/s of each worker's widest way to any worker of the other stage.

        Copies of the same bytes count as one, as they do where bytes sent are counted.
        """
        crowds = Counter(_Crowd(end.spec.role, end.place) for end in self._ends.values())
        stages = Counter(end.spec.role for end in self._ends.values())
        return {
            worker: max(
                (lanes.bandwidth for kind, lanes in end.lanes.items() if kind in kinds),
                default=0.0,
            )
            / (self._wire.copies if self._wire else 1.0)
            for worker, end in self._ends.items()
            if (kinds := _kinds(end, crowds, stages))
        }


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    """A worker as routes see it: ``lanes`` from or to the other stage, ``outs`` to its own.

    ``gpu`` is its kind, ``place`` that and the one domain it lies in (``None``: in several).
    """

    spec: WorkerSpec
    slot: Slot
    lanes: dict[str, Lanes]
    outs: dict[str, Lanes]
    gpu: str
    place: tuple[str, int] | None

    @classmethod
    def of(
        cls, spec: WorkerSpec, slot: Slot, lanes: dict[str, Lanes], outs: dict[str, Lanes]
    ) -> "_End":
        """Return a worker's end at its slot."""
        gpu, alone = spec.gpu.name, slot.first_domain == slot.last_domain
        place = (gpu, slot.first_domain) if alone else None
        return cls(spec, slot, lanes, outs, gpu, place)


class _Crowd(NamedTuple):
    """A stage's workers in one place."""

    role: str
    place: tuple[str, int] | None


def _kinds(end: _End, crowds: Mapping[_Crowd, int], stages: Mapping[str, int]) -> set[str]:
    """Return the kinds of ways that lead from a worker to one of the other stage, or from it."""
    other = {"prefill": "decode", "decode": "prefill"}.get(end.spec.role, "")
    near = crowds.get(_Crowd(other, end.place), 0) if end.place is not None else 0
    far = stages.get(other, 0) - near
    return {kind for kind, count in (("scale_up", near), ("scale_out", far)) if count}


def _pool_end(pool: Pool) -> End:
    return End(layout=pool.layout, precision=pool.precision, block_size=pool.batching.block_size)
