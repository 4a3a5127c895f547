"""How GPUs are joined: scale-up domains inside, a network between them."""

from dataclasses import dataclass

from hardware.link import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The way from one worker to another: ``hops`` in order, ``kind`` ``scale_up`` or ``scale_out``.

    ``bandwidth`` is bytes/s of **one** GPU's port (its narrowest hop), ``latency_s`` the sum of
    the hops' latencies plus the transfer's fixed set-up time.
    """

    kind: str
    hops: tuple[Link, ...]
    latency_s: float
    bandwidth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """How workers' GPUs are wired (placeholder fields; the owner of hardware/ completes this)."""

    name: str
