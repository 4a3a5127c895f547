"""How long people think and tools take between an answer and the next turn, in seconds."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workloads import checks
from workloads.errors import TraceError

Seconds = NDArray[np.float64]


class Waits(Protocol):
    """A distribution of waits."""

    def sample(self, n: int, rng: np.random.Generator) -> Seconds:
        """Return ``n`` waits in seconds, at least 0, shape (n,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantWait:
    """Always ``seconds``."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least("constant wait", "seconds", self.seconds, 0, "s")

    def sample(self, n: int, rng: np.random.Generator) -> Seconds:  # noqa: ARG002 - not random
        """Return ``seconds``, ``n`` times."""
        return np.full(n, float(self.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormalWaits:
    """A mixture of lognormals: with probability ``weights[i]`` a median of ``medians_s[i]``.

    ``sigmas`` are those of the logarithms; weights are scaled to sum to 1. Waits are at most
    ``max_s``: whoever would wait longer comes back then.
    """

    medians_s: tuple[float, ...]
    sigmas: tuple[float, ...]
    weights: tuple[float, ...] = (1.0,)
    max_s: float = 3600.0

    def __post_init__(self) -> None:
        owner = "lognormal waits"
        for name, unit in (("medians_s", "s"), ("sigmas", ""), ("weights", "")):
            values = getattr(self, name)
            if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
                raise TraceError(f"{owner}: {name} must be a list of numbers but got {values!r}")
            for value in values:
                if name == "sigmas":
                    checks.at_least(owner, name, value, 0)
                else:
                    checks.positive(owner, name, value, unit)
            object.__setattr__(self, name, tuple(values))
        if not len(self.medians_s) == len(self.sigmas) == len(self.weights):
            raise TraceError(
                f"{owner}: medians_s, sigmas and weights must be equally many but are "
                f"{len(self.medians_s)}, {len(self.sigmas)} and {len(self.weights)}"
            )
        checks.positive(owner, "max_s", self.max_s, "s")

    def sample(self, n: int, rng: np.random.Generator) -> Seconds:
        """Return ``n`` waits; the first k of them do not depend on ``n``."""
        which, size = rng.spawn(2)
        bounds = np.cumsum(self.weights) / sum(self.weights)
        part = np.minimum(np.searchsorted(bounds, which.random(n), side="right"), len(bounds) - 1)
        logs = np.log(self.medians_s)[part] + np.array(self.sigmas)[part] * size.standard_normal(n)
        return np.asarray(np.minimum(np.exp(np.minimum(logs, 700.0)), self.max_s))
