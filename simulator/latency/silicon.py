"""Step times from kernels measured on silicon: NVIDIA's optional ``aiconfigurator-core``.

Its tables are asked once per worker, over grids of batch and context and of prompt tokens and
attended keys, which are kept on disk; the event engine interpolates them.
"""

import hashlib
import importlib
import importlib.metadata
import json
import logging
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.latency.base import Busiest, Piece, StepModel, WorkerSpec
from simulator.latency.pieces import at
from simulator.latency.scaling import check_scale, scaled_steps
from simulator.latency.table import Cache, Grid, keep, lines

log = logging.getLogger(__name__)

PACKAGE = "aiconfigurator-core"
ENGINES = ("trtllm", "sglang", "vllm")
SYSTEMS: Mapping[str, str] = MappingProxyType(
    {
        "A100 80GB SXM": "a100_sxm",
        "H100 SXM": "h100_sxm",
        "H200 SXM": "h200_sxm",
        "B200 SXM": "b200_sxm",
        "B300 SXM": "b300_sxm",
        "GB200 NVL72": "gb200",
        "GB300 NVL72": "gb300",
        "L40S": "l40s",
        "RTX PRO 6000 Blackwell Server": "rtx_pro_6000_server",
    }
)
"""What the package calls the GPUs it has tables for."""
MODELS: Mapping[str, str] = MappingProxyType(
    {
        "DeepSeek-R1": "deepseek-ai/DeepSeek-R1",
        "DeepSeek-V3": "deepseek-ai/DeepSeek-V3",
        "DeepSeek-V3.2": "deepseek-ai/DeepSeek-V3.2",
        "GLM-5": "zai-org/GLM-5",
        "gpt-oss-120b": "openai/gpt-oss-120b",
        "gpt-oss-20b": "openai/gpt-oss-20b",
        "Kimi-K2.5": "moonshotai/Kimi-K2.5",
        "Llama-3.1-405B": "meta-llama/Meta-Llama-3.1-405B",
        "Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
        "Llama-3.1-8B": "meta-llama/Meta-Llama-3.1-8B",
        "Llama-4-Maverick": "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        "Llama-4-Scout": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "MiniMax-M2": "MiniMaxAI/MiniMax-M2.5",
        "Qwen3-235B-A22B": "Qwen/Qwen3-235B-A22B",
        "Qwen3-30B-A3B": "Qwen/Qwen3-30B-A3B",
        "Qwen3-32B": "Qwen/Qwen3-32B",
        "Qwen3-8B": "Qwen/Qwen3-8B",
        "Qwen3-Coder-480B-A35B": "Qwen/Qwen3-Coder-480B-A35B-Instruct",
        "Qwen3.5-397B-A17B": "Qwen/Qwen3.5-397B-A17B",
    }
)
"""Shipped models whose architecture the package carries itself: nothing is downloaded."""
DTYPES: Mapping[str, str] = MappingProxyType(
    {"bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
)
KV_DTYPES: Mapping[str, str] = MappingProxyType({"bf16": "bfloat16", "fp8": "fp8", "int8": "int8"})

Answer = TypeVar("Answer")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONTEXTS = tuple(2**n for n in range(7, 18))
TOKENS = tuple(2**n for n in range(5, 16))
KEYS = tuple(2**n for n in range(4, 18))
"""Nodes: sequences and KV tokens each, prompt tokens and keys each attends on average."""


class Handle(Protocol):
    """What is asked of the package's compiled engine; answers in milliseconds."""

    def predict_prefill_latency(self, bs: int, isl: int, prefix: int = 0) -> float:
        """Return milliseconds of ``bs`` prompts of ``isl`` tokens, ``prefix`` of them cached."""
        ...

    def predict_decode_latency(self, bs: int, isl: int, osl: int = 2) -> float:
        """Return milliseconds of the decode step ``osl - 1`` tokens after ``isl``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Silicon:
    """Step times composed from the kernel measurements in ``aiconfigurator-core``.

    ``engine`` is whose kernels (``trtllm``, ``sglang``, ``vllm``) and ``version`` which release's
    (``None``: the package's current one). ``model_id`` names the model as the package does, or a
    folder with its config.json (``None``: by the model's name). ``host_overhead_s`` seconds are
    added to every step. ``cache`` is the folder the tables are kept in (``None``: the user's
    cache folder, under ``disaggsim/silicon``). Every step takes ``scale`` times all that.
    """

    engine: str = "trtllm"
    version: str | None = None
    model_id: str | None = None
    host_overhead_s: float = 0.0
    cache: str | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(
                f"latency silicon: engine must be one of {', '.join(ENGINES)} but got "
                f"{self.engine!r}"
            )
        if not 0 <= self.host_overhead_s < math.inf:
            raise ConfigError(
                "latency silicon: host_overhead_s must be at least 0 s but got "
                f"{self.host_overhead_s!r}"
            )
        check_scale("silicon", self.scale)

    def bind(self, worker: WorkerSpec) -> StepModel:
        """Return the interpolated step times of a worker.

        Raises:
            ConfigError: the package is absent, or has no tables for the GPU, the model, a
                precision or a shape.

        """
        compile_engine, release = package()
        query = self.query(worker)
        path = self._folder() / f"{_key(query, release)}.npz"
        grids = _read(path)
        if grids is None:
            grids = _grids(compile_engine, query)
            _write(path, grids)
        layout = worker.layout
        depth = 1 if worker.role == "prefill" else layout.pp
        steps = SiliconSteps(
            prefill=Grid(first=_nodes(TOKENS), second=_nodes(KEYS), seconds=grids["prefill"]),
            decode=Grid(first=_nodes(BATCHES), second=_nodes(CONTEXTS), seconds=grids["decode"]),
            host_s=self.host_overhead_s,
            groups=layout.attention_dp * depth,
            depth=depth,
            stages=layout.pp if worker.role == "prefill" else 1,
        )
        return scaled_steps(steps, self.scale)

    def query(self, worker: WorkerSpec) -> dict[str, Any]:
        """Return what the package is asked for a worker, as its own arguments."""
        layout, precision = worker.layout, worker.precision
        moe = worker.model.is_moe
        narrow = precision.kv == "fp8" and worker.model.attention == "gqa"
        weights = _named("weights", precision.weights, DTYPES)
        gemm = _named("attention", precision.stored("attention"), DTYPES) if moe else weights
        return {
            "model_path": self.model_id or _model(worker.model.name),
            "system": _system(worker.gpu.name),
            "backend": self.engine,
            "backend_version": self.version,
            "tp_size": layout.tp,
            "pp_size": layout.pp,
            "attention_dp_size": layout.attention_dp,
            "moe_tp_size": layout.expert_tp if moe else None,
            "moe_ep_size": layout.ep if moe else None,
            "gemm_quant_mode": gemm,
            "moe_quant_mode": weights,
            "kvcache_quant_mode": _named("kv", precision.kv, KV_DTYPES),
            "fmha_quant_mode": "fp8" if narrow else "bfloat16",
        }

    def _folder(self) -> Path:
        if self.cache is not None:
            return Path(self.cache)
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(home) / "disaggsim" / "silicon"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiliconSteps:
    """Step times of one worker from its grids; the fullest attention rank sets the pace.

    ``prefill`` seconds are by a rank's prompt tokens and the keys each of them attends on
    average, ``decode`` seconds by a rank's sequences and the KV tokens of each. A step of both
    takes its tokens' seconds with the decodes among them, and what the decodes' context adds;
    never less than the decodes alone. Sequences spread over ``groups``: the attention ranks, and
    ``depth`` microbatches of each.
    """

    prefill: Grid
    decode: Grid
    host_s: float = 0.0
    groups: int = 1
    depth: int = 1
    stages: int = 1
    _decode: Cache = field(default_factory=dict, init=False, compare=False, repr=False)
    _prefill: Cache = field(default_factory=dict, init=False, compare=False, repr=False)

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the pieces for ``batch`` sequences: a line per segment of the context axis."""
        pieces = self._decode.get(batch)
        if pieces is None:
            row = self.decode.row(float(-(-batch // self.groups))) + self.host_s
            pieces = lines(self.decode.second * max(batch, 1), row)
            keep(self._decode, batch, pieces)
        return pieces

    def step_seconds(
        self,
        tokens: int,
        pairs: int,
        past: int,
        prompts: int,
        batch: int,
        context: int,
        busiest: Busiest | None = None,
    ) -> float:
        """Return seconds of a step; ``past`` and ``prompts`` are in the keys a token attends."""
        del past, prompts
        if not tokens:
            return at(self.decode_pieces(batch), context)
        chunks, shared = (tokens, self.groups) if busiest is None else (busiest.tokens, self.depth)
        rows = -(-chunks // shared) + -(-batch // self.groups)
        pieces = self._prefill.get(rows)
        if pieces is None:
            pieces = lines(self.prefill.second, self.prefill.row(float(rows)) + self.host_s)
            keep(self._prefill, rows, pieces)
        seconds = at(pieces, pairs / tokens)
        if not batch:
            return seconds
        decodes = self.decode_pieces(batch)
        alone = at(decodes, context)
        return max(alone, seconds + alone - at(decodes, batch * CONTEXTS[0]))


def package() -> tuple[Callable[..., Handle], str]:
    """Return the package's compiler and its version; ``ConfigError`` where it is not installed."""
    try:
        engine = importlib.import_module("aiconfigurator_core.sdk.engine")
        return engine.EngineHandle.compile, importlib.metadata.version(PACKAGE)
    except ImportError as error:
        raise ConfigError(
            f"latency silicon: needs the package {PACKAGE} (Linux x86-64): pip install "
            "'disaggsim[silicon]', or choose latency=roofline, which needs no tables"
        ) from error


# --- asking ---------------------------------------------------------------------------------


def _system(gpu: str) -> str:
    if gpu not in SYSTEMS:
        raise ConfigError(
            f"latency silicon: {PACKAGE} has no tables for {gpu}; it has: {', '.join(SYSTEMS)}. "
            "latency=roofline models any GPU"
        )
    return SYSTEMS[gpu]


def _model(name: str) -> str:
    if name not in MODELS:
        raise ConfigError(
            f"latency silicon: {PACKAGE} has no architecture for {name}; it has: "
            f"{', '.join(MODELS)}. Give latency.model_id a folder with its config.json, or choose "
            "latency=roofline"
        )
    return MODELS[name]


def _named(what: str, dtype: str, names: Mapping[str, str]) -> str:
    if dtype not in names:
        raise ConfigError(
            f"latency silicon: {PACKAGE} has no {what} of {dtype}; it has: {', '.join(names)}"
        )
    return names[dtype]


def _grids(
    compile_engine: Callable[..., Handle], query: Mapping[str, Any]
) -> dict[str, NDArray[np.float64]]:
    """Return both grids; where prompts' attention has no 8-bit kernel it computes in 16.

    KV of 8 bits is read by either: vLLM's kernels for most models only take 16-bit queries.
    """
    try:
        handle = _compiled(compile_engine, query)
        return _asked(lambda: _tabulate(handle), query)
    except ConfigError:
        if query["fmha_quant_mode"] != "fp8":
            raise
        return _grids(compile_engine, {**query, "fmha_quant_mode": "bfloat16"})


def _compiled(compile_engine: Callable[..., Handle], query: Mapping[str, Any]) -> Handle:
    """Compile the query; an unknown ``model_path`` that is no folder would be downloaded."""
    path = query["model_path"]
    if path not in MODELS.values() and not (Path(path) / "config.json").is_file():
        raise ConfigError(
            f"latency silicon: model_id must be a folder with a config.json, or one of "
            f"{', '.join(MODELS.values())}, but got {path!r}"
        )
    log.info("tabulating %s on %s from %s", path, query["system"], PACKAGE)
    arguments = {name: value for name, value in query.items() if value is not None}
    return _asked(lambda: compile_engine(**arguments), query)


def _asked(call: Callable[[], Answer], query: Mapping[str, Any]) -> Answer:
    """Return the answer; what the package refuses becomes one clear sentence."""
    try:
        return call()
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        asked = ", ".join(f"{k}={v}" for k, v in query.items() if v is not None)
        raise ConfigError(
            f"latency silicon: {PACKAGE} has no measurements for {asked}: {reason}. Choose "
            "another engine, precision or layout, or latency=roofline"
        ) from error


def _tabulate(handle: Handle) -> dict[str, NDArray[np.float64]]:
    """Return both grids in seconds.

    Measured kernels get faster here and there as they grow; more work is made never to take
    less time.
    """
    prefill = [[_prefill_ms(handle, tokens, keys) for keys in KEYS] for tokens in TOKENS]
    decode = [[handle.predict_decode_latency(n, c - 1, 2) for c in CONTEXTS] for n in BATCHES]
    grids = {"prefill": np.array(prefill) * 1e-3, "decode": np.array(decode) * 1e-3}
    for name, grid in grids.items():
        if not np.all(np.isfinite(grid) & (grid > 0)):
            raise ValueError(f"its {name} times are not all above 0 s")
        np.maximum.accumulate(grid, axis=0, out=grid)
        np.maximum.accumulate(grid, axis=1, out=grid)
    return grids


def _prefill_ms(handle: Handle, tokens: int, keys: int) -> float:
    """Return milliseconds of ``tokens`` that attend ``keys`` each on average.

    Few keys are those of several short prompts, many those of one prompt after a prefix.
    """
    length = 2 * keys
    if length < tokens:
        return handle.predict_prefill_latency(tokens // length, length)
    prefix = max(0, keys - tokens // 2)
    return handle.predict_prefill_latency(1, prefix + tokens, prefix)


# --- keeping --------------------------------------------------------------------------------


def _nodes(values: Sequence[int]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def _key(query: Mapping[str, Any], release: str) -> str:
    """Return the file name of what was asked: the package's version, the shape, the nodes."""
    asked = [PACKAGE, release, dict(query), BATCHES, CONTEXTS, TOKENS, KEYS]
    if (config := Path(query["model_path"]) / "config.json").is_file():
        asked.append(config.read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, NDArray[np.float64]] | None:
    """Return the kept grids, or ``None`` where there are none that can be used."""
    shapes = {"prefill": (len(TOKENS), len(KEYS)), "decode": (len(BATCHES), len(CONTEXTS))}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            grids = {name: kept[name] for name in shapes}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        log.warning("%s is not usable (%s): it is made again", path, error)
        return None
    good = all(grids[n].shape == s and np.all(grids[n] > 0) for n, s in shapes.items())
    return grids if good else None


def _write(path: Path, grids: Mapping[str, NDArray[np.float64]]) -> None:
    """Keep the grids, whole or not at all; a folder that cannot be written only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.savez(file, prefill=grids["prefill"], decode=grids["decode"])
        Path(file.name).replace(path)
    except OSError as error:
        log.warning("the tables of %s are not kept: %s", PACKAGE, error)
