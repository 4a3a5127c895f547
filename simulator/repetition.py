"""One run again with other seeds and latencies: what chance and errors of the model do to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from simulator.errors import ConfigError

MOST = 1_000
"""Repetitions of one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """Settings of the run with one more seed or latency, and the name of its folder."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """How often to run: with ``seeds`` seeds in a row, and every factor on latencies of ``band``.

    The run as it is counts among them: its seed is the first and 1 is always in the band.

    Raises:
        ConfigError: fewer than one seed, a factor that is not positive, or too many runs.
    """

    seeds: int = 1
    band: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1 but got {self.seeds!r}")
        for factor in self.band:
            if not 0 < factor < float("inf"):
                raise ConfigError(f"band: factors must be above 0 but got {factor!r}")
        if self.seeds * len(self.factors) > MOST:
            runs = self.seeds * len(self.factors)
            raise ConfigError(
                f"seeds={self.seeds} × {len(self.factors)} latencies are {runs:,} runs of each "
                f"configuration: more than {MOST:,}"
            )

    @property
    def factors(self) -> list[float]:
        """The factors on latencies, the run's own 1 first."""
        return list(dict.fromkeys([1.0, *map(float, self.band)]))

    @property
    def once(self) -> bool:
        """Whether there is nothing to repeat."""
        return self.seeds == 1 and len(self.factors) == 1

    def of(self, settings: Mapping[str, Any]) -> Iterator[Repetition]:
        """Yield every repetition of a run's ``settings`` but the run itself.

        Raises:
            ConfigError: its latencies have no factor to set.
        """
        latency = settings["latency"]
        if len(self.factors) > 1 and "scale" not in latency:
            raise ConfigError("band: this latency has no scale that a factor could be put on")
        for factor, seed in product(self.factors, range(self.seeds)):
            if (factor, seed) != (1.0, 0):
                first = settings.get("seed", 0) + seed
                scale = factor * latency.get("scale", 1.0)
                changed = latency if factor == 1.0 else {**latency, "scale": scale}
                again = {**settings, "seed": first, "latency": changed}
                if services := settings.get("services"):
                    again["services"] = {n: _scaled(own, factor) for n, own in services.items()}
                yield Repetition(name=f"seed={first},latency.scale={scale:g}", settings=again)


def _scaled(service: Mapping[str, Any], factor: float) -> Mapping[str, Any]:
    """Return a service's settings with the factor on latencies of its own."""
    latency = service.get("latency") or {}
    if "scale" not in latency:
        return service
    return {**service, "latency": {**latency, "scale": factor * latency["scale"]}}
