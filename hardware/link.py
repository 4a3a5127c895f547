"""A link between two devices."""

from dataclasses import dataclass

from hardware.errors import SpecError, check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a link: ``bandwidth`` in bytes/s, ``latency_s`` in seconds per message.

    Raises:
        SpecError: the bandwidth is not above 0, or the latency is below 0.

    """

    name: str
    bandwidth: float
    latency_s: float

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SpecError(f"link: name must be a non-empty string but got {self.name!r}")
        check_number(f"link {self.name}", "bandwidth", self.bandwidth, "bytes/s", above=0)
        check_number(f"link {self.name}", "latency_s", self.latency_s, "s", least=0)
