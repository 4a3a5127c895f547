"""A link between two devices."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a link: ``bandwidth`` in bytes/s, ``latency_s`` in seconds per message."""

    name: str
    bandwidth: float
    latency_s: float
