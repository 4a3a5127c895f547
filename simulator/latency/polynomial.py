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

    ``prefill = 4.209989e-7·T² + 1.518344e-2·T + 16.50142`` with T the step's prompts times their
    mean of new tokens, that is ⌊mean length so far⌋ − ⌊mean length before⌋;
    ``decode = max(1, −25.74·u² + 54.01·u + 5.74)`` with u the share of the worker's KV blocks in
    use, at most 1: the batch's total context and, of each sequence, half a block less half a token
    (what is empty of its last one, on average). A step that computes prompts takes ``prefill`` and,
    where sequences decode beside them or a prompt ends, so that its first token is due,
    ``decode`` of them all; on a prefill worker, which decodes nothing, ``prefill`` alone. A prompt
    ends where the step is not filled by a single one. ``speedup_ratio`` divides both,
    ``decode_speedup_ratio`` decode once more. Every step takes ``scale`` times that.
    Source: the formulas are those of Dynamo's docs, mocker engine; what T, u and a mixed step
    are is seen in the times its replay reports (ai-dynamo 1.4.2): see docs/parity.md.
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
            scale=decode,
            capacity=float(capacity),
            unfilled=(worker.memory.block_size - 1) / 2,
            budget=worker.step_tokens,
            decodes=worker.role != "prefill",
        )
        return scaled_steps(steps, self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolynomialSteps:
    """Step times of one worker of so much ``capacity`` (tokens), of which it uses whole blocks.

    ``prefill`` coefficients by rising power, in seconds; ``scale``: seconds of decode's
    milliseconds; ``unfilled`` tokens of a sequence's last block; ``budget`` tokens of a step.
    """

    prefill: tuple[float, ...]
    scale: float
    capacity: float
    unfilled: float
    budget: float
    decodes: bool
    stages: int = field(default=1)

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the parabola up to the capacity, then its value there; 1 ms at least."""
        c0, c1, c2 = (c * self.scale / self.capacity**power for power, c in enumerate(DECODE_MS))
        empty = batch * self.unfilled
        full = max(sum(DECODE_MS), MIN_DECODE_MS) * self.scale
        flat = Piece(math.inf, full, 0.0, 0.0)
        if empty >= self.capacity:
            return (flat,)
        shifted = c0 + empty * (c1 + empty * c2), c1 + 2 * empty * c2, c2
        return Piece(self.capacity - empty, *shifted), flat

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
        """Return seconds of a step."""
        del pairs, busiest
        if not tokens:
            return at(self.decode_pieces(batch), context)
        c0, c1, c2 = self.prefill
        new = prompts * ((past + tokens) // prompts - past // prompts)
        prefill = c0 + new * (c1 + new * c2)
        ends = prompts > 1 or tokens + batch < self.budget
        if not self.decodes or not (batch or ends):
            return prefill
        return prefill + at(self.decode_pieces(batch + prompts), context + past + tokens)
