"""Collectives, fitted to their own tables: all-reduce, NCCL's, and DeepEP's across boxes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.optimize import least_squares

from simulator.calibration.sources import BADLY_CONNECTED, Floats, gpu_of, network_of
from simulator.latency.collectives import (
    CUSTOM,
    MULTICAST,
    ONE_SHOT_BYTES,
    PEERS,
    collective_seconds,
)
from simulator.latency.efficiency import CollectiveCurve, Efficiency
from simulator.latency.passes import Operator

MESSAGES = ("8192", "131072", "1048576", "8388608")
"""Message sizes of the all-reduce table, in elements of two bytes."""
FIRST_CUSTOM = (("sglang", "0.5.9"), ("sglang", "0.5.10"), ("vllm", "0.14.0"))
"""Engines and versions whose all-reduces are of vLLM's first custom kernels: of 16 MB and more
NCCL's."""
BUFFERS = ("1024", "131072", "1048576", "16777216", "134217728")
"""Those of NCCL's."""
MULTICAST_US: Mapping[int, Mapping[int, float]] = MappingProxyType(
    {
        8: {128: 4.3, 2048: 4.3, 8192: 4.4, 16384: 4.5, 32768: 4.6, 65536: 5.1, 131072: 6.1}
        | {262144: 6.5, 524288: 7.6, 1048576: 9.9, 2097152: 15.2, 4194304: 26.0, 8388608: 48.8},
        16: {128: 5.2, 2048: 5.1, 8192: 5.0, 16384: 5.2, 32768: 5.8, 65536: 6.2, 131072: 6.5}
        | {262144: 7.1, 524288: 8.3, 1048576: 13.0, 2097152: 21.3, 4194304: 36.0, 8388608: 70.5},
    }
)
"""All-reduces over two and four hosts of a GB300 NVL72, in µs by ranks and elements of two bytes:
one-shot up to 65,536 and 32,768 elements, two-shot from there (AIConfigurator core 0.12.0,
TensorRT-LLM 1.3.0rc20's MNNVL kernels). NCCL's symmetric ones take about 6.3 µs for small messages
over 32 GPUs (NVIDIA/nccl-tests issue 333), which the line through these also gives."""
PLAIN = CollectiveCurve(alpha_s=1e-5, bandwidth=0.8)
"""Point-to-point sends, and what joins boxes before it is fitted."""
NCCL = {"all_gather": "all_gather", "reduce_scatter": "reduce_scatter", "alltoall": "all_to_all"}

Curves = dict[str, CollectiveCurve]


class Row(NamedTuple):
    """One measured collective: ``message`` bytes one rank holds, ``seconds`` of the whole."""

    kind: str
    system: str
    ranks: int
    message: float
    seconds: float


def fit_collectives(data: Path, systems: Sequence[str]) -> tuple[Curves, dict[str, float]]:
    """Return the curves of these systems by algorithm, and the median error of each table."""
    errors: dict[str, float] = {}
    curves, errors["all_reduce"] = fit_lines(list(allreduce_rows(data, systems)), PEERS)
    for shot, (name, own) in enumerate(zip(PEERS, CUSTOM, strict=True)):
        rows = list(custom_rows(data, systems, two_shot=bool(shot)))
        if len({row.ranks for row in rows}) > 1:
            fitted, errors[own] = fit_lines(rows, (name,))
            curves[own] = fitted[name]
    if any(network_of(system).multicast for system in systems):
        multicast, errors["all_reduce_multicast"] = fit_lines(list(multicast_rows()), MULTICAST)
        curves.update(multicast)
    for op, kind in NCCL.items():
        fitted, errors[kind] = fit_lines(list(nccl_rows(data, systems, op, kind)), (kind,))
        curves.update(fitted)
    curves["send_recv"] = PLAIN
    return curves, errors


def allreduce_rows(data: Path, systems: Sequence[str]) -> Iterator[Row]:
    """Yield the fastest of all engines' and versions' measurements of each size.

    Versions choose other algorithms, and some boxes were set up badly (L40S: 5 to 13 times apart).
    """
    table = pl.read_csv(data / "allreduce_latency_us.csv")
    graph = ~pl.col("backend").str.ends_with("eager")
    best = (
        table.filter(pl.col("sys").is_in(list(systems)) & graph)
        .group_by("sys", "n", maintain_order=True)
        .agg(pl.col(MESSAGES).min())
    )
    for row in best.iter_rows(named=True):
        for size in MESSAGES:
            if row[size] is not None:
                seconds = float(row[size]) * 1e-6
                yield Row("all_reduce", row["sys"], row["n"], 2.0 * int(size), seconds)


def custom_rows(data: Path, systems: Sequence[str], *, two_shot: bool) -> Iterator[Row]:
    """Yield what the first custom kernels took in one shot, or in two, in boxes of NVLink.

    Both engines' were measured; of each size the median counts. Pairs' long messages in one shot
    are passed over, as decodes have none.
    """
    boxed = [s for s in systems if gpu_of(s).scale_up_domain > 1]
    named = pl.struct("fw", "ver").is_in([{"fw": fw, "ver": ver} for fw, ver in FIRST_CUSTOM])
    table = pl.read_csv(data / "allreduce_latency_us.csv")
    graph = pl.col("backend").str.ends_with("graph")
    chosen = table.filter(pl.col("sys").is_in(boxed) & graph & named)
    middle = chosen.group_by("sys", "n", maintain_order=True).agg(pl.col(MESSAGES[:-1]).median())
    for row in middle.iter_rows(named=True):
        once = next(most for ranks, most in ONE_SHOT_BYTES.items() if row["n"] <= ranks)
        for size in MESSAGES[:-1]:
            message = 2.0 * int(size)
            short = message < min(once, ONE_SHOT_BYTES[4])
            if row[size] is not None and (message >= once if two_shot else short):
                yield Row("all_reduce", row["sys"], row["n"], message, float(row[size]) * 1e-6)


def multicast_rows() -> Iterator[Row]:
    """Yield the all-reduces over several hosts of a rack."""
    for ranks, by_size in MULTICAST_US.items():
        for size, us in by_size.items():
            yield Row("all_reduce", "gb300", ranks, 2.0 * size, us * 1e-6)


def nccl_rows(data: Path, systems: Sequence[str], op: str, kind: str) -> Iterator[Row]:
    """Sizes are of the whole buffer: one rank holds 1/n of it, except in an all-to-all."""
    table = pl.read_csv(data / "nccl_latency_us.csv")
    chosen = table.filter(pl.col("sys").is_in(list(systems)) & (pl.col("op") == op))
    for row in chosen.iter_rows(named=True):
        if row["n"] > BADLY_CONNECTED.get(row["sys"], row["n"]):
            continue
        for size in BUFFERS:
            if row[size] is not None:
                held = 2.0 * int(size) / (1 if kind == "all_to_all" else row["n"])
                yield Row(kind, row["sys"], row["n"], held, float(row[size]) * 1e-6)


def fit_lines(rows: Sequence[Row], names: Sequence[str]) -> tuple[Curves, float]:
    """Fit alpha, alpha per rank, bandwidth and its sharing; the cheaper algorithm is taken."""

    def curves(x: Floats) -> Curves:
        return {
            name: CollectiveCurve(
                alpha_s=a * 1e-6, rank_alpha_s=r * 1e-6, bandwidth=min(b, 1.0), sharing=s
            )
            for name, (a, r, b, s) in zip(names, np.exp(x.reshape(-1, 4)), strict=True)
        }

    def predict(x: Floats) -> Floats:
        return seconds_of(rows, bare(curves(x)))

    start = np.log([[4.0 * (1 + 2 * i), 0.3, 0.6, 0.02] for i in range(len(names))]).ravel()
    low = np.log([[0.2, 1e-3, 0.05, 1e-3]] * len(names)).ravel()
    high = np.log([[60.0, 10.0, 1.0, 3.0]] * len(names)).ravel()
    x, error = _fitted(predict, rows, (start, low, high), "soft_l1")
    return curves(x), error


def fit_network(data: Path, inside: Curves) -> tuple[CollectiveCurve, float]:
    """Fit start and bandwidth between domains to DeepEP's dispatch over 2 to 8 nodes of H100s."""
    table = pl.read_csv(data / "deepep_ll_us.csv").filter(
        (pl.col("nodes") > 1) & (pl.col("sys") == "h100_sxm")
    )
    rows = []
    for row in table.iter_rows(named=True):
        copies, ranks = 8 * row["tokens/rank"] * 7168.0, 8 * row["nodes"]
        for message, us in ((copies, row["dispatch_us"]), (2 * copies, row["combine_us"])):
            rows.append(Row("all_to_all", "h100_sxm", ranks, message, us * 1e-6))

    def curve(x: Floats) -> CollectiveCurve:
        a, r, b = np.exp(x)
        return CollectiveCurve(alpha_s=a * 1e-6, rank_alpha_s=r * 1e-6, bandwidth=min(b, 1.0))

    def predict(x: Floats) -> Floats:
        return seconds_of(rows, bare(inside, curve(x)))

    box = (np.log([10.0, 1.0, 0.8]), np.log([0.1, 1e-3, 0.1]), np.log([60.0, 10.0, 1.0]))
    x, error = _fitted(predict, rows, box, "linear")
    return curve(x), error


def seconds_of(rows: Sequence[Row], efficiency: Efficiency) -> Floats:
    """Return what each row takes by these curves."""
    return np.array(
        [
            float(
                collective_seconds(
                    Operator(name="", kind=row.kind, message=row.message, ranks=row.ranks),
                    network_of(row.system),
                    efficiency,
                )
            )
            for row in rows
        ]
    )


def _fitted(
    predict: Callable[[Floats], Floats],
    rows: Sequence[Row],
    box: tuple[Floats, Floats, Floats],
    loss: str,
) -> tuple[Floats, float]:
    """Return the best logarithms inside the box and the median relative error they leave."""
    start, low, high = box
    measured = np.array([row.seconds for row in rows])

    def residuals(x: Floats) -> Floats:
        left: Floats = np.log(predict(x)) - np.log(measured)
        return left

    found: Floats = least_squares(residuals, start, bounds=(low, high), loss=loss).x
    return found, float(np.median(np.abs(predict(found) / measured - 1)))


def bare(inside: Curves, network: CollectiveCurve | None = None) -> Efficiency:
    """Return an efficiency of collectives alone."""
    return Efficiency(
        architecture="fit",
        kernels={},
        collectives=inside,
        network=network or PLAIN,
        moe_skew=1.0,
    )
