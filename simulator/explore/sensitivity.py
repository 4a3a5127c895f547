"""How the answer moves: with each number of the hardware, and with the traffic's lengths."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from types import MappingProxyType
from typing import Any

import polars as pl

from hardware.gpu import GPU
from simulator.errors import ConfigError
from simulator.explore.exploration import Exploration, Explored, explore
from simulator.explore.space import Lengths, Platform
from simulator.explore.study import OnStudy


def _peaks(gpu: GPU, factor: float) -> GPU:
    return replace(gpu, peak_flops={name: factor * peak for name, peak in gpu.peak_flops.items()})


def _scale_up(gpu: GPU, factor: float) -> GPU:
    link = gpu.scale_up
    return replace(gpu, scale_up=replace(link, bandwidth=factor * link.bandwidth))


def _nic(gpu: GPU, factor: float) -> GPU:
    return replace(gpu, nic=replace(gpu.nic, bandwidth=factor * gpu.nic.bandwidth))


NUMBERS: Mapping[str, Callable[[GPU, float], GPU]] = MappingProxyType(
    {
        "peak_flops": _peaks,
        "memory_bandwidth": lambda gpu, factor: replace(
            gpu, memory_bandwidth=factor * gpu.memory_bandwidth
        ),
        "memory_bytes": lambda gpu, factor: replace(gpu, memory_bytes=factor * gpu.memory_bytes),
        "scale_up_bandwidth": _scale_up,
        "nic_bandwidth": _nic,
    }
)
"""The hardware numbers varied, each by a factor on both pools' GPUs."""


def tornado(
    exploration: Exploration, share: float = 0.2, progress: OnStudy | None = None
) -> pl.DataFrame:
    """Return the answer with each hardware number ``share`` lower and higher, widest first.

    Columns: ``number``, ``factor``, ``gain`` (disaggregated over co-located), ``throughput`` and
    ``gpu_ratio`` of the best disaggregated deployment (null where nothing fits or meets the
    limits), and ``swing``, how far the throughput moves between the two.
    """
    cases = [
        ({"number": number, "factor": factor}, _varied(exploration, change, factor))
        for number, change in NUMBERS.items()
        for factor in (1.0 - share, 1.0 + share)
    ]
    rows = _answers(cases, progress)
    frame = pl.DataFrame(rows, schema=_schema({"number": pl.String, "factor": pl.Float64}))
    reach = pl.col("throughput").max() - pl.col("throughput").min()
    swing = reach.over("number").alias("swing")
    return frame.with_columns(swing).sort(
        "swing", "number", "factor", descending=[True, False, False]
    )


def lengths_map(
    exploration: Exploration,
    isl: Iterable[int] | None = None,
    osl: Iterable[int] | None = None,
    progress: OnStudy | None = None,
) -> pl.DataFrame:
    """Return gain, throughput and best ctx:gen GPU ratio for every pair of lengths.

    The lengths are those of the exploration's options where none are given. All figures are null
    where nothing fits or meets the limits.
    """
    options = exploration.options
    pairs = product(
        options.map_isl if isl is None else isl, options.map_osl if osl is None else osl
    )
    cases = [
        ({"isl": prompt, "osl": output}, _of_lengths(exploration, prompt, output))
        for prompt, output in pairs
    ]
    rows = _answers(cases, progress)
    return pl.DataFrame(rows, schema=_schema({"isl": pl.Int64, "osl": pl.Int64}))


def _answers(
    cases: list[tuple[dict[str, Any], Exploration]], progress: OnStudy | None
) -> list[dict[str, Any]]:
    """Return each case's key with its answer."""
    rows, points = [], 0
    for done, (key, exploration) in enumerate(cases, start=1):
        answer, more = _answer(exploration)
        rows.append({**key, **answer})
        points += more
        if progress is not None:
            progress(done, len(cases), points)
    return rows


def _schema(keys: dict[str, Any]) -> dict[str, Any]:
    return {**keys, "gain": pl.Float64, "throughput": pl.Float64, "gpu_ratio": pl.Float64}


def _varied(
    exploration: Exploration, change: Callable[[GPU, float], GPU], factor: float
) -> Exploration:
    def better(platform: Platform) -> Platform:
        return replace(platform, gpu=change(platform.gpu, factor))

    prefill, decode = exploration.platforms
    return replace(exploration, platforms=(better(prefill), better(decode)))


def _of_lengths(exploration: Exploration, isl: int, osl: int) -> Exploration:
    return replace(exploration, lengths=Lengths.constant(isl, osl))


def _answer(exploration: Exploration) -> tuple[dict[str, float | None], int]:
    """Return the answer, and the points it took."""
    try:
        done: Explored = explore(exploration)
    except ConfigError:  # nothing fits, or nothing is fast enough: that is an answer here
        return {"gain": None, "throughput": None, "gpu_ratio": None}, 0
    split = done.advice.split or {}
    found = {name: split.get(name) for name in ("throughput", "gpu_ratio")}
    return {"gain": done.summary["gain"], **found}, done.study.points
