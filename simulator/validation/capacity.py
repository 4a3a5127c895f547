"""KV capacity beside engines' own logs: what each found room for when it started.

Every log whose launch settings, or the defaults in their place, are known. None was fitted to:
the rules under ``conf/engine`` have sources of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.errors import CapacityError
from simulator.latency.engine import load
from simulator.layout import Layout, MemoryBudget, Precision, plan_memory
from simulator.memory import GIB
from simulator.model import Model
from simulator.validation.names import Catalogue

TITLE = "## KV capacity beside engines' logs"
GOAL = 0.05
"""Relative error above which a row says why."""

BF16 = Precision()
BLOCKED_FP8 = Precision(weights="fp8_block", activations="fp8")
MXFP4 = Precision(weights="mxfp4", attention="bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What an engine said when it started on ``tp`` GPUs.

    ``kv_gib`` is the memory it gave KV on each of them, ``tokens`` what that holds; either or
    neither may be given. ``kv_gib`` below 0 is an engine that did not start. ``why`` explains a
    row that is not met.
    """

    engine: str
    said: str
    model: str
    gpu: str
    precision: Precision = BF16
    tp: int = 1
    share: float
    step_tokens: int = 8192
    seqs: int = 1024
    tokens: int | None = None
    kv_gib: float | None = None
    source: str
    why: str = ""


LOGS: tuple[Log, ...] = (
    Log(
        engine="vllm_0_10",
        said="vLLM 0.9",
        model="qwen3_235b_a22b",
        gpu="h100_sxm",
        precision=BLOCKED_FP8,
        tp=4,
        share=0.9,
        tokens=178_880,
        source="vllm issue 21348",
    ),
    Log(
        engine="sglang",
        said="SGLang",
        model="qwen3_235b_a22b",
        gpu="h100_sxm",
        precision=BLOCKED_FP8,
        tp=4,
        share=0.93,
        tokens=367_404,
        source="vllm issue 21348",
    ),
    Log(
        engine="sglang",
        said="SGLang, its default share",
        model="qwen3_32b",
        gpu="h200_sxm",
        precision=BLOCKED_FP8,
        share=0.88,
        tokens=371_587,
        source="a start-up log",
    ),
    Log(
        engine="vllm_0_10",
        said="vLLM 0.10",
        model="gpt_oss_120b",
        gpu="h100_sxm",
        precision=MXFP4,
        share=0.9,
        kv_gib=-2.14,
        source="vllm issue 23278",
    ),
    Log(
        engine="vllm_0_10",
        said="vLLM 0.11",
        model="gpt_oss_120b",
        gpu="h100_sxm",
        precision=MXFP4,
        share=0.95,
        step_tokens=1024,
        kv_gib=1.71,
        source="vllm issue 27508",
        why="a fraction of a GiB of 80 left over",
    ),
    Log(
        engine="vllm_0_10",
        said="vLLM 0.8",
        model="llama_3_1_8b",
        gpu="l40s",
        share=0.9,
        step_tokens=2048,
        tokens=158_656,
        source="vllm PR 17122",
    ),
    Log(
        engine="vllm_0_6",
        said="vLLM 0.6",
        model="llama_3_1_8b",
        gpu="h100_sxm",
        share=0.9,
        seqs=256,
        kv_gib=53.29,
        source="vllm PR 10511",
    ),
    Log(
        engine="vllm_0_6",
        said="vLLM 0.6",
        model="llama_3_1_8b",
        gpu="h100_sxm",
        tp=2,
        share=0.9,
        seqs=256,
        kv_gib=58.97,
        source="vllm PR 10511",
    ),
    Log(
        engine="vllm",
        said="vLLM of October 2026",
        model="llama_3_1_8b",
        gpu="h100_sxm",
        share=0.92,
        tokens=460_496,
        source="a start-up log",
    ),
)
"""Where a log gives no ``max_num_seqs``, vLLM's default: 256 up to 0.7, then 1,024 on such GPUs."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A log, the tokens it amounts to and ours; ``None`` where it does, or ours would, not fit."""

    log: Log
    seen: int | None
    ours: int | None

    @property
    def error(self) -> float | None:
        """Ours over what was seen, minus one; ``None`` unless both fit."""
        return None if self.seen is None or self.ours is None else self.ours / self.seen - 1.0

    @property
    def held(self) -> bool:
        """Whether ours is within the goal, or neither fits."""
        if self.error is None:
            return self.seen is self.ours is None
        return abs(self.error) <= GOAL


def compared(catalogue: Catalogue, logs: Sequence[Log] = LOGS) -> list[Compared]:
    """Return every log beside what the memory model says."""
    return [_compared(catalogue, log) for log in logs]


def _compared(catalogue: Catalogue, log: Log) -> Compared:
    model = catalogue.models[log.model]
    budget = MemoryBudget(
        block_size=1 if log.engine == "sglang" else 16,
        memory_utilization=log.share,
        max_num_batched_tokens=log.step_tokens,
        max_num_seqs=log.seqs,
        rule=load(log.engine).memory,
    )
    layout, gpu = Layout(tp=log.tp), catalogue.gpus[log.gpu]
    seen = log.tokens
    if log.kv_gib is not None:
        seen = int(log.kv_gib * GIB / _token_bytes(model, layout)) if log.kv_gib > 0 else None
    try:
        memory = plan_memory(model, layout, log.precision, gpu, budget)
    except CapacityError:
        return Compared(log, seen, None)
    return Compared(log, seen, memory.kv_blocks * memory.block_size)


def _token_bytes(model: Model, layout: Layout) -> float:
    """Return the bytes one token's 16-bit KV takes on each GPU."""
    heads = layout.kv_heads_per_gpu(model) / model.kv_heads
    return model.kv_bytes_per_token(2.0) * heads


def table(rows: Sequence[Compared]) -> str:
    """Return the comparison as a table in Markdown."""
    lines = [
        "| engine | model | GPUs | share | sequences | its tokens | ours | error | source |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    return "\n".join([*lines, *map(_line, rows)])


def _line(row: Compared) -> str:
    log = row.log
    error = "both" if row.error is None and row.held else "–"
    error = error if row.error is None else f"{row.error:+.1%}"
    cells = [
        log.said,
        f"{log.model} {log.precision.weights}",
        f"{log.tp} × {log.gpu}",
        f"{log.share:g}",
        f"{log.seqs:,}",
        _tokens(row.seen),
        _tokens(row.ours),
        error + (f" ({log.why})" if log.why and not row.held else ""),
        log.source,
    ]
    return f"| {' | '.join(cells)} |"


def _tokens(count: int | None) -> str:
    return "does not start" if count is None else f"{count:,}"


def section(catalogue: Catalogue) -> str:
    """Return the comparison as a section of docs/validation.md."""
    return f"{TITLE}\n\n{_WORDS}\n\n{table(compared(catalogue))}"


_WORDS = """What engines found room for when they started, and what the memory model gives for the
same settings (`scripts/kv_capacity` prints it). The rules are data of the engine profiles, each
with its source (`conf/engine`, `memory`): what `memory_utilization` is a share of, what processes
and communicators hold, and what sampling takes. None is fitted to these rows. vLLM up to 0.15
sorts the logits of `max_num_seqs` sequences when it profiles itself, 40 bytes each, more than any
layer needs; SGLang leaves steps and CUDA graphs to the memory outside its share. What one GPU
holds of CUDA graphs comes after vLLM's sizing up to 0.15 and is not in these figures."""
