"""From a deployment to its workers' specifications, their places and the routes between them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hardware.fabric import Fabric, Path
from hardware.rack import Slot
from simulator.cluster.links import Links, Port
from simulator.deployment import Deployment, Pool, Transfer
from simulator.errors import ConfigError
from simulator.latency.base import WorkerSpec
from simulator.latency.engine import memory_rule
from simulator.layout import MemoryBudget, plan_memory


def worker_spec(deployment: Deployment, pool: Pool) -> WorkerSpec:
    """Return what a latency model needs to know of a pool's workers, their memory planned.

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
        role=pool.role,
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
    )


@dataclass(slots=True, eq=False)
class Lanes:
    """A worker's ports of one kind and direction, one per attention-DP rank, taken in turn.

    ``full`` is the bandwidth of one of them in bytes/s.
    """

    ports: list[Port]
    full: float
    taken: int = 0

    @property
    def bandwidth(self) -> float:
        """Bytes/s over all ranks, when nothing is wrong with them."""
        return self.full * len(self.ports)

    def next(self) -> Port:
        """Return the port of the rank the next request's KV lies on."""
        ports = self.ports
        if len(ports) == 1:
            return ports[0]
        self.taken += 1
        return ports[self.taken % len(ports)]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The way from one prefill to one decode worker.

    A token's KV is ``bytes_per_token`` in ``layers`` equal parts; ``latency_s`` passes beside the
    time on the wire.
    """

    egress: Lanes
    ingress: Lanes
    latency_s: float
    bytes_per_token: float
    layers: int


class Ways:
    """The routes between workers that live, laid when first asked for.

    Pulling asks for the KV first, which costs the path's latency once more.
    """

    def __init__(self, fabric: Fabric, transfer: Transfer) -> None:
        self._fabric = fabric
        self._transfer = transfer
        self._ends: dict[int, _End] = {}
        self._shares: dict[str, float] = {}
        self.links: Links
        self.layerwise = transfer.mode == "push_layerwise"
        self._paths: dict[tuple[str, str, bool], Path] = {}

    def open(self, worker: int, spec: WorkerSpec, slot: Slot) -> None:
        """Give a worker that starts to serve its ports; idle ones of either kind and direction."""
        self._ends[worker] = end = _End(spec, slot, _lanes(spec))
        share = self._shares.get(spec.role, 1.0)
        if share != 1.0:
            self._squeeze(end, share)

    def set_share(self, whose: str | int, share: float) -> None:
        """Let the ports of a pool (of a worker) run at a share of their bandwidth from now on."""
        if isinstance(whose, int):
            if whose in self._ends:
                self._squeeze(self._ends[whose], share)
            return
        self._shares[whose] = share
        for end in self._ends.values():
            if end.spec.role == whose:
                self._squeeze(end, share)

    def _squeeze(self, end: "_End", share: float) -> None:
        for lanes in end.lanes.values():
            for port in lanes.ports:
                self.links.set_bandwidth(port, lanes.full * share)

    def between(self, source: int, target: int) -> Route:
        """Return the route from one worker to another."""
        here, there = self._ends[source], self._ends[target]
        path = self._path(here, there)
        trips = 2 if self._transfer.mode == "pull" else 1
        return Route(
            egress=here.lanes[path.kind],
            ingress=there.lanes[path.kind],
            latency_s=path.latency_s * trips + self._transfer.setup_s,
            bytes_per_token=here.spec.memory.kv_bytes_per_token,
            layers=here.spec.model.layers,
        )

    def bandwidths(self) -> dict[int, float]:
        """Return the bytes/s of each worker's widest way to any worker of the other stage."""
        crowds = Counter(_Crowd(end.spec.role, end.place) for end in self._ends.values())
        stages = Counter(end.spec.role for end in self._ends.values())
        return {
            worker: max(
                (lanes.bandwidth for kind, lanes in end.lanes.items() if kind in kinds),
                default=0.0,
            )
            for worker, end in self._ends.items()
            if (kinds := _kinds(end, crowds, stages))
        }

    def _path(self, here: "_End", there: "_End") -> Path:
        near = here.place == there.place is not None
        key = here.spec.gpu.name, there.spec.gpu.name, near
        if key not in self._paths:
            gpus = here.spec.gpu, there.spec.gpu
            self._paths[key] = self._fabric.path(here.slot, there.slot, *gpus)
        return self._paths[key]


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    """A worker as routes see it."""

    spec: WorkerSpec
    slot: Slot
    lanes: dict[str, Lanes]

    @property
    def place(self) -> tuple[str, int] | None:
        """The GPU and the one domain it lies in; ``None`` where it spreads over several."""
        slot = self.slot
        alone = slot.first_domain == slot.last_domain
        return (self.spec.gpu.name, slot.first_domain) if alone else None


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


def _lanes(spec: WorkerSpec) -> dict[str, Lanes]:
    """Return a worker's idle ports by link kind.

    The GPUs of a rank that hold distinct KV shards of a request move them side by side.
    """
    fabric, inside = spec.fabric, spec.gpu.scale_up.bandwidth
    if fabric.host_bridge is not None:
        inside = min(inside, fabric.host_bridge.bandwidth)
    outside = min(fabric.nic(spec.gpu).bandwidth, fabric.network.bandwidth)
    ranks, shards = range(spec.layout.attention_dp), spec.memory.kv_shards
    return {
        kind: Lanes([Port(bandwidth * shards) for _ in ranks], bandwidth * shards)
        for kind, bandwidth in (("scale_up", inside), ("scale_out", outside))
    }
