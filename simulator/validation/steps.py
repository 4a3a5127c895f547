"""Predicted beside measured seconds of single forward steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.errors import ConfigError
from simulator.latency.base import WorkerSpec
from simulator.latency.efficiency import load as load_efficiency
from simulator.latency.engine import Engine, known, load
from simulator.latency.passes import Load
from simulator.latency.roofline import Roofline
from simulator.layout import Layout, Memory, Precision
from simulator.validation.composed import moe_backend
from simulator.validation.names import Catalogue, Unmapped, dtype, product
from simulator.validation.score import Scored, batch_range
from simulator.validation.tables import Row, number, whole

REQUIRED = ("model", "system", "tp", "phase", "batch", "isl", "context", "gemm", "latency_ms")
"""Columns a table of steps must have; the others have defaults."""
_SAME = ("model", "system", "backend", "tp", "pp", "dp", "moe_ep", "gemm", "moe", "kvcache")
NO_MEMORY = Memory(
    weights_bytes_per_gpu=0.0,
    reserve_bytes_per_gpu=0.0,
    kv_bytes_per_gpu=0.0,
    kv_bytes_per_token=0.0,
    kv_blocks=0,
    block_size=1,
    kv_shards=1,
)
"""Steps are timed alone: whether the KV of many of them fits is another question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one row asks: ``batch`` prompts of ``tokens``, or sequences of ``tokens`` context."""

    number: int
    row: Row
    phase: str
    batch: float
    tokens: float
    seconds: float


def score_steps(rows: Sequence[tuple[int, Row]], catalogue: Catalogue) -> list[Scored]:
    """Return every numbered row scored; those of one model, GPU and layout at once."""
    groups: dict[tuple[str, ...], list[tuple[int, Row]]] = {}
    for at, row in rows:
        groups.setdefault(tuple(row.get(name, "") for name in _SAME), []).append((at, row))
    scored = [each for group in groups.values() for each in _group(group, catalogue)]
    return sorted(scored, key=lambda each: int(each.row))


def _group(rows: Sequence[tuple[int, Row]], catalogue: Catalogue) -> Iterator[Scored]:
    usable: list[Given] = []
    for at, row in rows:
        try:
            usable.append(_given(row, at))
        except (Unmapped, ConfigError) as problem:
            yield _scored(row, at, problem=problem)
    try:
        worker = _worker(rows[0][1], catalogue)
        seconds = _predicted(worker, rows[0][1], usable)
    except (Unmapped, ConfigError) as problem:
        for given in usable:
            yield _scored(given.row, given.number, given, problem=problem)
        return
    for given, predicted in zip(usable, seconds, strict=True):
        yield _scored(given.row, given.number, given, worker, float(predicted))


def _given(row: Row, at: int) -> Given:
    phase = row["phase"].lower()
    if phase not in ("prefill", "decode"):
        raise Unmapped(f"phase not known: {row['phase']}")
    tokens = number(row["isl"] if phase == "prefill" else row["context"])
    batch, milliseconds = number(row["batch"]), number(row["latency_ms"])
    if tokens is None or batch is None:
        raise Unmapped("batch, isl or context is not a positive number")
    if milliseconds is None:
        raise Unmapped("latency_ms is not a positive number")
    return Given(
        number=at, row=row, phase=phase, batch=batch, tokens=tokens, seconds=milliseconds / 1e3
    )


def _worker(row: Row, catalogue: Catalogue) -> WorkerSpec:
    _, model = catalogue.model(row["model"])
    gpu = catalogue.gpu(row["system"])
    layout = Layout(
        tp=whole(row, "tp", 1),
        pp=whole(row, "pp", 1),
        ep=whole(row, "moe_ep", 1),
        attention_dp=whole(row, "dp", 1),
    )
    layout.validate(model)
    gemm, activations = product(row["gemm"])
    weights = gemm
    if model.is_moe and row.get("moe"):
        weights, activations = product(row["moe"])
    kv = dtype(row.get("kvcache") or "bf16")
    return WorkerSpec(
        model=model,
        layout=layout,
        precision=Precision(weights=weights, activations=activations, kv=kv, attention=gemm),
        gpu=gpu,
        fabric=catalogue.fabric(gpu),
        memory=NO_MEMORY,
        role="mixed",
    )


def profile_of(engine: str) -> str:
    """Return the name of the profile of a serving engine: ``generic`` where none is shipped."""
    name = engine.strip().lower()
    return name if name in known() else "generic"


def _kernels_only(backend: str) -> Engine:
    """Return an engine of the backend's kernels alone: a table's steps have no host in them."""
    profile = load(profile_of(backend))
    return Engine(
        name=profile.name,
        kernels=profile.kernels,
        kernel_factor=profile.kernel_factor,
        fp8_scales=profile.fp8_scales and "dynamic",  # as its products were measured
    )


def _predicted(worker: WorkerSpec, row: Row, given: Sequence[Given]) -> np.ndarray:
    """Return seconds per row, each with the experts of the backend that it was composed of."""
    ranks = worker.layout.attention_dp
    backends = [
        moe_backend(row, each.batch * ranks * (each.tokens if each.phase == "prefill" else 1))
        for each in given
    ]
    seconds = {each: _predict(worker, row, given, each) for each in set(backends)}
    return np.array([seconds[each][at] for at, each in enumerate(backends)])


def _predict(
    worker: WorkerSpec, row: Row, given: Sequence[Given], experts: str | None
) -> np.ndarray:
    """Return seconds per row; ``batch`` counts per attention rank, as the loads of a pass do."""
    prefill = np.array([float(each.phase == "prefill") for each in given])
    batch = np.array([each.batch for each in given])
    tokens = np.array([each.tokens for each in given])
    load = Load(
        tokens=prefill * batch * tokens,
        pairs=prefill * batch * tokens * (tokens + 1) / 2,
        past=0.0 * batch,
        prompts=prefill * batch,
        batch=(1 - prefill) * batch,
        context=(1 - prefill) * batch * tokens,
    )
    # The table's steps gather tokens and scatter results over attention-DP ranks.
    engine = _kernels_only(row.get("backend", ""))
    model = Roofline(
        engine=engine,
        host_overhead_s=0.0,
        expert_exchange="all_gather",
        moe_backend=experts,
        busiest_rank=False,
        moe_skew=load_efficiency(worker.gpu.architecture).moe_skew,
    )
    return np.asarray(model.pass_seconds(worker, load)) * np.ones(len(given))


def _scored(
    row: Row,
    at: int,
    given: Given | None = None,
    worker: WorkerSpec | None = None,
    predicted: float | None = None,
    problem: Exception | None = None,
) -> Scored:
    gemm, kv = row.get("gemm", ""), row.get("kvcache", "")
    return Scored(
        set="steps",
        row=str(at),
        model=row["model"],
        gpu=worker.gpu.name if worker else row["system"],
        precision=f"{gemm}, KV {kv}" if kv else gemm,
        phase=row["phase"].lower(),
        engine=row.get("backend", ""),
        layout=str(worker.layout) if worker else "",
        batch=batch_range(given.batch) if given else "",
        measured=given.seconds if given else None,
        predicted=predicted,
        reason=reason_of(problem) if problem else "",
        detail=str(problem) if problem else "",
        about=f"{row['batch']} × {row['isl'] or row['context']}",
    )


def reason_of(problem: Exception) -> str:
    """Return a short reason that many rows share."""
    if isinstance(problem, Unmapped):
        return problem.reason
    names = {"CapacityError": "does not fit the GPUs' memory", "LayoutError": "layout refused"}
    kind = names.get(type(problem).__name__)
    return kind if kind else f"refused: {str(problem).split(';')[0]}"
