"""What a prompt's KV is and who moves it, counted piece by piece: part of the second simulator.

Layers, heads and GPUs are counted one by one; nothing of ``simulator.wire`` is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, inf
from typing import Any, Protocol, TypeVar

from hardware.gpu import GPU
from simulator.deployment import Deployment, Pool
from simulator.layout import DTYPE_BYTES


@dataclass(eq=False)
class Wire:
    """One port in one direction."""

    bandwidth: float
    busy: bool = False


class Shares(Protocol):
    """What flows over wires at a rate."""

    rate: float

    @property
    def wires(self) -> tuple[Wire, ...]:
        """Those it takes all of at once."""
        ...


Each = TypeVar("Each", bound=Shares)


def fill(flows: Sequence[Each], limits: Mapping[Each, float]) -> None:
    """Give max-min fair rates: freeze the tightest constraint's flows, one after the other."""
    open_flows = list(flows)
    frozen: list[Each] = []
    while open_flows:
        found: list[tuple[float, list[Each]]] = [
            (limits[flow], [flow]) for flow in open_flows if flow in limits
        ]
        for wire in {wire for flow in open_flows for wire in flow.wires}:
            members = [flow for flow in open_flows if wire in flow.wires]
            gone = sum(flow.rate for flow in frozen if wire in flow.wires)
            found.append((max(0.0, wire.bandwidth - gone) / len(members), members))
        rate, members = min(found, key=lambda each: each[0])
        for flow in members:
            flow.rate = rate
            open_flows.remove(flow)
            frozen.append(flow)


class Copying:
    """The hand-over between the prefill and the decode pool of a deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.model = deployment, deployment.model
        pools = {pool.role: pool for pool in deployment.pools}
        self.source, self.target = pools["prefill"], pools["decode"]
        self.element = DTYPE_BYTES[self.target.precision.kv]
        self.once = deployment.transfer.replicas == "once"

    def row(self, *, windowed: bool = False) -> float:
        """Return the bytes of one token in one softmax layer."""
        model = self.model
        if model.attention == "mla":
            return (model.kv_lora + model.rope_dim) * self.element
        heads = model.window_kv_heads if windowed else 0
        size = model.window_head_dim if windowed else 0
        return 2 * (heads or model.kv_heads) * (size or model.head_dim) * self.element

    def layers(self) -> list[bool]:
        """Return, for each layer that writes KV, whether it is windowed."""
        model = self.model
        growing = [model.is_growing_layer(layer) for layer in range(model.layers)]
        return [not each for each in growing if each or not model.linear_value_heads]

    def kv(self, prompt: int, *, crossing: bool) -> float:
        """Return the bytes of a prompt's keys and values in whole blocks, copies or not."""
        model, size = self.model, self.target.batching.block_size
        tokens = ceil(prompt / size) * size
        total = tokens * model.index_bytes_per_token * (self.copies() if crossing else 1)
        for windowed in self.layers():
            kept = min(tokens, model.window or 0) if windowed else tokens
            copies = self.copies(windowed=windowed) if crossing else 1
            total += kept * self.row(windowed=windowed) * copies
        return total

    def payload(self, prompt: int) -> float:
        """Return what a prompt's receiver holds, each byte once."""
        return self.kv(prompt, crossing=False) + self.model.linear_state_bytes()

    def crossing(self, prompt: int) -> float:
        """Return what goes over the wire."""
        return self.kv(prompt, crossing=True) + self.model.linear_state_bytes()

    def heads(self, pool: Pool, *, windowed: bool = False) -> list[set[int]]:
        """Return the heads that each GPU of a stage holds."""
        count = self.model.kv_heads
        if windowed and self.model.window_kv_heads:
            count = self.model.window_kv_heads
        if self.model.attention == "mla":
            count = 1
        ranks = pool.layout.tp
        if ranks >= count:
            return [{rank * count // ranks} for rank in range(ranks)]
        each = count // ranks
        return [set(range(rank * each, (rank + 1) * each)) for rank in range(ranks)]

    def readers(self, *, windowed: bool = False) -> list[set[int]]:
        """Return the heads that each reading GPU of a decode stage asks for."""
        wanted = self.heads(self.target, windowed=windowed)
        if not self.once:
            return wanted
        kept: list[set[int]] = []
        for each in wanted:
            if not any(each & other for other in kept):
                kept.append(each)
        return kept

    def copies(self, *, windowed: bool = False) -> float:
        """Return how many times each head is asked for."""
        readers = self.readers(windowed=windowed)
        every = set().union(*readers)
        return sum(len(each) for each in readers) / len(every)

    def movers(self, way: str) -> int:
        """Return the GPUs of a rank that send or receive, of the layers that keep most busy."""
        kinds = set(self.layers()) or {False}
        if way == "in":
            busy = [len(self.readers(windowed=kind)) for kind in kinds]
            return max(busy) * self.target.layout.pp
        return max(self.senders(windowed=kind) for kind in kinds) * self.source.layout.pp

    def senders(self, *, windowed: bool) -> int:
        """Return the GPUs of a stage that send."""
        readers, used = self.readers(windowed=windowed), set()
        for head in set().union(*readers):
            asked = sum(head in each for each in readers)
            held = self.heads(self.source, windowed=windowed)
            used |= set([at for at, each in enumerate(held) if head in each][:asked])
        return len(used)

    def message(self) -> float:
        """Return the bytes of a message."""
        model, pools = self.model, (self.source, self.target)
        blocks = min(pool.batching.block_size for pool in pools)
        if self.deployment.transfer.messages == "request" or not self.layers():
            return inf
        total = float(model.index_bytes_per_token)
        for windowed in sorted(self.layers()):
            held = [self.heads(pool, windowed=windowed) for pool in pools]
            share = max(len(a & b) for a, b in product(*held))
            count = len(set().union(*held[0]))
            total += self.row(windowed=windowed) * share / count
        if self.deployment.transfer.messages == "block":
            return blocks * total / max(pool.layout.pp for pool in pools)
        indexers = model.indexing_layers if model.index_bytes_per_token else 0
        return blocks * total / (len(self.layers()) + indexers)

    def posted(self, kind: str) -> float:
        """Return the bytes/s at which messages are posted."""
        fabric = self.deployment.fabric
        cost = fabric.scale_up_message_s if kind == "scale_up" else fabric.message_s
        if not cost or self.message() == inf:
            return inf
        way = "in" if self.deployment.transfer.mode == "pull" else "out"
        return self.movers(way) * self.message() / cost

    def port(self, chip: GPU, kind: str) -> float:
        """Return the bytes/s of one GPU's port."""
        fabric = self.deployment.fabric
        if kind == "scale_up":
            links = [chip.scale_up.bandwidth]
            links += [fabric.host_bridge.bandwidth] if fabric.host_bridge else []
            return fabric.scale_up_efficiency * min(links)
        nics = chip.nic.bandwidth * fabric.nics_per_gpu
        return fabric.efficiency * min(nics, fabric.network.bandwidth)

    def wires(self, sites: dict[Any, Any]) -> dict[Any, dict[tuple[str, str], list[Wire]]]:
        """Return the ports of every worker, given their slots, by kind of link and direction."""
        found = {}
        boxes: dict[Any, Wire] = {}
        for site, slot in sites.items():
            pool, chip = site.pool, site.pool.gpu or self.deployment.gpu
            if pool.role == "mixed":
                continue
            way = "out" if pool.role == "prefill" else "in"
            ports = {}
            for kind in ("scale_up", "scale_out"):
                width = self.movers(way) * self.port(chip, kind)
                if (way == "in") == (self.deployment.transfer.mode == "pull"):
                    width = min(width, self.posted(kind))
                ports[kind, way] = [Wire(width) for _ in range(pool.layout.attention_dp)]
            alone = slot.first_domain == slot.last_domain
            if self.deployment.transfer.nics == "box" and alone:
                key = chip.name, slot.first_domain, way
                if key not in boxes:
                    boxes[key] = Wire(self.left(sites, chip, slot) * self.port(chip, "scale_out"))
                ports["scale_out", way] = [boxes[key]]
            found[site] = ports
        return found

    def left(self, sites: dict[Any, Any], chip: GPU, slot: Any) -> int:
        """Return the NICs of a box that no worker of several boxes has for itself."""
        size = self.deployment.fabric.domain_size(chip)
        within = range(slot.first_domain * size, (slot.first_domain + 1) * size)
        gone: set[int] = set()
        for site, other in sites.items():
            same = (site.pool.gpu or self.deployment.gpu) == chip and site.pool.role != "mixed"
            if same and other.first_domain != other.last_domain:
                gone |= set(range(other.first_gpu, other.first_gpu + other.gpus))
        return len(set(within) - gone)
