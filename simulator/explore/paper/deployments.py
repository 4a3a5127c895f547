"""What deployments of DeepSeek-R1 reached in prefill on the paper's GPUs, beside this model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import polars as pl

from simulator.explore.evaluate import collect, prefill_points
from simulator.explore.paper.laboratory import R1, K, Laboratory
from simulator.explore.space import Lengths, Space
from simulator.layout import Layout, Precision

NVFP4 = Precision(weights="nvfp4", activations="nvfp4", kv="fp8", attention="fp8")
FP8 = Precision(weights="fp8_block", activations="fp8_block", kv="bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Prompt tokens/s per GPU that were ``reported`` of prompts of 2,048 tokens, and of what."""

    name: str
    source: str
    ep: int
    precision: Precision
    reported: float


REPORTED = (
    Deployment(
        name="SGLang, two hosts, FP8 attention, NVFP4 experts",
        source="lmsys.org/blog/2025-09-25-gb200-part-2",
        ep=8,
        precision=NVFP4,
        reported=26_156,
    ),
    Deployment(
        name="SGLang, two hosts, BF16 attention, FP8 experts",
        source="lmsys.org/blog/2025-09-25-gb200-part-2",
        ep=8,
        precision=FP8,
        reported=18_471,
    ),
    Deployment(
        name="vLLM, two GPUs that keep part of the weights in host memory (here four), NVFP4",
        source="blog.vllm.ai/2026/02/03/dsr1-gb200-part1.html",
        ep=4,
        precision=NVFP4,
        reported=26_200,
    ),
)
"""Prefill of DeepSeek-R1 on GB200 NVL72, attention on data-parallel ranks."""


def rates(lab: Laboratory) -> Iterator[tuple[Deployment, float]]:
    """Yield the deployments, and the prompt tokens/s per GPU of this model in the same layout."""
    isl = 2 * K
    for each in REPORTED:
        space = Space(
            platform=replace(lab.platform(R1), precision=each.precision),
            lengths=Lengths.constant(isl, 2),
            layouts=(Layout(attention_dp=each.ep, ep=each.ep),),
        )
        whole = collect(prefill_points(space)).filter(pl.col("chunk") == 0)
        per_gpu = whole["rate"].to_numpy() * isl / whole["gpus"].to_numpy()
        yield each, float(per_gpu.max())
