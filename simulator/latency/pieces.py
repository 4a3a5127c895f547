"""Pieces of a decode step's seconds: evaluate them, and build them from affine parts."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from simulator.errors import ConfigError
from simulator.latency.base import Piece

Line = tuple[float, float]
"""An affine function of the total context: its value at 0 and its slope."""


class Part(NamedTuple):
    """``floor + max(compute, memory) + overlap · min(compute, memory)``, flat from ``upto`` on."""

    floor: float
    overlap: float
    upto: float
    compute: Line
    memory: Line

    def times(self, factor: float) -> "Part":
        """Return ``factor`` times this part."""
        (c0, c1), (m0, m1) = self.compute, self.memory
        return Part(
            floor=factor * self.floor,
            overlap=self.overlap,
            upto=self.upto,
            compute=(factor * c0, factor * c1),
            memory=(factor * m0, factor * m1),
        )

    def line(self, context: float) -> Line:
        """Return the affine function this part follows around ``context``."""
        if context <= self.upto:
            lines = self.compute, self.memory
        else:
            lines = (_value(self.compute, self.upto), 0.0), (_value(self.memory, self.upto), 0.0)
        greater, lesser = lines
        if _value(greater, context) < _value(lesser, context):
            greater, lesser = lesser, greater
        return (
            self.floor + greater[0] + self.overlap * lesser[0],
            greater[1] + self.overlap * lesser[1],
        )

    def breaks(self) -> list[float]:
        """Return the contexts at which this part turns."""
        found = [self.upto] if self.upto < math.inf else []
        (c0, c1), (m0, m1) = self.compute, self.memory
        if c1 != m1:
            crossing = (m0 - c0) / (c1 - m1)
            if 0.0 < crossing < self.upto:
                found.append(crossing)
        return found


def at(pieces: Sequence[Piece], context: float) -> float:
    """Evaluate ``pieces`` at a total context, in the order every engine uses."""
    for upto, c0, c1, c2 in pieces:
        if context <= upto:
            return c0 + context * (c1 + context * c2)
    raise ConfigError(f"latency: no piece covers a total context of {context} tokens")


def sum_of(parts: Sequence[Part], constant: float = 0.0) -> tuple[Piece, ...]:
    """Return the pieces of ``constant`` plus all ``parts``."""
    breaks: Iterable[float] = {x for part in parts for x in part.breaks()}
    pieces = []
    for low, high in pairwise([0.0, *sorted(breaks), math.inf]):
        middle = 2.0 * low + 1.0 if high == math.inf else (low + high) / 2.0
        c0, c1 = constant, 0.0
        for part in parts:
            d0, d1 = part.line(middle)
            c0, c1 = c0 + d0, c1 + d1
        pieces.append(Piece(high, c0, c1, 0.0))
    return tuple(pieces)


def at_least(pieces: Sequence[Piece], least: float) -> tuple[Piece, ...]:
    """Return the greater of affine ``pieces``, which must not fall with context, and ``least``."""
    for index, piece in enumerate(pieces):
        end = piece.c0 + piece.upto * piece.c1 if piece.c1 else piece.c0
        if end <= least:
            continue
        crossing = (least - piece.c0) / piece.c1 if piece.c1 else 0.0
        start = pieces[index - 1].upto if index else 0.0
        if crossing <= start:
            flat = (Piece(start, least, 0.0, 0.0),) if index else ()
            return (*flat, *pieces[index:])
        return (Piece(crossing, least, 0.0, 0.0), *pieces[index:])
    return (Piece(math.inf, least, 0.0, 0.0),)


def scaled(pieces: Sequence[Piece], factor: float, constant: float = 0.0) -> tuple[Piece, ...]:
    """Return ``factor · pieces + constant``."""
    return tuple(
        Piece(upto, factor * c0 + constant, factor * c1, factor * c2) for upto, c0, c1, c2 in pieces
    )


def _value(line: Line, context: float) -> float:
    return line[0] + context * line[1]
