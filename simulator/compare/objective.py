"""What a job tells whoever chose its settings: numbers of its summary, to make more or less of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.compare.metrics import METRIC, at, least
from simulator.errors import ConfigError
from simulator.nearest import suggest


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Numbers by their place in ``summary.json``; none: nothing is told.

    Raises:
        ConfigError: one that a simulation's summary does not have.
    """

    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in self.paths:
            if path not in METRIC:
                known = suggest(path, [*METRIC])
                raise ConfigError(f"objective: no number is called {path!r}; {known}")

    def of(self, summary: Mapping[str, Any]) -> Sequence[float]:
        """Return the numbers of a run; ``nan`` where unknown, as of a run that failed.

        A percentile among unfinished requests is what it is at least.
        """
        return [_value(summary, path) for path in self.paths]


def _value(summary: Mapping[str, Any], path: str) -> float:
    value = at(summary, path)
    bound = least(summary, path) if value is None else None
    known = value if bound is None else bound
    return math.nan if known is None else float(known)
