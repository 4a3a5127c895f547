"""Single kernels, measured alone, and the curve each kind of them fits by itself.

A table of kernel rows has one measured call a row: its FLOPs, the FLOPs one more row (key) and one
more column would add, the bytes one more column (key of each sequence) would, its bytes, and its
seconds. ``scripts/kernel_rows`` writes one from the public tables of aiconfigurator-core.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hardware.gpu import GPU
from simulator.calibration.curves import WEIGHTS, Key, bounds, started
from simulator.calibration.sources import ARCHITECTURES, GPUS, Floats, gpu_of
from simulator.errors import ConfigError
from simulator.latency.machine import PRODUCTS
from simulator.latency.passes import PEAK_OF
from simulator.validation.tables import numbers_of, read_frame

WORDS = ("system", "engine", "kind", "dtype", "shape")
NUMBERS = MappingProxyType(
    dict.fromkeys(("calls", "flops", "ramp", "narrow", "thin", "bytes", "seconds"), pl.Float64)
)
"""Columns: ``shape`` groups rows that are held out together."""
FEWEST = 12
"""Rows that can carry seven parameters; fewer are not fitted alone."""
SCALE = 0.1
"""Log error beyond which a row counts less."""
WORTH = 20.0
"""Rows of steps that all kernel rows of a curve together count as, at most: of 10 to 400, and of no
kernel rows at all, models left out of the fit are met best at 10 to 60."""
ANY = "any"
POOLED = ("nvfp4",)
"""Products whose start TensorRT-LLM measured with a quantisation before each, at 14 µs where two
other engines have 7 to 9 on the same GPU: no engine in particular has the others' curve (``ANY``),
and TensorRT-LLM its own."""
FOLDS = 5
"""Shapes are held out in so many parts."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Kernel rows of one curve in ideal seconds: arrays of one length."""

    calls: Floats
    compute: Floats
    ramp: Floats
    narrow: Floats
    memory: Floats
    thin: Floats
    seconds: Floats
    fold: Floats

    def where(self, chosen: NDArray[np.bool_]) -> "Rows":
        """Return the chosen rows."""
        return Rows(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})

    def predicted(self, x: Floats) -> Floats:
        """Return what the rows take by seven logarithms."""
        compute, memory = self._sides(x)
        unhidden = np.exp(x[5]) * np.minimum(compute, memory)
        total: Floats = self.calls * np.exp(x[2]) * 1e-6 + np.maximum(compute, memory) + unhidden
        return total

    def slopes(self, x: Floats) -> Floats:
        """Return the derivatives of :meth:`predicted` by the logarithms, rows × 7."""
        compute, memory = self._sides(x)
        more, overlap = compute > memory, np.exp(x[5])
        by_compute = np.where(more, 1.0, overlap)
        by_memory = np.where(more, overlap, 1.0)
        peak, bandwidth = np.exp(x[0]), np.exp(x[1])
        return np.column_stack(
            [
                -by_compute * compute,
                -by_memory * memory,
                self.calls * np.exp(x[2]) * 1e-6,
                by_compute * np.exp(x[3]) * self.ramp / peak,
                by_compute * np.exp(x[4]) * self.narrow / peak,
                overlap * np.minimum(compute, memory),
                by_memory * np.exp(x[6]) * self.thin / bandwidth,
            ]
        )

    def _sides(self, x: Floats) -> tuple[Floats, Floats]:
        flops = self.compute + np.exp(x[3]) * self.ramp + np.exp(x[4]) * self.narrow
        read = self.memory + np.exp(x[6]) * self.thin
        return flops / np.exp(x[0]), read / np.exp(x[1])


@dataclass(frozen=True, kw_only=True)
class Alone:
    """A curve fitted to its own kernels: logarithms, how sure, and errors on shapes held out.

    ``root`` turns a distance from ``x`` into seven residuals that weigh what the rows do.
    """

    x: Floats
    root: Floats
    rows: int
    error: float
    held_out: float


def read_kernels(path: Path) -> pl.DataFrame:
    """Return a table of kernel rows.

    Raises:
        ConfigError: it cannot be read, lacks a column, or has a cell that is no number.
    """
    text = read_frame(path, (*WORDS, *NUMBERS), "--kernels")
    table = text.select(pl.col(WORDS).fill_null("")).hstack(
        numbers_of(text, dict(NUMBERS), f"--kernels: {path}")
    )
    unknown = set(table["system"].unique()) - set(GPUS)
    if unknown:
        raise ConfigError(f"--kernels: {path}: no GPU is called {', '.join(sorted(unknown))}")
    return table.filter(pl.col("seconds") > 0)


def fit_alone(
    kernels: pl.DataFrame, architecture: str, *, held_out: bool = True
) -> Mapping[Key, Alone]:
    """Return the curve of every kind of kernel of an architecture that has rows of its own."""
    table = kernels.filter(pl.col("system").is_in(list(ARCHITECTURES[architecture])))
    others = table.filter(
        (pl.col("kind") == "gemm") & pl.col("dtype").is_in(POOLED) & (pl.col("engine") != "")
    )
    table = pl.concat([table, others.with_columns(engine=pl.lit(ANY))])
    found = {}
    for (kind, dtype, engine), rows in table.group_by(
        ["kind", "dtype", "engine"], maintain_order=True
    ):
        key = Key(str(kind), str(dtype), str(engine or ""))
        if len(rows) >= FEWEST:
            found[key] = alone(key, rows_of(key, rows), held_out=held_out)
    return found


def rows_of(key: Key, table: pl.DataFrame) -> Rows:
    """Return a table's rows of one curve in ideal seconds."""
    gpus = {name: gpu_of(name) for name in table["system"].unique()}
    peaks = {name: _peak(gpu, key) for name, gpu in gpus.items()}
    speeds = {name: gpu.memory_bandwidth for name, gpu in gpus.items()}
    peak = table["system"].replace_strict(peaks, return_dtype=pl.Float64).to_numpy()
    speed = table["system"].replace_strict(speeds, return_dtype=pl.Float64).to_numpy()
    shapes = table["shape"].rank("dense").to_numpy()
    return Rows(
        calls=table["calls"].to_numpy(),
        compute=table["flops"].to_numpy() / peak,
        ramp=table["ramp"].to_numpy() / peak,
        narrow=table["narrow"].to_numpy() / peak,
        memory=table["bytes"].to_numpy() / speed,
        thin=table["thin"].to_numpy() / speed,
        seconds=table["seconds"].to_numpy(),
        fold=(shapes % FOLDS).astype(np.float64),
    )


def _peak(gpu: GPU, key: Key) -> float:
    name = PEAK_OF[key.dtype]
    if key.kind not in PRODUCTS and name not in gpu.peak_flops:
        name = "bf16"
    return gpu.peak_flops[name]


def alone(key: Key, rows: Rows, *, held_out: bool = True) -> Alone:
    """Fit one curve to its rows; with ``held_out`` also to every fold's others."""
    x, root = _fitted(key.kind, rows)
    errors = []
    for fold in range(FOLDS) if held_out else ():
        inside = rows.fold == fold
        if inside.any() and not inside.all():
            other, _ = _fitted(key.kind, rows.where(~inside))
            judged = rows.where(inside)
            errors.append(np.abs(judged.predicted(other) / judged.seconds - 1.0))
    own = np.abs(rows.predicted(x) / rows.seconds - 1.0)
    return Alone(
        x=x,
        root=root,
        rows=len(rows.seconds),
        error=float(np.median(own)),
        held_out=float(np.median(np.concatenate(errors))) if errors else float("nan"),
    )


def _fitted(kind: str, rows: Rows) -> tuple[Floats, Floats]:
    """Return the best logarithms, and the root of their information in rows of steps."""
    low, high = bounds(kind)
    start, weights = started(kind), np.array(WEIGHTS)
    target = np.log(rows.seconds)

    def residuals(x: Floats) -> Floats:
        return np.append(np.log(rows.predicted(x)) - target, weights * (x - start))

    def slopes(x: Floats) -> Floats:
        return np.vstack([rows.slopes(x) / rows.predicted(x)[:, None], np.diag(weights)])

    x = robust(residuals, slopes, start, (low, high))
    left, slope = residuals(x)[: len(target)], slopes(x)[: len(target)]
    trust = 1.0 / np.sqrt(1.0 + (left / SCALE) ** 2)
    worth = min(1.0, WORTH / len(target))
    information = worth * (slope * trust[:, None]).T @ slope + np.diag(weights**2)
    root: Floats = np.linalg.cholesky(information).T.astype(np.float64)
    return x, root


def robust(
    residuals: Callable[[Floats], Floats],
    slopes: Callable[[Floats], Floats],
    start: Floats,
    box: tuple[Floats, Floats],
    most: int = 60,
) -> Floats:
    """Return the least squares of log errors in which outliers count less."""
    fit = least_squares(
        residuals, start, slopes, bounds=box, loss="soft_l1", f_scale=SCALE, max_nfev=most
    )
    found: Floats = fit.x
    return found
