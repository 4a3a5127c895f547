"""What is measured: step tables and their rows as passes of our own operators.

Names of systems, models and dtypes in the tables are turned into shipped specifications; rows
that mean nothing here are left out and counted.
"""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.configuration import build
from simulator.errors import ConfigError
from simulator.latency.collectives import Network
from simulator.latency.passes import Load, PassSpec
from simulator.layout import Layout, Precision
from simulator.model import Model
from simulator.validation.composed import moe_backend
from simulator.validation.tables import numbers_of, read_frame
from simulator.yaml_text import parse

Floats = NDArray[np.float64]
Spec = TypeVar("Spec", GPU, Fabric, Model)

GPUS: Mapping[str, str] = MappingProxyType(
    {
        "a100_sxm": "a100_80gb_sxm",
        "h100_sxm": "h100_sxm",
        "h200_sxm": "h200_sxm",
        "b200_sxm": "b200_sxm",
        "b300_sxm": "b300_sxm",
        "gb200": "gb200_nvl72",
        "gb300": "gb300_nvl72",
        "l40s": "l40s",
        "rtx_pro_6000_server": "rtx_pro_6000_server",
    }
)
FABRICS: Mapping[str, str] = MappingProxyType(
    {
        "gb200": "nvl72",
        "gb300": "nvl72",
        "l40s": "pcie_box",
        "rtx_pro_6000_server": "pcie_box",
    }
)
MODELS: Mapping[str, str] = MappingProxyType(
    {
        "meta-llama/Meta-Llama-3.1-8B": "llama_3_1_8b",
        "meta-llama/Meta-Llama-3.1-70B": "llama_3_1_70b",
        "Qwen/Qwen3-32B": "qwen3_32b",
        "Qwen/Qwen3-30B-A3B": "qwen3_30b_a3b",
        "Qwen/Qwen3-235B-A22B": "qwen3_235b_a22b",
        "Qwen/Qwen3-Coder-480B-A35B-Instruct": "qwen3_coder_480b_a35b",
        "deepseek-ai/DeepSeek-V3": "deepseek_v3",
        "nvidia/DeepSeek-V3.1-NVFP4": "deepseek_v3",
        "openai/gpt-oss-120b": "gpt_oss_120b",
        "mistralai/Mixtral-8x7B-v0.1": "mixtral_8x7b",
    }
)
ARCHITECTURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "hopper": ("h100_sxm", "h200_sxm"),
        "ampere": ("a100_sxm",),
        "blackwell": ("b200_sxm", "gb200"),
        "blackwell_ultra": ("b300_sxm", "gb300"),
        "blackwell_gddr": ("rtx_pro_6000_server",),
        "ada": ("l40s",),
    }
)
NEAREST: Mapping[str, str] = MappingProxyType(
    {
        "hopper": "blackwell",
        "ampere": "hopper",
        "blackwell": "hopper",
        "blackwell_ultra": "blackwell",
        "blackwell_gddr": "blackwell",
        "ada": "hopper",
    }
)
SUCCESSORS = ("blackwell_ultra",)
"""Architectures that take from the nearest one what no kernel of their own tells."""
DTYPES: Mapping[str, str] = MappingProxyType(
    {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
)
UNPACKED: Mapping[str, str] = MappingProxyType({"w4a16_mxfp4": "bf16", "w4a8_mxfp4_mxfp8": "fp8"})
"""Experts of 4-bit weights, unpacked for wider activations; the other products are in 16 bits."""
BADLY_CONNECTED: Mapping[str, int] = MappingProxyType({"l40s": 2})
"""NCCL on the one L40S box of its table is 5 to 13 times slower among more ranks than the best
all-reduce measured on that GPU: how that box was set up, not what the GPU does."""

WORDS = ("model", "system", "backend", "gemm", "moe", "kvcache", "phase")
COUNTS = ("tp", "pp", "dp", "moe_tp", "moe_ep", "batch", "isl", "context")
NUMBERS = MappingProxyType({**dict.fromkeys(COUNTS, pl.Int64), "latency_ms": pl.Float64})
"""Columns of a table of steps: those of words, of counts, and those of numbers."""
GROUPED = (
    *("model", "system", "backend", "tp", "pp", "dp", "moe_tp", "moe_ep"),
    *("gemm", "moe", "kvcache"),
)
"""What the rows of one :class:`Group` share."""


@functools.cache
def shipped(folder: str, name: str, kind: type[Spec]) -> Spec:
    """Return a specification the package ships."""
    path = resources.files("conf") / folder / f"{name}.yaml"
    node: Any = parse(path.read_text(encoding="utf-8"))
    spec: Spec = build(node, kind, folder)
    return spec


def gpu_of(system: str) -> GPU:
    """Return the GPU that the tables call ``system``."""
    gpu: GPU = shipped("hardware", GPUS[system], GPU)
    return gpu


def network_of(system: str) -> Network:
    """Return the network that joins such GPUs where the tables were measured."""
    return Network.of(gpu_of(system), shipped("fabric", FABRICS.get(system, "hgx8"), Fabric))


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows of one (model, GPU, layout, precision): one pass spec, arrays of loads.

    Their experts are computed by ``moe_backend`` (``None``: as the engine's own).
    """

    spec: PassSpec
    system: str
    load: Load
    seconds: Floats
    engine: str
    rows: pl.DataFrame
    moe_backend: str | None = None


def groups(steps: pl.DataFrame, systems: Sequence[str]) -> Iterator[Group]:
    """Yield the rows of these systems in groups.

    They are as the table's steps are composed: of plain collectives, of the experts of one rank,
    measured alone, and of TensorRT-LLM's FP8 products each with a scale found first.
    """
    chosen = steps.filter(pl.col("system").is_in(list(systems)))
    chosen = chosen.with_columns(moe_backend=moe_backends(chosen))
    for _, rows in chosen.group_by([*GROUPED, "moe_backend"], maintain_order=True):
        first = rows.row(0, named=True)
        layout = Layout(
            tp=first["tp"], pp=first["pp"], ep=first["moe_ep"], attention_dp=first["dp"]
        )
        yield Group(
            spec=PassSpec(
                model=shipped("model", MODELS[first["model"]], Model),
                layout=layout,
                precision=precision_of(first),
                expert_exchange="all_gather",
                busiest_rank=False,
                fp8_scales="dynamic" if first["backend"] == "trtllm" else "",
            ),
            engine="" if first["backend"] == "trtllm" else first["backend"],
            system=first["system"],
            load=loads(rows),
            seconds=rows["latency_ms"].to_numpy() * 1e-3,
            rows=rows.drop("moe_backend"),
            moe_backend=first["moe_backend"] or None,
        )


def moe_backends(steps: pl.DataFrame) -> pl.Series:
    """Return the backend of the experts of each step, "" for the engine's own."""
    names = ("backend", "moe", "system", "phase", "batch", "isl", "dp")
    found = []
    for row in steps.select(names).iter_rows(named=True):
        each = row["isl"] if row["phase"] == "prefill" else 1
        found.append(moe_backend(row, row["batch"] * row["dp"] * each) or "")
    return pl.Series(found, dtype=pl.String)


def precision_of(row: Mapping[str, str]) -> Precision:
    """Return the dtypes of a step table's row."""
    kv = DTYPES[row["kvcache"]]
    if row["moe"] in UNPACKED:
        activations = UNPACKED[row["moe"]]
        return Precision(weights="mxfp4", activations=activations, kv=kv, attention="bf16")
    dtype = DTYPES[row["gemm"]]
    return Precision(weights=dtype, activations=dtype, kv=kv)


def loads(rows: pl.DataFrame) -> Load:
    """Prefill rows are `batch` whole prompts of `isl`, decode rows have `batch` sequences."""
    prefill = (rows["phase"] == "prefill").to_numpy().astype(float)
    batch = rows["batch"].to_numpy().astype(float)
    isl = rows["isl"].fill_null(0).to_numpy().astype(float)
    context = rows["context"].to_numpy().astype(float)
    return Load(
        tokens=prefill * batch * isl,
        pairs=prefill * batch * isl * (isl + 1) / 2,
        past=0.0 * batch,
        prompts=prefill * batch,
        batch=(1 - prefill) * batch,
        context=(1 - prefill) * batch * context,
    )


def read_table(path: Path) -> pl.DataFrame:
    """Return one table's columns of :data:`WORDS` and :data:`NUMBERS`."""
    text = read_frame(path, (*WORDS, *NUMBERS), "--steps")
    return text.select(WORDS).hstack(numbers_of(text, dict(NUMBERS), f"--steps: {path}"))


def wanted() -> dict[str, pl.Expr]:
    """Return what a row must be to be fitted to, by why it is left out otherwise."""
    is_prefill = pl.col("phase") == "prefill"
    filled = [pl.col(name) >= 1 for name in COUNTS if name != "isl"]
    ranks = pl.col("tp") * pl.col("dp")
    badly_connected = pl.any_horizontal(
        (pl.col("system") == name) & (ranks > most) for name, most in BADLY_CONNECTED.items()
    )
    known = {"model": MODELS, "system": GPUS, "gemm": DTYPES, "kvcache": DTYPES}
    return {
        **{f"{name} is not known here": pl.col(name).is_in(list(of)) for name, of in known.items()},
        "phase is neither prefill nor decode": pl.col("phase").is_in(["prefill", "decode"]),
        "latency_ms is not above 0": pl.col("latency_ms") > 0,
        f"one of {', '.join(COUNTS)} is not at least 1": pl.all_horizontal(
            *filled, ~is_prefill | (pl.col("isl") >= 1)
        ),
        "its GPUs were badly connected": ~badly_connected,
    }


def read(paths: Sequence[Path]) -> pl.DataFrame:
    """Return the rows of all tables that can be fitted to; say on stderr how many cannot, and why.

    Raises:
        ConfigError: a table cannot be read, lacks a column, or has a cell that is no number; or no
            row is left.
    """
    rows = kept = pl.concat([read_table(path) for path in paths])
    for reason, condition in wanted().items():
        left = kept.filter(condition.fill_null(value=False))
        if gone := len(kept) - len(left):
            sys.stderr.write(f"calibrate: {gone} of {len(rows)} rows left out: {reason}\n")
        kept = left
    if not len(kept):
        raise ConfigError(f"--steps: no row of {', '.join(map(str, paths))} can be fitted to")
    return kept
