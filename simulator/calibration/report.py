"""What a fit comes to: its errors, on rows it saw and on rows left out, and the YAML it becomes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from simulator.calibration.curves import Key, on_bound, rounded
from simulator.calibration.fit import SOURCE, AloneOf, Fitted, curves_of, fit_all, tables
from simulator.calibration.kernel_rows import Alone
from simulator.calibration.sources import (
    ARCHITECTURES,
    MODELS,
    NEAREST,
    gpu_of,
    groups,
    network_of,
)
from simulator.latency.efficiency import CollectiveCurve, Curve, Efficiency, Kernels
from simulator.latency.machine import Machine

TABLES: tuple[tuple[str, ...], ...] = (
    (),
    ("phase",),
    ("system", "phase"),
    ("model", "phase"),
    ("model", "system", "phase"),
)
"""What errors are broken down by."""
HEADER = (
    "# Written by scripts/calibrate: do not edit. What the numbers mean is in\n"
    "# simulator/latency/efficiency.py; compute, memory and bandwidth are fractions of the\n"
    "# data sheet.\n"
)


def left_out(
    data: Path,
    steps: pl.DataFrame,
    judged: pl.DataFrame,
    by: str,
    kernels: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the errors on each model (or system) of a fit that has not seen it.

    A GPU whose architecture has no other measured GPU is predicted as one nobody measured: with
    the fit of the nearest architecture. Quantised copies of a model are left out with it; so are
    the experts of its shape and the kernels of the GPU where kernels are fitted alone.
    """
    frames = []
    alike = pl.col(by).replace(dict(MODELS) if by == "model" else {})
    for name in judged.select(alike.unique(maintain_order=True)).to_series():
        one = judged.filter(alike == name)
        systems = set(one["system"].unique())
        touched = [a for a, own in ARCHITECTURES.items() if systems & set(own)]
        needed = {*touched, *(NEAREST[a] for a in touched)}
        kept = steps.filter(
            (alike != name) & pl.col("system").is_in([s for a in needed for s in ARCHITECTURES[a]])
        )
        fits = fit_all(data, kept, unseen(kernels, by, str(name)))
        known = {a: fits[a if a in fits else NEAREST[a]].efficiency for a in touched}
        frames.append(errors_of(one, known))
    return pl.concat(frames)


def unseen(kernels: pl.DataFrame | None, by: str, name: str) -> pl.DataFrame | None:
    """Return the kernel rows that a fit without this GPU, or model, may see."""
    if kernels is None:
        return None
    if by == "system":
        return kernels.filter(pl.col("system") != name)
    shapes = {
        "deepseek_v3": "7168 2048 256",
        "qwen3_30b_a3b": "2048 768 128",
        "qwen3_235b_a22b": "4096 1536 128",
    }
    own = (pl.col("kind") == "experts") & (pl.col("shape") == shapes.get(name, ""))
    return kernels.filter(~own)


def errors_of(steps: pl.DataFrame, efficiencies: Mapping[str, Efficiency]) -> pl.DataFrame:
    """Return the step rows with the seconds of the production code and their relative error."""
    frames = []
    for architecture, efficiency in efficiencies.items():
        for group in groups(steps, ARCHITECTURES[architecture]):
            machine = Machine(
                gpu=gpu_of(group.system),
                efficiency=efficiency.for_engine(
                    group.engine or "trtllm", moe_backend=group.moe_backend
                ),
                network=network_of(group.system),
            )
            spec = replace(group.spec, moe_skew=efficiency.moe_skew)
            ms = 1e3 * np.asarray(machine.pass_seconds(spec, group.load))
            frames.append(group.rows.with_columns(predicted_ms=pl.Series(ms)))
    return pl.concat(frames).with_columns(error=pl.col("predicted_ms") / pl.col("latency_ms") - 1)


def summary(errors: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Return rows, median and 90th percentile of absolute errors and the median with its sign."""
    absolute = pl.col("error").abs() * 100
    stats = [
        pl.len().alias("rows"),
        absolute.median().round(1).alias("median_abs_pct"),
        absolute.quantile(0.9, "linear").round(1).alias("p90_abs_pct"),
        (pl.col("error").median() * 100).round(1).alias("bias_pct"),
    ]
    return errors.group_by(list(by)).agg(stats).sort(list(by)) if by else errors.select(stats)


def figures(errors: pl.DataFrame) -> dict[str, list[dict[str, object]]]:
    """Return every table of an error report as rows, by what it is broken down by."""
    return {" ".join(by) or "all": summary(errors, by).to_dicts() for by in TABLES}


def shown(title: str, errors: pl.DataFrame) -> str:
    """Return the tables of an error report as text."""
    with pl.Config(
        tbl_rows=100,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        fmt_str_lengths=40,
    ):
        return "\n".join([title, *(str(summary(errors, by)) for by in TABLES)]) + "\n"


# --- the file -------------------------------------------------------------------------------


def document(fitted: Fitted, steps: pl.DataFrame, borrowed: Sequence[str]) -> dict[str, Any]:
    """Return the YAML's contents; ``steps`` are the scored rows of the architecture."""
    efficiency = fitted.efficiency
    by_phase = {row.pop("phase"): row for row in summary(steps, ["phase"]).iter_rows(named=True)}
    return {
        "architecture": efficiency.architecture,
        "measured_on": list(efficiency.measured_on),
        "source": efficiency.source,
        "fit_error": {
            "steps": summary(steps, []).row(0, named=True),
            **by_phase,
            "collectives_median_abs_pct": {
                name: round(100 * value, 1) for name, value in fitted.collective_errors.items()
            },
            "kernels": _alone(fitted.alone),
        },
        "on_bound": bound(efficiency),
        "borrowed": {"from": NEAREST[efficiency.architecture], "kernels": list(borrowed)},
        "moe_skew": efficiency.moe_skew,
        "network": _line(efficiency.network),
        "collectives": {name: _line(each) for name, each in efficiency.collectives.items()},
        "kernels": _table(efficiency.kernels),
        "engines": {name: _table(each) for name, each in sorted(efficiency.engines.items())},
    }


def successor(architecture: str, alone: AloneOf) -> dict[str, Any]:
    """Return the YAML of an architecture that states its kernels alone and inherits the rest."""
    engines = tables(curves_of(alone))
    own = {kind: dict(curves) for kind, curves in engines.pop("", {}).items()}
    return {
        "architecture": architecture,
        "inherits": NEAREST[architecture],
        "measured_on": [gpu_of(system).name for system in ARCHITECTURES[architecture]],
        "source": SOURCE.partition(", forward")[0] + ", kernels alone",
        "fit_error": {"kernels": _alone(alone)},
        "kernels": _table(own),
        "engines": {name: _table(each) for name, each in sorted(engines.items())},
    }


def bound(efficiency: Efficiency) -> dict[str, str]:
    """Return the curves with a parameter that only its bound holds, and which."""
    found = {}
    for engine, kernels in (("", efficiency.kernels), *sorted(efficiency.engines.items())):
        for kind, curves in sorted(kernels.items()):
            for dtype, curve in sorted(curves.items()):
                if held := on_bound(kind, curve):
                    found[_name(Key(kind, dtype, engine))] = ", ".join(held)
    return found


def _alone(alone: AloneOf) -> dict[str, dict[str, float]]:
    """Return what the kernels alone come to: rows, error, and error on shapes held out."""
    return {
        _name(key): {
            "rows": each.rows,
            "median_abs_pct": round(100 * each.error, 1),
            **_held_out(each),
        }
        for key, each in sorted(alone.items())
    }


def _held_out(alone: Alone) -> dict[str, float]:
    """Return the error on shapes held out, nothing where all rows are of one shape."""
    error = alone.held_out
    return {} if math.isnan(error) else {"held_out_pct": round(100 * error, 1)}


def _name(key: Key) -> str:
    return " ".join(part for part in key if part)


def _table(kernels: Kernels) -> dict[str, dict[str, dict[str, float]]]:
    return {
        kind: {dtype: _curve(curve) for dtype, curve in sorted(curves.items())}
        for kind, curves in sorted(kernels.items())
    }


def _curve(curve: Curve) -> dict[str, float]:
    return {
        "compute": curve.compute,
        "memory": curve.memory,
        "floor_us": rounded(curve.floor_s * 1e6),
        "ramp": curve.ramp,
        "narrow": curve.narrow,
        "overlap": curve.overlap,
        **({"thin": curve.thin} if curve.thin else {}),
    }


def _line(curve: CollectiveCurve) -> dict[str, float]:
    return {
        "alpha_us": rounded(curve.alpha_s * 1e6),
        "rank_alpha_us": rounded(curve.rank_alpha_s * 1e6),
        "bandwidth": rounded(curve.bandwidth),
        "sharing": rounded(curve.sharing),
    }


def write(path: Path, contents: Mapping[str, Any]) -> None:
    """Write one architecture's file."""
    text = HEADER + yaml.safe_dump(dict(contents), sort_keys=False, width=100)
    path.write_text(text, encoding="utf-8")
