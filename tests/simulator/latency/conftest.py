"""Workers for the latency tests, built from the shipped specifications."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.configuration import build
from simulator.latency.base import WorkerSpec
from simulator.layout import Layout, Memory, Precision
from simulator.model import Model

ROOT = Path(__file__).parents[3]
MEMORY = Memory(
    weights_bytes_per_gpu=1e9,
    reserve_bytes_per_gpu=1e9,
    kv_bytes_per_gpu=1e10,
    kv_bytes_per_token=1e5,
    kv_blocks=10_000,
    block_size=16,
    kv_shards=1,
)
FP8 = Precision(weights="fp8", activations="fp8", kv="fp8")
FP8_BLOCK = Precision(weights="fp8_block", activations="fp8_block", kv="fp8")
NVFP4 = Precision(weights="nvfp4", activations="nvfp4", kv="fp8")
# name: model, GPU, fabric, layout, precision, role
WORKERS = {
    "dense": ("llama_3_1_70b", "h100_sxm", "hgx8", Layout(tp=4), FP8, "mixed"),
    "single": ("llama_3_1_8b", "a100_80gb_sxm", "hgx8", Layout(), Precision(), "decode"),
    "pipelined": ("llama_3_1_405b", "h200_sxm", "hgx8", Layout(tp=8, pp=2), FP8, "decode"),
    "dep": ("deepseek_v3", "h200_sxm", "hgx8", Layout(attention_dp=16, ep=16), FP8_BLOCK, "mixed"),
    "tep": ("deepseek_v3", "gb200_nvl72", "nvl72", Layout(tp=8, ep=8), NVFP4, "mixed"),
    "shared": ("deepseek_v3", "h200_sxm", "hgx8", Layout(tp=2, attention_dp=4, ep=4), FP8, "mixed"),
    "uneven": (
        "deepseek_v3",
        "gb200_nvl72",
        "nvl72",
        Layout(attention_dp=72, ep=72),
        NVFP4,
        "mixed",
    ),
    "sparse": ("deepseek_v3_2", "b200_sxm", "hgx8", Layout(tp=8, ep=8), FP8_BLOCK, "mixed"),
    "windowed": ("gpt_oss_120b", "h100_sxm", "hgx8", Layout(tp=2), Precision(), "mixed"),
    "linear": ("qwen3_next_80b_a3b", "h100_sxm", "hgx8", Layout(tp=2), Precision(), "mixed"),
    "wide": ("llama_3_1_405b", "h100_sxm", "hgx8", Layout(tp=16), FP8, "mixed"),
}


def load(group: str, name: str, kind: type) -> Any:
    """Build one shipped specification."""
    text = (ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8")
    return build(yaml.safe_load(text), kind, group)


def make(name: str) -> WorkerSpec:
    """Build one of :data:`WORKERS`."""
    model, gpu, fabric, layout, precision, role = WORKERS[name]
    return WorkerSpec(
        model=load("model", model, Model),
        layout=layout,
        precision=precision,
        gpu=load("hardware", gpu, GPU),
        fabric=load("fabric", fabric, Fabric),
        memory=MEMORY,
        role=role,
    )


@pytest.fixture(scope="session")
def workers() -> dict[str, WorkerSpec]:
    """Every kind of worker the laws are checked on."""
    return {name: make(name) for name in WORKERS}


@pytest.fixture(params=sorted(WORKERS))
def worker(request: pytest.FixtureRequest, workers: dict[str, WorkerSpec]) -> WorkerSpec:
    """One worker of every kind in turn."""
    return workers[request.param]


@pytest.fixture(scope="session")
def spec_from() -> Callable[[str, str, type], Any]:
    """Build a shipped specification by its group, name and class."""
    return load
