"""Other people's names for models, GPUs, precisions and layouts, turned into our specifications.

A name that means nothing here is no error: the row is skipped, and :class:`Unmapped` says why.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from types import MappingProxyType
from typing import Any

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.configuration import build
from simulator.layout import Layout, Precision
from simulator.model import Model
from simulator.yaml_text import parse

_MODEL_TAIL = re.compile(
    r"-(instruct|thinking|chat|hf|it|fp8|nvfp4|fp4|bf16|awq|\d{4}|16e|128e|17b)(?=-|$)"
)
_MODEL_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        # The same shape under another name.
        "llama3370b": "llama_3_1_70b",
        "llama370b": "llama_3_1_70b",
        "llama38b": "llama_3_1_8b",
        "deepseekv31": "deepseek_v3",
        "deepseekr1distillllama70b": "llama_3_1_70b",
        "r1": "deepseek_r1",
        "minimaxm25": "minimax_m2",
        "mixtral8x7bv01": "mixtral_8x7b",
        "mixtral8x22bv01": "mixtral_8x22b",
    }
)
_GPU_TAIL = re.compile(r"(sxm\d?|nvl72|oam|80gb|sxm80gb|80gbsxm|96gb?|server|blackwell)$")
_DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "nvfp4": "nvfp4",
        "fp4": "nvfp4",
        "mxfp4": "mxfp4",
        "fp8_block": "fp8_block",
        "fp8": "fp8",
        "int8": "int8",
        "int4": "int4",
        "bf16": "bf16",
        "bfloat16": "bf16",
        "fp16": "bf16",
        "float16": "bf16",
    }
)
_DTYPE = "|".join(sorted(_DTYPES, key=len, reverse=True))
BLOCK_SCALED = ("deepseek", "minimax", "glm", "qwen3_5", "kimi")
"""Models whose FP8 checkpoints have 128 × 128 block scales; others scale whole tensors."""
KEPT: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "deepseek": {"attention": "bf16", "attention_out": "nvfp4"},
        "kimi": {"attention": "bf16", "dense_ffn": "bf16", "shared_experts": "bf16"},
        "glm_5": {"attention": "bf16"},
        "minimax": {"attention": "bf16"},
        "qwen3_5": {"attention": "bf16", "shared_experts": "bf16"},
    }
)
"""What NVIDIA's NVFP4 checkpoints keep in a dtype of their own (``exclude_modules`` of
hf_quant_config.json): DeepSeek-R1-0528's second version, V3.1 and V3.2, of whose attention only
the output is quantised (of the first R1-0528 nothing: "bf16 attn"), Kimi-K2.6, GLM-5,
MiniMax-M2.5 and Qwen3.5-397B-A17B; later GLM-5.x keep shared experts too."""
_DEGREE = re.compile(r"(DEP|TEP|ADP|DP|TP|PP|EP)\s*(\d+)", re.IGNORECASE)


class Unmapped(Exception):  # noqa: N818 - no error: a row that is counted instead of predicted
    """A row has no counterpart here; ``reason`` is short and groups rows, the text says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Every shipped model, GPU and fabric by the name of its file."""

    models: Mapping[str, Model]
    gpus: Mapping[str, GPU]
    fabrics: Mapping[str, Fabric]

    @classmethod
    def shipped(cls) -> "Catalogue":
        """Return what the package ships."""
        return cls(
            models=_folder("model", Model),
            gpus=_folder("hardware", GPU),
            fabrics=_folder("fabric", Fabric),
        )

    def model(self, text: str) -> tuple[str, Model]:
        """Return file name and shape of the model that ``text`` names; raise ``Unmapped``."""
        wanted = _model_key(text)
        for name, model in self.models.items():
            if wanted in (_plain(name), _model_key(model.name)):
                return name, model
        alias = _MODEL_ALIASES.get(wanted)
        if alias is not None and alias in self.models:
            return alias, self.models[alias]
        raise Unmapped(f"model not shipped: {text}")

    def gpu(self, text: str) -> GPU:
        """Return the GPU that ``text`` names; raise ``Unmapped``."""
        wanted = _gpu_key(text)
        for name, gpu in self.gpus.items():
            if wanted in (_gpu_key(name), _gpu_key(gpu.name)):
                return gpu
        raise Unmapped(f"GPU not shipped: {text}")

    def fabric(self, gpu: GPU) -> Fabric:
        """Return what usually joins such GPUs: racks of one domain, boxes of 8, pairs, or PCIe."""
        if gpu.scale_up_domain >= 64:
            return self.fabrics["nvl72"]
        if gpu.scale_up_domain >= 8:
            return self.fabrics["hgx8"]
        return self.fabrics["nvlink_pairs" if gpu.scale_up_domain > 1 else "pcie_box"]


def _folder(name: str, kind: type) -> dict[str, Any]:
    root = resources.files("conf") / name
    files = sorted(root.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml"): build(parse(file.read_text(encoding="utf-8")), kind, name)
        for file in files
        if file.name.endswith(".yaml")
    }


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _model_key(text: str) -> str:
    """Return a model's name without organisation, remarks and what only tells a checkpoint."""
    name = text.split("(")[0].strip().rsplit("/", 1)[-1].lower().removeprefix("meta-")
    return _plain(_MODEL_TAIL.sub("", name))


def _gpu_key(text: str) -> str:
    key = _plain(text.split("(")[0]).removeprefix("nvidia").removeprefix("amd")
    while (shorter := _GPU_TAIL.sub("", key)) != key:
        key = shorter
    return key


_PRODUCTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "int8_wo": ("int8", "bf16"),
        "int4_wo": ("int4", "bf16"),
        "int4": ("int4", "bf16"),
        "fp8_static": ("fp8", "fp8"),
        "sq": ("int8", "int8"),
        "w4a16_mxfp4": ("mxfp4", "bf16"),
        "w4a8_mxfp4_mxfp8": ("mxfp4", "fp8"),
        "w4afp8": ("int4", "fp8"),
    }
)
"""AIConfigurator's names of products whose weights and activations differ, or are called else."""


def product(text: str) -> tuple[str, str]:
    """Return the dtypes of a product's weights and activations; raise ``Unmapped``."""
    name = text.strip().lower()
    return _PRODUCTS[name] if name in _PRODUCTS else (dtype(name), dtype(name))


def dtype(text: str) -> str:
    """Return our name of a dtype; raise ``Unmapped``."""
    found = _DTYPES.get(text.strip().lower())
    if found is None:
        raise Unmapped(f"precision not known: {text}")
    return found


def precision(text: str, model: str, gpu: GPU) -> Precision:
    """Return the dtypes that a checkpoint of ``model`` called ``text`` runs in on ``gpu``.

    Said parts count (``nvfp4 MoE, bf16 attn``; ``fp4, fp16 KV``). What is not said follows the
    published checkpoints: KV in 8 bits where weights have 8 or fewer, in 16 with INT4; gpt-oss
    always MXFP4 with 16-bit attention, and 16-bit KV on GPUs without FP4; NVFP4 checkpoints what
    :data:`KEPT` says.
    """
    words = text.lower()
    first = re.search(rf"\b({_DTYPE})\b", words)
    if first is None:
        raise Unmapped(f"precision not known: {text}")
    weights = _DTYPES[_said(words, "moe") or first[1]]
    attention = _said(words, "attn") or _said(words, "mla")
    kv = _said(words, "kv")
    if model.startswith("gpt_oss"):
        weights, attention = "mxfp4", "bf16"
        kv = kv or ("fp8" if "fp4" in gpu.peak_flops else "bf16")
    if weights == "int4":
        attention, kv = attention or "bf16", kv or "bf16"
    if weights == "fp8" and model.startswith(BLOCK_SCALED):
        weights = "fp8_block"
    kept = dict(_kept(weights, model))
    if attention is not None:
        kept |= {"attention": _DTYPES[attention], "attention_out": _DTYPES[attention]}
    plain = Precision(
        weights=weights,
        activations=_activations(weights, gpu),
        kv=_DTYPES[kv] if kv else ("bf16" if weights == "bf16" else "fp8"),
    )
    parts: dict[str, Any] = kept
    return replace(plain, **parts)


def _kept(weights: str, model: str) -> Mapping[str, str]:
    """Return the parts whose dtype a published NVFP4 checkpoint has apart."""
    parts = next((parts for name, parts in KEPT.items() if model.startswith(name)), {})
    return parts if weights == "nvfp4" else {}


def _said(words: str, part: str) -> str | None:
    found = re.search(rf"\b({_DTYPE})\s+{part}\b", words)
    return None if found is None else found[1]


def _activations(weights: str, gpu: GPU) -> str:
    """Return what weights are multiplied with: their own dtype, or the next that is computed in."""
    if weights == "int4":
        return "bf16"
    if weights != "mxfp4":
        return weights
    return "fp8" if "fp4" in gpu.peak_flops else "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many workers of which layout."""

    count: int
    layout: Layout


def workers(text: str, model: Model) -> Workers:
    """Return the workers that a text like ``4x[ADP4 EP4]``, ``DEP8`` or ``TP1PP2`` describes.

    ``DEP``: attention-DP with EP; ``TEP``: TP with EP; EP alone, or attention-DP alone, is wide
    EP: experts over the whole group. Data-parallel ranks of a dense model are workers.

    Raises:
        Unmapped: it describes none, or more than one.
    """
    count, inner = _counted(text)
    degrees: dict[str, int] = {}
    for name, digits in _DEGREE.findall(re.sub(r"\(.*?\)", "", inner)):
        value = int(digits)
        for each in _meaning(name.upper()):
            if degrees.setdefault(each, value) != value:
                raise Unmapped("layout is ambiguous", f"layout {text!r} gives two values of {each}")
    if not degrees:
        raise Unmapped("layout not given", f"layout {text!r} names no tp, pp, dp or ep")
    tp, ep = degrees.get("tp", 1), degrees.get("ep", 1)
    dp = degrees.get("dp", ep if "tp" not in degrees or tp == 1 else 1)
    if not model.is_moe:
        return Workers(count=count * dp, layout=Layout(tp=tp, pp=degrees.get("pp", 1)))
    if dp > 1 and "ep" not in degrees:
        ep = tp * dp
    layout = Layout(tp=tp, pp=degrees.get("pp", 1), ep=ep, attention_dp=dp)
    return Workers(count=count, layout=layout)


def _counted(text: str) -> tuple[int, str]:
    several = re.fullmatch(r"\s*(\d+)\s*x\s*\[(.*)\]\s*", text)
    return (int(several[1]), several[2]) if several else (1, text)


def _meaning(name: str) -> tuple[str, ...]:
    return {"DEP": ("dp", "ep"), "TEP": ("tp", "ep"), "ADP": ("dp",)}.get(name, (name.lower(),))


def unfolded(given: Workers) -> Workers:
    """Return the layout that ran, of one whose group was multiplied by its EP degree.

    One public dump of serving runs needs tp · dp = expert tp · ep to hold for the degrees of each
    run, (tp = 8, ep = 8) on one 8-GPU box, and reaches it by writing tp · ep = 64 for tp; of
    vLLM's (dp = 2, ep) it keeps dp = 2 as tp as well. Counting GPUs by KV capacity, and the boxes
    the runs were made on, say the same.
    """
    layout = given.layout
    group = layout.expert_group
    if layout.tp == layout.attention_dp > 1 and layout.ep == group:
        real = Layout(attention_dp=layout.tp, ep=layout.tp, pp=layout.pp)
    elif 1 < layout.ep < group and group % layout.ep == 0:
        size = group // layout.ep
        wide = layout.attention_dp > 1
        real = Layout(
            tp=1 if wide else size,
            attention_dp=size if wide else 1,
            ep=min(size, layout.ep),
            pp=layout.pp,
        )
    else:
        return given
    return Workers(count=given.count, layout=real)
