"""Step times from two polynomials, as NVIDIA Dynamo's mock engine uses them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.errors import ConfigError
from simulator.latency.base import Busiest, Piece, StepModel, WorkerSpec
from simulator.latency.pieces import at
from simulator.latency.scaling import check_scale, scaled_steps

PREFILL_MS = (16.50142, 1.518344e-2, 4.209989e-7)
DECODE_MS = (5.74, 54.01, -25.74)
MIN_DECODE_MS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial:
    """Dynamo's mocker timing: milliseconds of prompt tokens, and of the share of KV in use.

    ``prefill = 4.209989e-7·T² + 1.518344e-2·T + 16.50142`` with T the step's new prompt tokens;
    ``decode = max(1, −25.74·u² + 54.01·u + 5.74)`` with u the batch's total context over the
    worker's KV capacity, at most 1. A step that does both takes their sum. ``speedup_ratio``
    divides both, ``decode_speedup_ratio`` decode once more. Source: Dynamo docs, mocker engine.
    Every step takes ``scale`` times that.
    """

    speedup_ratio: float = 1.0
    decode_speedup_ratio: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("speedup_ratio", "decode_speedup_ratio"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"latency polynomial: {name} must be above 0 but got {value!r}")
        check_scale("polynomial", self.scale)

    def bind(self, worker: WorkerSpec) -> StepModel:
        """Return the step times of a worker with this KV capacity."""
        capacity = worker.memory.kv_blocks * worker.memory.block_size
        if capacity < 1:
            raise ConfigError(
                f"latency polynomial: KV capacity must be 1 token or more, got {capacity}"
            )
        prefill = 1e-3 / self.speedup_ratio
        decode = prefill / self.decode_speedup_ratio
        steps = PolynomialSteps(
            prefill=tuple(c * prefill for c in PREFILL_MS),
            pieces=_decode_pieces(float(capacity), decode),
        )
        return scaled_steps(steps, self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolynomialSteps:
    """Step times of one worker: ``prefill`` coefficients by rising power, in seconds."""

    prefill: tuple[float, ...]
    pieces: tuple[Piece, ...]
    stages: int = field(default=1)

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the pieces, the same for every ``batch``."""
        del batch  # the formula looks at KV in use only
        return self.pieces

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
        """Return seconds of a step; only ``tokens``, ``context`` and whether it decodes matter."""
        del pairs, past, prompts, busiest
        if not tokens:
            return at(self.pieces, context)
        c0, c1, c2 = self.prefill
        prefill = c0 + tokens * (c1 + tokens * c2)
        return prefill + at(self.pieces, context) if batch else prefill


def _decode_pieces(capacity: float, scale: float) -> tuple[Piece, ...]:
    """Return the parabola up to the capacity, then its value there; both stay above the minimum."""
    c0, c1, c2 = DECODE_MS
    full = max(c0 + c1 + c2, MIN_DECODE_MS)
    return (
        Piece(capacity, c0 * scale, c1 * scale / capacity, c2 * scale / capacity**2),
        Piece(math.inf, full * scale, 0.0, 0.0),
    )
