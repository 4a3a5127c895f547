"""What deployments of DeepSeek-R1 reached in prefill on the paper's GPUs, beside this model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

from simulator.explore.evaluate import collect, prefill_points
from simulator.explore.paper.laboratory import R1, K, Laboratory
from simulator.explore.space import Lengths, Platform, Space
from simulator.latency.roofline import EXCHANGES, Roofline
from simulator.layout import Layout, Precision

PROMPTS = (1, 2, 4, 8, 16, 32)
"""Prompts of a step on each rank; a deployment has the best of them."""
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


COMPOSED = MappingProxyType({8: 12_134.0, 16: 9_832.0, 32: 5_454.0})
"""Prompt tokens/s per GPU of one prompt of 16,384 tokens on each attention rank, by EP: DeepSeek
V3.1 in NVFP4 on GB200, steps that AIConfigurator composes of TensorRT-LLM 1.3's measured kernels,
which exchange by plain collectives."""


def composed(lab: Laboratory) -> Iterator[tuple[int, float, float, float]]:
    """Yield EP, tokens/s per GPU so composed, and those of this model by either exchange."""
    for ep, reported in COMPOSED.items():
        mine = [
            _per_gpu(
                replace(lab.platform(R1), latency=Roofline(expert_exchange=way)), ep, 16 * K, 1
            )
            for way in EXCHANGES[::-1]
        ]
        yield ep, reported, mine[0], mine[1]


def rates(lab: Laboratory) -> Iterator[tuple[Deployment, float]]:
    """Yield the deployments, and the prompt tokens/s per GPU of this model in the same layout."""
    for each in REPORTED:
        platform = replace(lab.platform(R1), precision=each.precision)
        yield each, max(_per_gpu(platform, each.ep, 2 * K, prompts) for prompts in PROMPTS)


def _per_gpu(platform: Platform, ep: int, isl: int, prompts: int) -> float:
    """Return prompt tokens/s per GPU of so many whole prompts on each of ``ep`` ranks."""
    space = Space(
        platform=platform,
        lengths=Lengths.constant(isl, 2),
        layouts=(Layout(attention_dp=ep, ep=ep),),
        prompt_batches=(prompts,),
        chunks=(),
    )
    points = collect(prefill_points(space))
    return float(points["rate"][0]) * isl / ep if len(points) else 0.0
