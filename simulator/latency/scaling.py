"""Every step a factor longer or shorter: what a model's error, or a calibration, comes to."""

import math
from collections.abc import Sequence

from simulator.errors import ConfigError
from simulator.latency.base import Busiest, Piece, StepModel
from simulator.latency.pieces import at, scaled


def check_scale(model: str, scale: float) -> None:
    """Refuse a factor that is not a positive finite number.

    Raises:
        ConfigError: naming the latency ``model`` it was given to.
    """
    if not 0 < scale < math.inf:
        raise ConfigError(f"latency {model}: scale must be above 0 and finite but got {scale!r}")


def scaled_steps(steps: StepModel, scale: float) -> StepModel:
    """Return ``steps`` of which each takes ``scale`` times as long: they themselves at 1."""
    return steps if scale == 1.0 else ScaledSteps(steps, scale)


class ScaledSteps:
    """Step times that are ``scale`` times those of ``steps``, decode steps' pieces among them."""

    __slots__ = ("_scale", "_steps", "stages")

    def __init__(self, steps: StepModel, scale: float) -> None:
        self._steps, self._scale = steps, scale
        self.stages: int = steps.stages

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the pieces for ``batch`` sequences, each coefficient times the factor."""
        return scaled(self._steps.decode_pieces(batch), self._scale)

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
        """Return seconds of a step; without prompts they are the pieces', to the last bit."""
        if not tokens:
            return at(self.decode_pieces(batch), context)
        seconds = self._steps.step_seconds(tokens, pairs, past, prompts, batch, context, busiest)
        return self._scale * seconds
