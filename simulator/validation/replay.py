"""A measured vLLM run replayed request by request: the same arrivals, lengths and limits.

A run is three files of one stem: ``…__meta.json`` (engine arguments), ``…__requests.jsonl``
(times of every request) and, where there are, ``…__timeseries.csv`` (gauges once a second).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment, Pool
from simulator.errors import ConfigError
from simulator.latency.engine import load
from simulator.latency.roofline import Roofline
from simulator.layout import Layout, MemoryBudget, Precision, plan_memory
from simulator.model import Model
from simulator.record import STATUSES, RunRecord
from simulator.validation.names import Catalogue, Unmapped, dtype
from simulator.validation.score import Scored, batch_range
from simulator.validation.steps import profile_of, reason_of
from simulator.validation.tables import numbers_of, read_frame, read_json

Column = NDArray[np.float64]
META, REQUESTS, GAUGES = "__meta.json", "__requests.jsonl", "__timeseries.csv"
FIELDS = ("input_toks", "output_toks", "queued_ts", "first_token_ts", "last_token_ts")
"""What every request must have; ``arrival_time`` is another clock and not used."""
BLOCKS = ("num_gpu_blocks", "num_gpu_blocks_override", "kv_blocks", "num_kv_blocks")
"""Names of the resolved number of KV blocks per data-parallel rank."""
QUANTILES = {"mean": None, "p50": 50.0, "p90": 90.0, "p99": 99.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Per-request seconds of one run, each of shape (n,)."""

    ttft: Column
    tpot: Column
    e2e: Column

    @classmethod
    def of(cls, queued: Column, first: Column, last: Column, outputs: Column) -> "Times":
        """Return the times between these stamps; TPOT only where there are two tokens."""
        several = outputs > 1
        return cls(
            ttft=first - queued,
            tpot=(last - first)[several] / (outputs[several] - 1),
            e2e=last - queued,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Requests running and waiting over time (seconds since the first arrival)."""

    time_s: Column
    running: Column
    waiting: Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run as measured: ``arrival`` in seconds since the first."""

    name: str
    meta: Mapping[str, Any]
    arrival: Column
    inputs: Column
    outputs: Column
    times: Times
    queue: Queue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One run beside its simulation."""

    measured: Measured
    times: Times
    queue: Queue


# --- reading --------------------------------------------------------------------------------


def read_runs(folder: Path) -> list[Measured]:
    """Return the runs of a folder by name.

    Raises:
        ConfigError: there is no folder or no run in it, or one of its files is not as it should be.
    """
    if not folder.is_dir():
        raise ConfigError(f"--vllm: there is no folder {folder}")
    metas = sorted(folder.glob(f"*{META}"))
    if not metas:
        raise ConfigError(f"--vllm: {folder} has no run (no file *{META})")
    return [_read_run(path) for path in metas]


def _read_run(path: Path) -> Measured:
    stem = path.name.removesuffix(META)
    meta = read_json(path, "--vllm")
    if not isinstance(meta.get("engine_kwargs"), dict):
        raise ConfigError(f"--vllm: {path} has no engine_kwargs")
    columns = _requests(path.with_name(stem + REQUESTS))
    order = np.argsort(columns["queued_ts"], kind="stable")
    queued, first, last, inputs, outputs = (
        columns[name][order]
        for name in ("queued_ts", "first_token_ts", "last_token_ts", "input_toks", "output_toks")
    )
    return Measured(
        name=stem,
        meta=meta,
        arrival=queued - queued[0],
        inputs=inputs,
        outputs=outputs,
        times=Times.of(queued, first, last, outputs),
        queue=_gauges(path.with_name(stem + GAUGES)),
    )


def _json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--vllm: {path} is not readable as JSON") from error
    if not isinstance(value, dict):
        raise ConfigError(f"--vllm: {path} must hold a JSON object")
    return value


def _requests(path: Path) -> dict[str, Column]:
    if not path.is_file():
        raise ConfigError(f"--vllm: there is no file {path}")
    found = [_json(path, line) for line in path.read_bytes().splitlines() if line.strip()]
    if not found:
        raise ConfigError(f"--vllm: {path} has no requests")
    return {name: _column(path, found, name) for name in FIELDS}


def _column(path: Path, found: list[dict[str, Any]], name: str) -> Column:
    for number, each in enumerate(found, start=1):
        value = each.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(
                f"--vllm: {path}, line {number}: {name} must be a number above 0 but is {value!r}"
            )
    return np.array([each[name] for each in found], dtype=np.float64)


def _gauges(path: Path) -> Queue | None:
    if not path.is_file():
        return None
    kinds = dict.fromkeys(("t", "running", "waiting"), pl.Float64)
    text = read_frame(path, tuple(kinds), "--vllm")
    table = numbers_of(text, kinds, f"--vllm: {path}", empty=False)
    return Queue(
        time_s=table["t"].to_numpy(),
        running=table["running"].to_numpy(),
        waiting=table["waiting"].to_numpy(),
    )


# --- replaying ------------------------------------------------------------------------------


def replay(measured: Measured, catalogue: Catalogue) -> Replayed:
    """Simulate the run with its own arrivals; raise ``Unmapped`` or ``ConfigError``."""
    traffic = Traffic(
        arrival_s=measured.arrival,
        input_tokens=measured.inputs.astype(np.int32),
        output_tokens=measured.outputs.astype(np.int32),
    )
    record = run(deployment_of(measured, catalogue), traffic, RunOptions(sample_interval_s=1.0))
    columns = record.requests
    if not (columns["status"] == STATUSES.index("completed")).all():
        raise Unmapped("a request is longer than the KV cache or the model's context")
    times = Times.of(
        columns["arrival_s"].astype(np.float64),
        columns["first_token_s"].astype(np.float64),
        columns["finish_s"].astype(np.float64),
        measured.outputs,
    )
    return Replayed(measured=measured, times=times, queue=_queue(record))


def _queue(record: RunRecord) -> Queue:
    timeline = record.timeline
    return Queue(
        time_s=timeline["time_s"],
        running=timeline["running"].sum(axis=1),
        waiting=timeline["waiting"].sum(axis=1),
    )


def deployment_of(measured: Measured, catalogue: Catalogue) -> Deployment:
    """Return one worker with the run's engine arguments, on the GPU its name starts with."""
    arguments = measured.meta["engine_kwargs"]
    _, model = catalogue.model(str(measured.meta.get("model") or arguments.get("model", "")))
    gpu = catalogue.gpu(str(measured.meta.get("gpu") or measured.name.split("_")[0]))
    pool = _pool(measured.meta, arguments, model, gpu)
    return Deployment(
        model=model,
        gpu=gpu,
        fabric=_fabric(measured.meta, gpu, catalogue),
        latency=Roofline(engine=profile_of("vllm")),
        pools=(pool,),
        gateway_s=0.0,  # arrivals are queued_ts: the gateway is behind them
    )


def _fabric(meta: Mapping[str, Any], gpu: GPU, catalogue: Catalogue) -> Fabric:
    """Return what joins the GPUs; ``p2p: false`` of a run's description, through host memory."""
    p2p = meta.get("p2p", True)
    if type(p2p) is not bool:
        raise ConfigError(f"--vllm: p2p must be true or false but is {p2p!r}")
    usual = catalogue.fabric(gpu)
    on_pcie = usual.host_bridge is not None
    return catalogue.fabrics["pcie_box_no_p2p"] if on_pcie and not p2p else usual


def _pool(meta: Mapping[str, Any], arguments: Mapping[str, Any], model: Model, gpu: GPU) -> Pool:
    ranks = _whole(arguments, "data_parallel_size", 1)
    layout = Layout(
        tp=_whole(arguments, "tensor_parallel_size", 1),
        pp=_whole(arguments, "pipeline_parallel_size", 1),
        ep=_experts(arguments) if model.is_moe else 1,
        attention_dp=ranks if model.is_moe else 1,
    )
    weights = dtype(str(arguments.get("quantization") or arguments.get("dtype") or "bfloat16"))
    stated = str(arguments.get("kv_cache_dtype") or "auto")
    kv = "bf16" if stated == "auto" else dtype(stated.split("_")[0])
    precision = Precision(weights=weights, activations=weights, kv=kv)
    return Pool(
        role="mixed",
        workers=1 if model.is_moe else ranks,
        layout=layout,
        precision=precision,
        batching=_batching(meta, arguments, model, layout, precision, gpu),
    )


def _experts(arguments: Mapping[str, Any]) -> int:
    group = _whole(arguments, "tensor_parallel_size", 1) * _whole(
        arguments, "data_parallel_size", 1
    )
    return group if arguments.get("enable_expert_parallel") else 1


def _batching(
    meta: Mapping[str, Any],
    arguments: Mapping[str, Any],
    model: Model,
    layout: Layout,
    precision: Precision,
    gpu: GPU,
) -> Batching:
    """Return the run's limits; vLLM has them per data-parallel rank, a worker for all its ranks."""
    budget = MemoryBudget(
        block_size=_whole(arguments, "block_size", 16),
        memory_utilization=float(arguments.get("gpu_memory_utilization") or 0.9),
        max_num_batched_tokens=_whole(arguments, "max_num_batched_tokens", 8192),
        max_num_seqs=_whole(arguments, "max_num_seqs", 256),
        rule=load("vllm").memory,
    )
    ranks, stated = layout.attention_dp, _stated_blocks(meta)
    blocks = (
        stated * ranks
        if stated is not None
        else plan_memory(model, layout, precision, gpu, budget).kv_blocks
    )
    return Batching(
        max_num_batched_tokens=budget.max_num_batched_tokens * ranks,
        max_num_seqs=budget.max_num_seqs * ranks,
        block_size=budget.block_size,
        memory_utilization=1.0,  # kv_blocks says what is left; this only must not refuse
        kv_blocks=blocks,
    )


def _whole(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name)
    if value is None:
        return default
    if type(value) is not int or value < 1:
        raise ConfigError(f"--vllm: {name} must be a whole number ≥ 1 but is {value!r}")
    return value


def _stated_blocks(value: object) -> int | None:
    """Return the number of KV blocks a run's description gives, however deep."""
    if not isinstance(value, Mapping):
        return None
    for name in BLOCKS:
        if type(value.get(name)) is int:
            return int(value[name])
    nested = (_stated_blocks(each) for each in value.values())
    return next((blocks for blocks in nested if blocks is not None), None)


# --- scoring --------------------------------------------------------------------------------


def score_run(measured: Measured, catalogue: Catalogue) -> tuple[list[Scored], Replayed | None]:
    """Return the run's means scored (and its other quantiles beside them), and its replay."""
    try:
        replayed = replay(measured, catalogue)
    except (Unmapped, ConfigError) as problem:
        return list(_scores(measured, None, problem)), None
    return list(_scores(measured, replayed, None)), replayed


def _scores(
    measured: Measured, replayed: Replayed | None, problem: Exception | None
) -> Iterator[Scored]:
    arguments = measured.meta["engine_kwargs"]
    degrees = ("tensor_parallel_size", "data_parallel_size")
    for metric in ("ttft", "tpot", "e2e"):
        for name, percent in QUANTILES.items():
            yield Scored(
                set=f"vllm_{metric}_{name}",
                row=measured.name,
                model=str(measured.meta.get("model", "")),
                gpu=measured.name.split("_")[0],
                precision=str(arguments.get("dtype", "")),
                phase="mixed",
                engine="vllm",
                layout=" ".join(f"{each.split('_')[0]}={arguments.get(each)}" for each in degrees),
                batch=batch_range(_whole(arguments, "max_num_seqs", 256)),
                source="vLLM",
                measured=_figure(getattr(measured.times, metric), percent),
                predicted=_figure(getattr(replayed.times, metric), percent) if replayed else None,
                reason=reason_of(problem) if problem else "",
                detail=str(problem) if problem else "",
                about=f"{len(measured.arrival)} requests",
            )


def _figure(values: Column, percent: float | None) -> float:
    return float(values.mean() if percent is None else np.percentile(values, percent))


def queue_error(replayed: Replayed) -> dict[str, float]:
    """Return the mean absolute difference of running and waiting requests, each over its peak."""
    gauges, ours = replayed.measured.queue, replayed.queue
    if gauges is None:
        return {}
    return {
        name: _gap(
            getattr(gauges, name), np.interp(gauges.time_s, ours.time_s, getattr(ours, name))
        )
        for name in ("running", "waiting")
    }


def _gap(measured: Column, predicted: Column) -> float:
    return float(np.abs(measured - predicted).mean() / max(float(measured.max()), 1.0))
