"""Seconds of a collective: α + β by algorithm, size and span.

Inside a scale-up domain every rank has its own port of ``scale_up`` bytes/s; a group that spans
domains goes through each GPU's NIC for what leaves the domain.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.latency.efficiency import CollectiveCurve, Efficiency
from simulator.latency.passes import Number, Operator, distinct

GROUPING_S = 1e-4
"""Assumed seconds to count and group tokens by domain before an exchange that sends each once:
it then pays from some 256 tokens per rank on, where engines switch from low-latency kernels."""

HOST = 4
"""GPUs of one host of a rack whose switches multicast."""
PEERS = ("all_reduce_one_shot", "all_reduce_two_shot")
"""All-reduces whose kernels write into each peer's memory by itself."""
MULTICAST = ("all_reduce_multicast_one_shot", "all_reduce_multicast_two_shot")
"""Those that let the switch multicast what a rank writes, which reach across a rack's hosts."""
CUSTOM = ("all_reduce_custom_one_shot", "all_reduce_custom_two_shot")
"""Those of vLLM's first kernels, and SGLang's until 2026."""
ONE_SHOT_BYTES = {2: math.inf, 4: 512 * 1024, 8: 256 * 1024}
"""Messages below which they take one shot, by ranks at most (vLLM csrc/custom_all_reduce.cuh):
two take 26 µs where one would 11 among 8 B200s, which SGLang pull request 24363 did away with."""
CUSTOM_BYTES = 8 * 1024**2
"""Messages up to which they are used (vLLM custom_all_reduce.py, ``max_size``): NCCL's after it."""

NCCL_START_S, NCCL_RANK_S = 4.7e-6, 1.57e-6
"""Start of NCCL's all-reduce inside a box, and of each rank more: 6.3, 9.6 and 15.7 µs among 2, 4
and 8 H100s (AIConfigurator's NCCL 2.27 and 2.29 tables, 2 KiB)."""

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What joins the ranks of one worker: ports in bytes/s and GPUs per scale-up domain.

    ``multicast``: its switches do over several hosts, however large domains are here. What a
    collective inside a domain takes to start is at least ``start_s``.
    """

    scale_up: float
    nic: float
    domain: int
    multicast: bool = False
    start_s: float = 0.0

    @classmethod
    def of(cls, gpu: GPU, fabric: Fabric) -> "Network":
        """Return the network that ``gpu`` has in this fabric."""
        bridge = fabric.host_bridge
        limit = math.inf if bridge is None else bridge.bandwidth
        return cls(
            scale_up=min(gpu.scale_up.bandwidth, limit),
            nic=min(fabric.nic(gpu).bandwidth, fabric.network.bandwidth),
            domain=fabric.domain_size(gpu),
            multicast=gpu.scale_up_multicast,
            start_s=fabric.collective_start_s,
        )

    def split(self, ranks: int) -> tuple[int, int]:
        """Return ranks per domain and domains that a group of ``ranks`` spans."""
        local = min(ranks, self.domain)
        return local, -(-ranks // local)


def collective_seconds(op: Operator, network: Network, efficiency: Efficiency) -> Number:
    """Return seconds of all calls of a collective operator (0 for an empty message)."""
    if op.kind == "all_reduce":
        return op.calls * _all_reduce(op, network, efficiency)
    return op.calls * _exchange(op, network, efficiency)


def ideal_seconds(op: Operator, network: Network) -> Number:
    """Return the seconds the ports alone would need: no start-up, full bandwidth."""
    local, domains = network.split(op.ranks)
    up, out = _traffic(op.kind, op.message, local, domains)
    return op.calls * np.maximum(up / network.scale_up, out * _once(op, domains) / network.nic)


def _traffic(kind: str, message: Number, local: int, domains: int) -> tuple[Number, Number]:
    """Bytes one rank must at least send through its scale-up port and through its NIC."""
    ranks = local * domains
    if kind == "all_reduce":
        # Reduced and multicast by a switch, one rank sends its message once, not twice.
        up = message * (local - 1) / local
        return up, message * (domains - 1) / domains / local
    if kind in ("all_gather", "reduce_scatter"):
        return message * (ranks - domains), message * (domains - 1)
    if kind == "all_to_all":
        return message * (local - 1) / ranks, message * (ranks - local) / ranks
    return (message, 0.0 * message) if domains == 1 else (0.0 * message, message)


def _alpha(curve: CollectiveCurve, ranks: int, least: float = 0.0) -> float:
    return max(least, curve.alpha_s + curve.rank_alpha_s * (ranks - 1)) if ranks > 1 else 0.0


def _all_reduce(op: Operator, network: Network, efficiency: Efficiency) -> Number:
    """Inside a domain, then across domains on a shard per GPU.

    Kernels that write into their peers' memory end at the domain: a group that spans several is
    reduced by NCCL, which starts later inside each of them too.
    """
    local, domains = network.split(op.ranks)
    message, started = op.message, np.sign(op.message)
    seconds = _reduced_inside(op, local, network, efficiency)
    if domains > 1:
        if local > 1:
            seconds = np.maximum(seconds, started * (NCCL_START_S + NCCL_RANK_S * (local - 1)))
        shard = 2.0 * (domains - 1) / domains / local / network.nic
        seconds = seconds + _line(efficiency.network, domains, started, message, shard)
    return seconds


def _reduced_inside(op: Operator, ranks: int, network: Network, efficiency: Efficiency) -> Number:
    """One-shot for small messages, two-shot for large, by the kernels that are the fastest.

    A one-shot takes in every other rank's message; a two-shot its shard of each, then the sums. A
    group on one host of a rack has its host's kernels, one on several those that multicast too.
    """
    if ranks == 1:
        return 0.0 * op.message
    taken = (ranks - 1) / network.scale_up
    per_byte = (taken, 2.0 * taken / ranks)
    kinds = (PEERS, MULTICAST) if network.multicast and ranks > HOST else (PEERS,)
    curves = efficiency.collectives
    started = np.sign(op.message)
    times = [
        _line(curves[name], ranks, started, op.message, each, network.start_s)
        for names in kinds
        for name, each in zip(names, per_byte, strict=True)
        if name in curves
    ]
    fastest = functools.reduce(np.minimum, times)
    boxed = op.ranks <= max(ONE_SHOT_BYTES)
    if efficiency.all_reduce != "custom" or not boxed or not set(CUSTOM) <= set(curves):
        return fastest
    return np.maximum(fastest, _custom(op.message, ranks, per_byte, curves))


def _custom(
    message: Number,
    ranks: int,
    per_byte: tuple[float, float],
    curves: Mapping[str, CollectiveCurve],
) -> Number:
    """Return what the first custom kernels take, by the size at which they change algorithms.

    Longer messages than they are used for are NCCL's, and take no less than their longest.
    """
    held = np.minimum(message, CUSTOM_BYTES)
    one, two = (
        _line(curves[name], ranks, np.sign(held), held, each)
        for name, each in zip(CUSTOM, per_byte, strict=True)
    )
    once = next(size for most, size in ONE_SHOT_BYTES.items() if ranks <= most)
    return np.where(held < once, one, np.maximum(one, two))


def _line(
    curve: CollectiveCurve,
    ranks: int,
    started: Number,
    message: Number,
    per_byte: float,
    least: float = 0.0,
) -> Number:
    return _alpha(curve, ranks, least) * started + message * (per_byte / curve.reached(ranks))


def ring_seconds_per_byte(ranks: int, network: Network) -> float:
    """Return seconds per byte of message of a flat ring that uses all NICs of a domain."""
    local, _ = network.split(ranks)
    return (ranks - 1) / min(network.nic * local, network.scale_up)


def _exchange(op: Operator, network: Network, efficiency: Efficiency) -> Number:
    """Start, then both ports move their share; the slower one decides.

    A gather (or scatter) that spans domains is a flat ring of all ranks, as wide as the share of
    a domain's NICs that plain collectives reach (``ring_across``).
    """
    local, domains = network.split(op.ranks)
    curve, across = efficiency.collectives[op.kind], efficiency.network
    if domains > 1 and op.kind in ("all_gather", "reduce_scatter"):
        ring = efficiency.collectives["ring_across"]
        per_byte = ring_seconds_per_byte(op.ranks, network)
        return _line(ring, op.ranks, np.sign(op.message), op.message, per_byte)
    up, out = _traffic(op.kind, op.message, local, domains)
    alpha = _alpha(curve, local, network.start_s) + _alpha(across, domains)
    inside = up / (network.scale_up * curve.reached(local))
    outside = out / (network.nic * across.reached(domains))
    seconds = alpha + np.maximum(inside, outside)
    if op.copies and domains > 1:
        grouped = alpha + GROUPING_S + np.maximum(inside, outside * _once(op, domains))
        seconds = np.minimum(seconds, grouped)
    return np.sign(op.message) * seconds


def _once(op: Operator, domains: int) -> float:
    """Return bytes leaving a domain if a token goes once to each other domain, over all copies.

    A token's ``copies`` experts sit on fewer distinct domains than ranks: sent to each domain
    once and forwarded inside, as DeepEP's normal kernels do, it crosses that much less often.
    """
    if not op.copies or domains == 1:
        return 1.0
    return distinct(op.copies, domains) / distinct(op.copies, op.ranks)
