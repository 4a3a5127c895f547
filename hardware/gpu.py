"""One accelerator: what it can compute, store and move."""

from collections.abc import Mapping
from dataclasses import dataclass

from hardware.link import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """One GPU's data sheet, in SI units (FLOP/s, bytes, bytes/s, W, USD/h).

    ``peak_flops`` maps a dtype (``bf16``, ``fp8``, ``fp4``) to its dense tensor peak.
    ``scale_up`` is the link of one GPU into its scale-up domain (NVLink, xGMI, PCIe), per
    direction, and ``scale_up_domain`` the number of GPUs such a domain joins; ``nic`` is one
    GPU's network port, per direction.
    """

    name: str
    architecture: str
    peak_flops: Mapping[str, float]
    memory_bytes: float
    memory_bandwidth: float
    scale_up: Link
    scale_up_domain: int
    nic: Link
    tdp_w: float | None = None
    usd_per_hour: float | None = None
    source: str
    notes: str = ""
