"""The operators of one forward pass: FLOPs, bytes and messages, in one place.

Everything is per GPU of the busiest attention rank, summed over all layers of the model, so a
pass through a pipeline of ``pp`` stages is the sum over its stages. Quantities are plain
arithmetic: floats give floats and numpy arrays of design points broadcast.

Three groups, by what they depend on:

* :func:`token_operators`: projections, FFN, experts, norms and their collectives: the rows (new
  tokens, prompt and decode alike) of the step;
* :func:`head_operators`: the LM head: the sequences that sample a token;
* :func:`~simulator.latency.attention.attention_terms`: attention proper: queries, attended
  pairs, keys read and sequences.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from simulator.latency.attention import at_load, attention_terms
from simulator.latency.passes import (
    COMPANION,
    RESIDUAL_BYTES,
    Load,
    Number,
    Operator,
    PassSpec,
    distinct,
    highest_normal,
    popularity_of,
    unevenness,
)
from simulator.layout import DTYPE_BYTES

SURE = 1.0 - 2.0**-53
"""A chance as near to 1 as can be, whose logarithm of the rest is finite."""
WRITTEN_QUANTISED = ("attention_out", "ffn_down", "shared_expert_down")
"""Products whose rows the kernel before them writes in 8 bits."""
NORMED = ("qkv", "latent_down", "linear_qkvz", "ffn_up", "shared_expert_up")
"""Products of what a norm gives."""
FUSED_BYTES = (16e6, 8e6)
"""Messages up to which an all-reduce also norms and quantises, of 2 ranks and of more: longer ones
are NCCL's, with kernels after them (TensorRT-LLM customAllReduceUtils.h and allreduceOp.cpp)."""


@dataclass(frozen=True, slots=True)
class _Gemm:
    """A matrix product of rows × k by k × n, repeated in ``calls`` layers."""

    name: str
    n: float
    k: float
    calls: float
    dtype: str
    weight_bytes: float
    activation_bytes: float

    def at(self, rows: Number) -> Operator:
        """Return the operator for this many rows."""
        per_row = 2.0 * self.n * self.k * self.calls
        moved = self.k * self.activation_bytes + self.n * RESIDUAL_BYTES
        return Operator(
            name=self.name,
            kind="gemm",
            dtype=self.dtype,
            calls=self.calls,
            flops=per_row * rows,
            ramp=per_row,
            narrow=2.0 * self.k * self.calls * rows,
            thin=self.calls * self.k * self.weight_bytes,
            bytes=self.calls * (self.n * self.k * self.weight_bytes + moved * rows),
        )


def _gemm(spec: PassSpec, name: str, shape: tuple[float, float], calls: float, part: str) -> _Gemm:
    """Return a product of ``shape`` (n, k) with the weights of a ``part`` of the precision."""
    n, k = shape
    stored, read = spec.precision.stored_bytes(part), DTYPE_BYTES[spec.wider(part)]
    return _Gemm(name, n, k, calls, spec.computed(part), stored, read)


def _product(spec: PassSpec, gemm: _Gemm, rows: Number) -> Iterator[Operator]:
    """Yield a product and what quantises its rows apart from it (:attr:`PassSpec.fp8_scales`)."""
    product = gemm.at(rows)
    if gemm.dtype != "fp8" or not spec.fp8_scales:
        yield product
        return
    yield replace(product, bare=True)
    dynamic = spec.fp8_scales == "dynamic"
    calls = gemm.calls if dynamic else gemm.calls * _unfused(spec, gemm.name, rows)
    values = gemm.k * rows * calls
    moved = values * (RESIDUAL_BYTES + gemm.activation_bytes)
    yield Operator(
        name=f"{gemm.name}_quantise", kind="quantise", dtype="fp8", calls=calls, bytes=moved
    )
    if dynamic:
        read = values * RESIDUAL_BYTES
        name = f"{gemm.name}_scale"
        yield Operator(name=name, kind="scaling", dtype="fp8", calls=calls, bytes=read)


def _unfused(spec: PassSpec, name: str, rows: Number) -> Number:
    """Return 1 where a kernel of its own quantises a product's rows by a known scale, else 0.

    Attention and gated FFNs write 8 bits themselves, and so does an all-reduce together with the
    norm after it, up to the message it has room for.
    """
    if name in WRITTEN_QUANTISED:
        return 0.0
    if spec.layout.tp == 1 or name not in NORMED:
        return 1.0
    message = spec.model.hidden * RESIDUAL_BYTES * rows
    return np.where(message > FUSED_BYTES[spec.layout.tp > 2], 1.0, 0.0)


def forward_pass(spec: PassSpec, load: Load) -> list[Operator]:
    """Return every operator of a step, in the order of a layer."""
    decoded = load.batch * spec.decode_width
    attention = [at_load(term, load, spec.decode_width) for term in attention_terms(spec)]
    return [
        *token_operators(spec, load.tokens + decoded),
        *attention,
        *head_operators(spec, load.prompts + decoded),
    ]


def token_operators(spec: PassSpec, rows: Number) -> list[Operator]:
    """Return the operators that see every new token of the step (``rows`` per attention rank)."""
    return [
        *_embedding(spec, rows),
        *_projections(spec, rows),
        *_gates(spec, rows),
        *_dense_ffn(spec, rows),
        *_experts(spec, rows),
        *_norms(spec, rows),
        *_pipeline(spec, rows),
    ]


def expert_operators(spec: PassSpec, rows: Number) -> list[Operator]:
    """Return those of :func:`token_operators` that are routed experts."""
    layers = spec.model.moe_layers
    return [_routed(spec, layers, rows)] if layers else []


def head_operators(spec: PassSpec, sampled: Number) -> list[Operator]:
    """Return the LM head and the gathering of its logits for ``sampled`` sequences."""
    model, tp = spec.model, spec.layout.tp
    vocab = model.vocab / tp
    head = _gemm(spec, "lm_head", (vocab, model.hidden), 1.0, "lm_head").at(sampled)
    if tp == 1:
        return [head]
    return [head, _collective("logits_gather", "all_gather", 1.0, sampled * vocab * 2.0, tp)]


def _collective(name: str, kind: str, calls: float, message: Number, ranks: int) -> Operator:
    return Operator(name=name, kind=kind, calls=calls, message=message, ranks=ranks)


def _embedding(spec: PassSpec, rows: Number) -> Iterator[Operator]:
    hidden = spec.model.hidden * RESIDUAL_BYTES
    yield Operator(name="embedding", kind="memory", bytes=2.0 * hidden * rows)
    if spec.layout.tp > 1:
        yield _collective("embedding_reduce", "all_reduce", 1.0, hidden * rows, spec.layout.tp)


def _projections(spec: PassSpec, rows: Number) -> Iterator[Operator]:
    model, tp = spec.model, spec.layout.tp
    layers, linear = model.kv_layers, model.linear_layers
    gemms = _mla_gemms(spec, layers) if model.attention == "mla" else _gqa_gemms(spec)
    if linear:
        gemms += _linear_gemms(spec, linear)
    for gemm in gemms:
        yield from _product(spec, gemm, rows)
    if tp > 1:
        message = model.hidden * RESIDUAL_BYTES * rows
        yield _collective("attention_reduce", "all_reduce", layers + linear, message, tp)


def _gqa_gemms(spec: PassSpec) -> list[_Gemm]:
    model = spec.model
    kinds = [(model.kv_layers - model.window_layers, False), (model.window_layers, True)]
    if kinds[1][0] and model.heads_of(windowed=True) == model.heads_of(windowed=False):
        kinds = [(model.kv_layers, False)]  # the same products: one kernel's curve for all
    return [
        gemm
        for layers, windowed in kinds
        if layers
        for gemm in _softmax_gemms(spec, layers, windowed=windowed)
    ]


def _softmax_gemms(spec: PassSpec, layers: int, *, windowed: bool) -> list[_Gemm]:
    model, tp = spec.model, spec.layout.tp
    heads = model.heads_of(windowed=windowed)
    kv_heads = spec.layout.kv_heads_per_gpu(model, windowed=windowed)
    width, out = heads.query_width / tp, heads.output_width / tp
    gate = width if model.output_gate else 0.0
    projected = width + kv_heads * heads.projected + gate
    return [
        _gemm(spec, "qkv", (projected, model.hidden), layers, "attention"),
        _gemm(spec, "attention_out", (model.hidden, out), layers, "attention_out"),
    ]


def _mla_gemms(spec: PassSpec, layers: int) -> list[_Gemm]:
    """Latent down-projections are replicated over ``tp``; per-head ones are sharded."""
    model = spec.model
    heads = model.heads / spec.layout.tp
    queries = heads * (model.nope_dim + model.rope_dim)
    latent = model.kv_lora + model.rope_dim
    down = model.q_lora + latent if model.q_lora else latent + queries
    shapes = {
        "latent_down": (down, model.hidden),
        "attention_out": (model.hidden, heads * model.v_dim),
    }
    if model.q_lora:
        shapes["q_up"] = (queries, model.q_lora)
    if model.index_top_k:
        keys = model.index_heads * model.index_head_dim
        shapes["indexer_q"] = (keys, model.q_lora or model.hidden)
        shapes["indexer_k"] = (model.index_head_dim + model.index_heads, model.hidden)
    calls = {"indexer_q": model.indexing_layers, "indexer_k": model.indexing_layers}
    parts = {"attention_out": "attention_out"}
    return [
        _gemm(spec, name, shape, calls.get(name, layers), parts.get(name, "attention"))
        for name, shape in shapes.items()
    ]


def _linear_gemms(spec: PassSpec, layers: int) -> list[_Gemm]:
    """Gated delta layers: q, k, v, z in one product, then the output."""
    model, tp, stored = spec.model, spec.layout.tp, "linear_attention"
    keys = 2 * model.linear_key_heads * model.linear_head_dim / tp
    values = model.linear_value_heads * model.linear_head_dim / tp
    return [
        _gemm(spec, "linear_qkvz", (keys + 2 * values, model.hidden), layers, stored),
        _gemm(spec, "linear_out", (model.hidden, values), layers, stored),
    ]


def _ffn(name: str, width: float, layers: float, spec: PassSpec, rows: Number) -> list[Operator]:
    """Return one FFN: up (and gate), activation, down."""
    hidden, ups = spec.model.hidden, 2 if spec.model.gated_ffn else 1
    stored = "shared_experts" if name == "shared_expert" else "dense_ffn"
    return [
        *_product(spec, _gemm(spec, f"{name}_up", (ups * width, hidden), layers, stored), rows),
        *_product(spec, _gemm(spec, f"{name}_down", (hidden, width), layers, stored), rows),
        Operator(
            name=f"{name}_activation",
            kind="memory",
            calls=layers,
            bytes=layers * (ups + 1) * width * RESIDUAL_BYTES * rows,
        ),
    ]


def _dense_ffn(spec: PassSpec, rows: Number) -> Iterator[Operator]:
    model, tp = spec.model, spec.layout.tp
    layers = model.ffn_dense_layers
    if not layers:
        return
    yield from _ffn("ffn", model.dense_intermediate / tp, layers, spec, rows)
    if tp > 1:
        message = model.hidden * RESIDUAL_BYTES * rows
        yield _collective("ffn_reduce", "all_reduce", layers, message, tp)


def _small(name: str, calls: float, values: float, rows: Number) -> Operator:
    """Return small kernels that move ``values`` of 16 bits for each row."""
    return Operator(
        name=name, kind=COMPANION, calls=calls, bytes=calls * values * RESIDUAL_BYTES * rows
    )


def _gates(spec: PassSpec, rows: Number) -> Iterator[Operator]:
    """Small kernels of attention that only some models have.

    Gated delta layers sort what was projected before the convolution, and norm and gate what the
    recurrence gives (SGLang models/qwen3_5.py: fused_qkvzba_split_reshape_cat, RMSNormGated);
    softmax attention may be gated too, and its queries and keys normed over all heads, whose
    squares tensor-parallel ranks then sum (vLLM MiniMaxText01RMSNormTP.forward_qk).
    """
    model, tp = spec.model, spec.layout.tp
    if not spec.companions:
        return
    if model.linear_layers:
        values = model.linear_value_heads * model.linear_head_dim / tp
        keys = 2.0 * model.linear_key_heads * model.linear_head_dim / tp
        yield _small("linear_sort", model.linear_layers, 2.0 * (keys + 2.0 * values), rows)
        yield _small("linear_norm", model.linear_layers, 3.0 * values, rows)
    if model.output_gate:
        width = model.heads_of(windowed=False).output_width / tp
        yield _small("output_gate", model.kv_layers, 3.0 * width, rows)
    if model.norms_all_heads:
        width = (model.heads / tp + spec.layout.kv_heads_per_gpu(model)) * model.head_dim
        yield _small("head_squares", model.kv_layers, width, rows)
        yield _small("head_norms", model.kv_layers, 2.0 * width, rows)
        if tp > 1:
            message = 2.0 * DTYPE_BYTES["fp32"] * rows
            yield _collective("squares_reduce", "all_reduce", model.kv_layers, message, tp)


def _experts(spec: PassSpec, rows: Number) -> Iterator[Operator]:
    model = spec.model
    layers = model.moe_layers
    if not layers:
        return
    yield _gemm(spec, "router", (model.experts, model.hidden), layers, "router").at(rows)
    if model.shared_experts:
        each = model.shared_intermediate or model.moe_intermediate
        width = model.shared_experts * each / spec.layout.tp
        for op in _ffn("shared_expert", width, layers, spec, rows):
            yield replace(op, beside=spec.shared_beside)
        if spec.companions:
            yield _small("shared_expert_sum", layers, 3.0 * model.hidden, rows)
    yield _routed(spec, layers, rows)
    yield from _expert_exchange(spec, layers, rows)


def _routed(spec: PassSpec, layers: int, rows: Number) -> Operator:
    """Return the grouped products of the busiest expert rank.

    Experts differ in popularity, so that ranks' loads deviate from each other by it and by chance,
    both together as independent deviations do; the busiest rank has as many tokens more than the
    mean as the expected highest of ``ep`` normal ones (a single rank has all of them). The
    distinct experts it reads are those that so many tokens hit: of an expert chosen with chance p,
    ``1 − (1 − p)^t``. Where ranks hold copies of some experts to be full, those count too. Beside
    what experts read and write, a rank moves values of every token that comes to it (routing,
    quantising, gathering their sum): all that were gathered, or those sent to its experts.
    """
    model, layout = spec.model, spec.layout
    width = model.moe_intermediate / layout.expert_tp
    local = float(layout.expert_slots(model))
    everyone = rows * layout.attention_dp
    share = model.top_k / (local * layout.ep)
    chance = everyone / (share * local) if spec.busiest_rank else 0.0
    popular = unevenness(spec.moe_skew) ** 2 / local
    above = highest_normal(layout.ep) * np.sqrt(popular * everyone**2 + chance)
    served = np.minimum(everyone + above, everyone * min(model.top_k, local) / (share * local))
    hit = local * _hit(share, spec.moe_skew, served)
    copies = share * local * served
    coming = np.minimum(everyone, copies) if spec.dispatches else everyone
    matrices = 3 if model.gated_ffn else 2
    weights = matrices * model.hidden * width
    io = 2 * model.hidden * spec.precision.activation_bytes + 2 * width * RESIDUAL_BYTES
    return Operator(
        name="experts",
        kind="experts",
        dtype=spec.dtype,
        calls=2.0 * layers,
        flops=layers * 2.0 * weights * copies,
        ramp=layers * 2.0 * weights * hit,
        narrow=layers * 2.0 * matrices * model.hidden * copies,
        thin=layers * model.hidden * coming,
        bytes=layers * (weights * spec.precision.weight_bytes * hit + io * copies),
    )


def _hit(share: float, moe_skew: float, tokens: Number) -> Number:
    """Return the share of a rank's experts that ``tokens`` hit, each chosen with ``share``."""
    missed: Number = 0.0
    chances = np.minimum(share * popularity_of(moe_skew), SURE)
    for log in np.log1p(-chances):  # exp is several times as fast as a power
        missed = missed + np.exp(log * tokens)
    return 1.0 - missed / len(chances)


def _expert_exchange(spec: PassSpec, layers: int, rows: Number) -> Iterator[Operator]:
    """Tokens meet their experts: an all-reduce, or dispatch and combine across attention ranks."""
    model, layout = spec.model, spec.layout
    group = layout.expert_group
    token = model.hidden * RESIDUAL_BYTES
    if group == 1:
        return
    if layout.attention_dp == 1:
        yield _collective("expert_reduce", "all_reduce", layers, token * rows, group)
    elif not spec.dispatches:
        held = rows / layout.tp  # ranks of one tensor-parallel group hold a part each
        gathered = model.hidden * spec.gathered_bytes * held
        yield _collective("expert_gather", "all_gather", layers, gathered, group)
        yield _collective("expert_scatter", "reduce_scatter", layers, token * held, group)
    else:
        sent = rows / layout.tp * distinct(model.top_k, layout.ep)
        dispatched = model.hidden * spec.precision.activation_bytes * sent
        for name, message in (("expert_dispatch", dispatched), ("expert_combine", token * sent)):
            exchange = _collective(name, "all_to_all", layers, message, group)
            yield replace(exchange, copies=model.top_k)


def _norms(spec: PassSpec, rows: Number) -> Iterator[Operator]:
    """Two fused residual-and-norm kernels per layer: read the stream and the branch, write both."""
    model = spec.model
    calls = 2.0 * model.layers
    per_row = 4.0 * model.hidden * RESIDUAL_BYTES
    yield Operator(name="norms", kind="memory", calls=calls, bytes=calls * per_row * rows)


def _pipeline(spec: PassSpec, rows: Number) -> Iterator[Operator]:
    hops = spec.layout.pp - 1
    if hops:
        message = spec.model.hidden * RESIDUAL_BYTES * rows / spec.layout.tp
        yield _collective("stage_send", "send_recv", hops, message, spec.layout.gpus)
