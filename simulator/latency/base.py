"""What the engines ask of a latency model, whatever it is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.layout import Layout, Memory, Precision
from simulator.model import Model


class Piece(NamedTuple):
    """One piece of a decode step's seconds as a function of the batch's total context.

    For a total context ``c`` up to and including ``upto`` tokens (and above the piece before),
    the step takes ``c0 + c * (c1 + c * c2)`` seconds, evaluated in exactly that order.
    """

    upto: float
    c0: float
    c1: float
    c2: float


class Busiest(NamedTuple):
    """A step's prompt chunks on the attention-DP ranks that have most.

    ``tokens`` new prompt tokens are on the rank with most of them, ``prompts`` chunks on the rank
    with most of those.
    """

    tokens: int
    prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All a latency model needs to know about a worker; ``role`` is prefill, decode or mixed.

    A step holds at most ``step_tokens`` tokens, prompts' and decodes', over all attention-DP ranks.
    """

    model: Model
    layout: Layout
    precision: Precision
    gpu: GPU
    fabric: Fabric
    memory: Memory
    role: str
    step_tokens: float = math.inf


class StepModel(Protocol):
    """Seconds of one forward pass of one worker."""

    @property
    def stages(self) -> int:
        """Pipeline depth of consecutive prefill steps: one may start every ``seconds / stages``."""
        ...

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the pieces, by rising ``upto`` (the last infinite), for ``batch`` sequences.

        The context ``c`` is the batch's total KV length during the step, new tokens included.
        A step yields one token per sequence: where several are decoded at once (speculative
        decoding), these are the step's seconds over the tokens each sequence gains by it.
        """
        ...

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
        """Return seconds of a step of ``tokens`` new prompt tokens beside ``batch`` decodes.

        Over the step's chunks, each of q new tokens after p earlier ones: ``tokens`` = Σq,
        ``pairs`` = Σ(q·p + q(q+1)/2) attended pairs, ``past`` = Σp, ``prompts`` = the number of
        chunks, over all attention-DP ranks. ``busiest`` says what of it the fullest ranks have
        (``None``: the chunks are alike and dealt out evenly). ``batch`` sequences decode one token
        each over ``context`` total KV tokens.
        With ``tokens`` = 0 it equals :meth:`decode_pieces` exactly.
        """
        ...


class LatencyModel(Protocol):
    """A source of step times: roofline, table, polynomial, silicon."""

    def bind(self, worker: WorkerSpec) -> StepModel:
        """Return the step times of one worker; raise ``ConfigError`` for what it cannot model."""
        ...
