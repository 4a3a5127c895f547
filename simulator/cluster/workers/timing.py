"""A worker's times: of decode steps, by cached pieces, on scalars and arrays; of single prompts."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulator.latency.base import Busiest, Piece, StepModel


class DecodeTimes:
    """Seconds of a decode iteration by batch and total context, from a step model's pieces."""

    __slots__ = ("_pieces", "_steps")

    def __init__(self, steps: StepModel) -> None:
        self._steps = steps
        self._pieces: dict[int, tuple[Piece, ...]] = {}

    def pieces(self, batch: int) -> tuple[Piece, ...]:
        """Return the pieces for ``batch`` sequences, by rising context."""
        found = self._pieces.get(batch)
        if found is None:
            found = self._pieces[batch] = tuple(self._steps.decode_pieces(batch))
        return found

    def piece(self, batch: int, context: int) -> Piece:
        """Return the piece that covers ``context`` tokens."""
        pieces = self._pieces.get(batch) or self.pieces(batch)
        for piece in pieces:
            if context <= piece[0]:
                return piece
        raise AssertionError("the last piece has no upper end")

    def seconds(self, batch: int, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return seconds for each of ``contexts`` (tokens, float64 holding integers)."""
        pieces = self.pieces(batch)
        ends = np.array([piece.upto for piece in pieces[:-1]])
        chosen = np.searchsorted(ends, contexts, side="left")
        c0, c1, c2 = np.array([piece[1:] for piece in pieces]).T
        seconds: NDArray[np.float64] = c0[chosen] + contexts * (c1[chosen] + contexts * c2[chosen])
        return seconds


KEPT = 1 << 16
"""Chunks whose seconds are remembered: those of like prompts come up again and again."""


class PromptTimes:
    """Seconds of a step with one chunk of one prompt and nothing else: ``alone(tokens, done)``.

    The chunk is of ``tokens`` after ``done`` earlier ones.
    """

    __slots__ = ("_seconds", "alone")

    def __init__(self, steps: StepModel) -> None:
        self._seconds = steps.step_seconds
        self.alone = lru_cache(KEPT)(self._alone)

    def _alone(self, tokens: int, done: int) -> float:
        pairs = tokens * done + tokens * (tokens + 1) // 2
        return self._seconds(tokens, pairs, done, 1, 0, 0, Busiest(tokens, 1))
