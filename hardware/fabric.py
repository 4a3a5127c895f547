"""How GPUs are joined: scale-up domains inside, a network between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from hardware.errors import SpecError, check_number
from hardware.gpu import GPU
from hardware.link import Link
from hardware.rack import Rack, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The way from one worker to another, ``kind`` ``scale_up`` or ``scale_out``.

    ``hops`` are in order. ``bandwidth`` is the bytes/s that large messages reach through **one**
    GPU's port (its narrowest hop), ``latency_s`` the sum of the hops' latencies, ``setup_s`` a
    transfer's fixed time beside them, and ``message_s`` what posting each of its messages takes.
    """

    kind: str
    hops: tuple[Link, ...]
    latency_s: float
    setup_s: float
    bandwidth: float
    message_s: float


SECONDS = (
    *("setup_s", "scale_up_setup_s", "message_s", "scale_up_message_s"),
    "collective_start_s",
)
"""What of a fabric is seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """How workers' GPUs are wired.

    ``domain_gpus`` GPUs share one scale-up domain (``None`` = as many as the GPU's own scale-up
    link joins). Between domains every GPU has ``nics_per_gpu`` of its NICs (below 1 when GPUs
    share one) and ``network`` is the switch hop between two NICs. ``host_bridge`` marks a box
    whose GPUs meet on PCIe: the hop through the host between two GPUs' own PCIe links.
    ``setup_s`` is the fixed time of a KV transfer over the network, ``efficiency`` the share of
    its line rate that a port reaches with large messages, and ``message_s`` what a GPU's process
    takes to post one message; ``scale_up_…`` are the same inside a domain. Collectives inside a
    domain take ``collective_start_s`` to start, where kernels by themselves would take less: GPUs
    that cannot read each other's memory meet in the host's.

    Raises:
        SpecError: a value is out of range.

    """

    name: str
    network: Link
    domain_gpus: int | None = None
    nics_per_gpu: float = 1.0
    host_bridge: Link | None = None
    setup_s: float = 0.0
    efficiency: float = 1.0
    message_s: float = 0.0
    scale_up_setup_s: float = 0.0
    scale_up_efficiency: float = 1.0
    scale_up_message_s: float = 0.0
    collective_start_s: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        owner = f"fabric {self.name}"
        if self.domain_gpus is not None and (
            type(self.domain_gpus) is not int or self.domain_gpus < 1
        ):
            raise SpecError(
                f"{owner}: domain_gpus must be a whole number ≥ 1 GPU or null but got "
                f"{self.domain_gpus!r}"
            )
        check_number(owner, "nics_per_gpu", self.nics_per_gpu, "NICs", above=0)
        for name in SECONDS:
            check_number(owner, name, getattr(self, name), "s", least=0)
        for name in ("efficiency", "scale_up_efficiency"):
            check_number(owner, name, value := getattr(self, name), "of line rate", above=0)
            if value > 1:
                raise SpecError(f"{owner}: {name} must be at most 1 of line rate but got {value!r}")

    def domain_size(self, gpu: GPU) -> int:
        """Return how many of ``gpu`` share one scale-up domain here.

        Raises:
            SpecError: the fabric asks for a larger domain than the GPU's scale-up link joins, or
                for a PCIe box of GPUs that are joined by something else.

        """
        size = gpu.scale_up_domain if self.domain_gpus is None else self.domain_gpus
        if self.host_bridge is not None:
            if gpu.scale_up_domain > 1:
                raise SpecError(
                    f"fabric {self.name}: joins GPUs over PCIe but {gpu.name} is joined by "
                    f"{gpu.scale_up.name}; choose a fabric of {gpu.scale_up_domain}-GPU domains"
                )
            return size
        if size > gpu.scale_up_domain:
            raise SpecError(
                f"fabric {self.name}: domain_gpus {size} is more than the {gpu.scale_up_domain} "
                f"GPU(s) that {gpu.scale_up.name} joins for {gpu.name}; choose another fabric"
            )
        return size

    def rack(self, gpu: GPU, gpus: int | None = None) -> Rack:
        """Return a rack of idle ``gpu``, as many as are asked for or at most ``gpus``.

        Raises:
            SpecError: the GPU does not go with this fabric.

        """
        return Rack(self.domain_size(gpu), gpus)

    def place(self, sizes: Sequence[int], gpu: GPU) -> tuple[Slot, ...]:
        """Return the slots of workers of ``sizes`` GPUs that start in order and never stop.

        Raises:
            SpecError: a size is below 1 GPU, or the GPU does not go with this fabric.

        """
        rack = self.rack(gpu)
        taken = (rack.take(size) for size in sizes)
        return tuple(slot for slot in taken if slot is not None)  # without a quota none is

    def nic(self, gpu: GPU) -> Link:
        """Return one GPU's share of the network ports: ``nics_per_gpu`` times its NIC."""
        return Link(
            name=gpu.nic.name,
            bandwidth=gpu.nic.bandwidth * self.nics_per_gpu,
            latency_s=gpu.nic.latency_s,
        )

    def path(self, src: Slot, dst: Slot, src_gpu: GPU, dst_gpu: GPU) -> Path:
        """Return the way of one GPU's traffic from worker ``src`` to worker ``dst``.

        ``scale_up`` when both lie in the same single domain, else NIC, network, NIC. Slots of
        two different GPUs come from two placements, so they never share a domain.
        """
        domains = {src.first_domain, src.last_domain, dst.first_domain, dst.last_domain}
        near = len(domains) == 1 and src_gpu == dst_gpu
        return self._path("scale_up" if near else "scale_out", src_gpu, dst_gpu)

    def reach(self, gpu: GPU, kind: str) -> float:
        """Return the bytes/s that large messages reach through one GPU's port of a kind."""
        return self._path(kind, gpu, gpu).bandwidth

    def message_cost(self, kind: str) -> float:
        """Return the seconds a GPU's process takes to post one message of a kind."""
        return self.scale_up_message_s if kind == "scale_up" else self.message_s

    def _path(self, kind: str, src: GPU, dst: GPU) -> Path:
        if kind == "scale_up":
            bridge = () if self.host_bridge is None else (self.host_bridge,)
            hops = (src.scale_up, *bridge, dst.scale_up)
            setup, efficiency = self.scale_up_setup_s, self.scale_up_efficiency
        else:
            hops = (self.nic(src), self.network, self.nic(dst))
            setup, efficiency = self.setup_s, self.efficiency
        return Path(
            kind=kind,
            hops=hops,
            latency_s=sum(hop.latency_s for hop in hops),
            setup_s=setup,
            bandwidth=efficiency * min(hop.bandwidth for hop in hops),
            message_s=self.message_cost(kind),
        )
