"""Scores: relative errors of predictions, summed up as a whole and by what rows share."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl

SETS = (
    "steps",
    "e2e_disagg_tpot",
    "e2e_agg_tpot",
    "e2e_throughput",
    "public_throughput",
    "vllm_tpot_mean",
    "vllm_ttft_mean",
    "vllm_e2e_mean",
)
"""What is scored, in the order of the report."""
EXTRA_SETS = ("e2e_ttft",)
"""Scored beside them, without a target."""
SILICON = "silicon_"
"""Before the name of a set predicted with aiconfigurator-core's step times in place of ours."""
BY = ("model", "gpu", "precision", "phase", "engine", "layout", "batch", "source", "seats")
"""What errors are broken down by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One measured value beside its prediction, or the ``reason`` why there is none.

    Values of steps and latencies are seconds, of throughput output tokens per second.
    ``error_pct`` is 100 · (predicted / measured − 1). ``batch`` is a range of sequences, ``source``
    who published the measurement, ``seats`` where the limit of decode batches is from.
    """

    set: str
    row: str
    model: str = ""
    gpu: str = ""
    precision: str = ""
    phase: str = ""
    engine: str = ""
    layout: str = ""
    batch: str = ""
    source: str = ""
    seats: str = ""
    measured: float | None = None
    predicted: float | None = None
    reason: str = ""
    detail: str = ""
    about: str = ""
    error_pct: float | None = field(init=False)

    def __post_init__(self) -> None:
        error = None
        if self.measured and self.predicted is not None:
            error = 100.0 * (self.predicted / self.measured - 1.0)
        object.__setattr__(self, "error_pct", error)


def batch_range(batch: float) -> str:
    """Return the power-of-four range a batch or concurrency lies in."""
    low = 1
    while low * 4 <= batch:
        low *= 4
    return f"{low} to {low * 4 - 1}"


def statistics(rows: Sequence[Scored]) -> dict[str, Any]:
    """Return rows, skips by reason, and median, 90th percentile and bias of the errors in percent.

    ``bias_pct`` is the median of the signed errors; all three are ``None`` without rows.
    """
    errors = np.array([row.error_pct for row in rows if row.error_pct is not None])
    skipped = Counter(row.reason for row in rows if row.error_pct is None)
    found = bool(errors.size)
    return {
        "rows": int(errors.size),
        "skipped": dict(sorted(skipped.items(), key=lambda each: (-each[1], each[0]))),
        "median_abs_pct": _percent(np.median(np.abs(errors))) if found else None,
        "p90_abs_pct": _percent(np.percentile(np.abs(errors), 90)) if found else None,
        "bias_pct": _percent(np.median(errors)) if found else None,
    }


def _percent(value: Any) -> float:
    return round(float(value), 2)


def summary(rows: Iterable[Scored]) -> dict[str, Any]:
    """Return :func:`statistics` of every set, as a whole and ``by`` each of :data:`BY`."""
    sets: dict[str, list[Scored]] = {name: [] for name in (*SETS, *EXTRA_SETS)}
    for row in rows:
        sets.setdefault(row.set, []).append(row)
    return {name: _with_parts(each) for name, each in sets.items() if not name.startswith("_")}


def _with_parts(rows: list[Scored]) -> dict[str, Any]:
    return {**statistics(rows), "by": {name: _parts(rows, name) for name in BY}}


def _parts(rows: list[Scored], name: str) -> dict[str, Any]:
    groups: dict[str, list[Scored]] = {}
    for row in rows:
        groups.setdefault(getattr(row, name) or "unknown", []).append(row)
    return {key: statistics(groups[key]) for key in sorted(groups)}


def frame(rows: Iterable[Scored]) -> pl.DataFrame:
    """Return one line per scored value."""
    schema = {
        name: pl.Float64 if name in ("measured", "predicted", "error_pct") else pl.String
        for name in Scored.__slots__
    }
    return pl.DataFrame([asdict(row) for row in rows], schema=schema)
