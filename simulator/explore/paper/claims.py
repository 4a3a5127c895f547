"""Claims of the paper as data: what is said, what judges it, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import polars as pl

from simulator.explore.drawing import Plot
from simulator.explore.paper.laboratory import Laboratory
from simulator.explore.space import Floats

Evidence = TypeVar("Evidence")
Number = float | str | list[float]
Numbers = dict[str, Number]


class Verdict(NamedTuple):
    """Whether a claim holds, by which numbers, and what must be told with them either way."""

    held: bool
    numbers: Numbers
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim of the paper: whether it ``held`` here (``None``: not tried), by which numbers.

    ``reason`` says why it did not hold; ``note`` is told either way.
    """

    id: str
    claim: str
    held: bool | None
    numbers: Numbers = field(default_factory=dict)
    reason: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        plain = {name: _plain(value) for name, value in self.numbers.items()}
        object.__setattr__(self, "numbers", plain)
        if self.held is not None:
            object.__setattr__(self, "held", bool(self.held))


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Generic[Evidence]):
    """What the paper says, with its threshold here, and the function that judges the evidence.

    ``reason`` is what we make of it where it does not hold; ``note`` is told either way.
    """

    id: str
    claim: str
    judge: Callable[[Evidence], Verdict]
    reason: str = ""
    note: str = ""

    def judged(self, evidence: Evidence) -> Claim:
        """Return the claim with its verdict."""
        held, numbers, note = self.judge(evidence)
        return Claim(
            id=self.id,
            claim=self.claim,
            held=held,
            numbers=numbers,
            reason=self.reason,
            note=note or self.note,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure(Plot):
    """One figure and its claims."""

    id: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet(Generic[Evidence]):
    """How a figure is made: the evidence gathered, the curves drawn of it, what it is asked."""

    id: str
    title: str
    gather: Callable[[Laboratory], Evidence]
    curves: Callable[[Evidence], pl.DataFrame]
    statements: tuple[Statement[Evidence], ...]
    x: str = "interactivity"
    y: str = "throughput"
    log_y: bool = True

    def draw(self, lab: Laboratory) -> Figure:
        """Return the figure with its claims judged."""
        evidence = self.gather(lab)
        return Figure(
            id=self.id,
            title=self.title,
            curves=self.curves(evidence),
            x=self.x,
            y=self.y,
            log_x=True,
            log_y=self.log_y,
            claims=tuple(each.judged(evidence) for each in self.statements),
        )


def rounded(values: Floats) -> list[float]:
    """Return four digits of each value."""
    return [_digits(value) for value in values]


def _plain(value: Number) -> Number:
    """Return four digits of a number, or of each in a list: all that a claim needs."""
    if isinstance(value, str):
        return value
    return [_digits(each) for each in value] if isinstance(value, list) else _digits(value)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
