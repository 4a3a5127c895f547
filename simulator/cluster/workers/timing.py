"""A worker's decode times: cached pieces, and the same expression on scalars and arrays."""

import numpy as np
from numpy.typing import NDArray

from simulator.latency.base import Piece, StepModel


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
