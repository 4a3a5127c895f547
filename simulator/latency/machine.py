"""A GPU and what its kernels reach of it: operators in, seconds out."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hardware.gpu import GPU
from simulator.latency.collectives import COLLECTIVES, Network, collective_seconds, ideal_seconds
from simulator.latency.efficiency import Efficiency
from simulator.latency.operators import forward_pass
from simulator.latency.passes import COMPANION, PEAK_OF, Load, Number, Operator, PassSpec, launched

PRODUCTS = ("gemm", "experts")
"""Kernels that need tensor cores of their dtype; the others fall back to 16 bits."""


class Rates(NamedTuple):
    """Seconds per FLOP and byte of a kernel family on one GPU, and how calls fall short of them."""

    s_per_flop: float
    s_per_byte: float
    floor_s: float
    ramp: float
    narrow: float
    overlap: float
    thin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A GPU, the network of its data sheet, and the efficiency of its architecture.

    Small kernels that come with others take ``companion_s`` seconds each; those of routed experts
    are in their own measurement.
    """

    gpu: GPU
    efficiency: Efficiency
    network: Network
    companion_s: float = 0.0

    def seconds(self, op: Operator) -> Number:
        """Return the seconds of all calls of ``op``."""
        if op.kind in COLLECTIVES:
            return collective_seconds(op, self.network, self.efficiency)
        if op.kind == COMPANION:
            return op.calls * self.companion_s + op.bytes * self.rates("memory", "bf16").s_per_byte
        rates = self.rates(op.kind, op.dtype)
        flops = op.flops + rates.ramp * op.ramp + rates.narrow * op.narrow
        compute = flops * rates.s_per_flop
        memory = (op.bytes + rates.thin * op.thin) * rates.s_per_byte
        unhidden = rates.overlap * np.minimum(compute, memory)
        floor = 0.0 if op.beside else rates.floor_s
        if op.bare:
            floor = max(0.0, floor - self._companions(op.kind, op.dtype))
        return op.calls * floor + np.maximum(compute, memory) + unhidden

    def ideal_seconds(self, op: Operator) -> Number:
        """Return the pure roofline's seconds: full peak, full bandwidth, nothing else."""
        if op.kind in COLLECTIVES:
            return ideal_seconds(op, self.network)
        memory = op.bytes / self.gpu.memory_bandwidth
        return np.maximum(op.flops / self.peak(op.kind, op.dtype), memory)

    def peak(self, kind: str, dtype: str) -> float:
        """Return the FLOP/s that kernels of this kind and dtype could reach at most."""
        name = PEAK_OF[dtype]
        if kind not in PRODUCTS and name not in self.gpu.peak_flops:
            name = "bf16"
        return self.gpu.peak_flops[name]

    def rates(self, kind: str, dtype: str) -> Rates:
        """Return a kernel family's rates on this GPU."""
        curve = self.efficiency.curve(kind, dtype)
        if kind not in PRODUCTS:  # attention computes as the kernels that were measured do
            dtype = self.efficiency.stand_in(kind, dtype)
        return Rates(
            s_per_flop=1.0 / (self.peak(kind, dtype) * curve.compute),
            s_per_byte=1.0 / (self.gpu.memory_bandwidth * curve.memory),
            floor_s=curve.floor_s + self._companions(kind, dtype),
            ramp=curve.ramp,
            narrow=curve.narrow,
            overlap=curve.overlap,
            thin=curve.thin,
        )

    def _companions(self, kind: str, dtype: str) -> float:
        return 0.0 if kind == "experts" else self.companion_s * (launched(kind, dtype) - 1)

    def pass_seconds(self, spec: PassSpec, load: Load) -> Number:
        """Return seconds of one forward pass over arrays of loads: the sum over its operators."""
        return self.sum_seconds(forward_pass(spec, load))

    def sum_seconds(self, operators: list[Operator]) -> Number:
        """Return the seconds of all ``operators``, one after the other."""
        total: Number = 0.0
        for op in operators:
            total = total + self.seconds(op)
        return total
