"""From a deployment to its workers' specifications, their places and the routes between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from hardware.fabric import Fabric
from hardware.rack import Slot
from simulator.cluster.links import Port
from simulator.deployment import Deployment, Pool, Transfer
from simulator.errors import ConfigError
from simulator.latency.base import WorkerSpec
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
    """A worker's ports of one kind and direction, one per attention-DP rank, taken in turn."""

    ports: list[Port]
    taken: int = 0

    @property
    def bandwidth(self) -> float:
        """Bytes/s over all ranks."""
        return sum(port.bandwidth for port in self.ports)

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


def routes(
    fabric: Fabric, specs: Sequence[WorkerSpec], transfer: Transfer
) -> dict[tuple[int, int], Route]:
    """Return the route of every (prefill, decode) pair of workers, given in their order.

    Pulling asks for the KV first, which costs the path's latency once more.
    """
    slots = _place(fabric, specs)
    lanes = [_lanes(spec) for spec in specs]
    senders, receivers = (
        [at for at, spec in enumerate(specs) if spec.role == role] for role in ("prefill", "decode")
    )
    trips = 2 if transfer.mode == "pull" else 1
    found = {}
    for here, there in product(senders, receivers):
        source, target = specs[here], specs[there]
        path = fabric.path(slots[here], slots[there], source.gpu, target.gpu)
        found[here, there] = Route(
            egress=lanes[here][path.kind],
            ingress=lanes[there][path.kind],
            latency_s=path.latency_s * trips + transfer.setup_s,
            bytes_per_token=source.memory.kv_bytes_per_token,
            layers=source.model.layers,
        )
    return found


def _place(fabric: Fabric, specs: Sequence[WorkerSpec]) -> dict[int, Slot]:
    """Place the workers in order; GPUs of different kinds never share a domain."""
    slots: dict[int, Slot] = {}
    for worker, spec in enumerate(specs):
        if worker not in slots:
            alike = [at for at, other in enumerate(specs) if other.gpu == spec.gpu]
            placed = fabric.place([specs[at].layout.gpus for at in alike], spec.gpu)
            slots.update(zip(alike, placed, strict=True))
    return slots


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
        kind: Lanes([Port(bandwidth * shards) for _ in ranks])
        for kind, bandwidth in (("scale_up", inside), ("scale_out", outside))
    }
