"""Fit the efficiency of each measured GPU architecture and write conf/calibration/*.yaml.

    scripts/calibrate [--data DIR] [--steps CSV ...] [--kernels CSV] [--out DIR] [--report]
                      [--left-out] [--errors OUT.json]

DIR holds the measured tables (step_latencies, allreduce_latency_us, nccl_latency_us,
deepep_ll_us, achieved_gemm). Collectives are fitted to their own tables first, then every kind of
kernel to its own rows, then all curves to the step tables, held by what their own rows weigh, by
robust least squares on log(predicted / measured).

--steps    more step tables beside DIR/step_latencies.csv, of the same columns, such as
           scripts/compose_steps writes
--kernels  kernel rows, such as scripts/kernel_rows writes
--report   print the error of the shipped fit by model, GPU and phase and write no fit
--left-out print the error on models, then on GPUs, that were left out of the fit
--errors   write the printed figures to a file of JSON as well
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from simulator.calibration.fit import borrowed_by, fit_all, successors
from simulator.calibration.kernel_rows import read_kernels
from simulator.calibration.report import (
    document,
    errors_of,
    figures,
    left_out,
    shown,
    successor,
    write,
)
from simulator.calibration.sources import ARCHITECTURES, read
from simulator.errors import ConfigError
from simulator.latency.efficiency import Efficiency, load

ROOT = Path(__file__).resolve().parents[2]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--steps", type=Path, nargs="*", default=[])
    parser.add_argument("--kernels", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "conf" / "calibration")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--errors", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks and return the exit code."""
    try:
        calibrate(parsed(arguments))
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"calibrate: {error}\n")
        return 2
    return 0


def calibrate(options: argparse.Namespace) -> None:
    """Do what the options ask for."""
    judged = read([options.data / "step_latencies.csv"])
    steps = pl.concat([judged, read(options.steps)]) if options.steps else judged
    kernels = read_kernels(options.kernels) if options.kernels else None
    report: dict[str, Any] = {}
    if options.left_out:
        for by in ("model", "system"):
            scored = left_out(options.data, steps, judged, by, kernels)
            sys.stdout.write(shown(f"left out by {by}", scored))
            report[f"left_out_{by}"] = figures(scored)
            save(options.errors, report)  # minutes of fits: each half is kept
    else:
        scored = errors_of(steps, efficiencies(options, steps, kernels))
        sys.stdout.write(shown("in sample", scored))
        report["in_sample"] = figures(scored)
        save(options.errors, report)


def save(path: Path | None, report: dict[str, Any]) -> None:
    """Write the figures, where asked for."""
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def efficiencies(
    options: argparse.Namespace, steps: pl.DataFrame, kernels: pl.DataFrame | None
) -> dict[str, Efficiency]:
    """Return the shipped efficiencies, or new ones once they are written."""
    if not options.report:
        return refit(options, steps, kernels)
    measured = set(steps["system"].unique())
    used = [a for a, own in ARCHITECTURES.items() if measured & set(own)]
    return {a: load(a, str(options.out)) for a in used}


def refit(
    options: argparse.Namespace, steps: pl.DataFrame, kernels: pl.DataFrame | None
) -> dict[str, Efficiency]:
    """Fit, write the files and return what was fitted."""
    fits = fit_all(options.data, steps, kernels)
    for name, fitted in fits.items():
        scored = errors_of(steps, {name: fitted.efficiency})
        borrowed = borrowed_by(name, steps, fitted)
        write(options.out / f"{name}.yaml", document(fitted, scored, borrowed))
    for name, alone in successors(kernels).items():
        write(options.out / f"{name}.yaml", successor(name, alone))
    return {name: fitted.efficiency for name, fitted in fits.items()}


if __name__ == "__main__":
    sys.exit(main())
