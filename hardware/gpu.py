"""One accelerator: what it can compute, store and move."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hardware.errors import SpecError, check_number
from hardware.link import Link

DTYPES = ("bf16", "fp8", "fp4", "int8")
"""The tensor dtypes a data sheet gives a dense peak for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """One GPU's data sheet, in SI units (FLOP/s, bytes, bytes/s, W, USD/h).

    ``peak_flops`` maps a dtype (``bf16``, ``fp8``, ``fp4``) to its dense tensor peak.
    ``scale_up`` is the link of one GPU into its scale-up domain (NVLink, xGMI, PCIe), per
    direction, ``scale_up_domain`` the number of GPUs such a domain joins, and
    ``scale_up_multicast`` whether its switches multicast over several hosts, as NVLink racks do;
    ``nic`` is one GPU's network port, per direction. What a server's process does on the host
    takes ``host_factor`` times what it takes on x86 servers.

    Raises:
        SpecError: a value is out of range or a dtype unknown.

    """

    name: str
    architecture: str
    peak_flops: Mapping[str, float] = field(hash=False)
    memory_bytes: float
    memory_bandwidth: float
    scale_up: Link
    scale_up_domain: int
    nic: Link
    scale_up_multicast: bool = False
    host_factor: float = 1.0
    tdp_w: float | None = None
    usd_per_hour: float | None = None
    source: str
    notes: str = ""

    def __post_init__(self) -> None:
        owner = f"GPU {self.name}"
        object.__setattr__(self, "peak_flops", dict(self.peak_flops))  # ours, whatever was given
        for dtype, peak in self.peak_flops.items():
            if dtype not in DTYPES:
                raise SpecError(
                    f"{owner}: peak_flops has no dtype {dtype!r}; known are {', '.join(DTYPES)}"
                )
            check_number(owner, f"peak_flops[{dtype}]", peak, "FLOP/s", above=0)
        check_number(owner, "memory_bytes", self.memory_bytes, "bytes", above=0)
        check_number(owner, "memory_bandwidth", self.memory_bandwidth, "bytes/s", above=0)
        if type(self.scale_up_domain) is not int or self.scale_up_domain < 1:
            raise SpecError(
                f"{owner}: scale_up_domain must be a whole number ≥ 1 GPU but got "
                f"{self.scale_up_domain!r}"
            )
        if type(self.scale_up_multicast) is not bool:
            raise SpecError(
                f"{owner}: scale_up_multicast must be true or false but got "
                f"{self.scale_up_multicast!r}"
            )
        check_number(owner, "host_factor", self.host_factor, "times x86 servers", above=0)
        if self.tdp_w is not None:
            check_number(owner, "tdp_w", self.tdp_w, "W", above=0)
        if self.usd_per_hour is not None:
            check_number(owner, "usd_per_hour", self.usd_per_hour, "USD/h", least=0)

    def peak(self, dtype: str) -> float:
        """Return the dense tensor peak of ``dtype`` in FLOP/s.

        Raises:
            SpecError: this GPU has no peak for ``dtype``, or it is not known.

        """
        if dtype in self.peak_flops:
            return self.peak_flops[dtype]
        known = ", ".join(self.peak_flops) or "none"
        raise SpecError(f"GPU {self.name}: no {dtype} peak is known; known peaks: {known}")
