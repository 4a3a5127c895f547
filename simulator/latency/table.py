"""Step times interpolated from tables a user measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.latency.base import Busiest, Piece, StepModel, WorkerSpec
from simulator.latency.pieces import at
from simulator.latency.scaling import check_scale, scaled_steps

MAX_ROWS = 1_000_000
MAX_CACHED = 65536
"""Batch sizes, or token counts, whose lines are kept."""

Cache = dict[int, tuple[Piece, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A measured grid: ``seconds[i, j]`` at ``first[i]``, ``second[j]``, both axes rising.

    Between nodes bilinear; beyond them the last segment goes on, but never below 0 s; with a
    single node along an axis the value is constant along it.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def row(self, value: float) -> NDArray[np.float64]:
        """Return seconds along the second axis at ``value`` of the first."""
        last = len(self.first) - 1
        index = int(np.searchsorted(self.first, value, side="right")) - 1
        index = min(max(index, 0), max(last - 1, 0))
        lower: NDArray[np.float64] = self.seconds[index]
        upper: NDArray[np.float64] = self.seconds[min(index + 1, last)]
        width = float(self.first[min(index + 1, last)] - self.first[index])
        share = (value - float(self.first[index])) / width if width else 0.0
        return lower + (upper - lower) * share


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A user's own measurements, as CSV or parquet.

    ``decode_path``: columns ``batch`` (sequences), ``context`` (KV tokens **per sequence**, new
    token included) and ``seconds``. ``prefill_path``: columns ``tokens`` (new prompt tokens of the
    step), ``seconds`` and optionally ``past`` (earlier tokens those chunks follow). Each must be a
    full grid of its first two columns. A step that does both takes the sum of the two.
    Outside the grid the last segment is extended linearly, never below 0 s. Every step takes
    ``scale`` times what was measured.
    """

    decode_path: str
    prefill_path: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_scale("table", self.scale)

    def bind(self, worker: WorkerSpec) -> StepModel:
        """Return the step times of a worker: those of the tables, whatever the worker."""
        del worker
        steps = TableSteps(
            prefill=_read_prefill(Path(self.prefill_path)),
            decode=_read_decode(Path(self.decode_path)),
        )
        return scaled_steps(steps, self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSteps:
    """Step times from a prefill and a decode grid."""

    prefill: Grid
    decode: Grid
    stages: int = field(default=1)
    _decode: Cache = field(default_factory=dict, init=False, compare=False, repr=False)
    _prefill: Cache = field(default_factory=dict, init=False, compare=False, repr=False)

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the pieces for ``batch`` sequences: a line per segment of the context axis."""
        pieces = self._decode.get(batch)
        if pieces is None:
            sequences = max(batch, 1)
            pieces = lines(self.decode.second * sequences, self.decode.row(float(sequences)))
            keep(self._decode, batch, pieces)
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
        """Return seconds of a step; ``pairs`` and ``prompts`` are in the tables, or not at all."""
        del pairs, prompts, busiest
        if not tokens:
            return at(self.decode_pieces(batch), context)
        pieces = self._prefill.get(tokens)
        if pieces is None:
            pieces = lines(self.prefill.second, self.prefill.row(float(tokens)))
            keep(self._prefill, tokens, pieces)
        seconds = at(pieces, past)
        return seconds + at(self.decode_pieces(batch), context) if batch else seconds


def keep(cache: Cache, key: int, pieces: tuple[Piece, ...]) -> None:
    """Remember ``pieces``, in bounded memory."""
    if len(cache) >= MAX_CACHED:
        cache.clear()
    cache[key] = pieces


def lines(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> tuple[Piece, ...]:
    """Return the pieces through the nodes (xs, ys), extended at both ends, never below 0.

    Each node belongs to the piece that ends there, and is met to rounding of one product and sum.
    """
    nodes = [(float(x), max(0.0, float(y))) for x, y in zip(xs, ys, strict=True)]
    if len(nodes) == 1:
        return (Piece(math.inf, nodes[0][1], 0.0, 0.0),)
    pieces = [_through(left, right) for left, right in pairwise(nodes)]
    return tuple(_above_zero(pieces))


def _through(left: tuple[float, float], right: tuple[float, float]) -> Piece:
    slope = (right[1] - left[1]) / (right[0] - left[0])
    return Piece(right[0], left[1] - left[0] * slope, slope, 0.0)


def _above_zero(pieces: list[Piece]) -> list[Piece]:
    """Open the last piece to infinity; cut what falls below 0 at either end."""
    first, last = pieces[0], pieces[-1]._replace(upto=math.inf)
    pieces = [*pieces[:-1], last]
    if first.c0 < 0.0 < first.c1:
        pieces.insert(0, Piece(-first.c0 / first.c1, 0.0, 0.0, 0.0))
    if last.c1 < 0.0:
        zero = -last.c0 / last.c1
        pieces[-1:] = [last._replace(upto=zero), Piece(math.inf, 0.0, 0.0, 0.0)]
    return pieces


def _read_decode(path: Path) -> Grid:
    frame = _read(path, ("batch", "context", "seconds"))
    return _grid(path, frame, "batch", "context")


def _read_prefill(path: Path) -> Grid:
    frame = _read(path, ("tokens", "seconds"), optional=("past",))
    if "past" not in frame.columns:
        frame = frame.with_columns(past=pl.lit(0.0))
    return _grid(path, frame, "tokens", "past")


def _read(path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> pl.DataFrame:
    """Return the wanted columns as floats, after naming whatever is wrong with the file."""
    frame = _open(path)
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        have = ", ".join(frame.columns[:20]) or "none"
        raise ConfigError(f"latency table {path}: column {missing[0]} is missing; it has {have}")
    if frame.is_empty():
        raise ConfigError(f"latency table {path}: has no rows")
    if len(frame) > MAX_ROWS:
        raise ConfigError(f"latency table {path}: {len(frame)} rows, at most {MAX_ROWS} expected")
    wanted = [name for name in (*columns, *optional) if name in frame.columns]
    return frame.select([_numbers(path, frame[name]) for name in wanted])


def _open(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise ConfigError(f"latency table {path}: no such file")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        kind = "parquet" if path.suffix == ".parquet" else "CSV"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"latency table {path}: not readable as {kind}: {reason}") from error


def _numbers(path: Path, column: pl.Series) -> pl.Series:
    """Return the column as finite floats ≥ 0; the error gives the first offending row."""
    text = column.str.strip_chars() if column.dtype == pl.String else column
    values = text.cast(pl.Float64, strict=False)
    wrong = (~(values.is_finite() & (values >= 0))).fill_null(True).arg_true()
    if len(wrong):
        row = int(wrong[0])
        raise ConfigError(
            f"latency table {path}: row {row + 1}, {column.name} is {column[row]!r}, expected a "
            "number of at least 0"
        )
    return values.alias(column.name)


def _grid(path: Path, frame: pl.DataFrame, first: str, second: str) -> Grid:
    """Return the full grid; the error names the first point that is missing or given twice."""
    twice = frame.filter(frame.select(first, second).is_duplicated())
    if len(twice):
        a, b = twice.select(first, second).row(0)
        raise ConfigError(
            f"latency table {path}: {first} {a:g}, {second} {b:g} is given twice; "
            "keep one of the rows"
        )
    xs, ys = (frame[name].unique().sort() for name in (first, second))
    ordered = frame.sort(first, second)
    if len(frame) != len(xs) * len(ys):
        full = pl.DataFrame({first: xs}).join(pl.DataFrame({second: ys}), how="cross")
        a, b = full.join(frame, on=[first, second], how="anti").sort(first, second).row(0)
        raise ConfigError(
            f"latency table {path}: not a full grid: {first} {a:g}, {second} {b:g} is missing; "
            f"add it, or leave out every row of that {first} or of that {second}"
        )
    seconds = ordered["seconds"].to_numpy().reshape(len(xs), len(ys))
    return Grid(first=xs.to_numpy(), second=ys.to_numpy(), seconds=seconds)
