"""What a latency model answers, checked where it enters an engine: it may be anybody's."""

import math
from collections.abc import Sequence

import numpy as np

from simulator.errors import ConfigError
from simulator.latency.base import Busiest, LatencyModel, Piece, StepModel, WorkerSpec
from simulator.plugins import check_methods

NUMBERS = (float, int, np.floating, np.integer)


def bind(latency: LatencyModel, worker: WorkerSpec) -> StepModel:
    """Return the step times of ``worker``, each answer checked.

    Raises:
        ConfigError: the model cannot model the worker, or answers what is no time.
    """
    return CheckedSteps(type(latency).__name__, latency.bind(worker))


class CheckedSteps:
    """Step times that name the model ``owner`` where they are no finite number of seconds ≥ 0."""

    __slots__ = ("_owner", "_seconds", "_steps", "stages")

    def __init__(self, owner: str, steps: StepModel) -> None:
        self._owner = f"latency {owner}"
        self._steps = steps
        check_methods(steps, StepModel, f"{self._owner}: bind")
        self._seconds = steps.step_seconds
        stages = getattr(steps, "stages", None)
        if isinstance(stages, bool) or not isinstance(stages, int) or stages < 1:
            raise ConfigError(
                f"{self._owner}: stages must be a whole number of at least 1 but got {stages!r}"
            )
        self.stages: int = stages

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the model's pieces for ``batch`` sequences."""
        given = self._steps.decode_pieces(batch)
        try:
            pieces = [Piece(*map(float, each)) for each in given]
            sound = bool(pieces) and _sound(pieces)
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ConfigError(
                f"{self._owner}: decode_pieces({batch}) must be pieces of four numbers by rising "
                f"context, the last without end, whose seconds are at least 0, but got {given!r}"
            )
        return pieces

    def step_seconds(
        self,
        tokens: int,
        pairs: int,
        past: int,
        prompts: int,
        batch: int,
        context: int,
        busiest: Busiest | None = None,
    ) -> float:
        """Return the model's seconds of a step."""
        seconds = self._seconds(tokens, pairs, past, prompts, batch, context, busiest)
        if isinstance(seconds, NUMBERS) and 0.0 <= seconds < math.inf:
            return seconds
        raise ConfigError(
            f"{self._owner}: step_seconds must be a finite number of seconds of at least 0 but got "
            f"{seconds!r} for a step of {tokens} prompt tokens and {batch} decodes"
        )


def _sound(pieces: Sequence[Piece]) -> bool:
    """Tell whether pieces rise to infinity and their seconds are at least 0 where each ends."""
    ends = [piece.upto for piece in pieces]
    rising = ends == sorted(set(ends)) and ends[-1] == math.inf
    moments = [*ends[:-1], ends[-2] if len(ends) > 1 else 1.0]
    times = [p.c0 + c * (p.c1 + c * p.c2) for p, c in zip(pieces, moments, strict=True)]
    return rising and all(0.0 <= seconds < math.inf for seconds in times)
