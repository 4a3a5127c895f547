"""The limits that TensorRT-LLM's offline benchmark chooses where its command names none.

``trtllm-bench throughput`` derives them from what it takes the KV cache to hold of sequences of
the benchmark's lengths (NVIDIA/TensorRT-LLM tensorrt_llm/bench/build/tuning.py and
bench/benchmark/utils/general.py); NVIDIA's performance overviews name neither, but the batches
captured as CUDA graphs. What is overestimated there is here too: real KV bounds what runs.
"""

import math
from dataclasses import dataclass, replace

from hardware.gpu import GPU
from simulator.latency.engine import Engine
from simulator.layout import DTYPE_BYTES, Layout, Precision
from simulator.model import Model

MOST_SEQUENCES, MOST_TOKENS, LEAST_TOKENS = 4096, 32768, 2048
"""Sequences of all pipeline stages together, and tokens of a step, that it limits itself to."""
MEMORY_SHARE = 0.95
"""Of what weights leave for KV, in the overviews' commands."""
PACKED_VALUES = 0.5625
"""Values that a checkpoint in NVFP4 seems to have: two a byte, and a scale for 16 of them."""
GRAPHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 8192)
"""Batches that the overviews of the PyTorch backend have captured."""
MOE_BACKEND = "cutlass"
"""Of experts: the overviews name it for DeepSeek-R1 and none for Qwen3 and Llama 4, for which it is
the default (docs/source/developer-guide/perf-overview.md@03e27c7d, tensorrt_llm/_torch/
model_config.py, resolve_moe_backend)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one rank's step may hold, of each microbatch of a pipeline."""

    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """An offline run: every prompt ``isl`` tokens, every answer ``osl``."""

    model: Model
    precision: Precision
    gpu: GPU
    layout: Layout
    isl: int
    osl: int
    chunked: bool


DEFAULT = Limits(sequences=2048, tokens=8192)
"""TensorRT-LLM's own, for quantisations the benchmark does not know: MXFP4."""


def limits(run: Benchmark) -> Limits:
    """Return the limits that the benchmark chooses for a run."""
    if run.precision.weights == "mxfp4":
        return DEFAULT
    raw = min(_requests(run), MOST_SEQUENCES) / run.layout.pp
    sequences = _rounded(raw, ((256, 32), (1024, 128), (math.inf, 256)), least=64)
    wanted = min(raw * (1 + run.isl / run.osl), MOST_TOKENS)
    tokens = _rounded(wanted, ((4096, 256), (8192, 512), (math.inf, 1024)), least=LEAST_TOKENS)
    whole = 0 if run.chunked else run.isl
    return Limits(sequences=sequences, tokens=max(tokens, whole, sequences))


def captured(engine: Engine, most: int) -> Engine:
    """Return the engine with the overviews' CUDA graphs, up to ``most`` sequences."""
    return replace(engine, graph_sizes=(*(size for size in GRAPHS if size < most), most))


def _requests(run: Benchmark) -> float:
    """Return how many sequences the benchmark takes the KV cache of all GPUs to hold."""
    model, layout = run.model, run.layout
    width = layout.tp * layout.attention_dp  # it is told attention-DP ranks as TP
    latent = model.attention == "mla"
    heads = max(width, model.heads if latent else model.kv_heads)
    head = model.hidden // model.heads if latent else model.head_dim
    per_token = 2.0 * model.layers * heads * head * run.precision.kv_bytes
    weights = run.precision.weights
    values = model.total_params * (PACKED_VALUES if weights == "nvfp4" else 1.0)
    each = {"nvfp4": 0.5, "fp8": 1.0, "fp8_block": 1.0}.get(weights, DTYPE_BYTES["bf16"])
    room = run.gpu.memory_bytes * width * layout.pp - values * each
    return MEMORY_SHARE * room / (per_token * (run.isl + run.osl))


def _rounded(value: float, steps: tuple[tuple[float, int], ...], *, least: int) -> int:
    """Return the next multiple of the first step whose bound is above ``value``."""
    step = next(step for bound, step in steps if value < bound)
    return max(least, step * math.ceil(value / step))
