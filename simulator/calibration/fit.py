"""Curves of an architecture, fitted to whole forward steps on top of its single kernels.

A curve with kernel rows of its own starts from them and is held by what they weigh; steps decide
the rest: kernels nobody measured alone, the experts' skew, the ring between boxes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import least_squares

from simulator.calibration.collectives import bare, fit_collectives, fit_network
from simulator.calibration.curves import (
    COUNT,
    PRIORS,
    WEIGHTS,
    Key,
    Prior,
    bounds,
    curve_of,
    rounded,
    started,
)
from simulator.calibration.kernel_rows import ANY, SCALE, Alone, fit_alone
from simulator.calibration.sources import (
    ARCHITECTURES,
    DTYPES,
    NEAREST,
    SUCCESSORS,
    Floats,
    Group,
    gpu_of,
    groups,
    network_of,
)
from simulator.latency.collectives import COLLECTIVES, collective_seconds, ring_seconds_per_byte
from simulator.latency.efficiency import CollectiveCurve, Curve, Efficiency
from simulator.latency.machine import Machine
from simulator.latency.operators import forward_pass
from simulator.latency.passes import Operator

SOURCE = (
    "AIConfigurator kernel and communication measurements (ai-dynamo/aiconfigurator, Apache-2.0): "
    "TensorRT-LLM 1.0 to 1.3, SGLang 0.5.14, vLLM 0.24, forward steps composed of them"
)
MEASURED_WEIGHTS: Prior = (1.0, 3.0, 1.0, 0.15, 0.3, 0.15, 0.15)
"""Of priors that are themselves measured."""
NFEV = 40
"""Evaluations of a fit; the error no longer moves long before."""
GLOBALS = (50.0, 0.2, 1.5)
GLOBAL_WEIGHTS = (0.15, 0.15, 0.15)
GLOBAL_LOW, GLOBAL_HIGH = (1.0, 0.01, 1.0), (300.0, 1.0, 4.0)
"""Of the flat ring across domains (start in µs, share of the NICs) and of the experts' skew."""
SIDES = ("compute", "ramp", "narrow", "memory", "thin")

Kernels = dict[str, dict[str, Curve]]
AloneOf = Mapping[Key, Alone]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """An architecture's efficiency, the median errors of its collectives, its kernels alone."""

    efficiency: Efficiency
    collective_errors: Mapping[str, float]
    alone: AloneOf


@dataclass(frozen=True, kw_only=True)
class Fields:
    """All kernels of all rows in flat arrays: seconds of every row in a few numpy operations.

    ``row``, ``key``, ``calls`` and ideal seconds of each kernel (``plain``, and ``skewed`` at an
    experts' skew of 2); ``fixed`` seconds, bytes ``across`` domains and ``rings`` of each row.
    """

    keys: tuple[Key, ...]
    row: Floats
    key: Floats
    calls: Floats
    plain: Mapping[str, Floats]
    skewed: Mapping[str, Floats]
    fixed: Floats
    across: Floats
    rings: Floats
    measured: Floats

    def seconds(self, x: Floats) -> Floats:
        """Return the seconds of every row, for log parameters (7 per key, then globals)."""
        table, (compute, memory) = self._table(x), self._both(x)
        total = self.calls * table[:, 2] * 1e-6 + np.maximum(compute, memory)
        total += table[:, 5] * np.minimum(compute, memory)
        return np.asarray(
            self.fixed
            + self.rings * np.exp(x[-3]) * 1e-6
            + self.across / np.exp(x[-2])
            + self._by_row(total)
        )

    def slopes(self, x: Floats) -> Floats:
        """Return the derivatives of every row's seconds by the log parameters."""
        table, (compute, memory) = self._table(x), self._both(x)
        more = compute > memory
        by_compute = np.where(more, 1.0, table[:, 5])
        by_memory = np.where(more, table[:, 5], 1.0)
        skew = float(np.exp(x[-1]))
        each = (
            -by_compute * compute,
            -by_memory * memory,
            self.calls * table[:, 2] * 1e-6,
            by_compute * table[:, 3] * self._mixed("ramp", skew) / table[:, 0],
            by_compute * table[:, 4] * self._mixed("narrow", skew) / table[:, 0],
            table[:, 5] * np.minimum(compute, memory),
            by_memory * table[:, 6] * self._mixed("thin", skew) / table[:, 1],
        )
        rows, count = len(self.measured), COUNT * len(self.keys)
        slopes = np.zeros((rows, count + 3))
        flat = (self.row * count + COUNT * self.key).astype(np.int64)
        for index, values in enumerate(each):
            found = np.bincount(flat + index, values, rows * count)
            slopes[:, :count] += found.reshape(rows, count)
        changes = {n: self.skewed[n] - self.plain[n] for n in SIDES}
        flops = changes["compute"] + table[:, 3] * changes["ramp"] + table[:, 4] * changes["narrow"]
        read = changes["memory"] + table[:, 6] * changes["thin"]
        by_skew = by_compute * flops / table[:, 0] + by_memory * read / table[:, 1]
        slopes[:, -3] = self.rings * np.exp(x[-3]) * 1e-6
        slopes[:, -2] = -self.across / np.exp(x[-2])
        slopes[:, -1] = skew * self._by_row(by_skew)
        return slopes

    def _by_row(self, values: Floats) -> Floats:
        sums = np.bincount(self.row.astype(np.int64), values, len(self.measured))
        return sums.astype(np.float64)

    def _table(self, x: Floats) -> Floats:
        table: Floats = np.exp(x[:-3]).reshape(-1, COUNT)[self.key.astype(np.int64)]
        return table

    def _mixed(self, name: str, skew: float) -> Floats:
        return self.plain[name] + (skew - 1.0) * (self.skewed[name] - self.plain[name])

    def _both(self, x: Floats) -> tuple[Floats, Floats]:
        """Seconds of every kernel's FLOPs and of its bytes."""
        table, skew = self._table(x), float(np.exp(x[-1]))
        flops = self._mixed("compute", skew) + table[:, 3] * self._mixed("ramp", skew)
        flops = flops + table[:, 4] * self._mixed("narrow", skew)
        read = self._mixed("memory", skew) + table[:, 6] * self._mixed("thin", skew)
        return flops / table[:, 0], read / table[:, 1]


@dataclass
class Flat:
    """Gathers groups of rows into :class:`Fields`."""

    keys: list[Key] = field(default_factory=list)
    parts: dict[str, list[Floats]] = field(default_factory=dict)
    rows: int = 0

    def add(self, group: Group, collectives: Efficiency) -> None:
        """Append a group's operators, in ideal seconds, once balanced and once at skew 2."""
        count, network = len(group.seconds), network_of(group.system)
        constant, across, rings = np.zeros(count), np.zeros(count), np.zeros(count)
        plain = forward_pass(group.spec, group.load)
        doubled = forward_pass(replace(group.spec, moe_skew=2.0), group.load)
        machine = Machine(gpu=gpu_of(group.system), efficiency=collectives, network=network)
        for op, other in zip(plain, doubled, strict=True):
            if op.kind in ("all_gather", "reduce_scatter") and op.ranks > network.domain:
                per_byte = ring_seconds_per_byte(op.ranks, network)
                across = across + op.calls * op.message * per_byte
                rings = rings + op.calls
            elif op.kind in COLLECTIVES:
                constant = constant + collective_seconds(op, network, collectives)
            else:
                self._append(op, other, machine, group)
        for name, values in (("fixed", constant), ("across", across), ("rings", rings)):
            self._put(name, values)
        self._put("measured", group.seconds)
        self.rows += count

    def _append(self, op: Operator, other: Operator, machine: Machine, group: Group) -> None:
        count = len(group.seconds)
        key = Key(op.kind, op.dtype, "" if op.kind == "memory" else group.engine)
        if key not in self.keys:
            self.keys.append(key)
        peak, bandwidth = machine.peak(op.kind, op.dtype), machine.gpu.memory_bandwidth
        ones = np.ones(count)
        self._put("row", np.arange(self.rows, self.rows + count, dtype=np.float64))
        self._put("key", self.keys.index(key) * ones)
        self._put("calls", op.calls * ones)
        for table, source in (("plain", op), ("skewed", other)):
            self._put(f"{table}.compute", source.flops / peak * ones)
            self._put(f"{table}.ramp", source.ramp / peak * ones)
            self._put(f"{table}.narrow", source.narrow / peak * ones)
            self._put(f"{table}.memory", source.bytes / bandwidth * ones)
            self._put(f"{table}.thin", source.thin / bandwidth * ones)

    def _put(self, name: str, values: Floats) -> None:
        self.parts.setdefault(name, []).append(values)

    def fields(self) -> Fields:
        """Return everything gathered, as arrays."""
        whole = {name: np.concatenate(arrays) for name, arrays in self.parts.items()}
        plain = {side: whole.pop(f"plain.{side}") for side in SIDES}
        skewed = {side: whole.pop(f"skewed.{side}") for side in SIDES}
        return Fields(
            keys=tuple(self.keys),
            plain=plain,
            skewed=skewed,
            row=whole["row"],
            key=whole["key"],
            calls=whole["calls"],
            fixed=whole["fixed"],
            across=whole["across"],
            rings=whole["rings"],
            measured=whole["measured"],
        )


# --- kernels --------------------------------------------------------------------------------


def gemm_priors(data: Path, systems: tuple[str, ...]) -> dict[tuple[str, str], Prior]:
    """Return priors of matrix products by engine and dtype: fractions and floors of its kernels."""
    table = pl.read_csv(data / "achieved_gemm.csv").filter(pl.col("system").is_in(list(systems)))
    means = table.group_by("backend", "dtype").agg(
        pl.col("big_frac_p90", "mem_frac_p90", "tiny_us_med").mean()
    )
    return {
        (row["backend"], DTYPES[row["dtype"]]): (
            *(row["big_frac_p90"], row["mem_frac_p90"], row["tiny_us_med"]),
            *PRIORS["gemm"][3:],
        )
        for row in means.iter_rows(named=True)
        if row["dtype"] in DTYPES
    }


def pulled(
    key: Key, alone: AloneOf, gemms: Mapping[tuple[str, str], Prior]
) -> tuple[Floats, Floats]:
    """Return where a curve is pulled to, and the matrix that turns a distance into residuals."""
    if key in alone:
        return alone[key].x, alone[key].root
    measured = gemms.get((key.engine or "trtllm", key.dtype)) if key.kind == "gemm" else None
    if measured is None:
        return started(key.kind), np.diag(WEIGHTS)
    low, high = bounds(key.kind)
    return np.clip(np.log(np.array(measured)), low + 1e-9, high - 1e-9), np.diag(MEASURED_WEIGHTS)


def fit_kernels(
    fields: Fields, pulls: Mapping[Key, tuple[Floats, Floats]]
) -> tuple[dict[Key, Curve], CollectiveCurve, float]:
    """Return the curve of each key; the ring; skew of experts."""
    x = solved(fields, pulls)
    curves = {
        key: curve_of(key.kind, values)
        for key, values in zip(fields.keys, x[:-3].reshape(-1, COUNT), strict=True)
    }
    alpha, ring, skew = (rounded(float(v)) for v in np.exp(x[-3:]))
    across = CollectiveCurve(alpha_s=alpha * 1e-6, bandwidth=min(ring, 1.0))
    return curves, across, max(skew, 1.0)


def solved(fields: Fields, pulls: Mapping[Key, tuple[Floats, Floats]]) -> Floats:
    """Return the logarithms that rows and pulls agree on best; outliers among rows count less."""
    boxes = [bounds(key.kind) for key in fields.keys]
    low = np.concatenate([*(b[0] for b in boxes), np.log(GLOBAL_LOW)])
    high = np.concatenate([*(b[1] for b in boxes), np.log(GLOBAL_HIGH)])
    start = np.concatenate([*(pulls[key][0] for key in fields.keys), np.log(GLOBALS)])
    start = np.clip(start, low + 1e-9, high - 1e-9)
    pull = np.zeros((len(start), len(start)))
    for at, key in enumerate(fields.keys):
        own = slice(COUNT * at, COUNT * at + COUNT)
        pull[own, own] = pulls[key][1]
    pull[-3:, -3:] = np.diag(GLOBAL_WEIGHTS)
    target = np.log(fields.measured)

    def residuals(x: Floats) -> Floats:
        return np.append(softened(np.log(fields.seconds(x)) - target)[0], pull @ (x - start))

    def slopes(x: Floats) -> Floats:
        seconds = fields.seconds(x)
        by = softened(np.log(seconds) - target)[1]
        return np.vstack([fields.slopes(x) * (by / seconds)[:, None], pull])

    found: Floats = least_squares(residuals, start, slopes, bounds=(low, high), max_nfev=NFEV).x
    return found


def softened(error: Floats) -> tuple[Floats, Floats]:
    """Return residuals whose squares are the soft L1 loss of log errors, and their slopes.

    Only rows are softened: what a curve's own kernels weigh must not wear off with distance.
    """
    root = np.sqrt(1.0 + (error / SCALE) ** 2)
    soft = np.sign(error) * SCALE * np.sqrt(2.0 * (root - 1.0))
    small = np.abs(error) < 1e-6
    slope = np.where(small, 1.0, error / np.where(small, 1.0, soft * root))
    return soft, slope


# --- one architecture -----------------------------------------------------------------------


def fit(data: Path, architecture: str, steps: pl.DataFrame, alone: AloneOf) -> Fitted:
    """Fit one architecture to its steps, its kernels alone given."""
    measured = set(steps["system"].unique())
    systems = tuple(s for s in ARCHITECTURES[architecture] if s in measured)
    collectives, errors = fit_collectives(data, systems)
    hopper, _ = fit_collectives(data, ARCHITECTURES["hopper"])  # DeepEP was measured on it
    network, errors["network"] = fit_network(data, hopper)
    flat = Flat()
    for group in groups(steps, systems):
        if group.moe_backend is None:  # CUTLASS was composed of calls that were not tuned
            flat.add(group, bare(collectives, network))
    gemms = gemm_priors(data, systems)
    pulls = {key: pulled(key, alone, gemms) for key in flat.keys}
    curves, ring, skew = fit_kernels(flat.fields(), pulls)
    kernels = tables({**curves_of(alone), **curves})
    efficiency = Efficiency(
        architecture=architecture,
        kernels=kernels.pop("", {}),
        engines=kernels,
        collectives={**collectives, "ring_across": ring},
        network=network,
        moe_skew=skew,
        measured_on=tuple(gpu_of(s).name for s in systems),
        source=SOURCE,
    )
    return Fitted(efficiency=efficiency, collective_errors=errors, alone=alone)


def curves_of(alone: AloneOf) -> dict[Key, Curve]:
    """Return the curves that the kernels alone come to."""
    return {key: curve_of(key.kind, each.x) for key, each in alone.items()}


def tables(curves: Mapping[Key, Curve]) -> dict[str, Kernels]:
    """Return curves by engine, the generic ones ("") not those of an odd start."""
    return unprejudiced(by_engine(curves))


def by_engine(curves: Mapping[Key, Curve]) -> dict[str, Kernels]:
    """Return curves by engine ("" is generic), kind and dtype."""
    found: dict[str, Kernels] = {}
    for key, curve in curves.items():
        found.setdefault(key.engine, {}).setdefault(key.kind, {})[key.dtype] = curve
    return found


def unprejudiced(kernels: dict[str, Kernels]) -> dict[str, Kernels]:
    """Give the generic kernels the products of all engines' but the one whose start is odd."""
    shared = kernels.pop(ANY, {}).get("gemm", {})
    generic = kernels.get("", {}).get("gemm", {})
    own = {dtype: generic[dtype] for dtype in shared if dtype in generic}
    generic.update(shared)
    return {**kernels, "trtllm": {"gemm": own}} if own else kernels


def fit_all(
    data: Path, steps: pl.DataFrame, kernels: pl.DataFrame | None = None
) -> dict[str, Fitted]:
    """Fit every architecture that has rows.

    A kind of kernel none of its rows runs is borrowed from the nearest architecture, or else
    keeps its priors.
    """
    measured = set(steps["system"].unique())
    fits = {
        name: fit(data, name, steps, {} if kernels is None else fit_alone(kernels, name))
        for name, systems in ARCHITECTURES.items()
        if measured & set(systems)
    }
    unfitted: Kernels = {kind: {"bf16": curve_of(kind, started(kind))} for kind in PRIORS}
    own = {name: each.efficiency.kernels for name, each in fits.items()}
    if kernels is not None:
        measured |= set(kernels["system"].unique())
    return {
        name: replace(
            each,
            efficiency=replace(
                each.efficiency,
                measured_on=tuple(gpu_of(s).name for s in ARCHITECTURES[name] if s in measured),
                kernels={**unfitted, **own.get(NEAREST[name], {}), **each.efficiency.kernels},
            ),
        )
        for name, each in fits.items()
    }


def successors(kernels: pl.DataFrame | None) -> dict[str, AloneOf]:
    """Return the kernels of architectures of which whole steps were not composed.

    They are what such an architecture states itself; the rest is its nearest one's.
    """
    if kernels is None:
        return {}
    called = set(kernels["system"].unique())
    return {
        name: fit_alone(kernels, name) for name in SUCCESSORS if called & set(ARCHITECTURES[name])
    }


def borrowed_by(architecture: str, steps: pl.DataFrame, fitted: Fitted) -> list[str]:
    """Return the kinds of kernel that no row of the architecture runs."""
    own = {
        op.kind
        for group in groups(steps, ARCHITECTURES[architecture])
        for op in forward_pass(group.spec, group.load)
    }
    return sorted(set(fitted.efficiency.kernels) - own - {key.kind for key in fitted.alone})
