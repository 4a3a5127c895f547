"""The public kernel tables of aiconfigurator-core as kernel rows.

Every row is one call, with the FLOPs and bytes our own operators give it
(:mod:`simulator.latency.operators`, :mod:`simulator.latency.attention`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
from polars import col, lit

from simulator.calibration.kernel_rows import NUMBERS, WORDS
from simulator.calibration.sources import DTYPES, GPUS
from simulator.latency.efficiency import MOE_FAMILY
from simulator.latency.passes import RESIDUAL_BYTES, highest_normal, popularity
from simulator.layout import DTYPE_BYTES
from simulator.model import STATE_BYTES

SEED = 17
MOST = 300
"""Rows of one GPU, engine, kind and dtype."""
MLA = MappingProxyType({"nope": 128, "rope": 64, "value": 128, "latent": 512})
"""Widths of DeepSeek's latent attention, which all MLA tables are of."""
ENGINES = MappingProxyType({"trtllm": "", "sglang": "sglang", "vllm": "vllm"})
BESIDE = ("framework", "version", "device", "op_name", "latency", "power", "power_limit")
"""Columns that are no part of what was called."""
SHORTEST_S = 1e-6
"""No kernel launched from a graph takes less: such a row is a failed measurement."""
ARTEFACTS = (
    ("vllm", "gemm", "fp8_block"),  # a floor of 60 to 550 us that no engine deploys
    ("trtllm", "decode_attention", "a100_sxm"),  # 1.3 x HBM
)
TRITON = "sglang_fused_moe_triton"
WIDENED = TRITON
"""A kernel that multiplies MXFP4 weights once they are stored in 16 bits: it takes what reading
these takes. SGLang runs gpt-oss by other kernels, OpenAI's before Blackwell (server_args.py:
"enabling triton_kernels MOE kernel"), as vLLM and TensorRT-LLM do there."""
DYNAMIC = "trtllm"
"""The engine whose FP8 products were measured with a scale that each call finds and applies, as
what was loaded for them has none of the input (collector/trtllm/collect_gemm.py of AIConfigurator),
which checkpoints do have. Both kernels were measured apart too (collect_computescale.py)."""
QUANTISING = ("scale_matrix_perf.parquet", "computescale_perf.parquet")
LARGEST_SHARE = 0.8
"""Of a batch, what the most popular expert is drawn to have at most."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Experts that an engine can compute by more than one backend: rows of a family of their own.

    Rows of ``engine`` by the kernel ``source``; ``shared`` ones are the engine's own as well.
    """

    family: str
    engine: str
    systems: tuple[str, ...]
    dtype: str
    source: str
    shared: bool = False


HOSTS, ULTRA = ("b200_sxm", "gb200"), ("b300_sxm", "gb300")
TRTLLM_GEN = "sglang_flashinfer_trtllm_moe"
BACKENDS = (
    Backend(
        family=MOE_FAMILY.format("cutlass"),
        engine="trtllm",
        systems=(*HOSTS, *ULTRA),
        dtype="nvfp4",
        source="moe_torch_flow_cutlass",
    ),
    Backend(
        family="", engine="sglang", systems=ULTRA, dtype="nvfp4", source=TRTLLM_GEN, shared=True
    ),
    Backend(
        family=MOE_FAMILY.format("trtllm"),
        engine="sglang",
        systems=(*HOSTS, *ULTRA),
        dtype="fp8_block",
        source=TRTLLM_GEN,
        shared=True,
    ),
)
"""Datacentre Blackwell's experts in NVFP4: TensorRT-LLM's CUTLASS kernels take 1.3 to 2.4 times as
long as its TRTLLM-gen ones, which it, SGLang and vLLM run in every public recipe of few clients and
which are the engine's own here. Those were measured on B200 and GB200 under TensorRT-LLM, and under
SGLang, where they take the same (median ratio 1.00 and 1.02 of 10,000 calls), everywhere. In FP8
with block scales TensorRT-LLM's own were measured by DeepGEMM, TRTLLM-gen under SGLang alone."""
SLOWER = TRITON
"""SGLang's other experts on datacentre Blackwell, in 16 bits and FP8 with block scales, which were
measured of models that :data:`TRTLLM_GEN` could not compute. One curve through both met shapes held
out to 36 and 18 %; the faster kernels alone are met to 11. Scripts of SGLang's runs ask for those
(``--moe-runner-backend flashinfer_trtllm``), which are the engine's own here."""
UNTUNED = 1.25
"""Times that a tuned call takes at most of what it takes on the fastest of the four systems, whose
memory is as fast: 90 % of experts' calls in FP8 and 16 bits take at most 1.13 times as long on B200
as on GB200, and half of CUTLASS's in NVFP4 as long on Blackwell Ultra as there, of any size."""
ABSENT: Mapping[str, object] = MappingProxyType({"window_size": 0, "kernel_source": ""})
"""Columns that old tables lack."""
EXPERTS = {**DTYPES, "w4a16_mxfp4": "w4a16", "w4a8_mxfp4_mxfp8": "w4a8"}


def kernel_rows(root: Path) -> pl.DataFrame:
    """Return the rows of all tables below ``root`` (``systems/data`` of the package)."""
    frames = [frame for system in GPUS for frame in _system(root / system, system)]
    return pl.concat(frames).select(*WORDS, *NUMBERS)


def _system(folder: Path, system: str) -> Iterator[pl.DataFrame]:
    for about, name, convert in TABLES:
        for engine, path in _largest(folder / about, name):
            if about == "quantize" and engine != DYNAMIC:
                continue
            frame = convert(_calls(path, folder))
            if about == "gemm" and engine == DYNAMIC:
                frame = spared(frame, *_quantising(folder))
            for family, own in families(frame, engine, system):
                own = own.with_columns(
                    system=lit(system), engine=lit(family), calls=col("calls").cast(pl.Float64)
                )
                yield _thinned(_sound(own, engine, system))


def _calls(path: Path, folder: Path) -> pl.DataFrame:
    """Return a table's calls, tuned ones where systems alike tell which."""
    calls = _parquet(path)
    if folder.name not in (*HOSTS, *ULTRA) or not calls["asked"].any():
        return calls
    tables = (folder.parent / name / path.relative_to(folder) for name in (*HOSTS, *ULTRA))
    return tuned(calls, pl.concat([_parquet(each) for each in tables if each.is_file()]))


def tuned(calls: pl.DataFrame, all_systems: pl.DataFrame) -> pl.DataFrame:
    """Return the calls without those of a backend asked for that took far longer than elsewhere.

    CUTLASS experts of some widths took 1.5 to 1.9 times as long on B200 as on GB200, whose GPU it
    is, and of others the other way round: the search for the best of its variants had failed.
    """
    said = [name for name in calls.columns if name not in ("seconds", "kernel_source")]
    least = all_systems.group_by(said).agg(least=col("seconds").min())
    pairs = calls.join(least, on=said, how="left", nulls_equal=True, maintain_order="left")
    untuned = col("asked") & (col("seconds") > UNTUNED * col("least")).fill_null(value=False)
    return pairs.filter(~untuned).drop("least")


def families(frame: pl.DataFrame, engine: str, system: str) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the families of kernels that an engine's rows are of, with their rows."""
    for each in BACKENDS:
        if engine == each.engine and system in each.systems and "kernel_source" in frame.columns:
            own = (col("kernel_source") == each.source) & (col("dtype") == each.dtype)
            if len(rows := frame.filter(own)):
                yield each.family, rows
                frame = frame if each.shared else frame.filter(~own)
    slower = system in (*HOSTS, *ULTRA) and "kernel_source" in frame.columns
    yield ENGINES[engine], frame.filter(col("kernel_source") != SLOWER) if slower else frame


def _quantising(folder: Path) -> Iterator[pl.DataFrame]:
    """Yield what its FP8 products' quantising was measured as by itself: two kernels."""
    for name in QUANTISING:
        for engine, path in _largest(folder / "quantize", name):
            if engine == DYNAMIC:
                yield _parquet(path)


def spared(products: pl.DataFrame, *quantising: pl.DataFrame) -> pl.DataFrame:
    """Return the products, those in FP8 without the seconds of ``quantising`` their rows.

    Where those were not measured, the product is left out.
    """
    others, own = products.filter(col("dtype") != "fp8"), products.filter(col("dtype") == "fp8")
    for each in quantising:
        spent = each.select("m", "k", spent=col("seconds"))
        own = own.join(spent, on=["m", "k"], how="inner", maintain_order="left")
        own = own.with_columns(seconds=col("seconds") - col("spent")).drop("spent")
    return pl.concat([others, own])


def _largest(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Yield engine and file of each engine's largest table, the newest of equals.

    Later versions often measured a few shapes alone.
    """
    for engine in ENGINES:
        versions = [path for path in sorted((folder / engine).glob(f"*/{name}")) if _whole(path)]
        if versions:
            yield (
                engine,
                max(versions, key=lambda path: (_length(path), _version(path.parent.name))),
            )


def _length(path: Path) -> int:
    length: int = pl.scan_parquet(path).select(pl.len()).collect().item()
    return length


def _version(text: str) -> tuple[int, ...]:
    parts = text.replace("rc", ".").replace("post", ".").split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _whole(path: Path) -> bool:
    """Tell whether a file is a table, not a pointer to one."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _parquet(path: Path) -> pl.DataFrame:
    """Return a table with the fastest of the kernels measured for each call, as engines choose.

    Those of a backend that has to be asked for are no choice.
    """
    table = pl.read_parquet(path).with_columns(seconds=col("latency") * 1e-3)
    absent = {name: lit(value) for name, value in ABSENT.items() if name not in table.columns}
    table = table.with_columns(**absent)
    table = table.with_columns(
        convolves=col("kernel_source").str.contains("conv1d"),
        asked=col("kernel_source").is_in([each.source for each in BACKENDS if not each.shared]),
    )
    said = [name for name in table.columns if name not in (*BESIDE, "seconds", "kernel_source")]
    fastest = col("kernel_source").sort_by("seconds").first()
    return table.group_by(said, maintain_order=True).agg(fastest, col("seconds").min())


def _sound(frame: pl.DataFrame, engine: str, system: str) -> pl.DataFrame:
    for who, kind, what in ARTEFACTS:
        if who == engine and what in (system, *frame["dtype"].unique()):
            frame = frame.filter((col("kind") != kind) | ~(col("dtype") == what) & (what != system))
    return frame.filter(col("seconds") > SHORTEST_S).select(*WORDS, *NUMBERS)


def _thinned(frame: pl.DataFrame) -> pl.DataFrame:
    """Return at most :data:`MOST` rows of each kind and dtype, at random."""
    parts = [
        rows if len(rows) <= MOST else rows.sample(MOST, seed=SEED)
        for _, rows in frame.group_by("kind", "dtype", maintain_order=True)
    ]
    return pl.concat(parts) if parts else frame


def _stored(names: Mapping[str, str], column: str) -> pl.Expr:
    """Return bytes per value of a column of dtypes."""
    sizes = {name: DTYPE_BYTES[_stored_as(ours)] for name, ours in names.items()}
    return col(column).replace_strict(sizes, return_dtype=pl.Float64)


def _stored_as(dtype: str) -> str:
    return "mxfp4" if dtype.startswith("w4a") else dtype


def gemm(table: pl.DataFrame) -> pl.DataFrame:
    """Products of m × k by k × n, as layers have them: both widths at least 512."""
    m, n, k = (col(name).cast(pl.Float64) for name in "mnk")
    known = table.filter(col("gemm_dtype").is_in(list(DTYPES)) & (n >= 512) & (k >= 512))
    size = _stored(DTYPES, "gemm_dtype")
    return known.with_columns(
        kind=lit("gemm"),
        dtype=col("gemm_dtype").replace_strict(dict(DTYPES)),
        shape=pl.format("{} x {}", "n", "k"),
        calls=lit(1.0),
        flops=2.0 * m * n * k,
        ramp=2.0 * n * k,
        narrow=2.0 * k * m,
        thin=k * size,
        bytes=n * k * size + m * (k * size + n * RESIDUAL_BYTES),
    )


def _attention_table(table: pl.DataFrame) -> pl.DataFrame:
    """Full attention whose dtype is that of its KV cache (or the only one there is for 8 bits)."""
    both = table.filter(
        (col("window_size") <= 0)
        & col("kv_cache_dtype").is_in(["bfloat16", "fp8"])
        & (col("head_dim") == 128)
    )
    alike = both.filter(col("attn_dtype") == col("kv_cache_dtype"))
    if not (alike["kv_cache_dtype"] == "fp8").any():
        alike = both
    shared = col("num_key_value_heads")
    alike = alike.with_columns(
        num_key_value_heads=pl.when(shared > 0).then(shared).otherwise(col("num_heads"))
    )
    return alike.with_columns(
        dtype=col("kv_cache_dtype").replace_strict({"bfloat16": "bf16", "fp8": "fp8"}),
        width=2.0 * col("num_heads") * col("head_dim"),
        key_bytes=2.0
        * col("num_key_value_heads")
        * col("head_dim")
        * _stored({"bfloat16": "bf16", "fp8": "fp8"}, "kv_cache_dtype"),
        shape=pl.format("{} / {}", "num_heads", "num_key_value_heads"),
        calls=lit(1.0),
        narrow=lit(0.0),
    )


def prefill_attention(table: pl.DataFrame) -> pl.DataFrame:
    """Whole prompts, attending to themselves and what came before."""
    queries = (col("batch_size") * col("isl")).cast(pl.Float64)
    past = col("step").cast(pl.Float64)
    pairs = queries * ((col("isl") + 1) / 2.0 + past)
    keys = queries + col("batch_size") * past
    return _attention_table(table.filter(col("isl") >= 16)).with_columns(
        kind=lit("prefill_attention"),
        flops=2.0 * col("width") * pairs,
        ramp=2.0 * col("width") * queries,
        thin=lit(0.0),
        bytes=col("key_bytes") * keys + col("width") * RESIDUAL_BYTES * queries,
    )


def decode_attention(table: pl.DataFrame) -> pl.DataFrame:
    """One query a sequence."""
    alike = table.with_columns(attn_dtype=col("kv_cache_dtype"))  # queries' dtype decides little
    batch = col("batch_size").cast(pl.Float64)
    keys = batch * (col("step") + 1)
    return _attention_table(alike).with_columns(
        kind=lit("decode_attention"),
        flops=2.0 * col("width") * keys,
        ramp=2.0 * col("width") * batch,
        thin=col("key_bytes") * batch,
        bytes=col("key_bytes") * keys + col("width") * RESIDUAL_BYTES * batch,
    )


def _mla_table(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(col("kv_cache_dtype").is_in(["bfloat16", "fp8"])).with_columns(
        dtype=col("kv_cache_dtype").replace_strict({"bfloat16": "bf16", "fp8": "fp8"}),
        shape=col("num_heads").cast(pl.String),
        calls=lit(1.0),
        narrow=lit(0.0),
        heads=col("num_heads").cast(pl.Float64),
    )


def prefill_mla(table: pl.DataFrame) -> pl.DataFrame:
    """Prompts over expanded keys and values."""
    width = col("heads") * (MLA["nope"] + MLA["rope"] + MLA["value"])
    queries = (col("batch_size") * col("isl")).cast(pl.Float64)
    return _mla_table(table.filter(col("isl") >= 16)).with_columns(
        kind=lit("prefill_mla"),
        flops=2.0 * width * queries * (col("isl") + 1) / 2.0,
        ramp=2.0 * width * queries,
        thin=lit(0.0),
        bytes=2.0 * width * RESIDUAL_BYTES * queries,
    )


def decode_mla(table: pl.DataFrame) -> pl.DataFrame:
    """One query a sequence, absorbed in the latent."""
    latent = MLA["latent"] + MLA["rope"]
    batch = col("batch_size").cast(pl.Float64)
    keys = batch * (col("step") + 1)
    width = col("heads") * (latent + MLA["latent"])
    size = _stored({"bfloat16": "bf16", "fp8": "fp8"}, "kv_cache_dtype")
    return _mla_table(table).with_columns(
        kind=lit("decode_mla"),
        flops=2.0 * width * keys,
        ramp=2.0 * width * batch,
        thin=latent * size * batch,
        bytes=latent * size * keys + width * RESIDUAL_BYTES * batch,
    )


def absorb(table: pl.DataFrame) -> pl.DataFrame:
    """Batched products that take queries into the latent and out of it."""
    tokens = col("num_tokens").cast(pl.Float64)
    each = MLA["nope"] * MLA["latent"] * col("num_heads").cast(pl.Float64)
    moved = (MLA["nope"] + MLA["latent"]) * col("num_heads") * RESIDUAL_BYTES
    return table.filter(col("bmm_dtype") == "bfloat16").with_columns(
        kind=lit("absorb"),
        dtype=lit("bf16"),
        shape=col("num_heads").cast(pl.String),
        calls=lit(1.0),
        flops=2.0 * each * tokens,
        ramp=lit(0.0),
        narrow=lit(0.0),
        thin=lit(0.0),
        bytes=each * RESIDUAL_BYTES + moved * tokens,
    )


def recurrence(table: pl.DataFrame) -> pl.DataFrame:
    """Gated delta layers: a convolution and the recurrence, both of them together."""
    call = ["phase", "batch_size", "seq_len", "num_k_heads", "num_v_heads", "head_k_dim"]
    both = table.group_by([*call, "model_name"], maintain_order=True).agg(
        col("seconds").sum(), kernels=pl.len()
    )
    both = both.filter(col("kernels") == 2).with_columns(
        tokens=col("batch_size")
        * pl.when(col("phase") == "context").then(col("seq_len")).otherwise(1)
    )
    head = col("head_k_dim").cast(pl.Float64)
    state = col("num_v_heads") * head**2
    moved = 2.0 * (2 * col("num_k_heads") + 2 * col("num_v_heads")) * head * RESIDUAL_BYTES
    kinds = {"context": "prefill_recurrence", "generation": "decode_recurrence"}
    return both.with_columns(
        kind=col("phase").replace_strict(kinds),
        dtype=lit("bf16"),
        shape=pl.format("{} / {}", "num_k_heads", "num_v_heads"),
        calls=lit(2.0),
        flops=6.0 * state * col("tokens"),
        ramp=lit(0.0),
        narrow=6.0 * head**2 * col("tokens"),
        thin=lit(0.0),
        bytes=moved * col("tokens") + 2.0 * STATE_BYTES["fp32"] * state * col("batch_size"),
    )


def experts(table: pl.DataFrame) -> pl.DataFrame:
    """Gated experts of the busiest rank, routed by the table's power law of exponent 1.01.

    It draws each expert's tokens log-uniformly from 1 to 0.8 of the batch's.
    """
    hidden, ranks = col("hidden_size").cast(pl.Float64), col("moe_ep_size").cast(pl.Float64)
    width = col("inter_size") / col("moe_tp_size").cast(pl.Float64)
    known = table.filter(
        col("moe_dtype").is_in(list(EXPERTS))
        & (col("distribution") == "power_law_1.01")
        & ~col("kernel_source").str.contains("nongated")
        & ~((col("moe_dtype") == "w4a16_mxfp4") & (col("kernel_source") == WIDENED))
        & (col("num_experts") % col("moe_ep_size") == 0)
    )
    local, share = col("num_experts") / ranks, col("topk") / col("num_experts")
    size, copies = _stored(EXPERTS, "moe_dtype"), col("served") * share * local
    read = {"w4a16_mxfp4": 2.0, "w4a8_mxfp4_mxfp8": 1.0}
    wide = pl.coalesce(col("moe_dtype").replace_strict(read, default=None), size)
    weights = 3.0 * hidden * width
    return known.with_columns(*_routed(known)).with_columns(
        kind=lit("experts"),
        dtype=col("moe_dtype").replace_strict(EXPERTS),
        shape=pl.format("{} {} {}", "hidden_size", "inter_size", "num_experts"),
        calls=lit(2.0),
        flops=2.0 * weights * copies,
        ramp=2.0 * weights * local * col("hit"),
        narrow=6.0 * hidden * copies,
        thin=hidden * col("num_tokens"),
        bytes=weights * size * local * col("hit")
        + (2.0 * hidden * wide + 2.0 * width * RESIDUAL_BYTES) * copies,
    )


def _routed(table: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Return the tokens that load the busiest rank, as if all its own, and what they hit of it."""
    tokens = table["num_tokens"].to_numpy().astype(np.float64)
    ranks, number = (table[name].to_numpy() for name in ("moe_ep_size", "num_experts"))
    share, local = table["topk"].to_numpy() / number, number / ranks
    served, hit = np.zeros(len(tokens)), np.zeros(len(tokens))
    for size in np.unique(tokens):
        own = tokens == size
        weights = popularity(float(np.log(max(LARGEST_SHARE * size, 1.0))))
        highest = np.array([highest_normal(int(each)) for each in ranks[own]])
        above = 1.0 + highest * weights.std() / np.sqrt(local[own])
        served[own] = size * np.minimum(above, ranks[own])
        chances = np.minimum(share[own][:, None] * weights, 1.0)
        hit[own] = 1.0 - ((1.0 - chances) ** served[own][:, None]).mean(axis=1)
    return pl.Series("served", served), pl.Series("hit", hit)


def quantise(table: pl.DataFrame) -> pl.DataFrame:
    """Rows written in 8 bits by a scale that is known."""
    return _values(table, "quantise", RESIDUAL_BYTES + DTYPE_BYTES["fp8"])


def scaling(table: pl.DataFrame) -> pl.DataFrame:
    """Rows read for their largest value: what finding the scale adds."""
    return _values(table, "scaling", RESIDUAL_BYTES)


def _values(table: pl.DataFrame, kind: str, moved: float) -> pl.DataFrame:
    values = col("m").cast(pl.Float64) * col("k")
    return table.filter((col("quant_dtype") == "fp8") & (col("k") >= 512)).with_columns(
        kind=lit(kind),
        dtype=lit("fp8"),
        shape=col("k").cast(pl.String),
        calls=lit(1.0),
        flops=lit(0.0),
        ramp=lit(0.0),
        narrow=lit(0.0),
        thin=lit(0.0),
        bytes=moved * values,
    )


Convert = Callable[[pl.DataFrame], pl.DataFrame]
TABLES: tuple[tuple[str, str, Convert], ...] = (
    ("gemm", "gemm_perf.parquet", gemm),
    ("quantize", QUANTISING[0], quantise),
    ("quantize", QUANTISING[1], scaling),
    ("attention", "context_attention_perf.parquet", prefill_attention),
    ("attention", "generation_attention_perf.parquet", decode_attention),
    ("mla", "context_mla_perf.parquet", prefill_mla),
    ("mla", "generation_mla_perf.parquet", decode_mla),
    ("mla_bmm", "mla_bmm_perf.parquet", absorb),
    ("moe", "moe_perf.parquet", experts),
    ("linear_attention", "gdn_perf.parquet", recurrence),
)
