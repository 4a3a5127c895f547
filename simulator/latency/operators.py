"""The operators of one forward pass: FLOPs, bytes and messages, in one place.

Everything is per GPU of the busiest attention rank, summed over all layers of the model, so a
pass through a pipeline of ``pp`` stages is the sum over its stages. Quantities are plain
arithmetic: floats give floats and numpy arrays of design points broadcast.

Three groups, by what they depend on:

* :func:`token_operators`: projections, FFN, experts, norms and their collectives: the rows (new
  tokens, prompt and decode alike) of the step;
* :func:`head_operators`: the LM head: the sequences that sample a token;
* :func:`attention_terms`: attention proper: linear in queries, attended pairs, keys read and
  sequences. Kept as coefficients (:class:`Term`), so that a decode step is exactly affine in its
  total context.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.layout import DTYPE_BYTES, TENSOR_DTYPE, Layout, Precision
from simulator.model import INDEX_SCALE_BYTES, Model

Number = float | NDArray[np.float64]

PEAK_OF: Mapping[str, str] = MappingProxyType(
    {**TENSOR_DTYPE, "fp32": "bf16", "int4": "bf16"}  # int4 is storage: computed in 16 bits
)
"""The tensor peak a stored dtype is computed at."""

_WIDTHS = {"bf16": 2, "fp8": 1, "int8": 1, "fp4": 0}
RESIDUAL_BYTES = 2.0
"""Bytes of a hidden state: the residual stream, norms and all-reduces stay in 16 bits."""


class Load(NamedTuple):
    """What the busiest attention rank works on in one step; floats or arrays that broadcast.

    ``tokens`` new prompt tokens of ``prompts`` chunks, attending ``pairs`` and following ``past``
    earlier tokens, beside ``batch`` decodes over ``context`` KV tokens.
    """

    tokens: Number = 0.0
    pairs: Number = 0.0
    past: Number = 0.0
    prompts: Number = 0.0
    batch: Number = 0.0
    context: Number = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSpec:
    """What is passed through: a model, spread and stored in a certain way.

    ``cache_upprojected_kv``: chunked MLA prefill keeps K and V of earlier chunks up-projected
    instead of redoing them. ``moe_skew``: load of the busiest expert rank over the mean.
    ``expert_exchange`` is how tokens of attention-DP ranks meet their experts: ``all_to_all``
    (dispatch and combine) or ``all_gather`` (every rank sees all tokens, then reduce-scatter).
    """

    model: Model
    layout: Layout
    precision: Precision
    cache_upprojected_kv: bool = False
    moe_skew: float = 1.0
    expert_exchange: str = "all_to_all"

    @property
    def dtype(self) -> str:
        """The dtype FFNs and experts run in: the wider of weights and activations."""
        return self.computed(self.precision.weights)

    @property
    def attention_dtype(self) -> str:
        """The dtype prefill attention runs in: that of the KV cache, MLA always 16 bits."""
        narrow = PEAK_OF[self.precision.kv] != "bf16"
        return "fp8" if narrow and self.model.attention == "gqa" else "bf16"

    @property
    def attention_weights(self) -> str:
        """The dtype the attention projections are stored in."""
        return self.precision.attention or self.precision.weights

    def computed(self, weights: str) -> str:
        """Return the dtype that products with weights of this dtype run in."""
        activations = self.precision.activations
        wider = _WIDTHS[PEAK_OF[activations]] > _WIDTHS[PEAK_OF[weights]]
        return activations if wider else weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One kind of kernel or collective of a pass, summed over its ``calls``.

    ``flops`` and ``bytes`` (moved through HBM) are totals over the calls; ``ramp`` and
    ``narrow`` are the FLOPs one more row (of products; key, of attention) and one more column
    would add, by which efficiency curves charge small shapes. Collectives have ``ranks`` and a
    ``message``: bytes one rank holds, per call (of an all-to-all, what one rank sends in all).
    """

    name: str
    kind: str
    dtype: str = "bf16"
    calls: Number = 1.0
    flops: Number = 0.0
    ramp: Number = 0.0
    narrow: Number = 0.0
    bytes: Number = 0.0
    message: Number = 0.0
    ranks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """An attention operator as coefficients of what it works on (totals over ``calls`` layers).

    Of queries q, attended pairs p, keys read k and sequences s: FLOPs are
    ``per_pair·p + per_query·q + per_key·k``, bytes are
    ``weights + query_bytes·q + key_bytes·k + sequence_bytes·s`` and the ramp is
    ``ramp + per_pair·q``. ``limit`` bounds the keys one query sees (window or top-k).
    """

    name: str
    kind: str
    phase: str
    dtype: str = "bf16"
    calls: float = 1.0
    limit: float = math.inf
    per_pair: float = 0.0
    per_query: float = 0.0
    per_key: float = 0.0
    ramp: float = 0.0
    weights: float = 0.0
    query_bytes: float = 0.0
    key_bytes: float = 0.0
    sequence_bytes: float = 0.0


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
            bytes=self.calls * (self.n * self.k * self.weight_bytes + moved * rows),
        )


def _gemm(
    spec: PassSpec, name: str, shape: tuple[float, float], calls: float, weights: str
) -> _Gemm:
    """Return a product of ``shape`` (n, k) with weights stored in dtype ``weights``."""
    n, k = shape
    dtype = spec.computed(weights)
    return _Gemm(name, n, k, calls, dtype, DTYPE_BYTES[weights], DTYPE_BYTES[dtype])


def forward_pass(spec: PassSpec, load: Load) -> list[Operator]:
    """Return every operator of a step, in the order of a layer."""
    rows = load.tokens + load.batch
    attention = [at_load(term, load) for term in attention_terms(spec)]
    return [
        *token_operators(spec, rows),
        *attention,
        *head_operators(spec, load.prompts + load.batch),
    ]


def token_operators(spec: PassSpec, rows: Number) -> list[Operator]:
    """Return the operators that see every new token of the step (``rows`` per attention rank)."""
    return [
        *_embedding(spec, rows),
        *_projections(spec, rows),
        *_dense_ffn(spec, rows),
        *_experts(spec, rows),
        *_norms(spec, rows),
        *_pipeline(spec, rows),
    ]


def head_operators(spec: PassSpec, sampled: Number) -> list[Operator]:
    """Return the LM head and the gathering of its logits for ``sampled`` sequences."""
    model, tp = spec.model, spec.layout.tp
    vocab = model.vocab / tp
    head = _gemm(spec, "lm_head", (vocab, model.hidden), 1.0, "bf16").at(sampled)
    if tp == 1:
        return [head]
    return [head, _collective("logits_gather", "all_gather", 1.0, sampled * vocab * 2.0, tp)]


def attention_terms(spec: PassSpec) -> list[Term]:
    """Return attention's operators, prefill and decode, for every kind of layer."""
    model = spec.model
    full, windowed = model.growing_layers, model.window_layers
    kinds = [(full, float(model.index_top_k) or math.inf), (windowed, float(model.window or 0))]
    attention = _mla_terms if model.attention == "mla" else _gqa_terms
    terms = [term for layers, limit in kinds if layers for term in attention(spec, layers, limit)]
    if model.index_top_k:
        terms += _indexer_terms(spec, full)
    if model.linear_layers:
        terms += _recurrent_terms(spec, model.linear_layers)
    return terms


def at_load(term: Term, load: Load) -> Operator:
    """Return the operator a term amounts to under this load."""
    if term.phase == "prefill":
        queries, sequences = load.tokens, load.prompts
        pairs = (
            np.minimum(load.pairs, queries * term.limit) if term.limit < math.inf else load.pairs
        )
        past = np.minimum(load.past, sequences * term.limit) if term.limit < math.inf else load.past
        keys = past + queries
    else:
        queries, sequences = load.batch, load.batch
        limited = term.limit < math.inf
        pairs = np.minimum(load.context, queries * term.limit) if limited else load.context
        keys = pairs
    active = np.sign(queries)
    return Operator(
        name=term.name,
        kind=term.kind,
        dtype=term.dtype,
        calls=term.calls * active,
        flops=term.per_pair * pairs + term.per_query * queries + term.per_key * keys,
        ramp=term.ramp * active + term.per_pair * queries,
        bytes=term.weights * active
        + term.query_bytes * queries
        + term.key_bytes * keys
        + term.sequence_bytes * sequences,
    )


def _local_heads(spec: PassSpec) -> tuple[float, int]:
    """Query and KV heads on one rank; KV heads are replicated when ``tp`` exceeds them."""
    return spec.model.heads / spec.layout.tp, spec.layout.kv_heads_per_gpu(spec.model)


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
    gemms = _mla_gemms(spec, layers) if model.attention == "mla" else _gqa_gemms(spec, layers)
    if linear:
        gemms += _linear_gemms(spec, linear)
    for gemm in gemms:
        yield gemm.at(rows)
    if tp > 1:
        message = model.hidden * RESIDUAL_BYTES * rows
        yield _collective("attention_reduce", "all_reduce", layers + linear, message, tp)


def _gqa_gemms(spec: PassSpec, layers: int) -> list[_Gemm]:
    heads, kv_heads = _local_heads(spec)
    model, stored = spec.model, spec.attention_weights
    width = heads * model.head_dim
    gate = width if model.output_gate else 0.0
    projected = width + 2 * kv_heads * model.head_dim + gate
    return [
        _gemm(spec, "qkv", (projected, model.hidden), layers, stored),
        _gemm(spec, "attention_out", (model.hidden, width), layers, stored),
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
    stored = spec.attention_weights
    return [_gemm(spec, name, shape, layers, stored) for name, shape in shapes.items()]


def _linear_gemms(spec: PassSpec, layers: int) -> list[_Gemm]:
    """Gated delta layers: q, k, v, z in one product, then the output."""
    model, tp, stored = spec.model, spec.layout.tp, spec.attention_weights
    keys = 2 * model.linear_key_heads * model.linear_head_dim / tp
    values = model.linear_value_heads * model.linear_head_dim / tp
    return [
        _gemm(spec, "linear_qkvz", (keys + 2 * values, model.hidden), layers, stored),
        _gemm(spec, "linear_out", (model.hidden, values), layers, stored),
    ]


def _gqa_terms(spec: PassSpec, layers: int, limit: float) -> list[Term]:
    heads, kv_heads = _local_heads(spec)
    dim = spec.model.head_dim
    per_pair = layers * 4.0 * heads * dim
    key_bytes = layers * 2.0 * kv_heads * dim * spec.precision.kv_bytes
    query_bytes = layers * 2.0 * heads * dim * RESIDUAL_BYTES
    return [
        Term(
            name=f"{phase}_attention",
            kind=f"{phase}_attention",
            phase=phase,
            dtype=spec.attention_dtype,
            calls=layers,
            limit=limit,
            per_pair=per_pair,
            key_bytes=key_bytes,
            query_bytes=query_bytes,
        )
        for phase in ("prefill", "decode")
    ]


def _mla_terms(spec: PassSpec, layers: int, limit: float) -> list[Term]:
    """Prefill expands K and V from the latent, decode (and sparse prefill) stays absorbed in it."""
    if limit < math.inf:
        return [
            *_absorbed(spec, layers, limit, "prefill"),
            *_absorbed(spec, layers, limit, "decode"),
        ]
    return [*_expanded(spec, layers), *_absorbed(spec, layers, limit, "decode")]


def _expanded(spec: PassSpec, layers: int) -> list[Term]:
    model = spec.model
    heads = model.heads / spec.layout.tp
    width = model.nope_dim + model.rope_dim + model.v_dim
    up = heads * (model.nope_dim + model.v_dim)
    flops = layers * 2.0 * up * model.kv_lora
    moved = layers * (model.kv_lora * spec.precision.activation_bytes + up * RESIDUAL_BYTES)
    redone = not spec.cache_upprojected_kv
    return [
        Term(
            name="kv_up",
            kind="gemm",
            phase="prefill",
            dtype=spec.computed(spec.attention_weights),
            calls=layers,
            per_key=flops if redone else 0.0,
            per_query=0.0 if redone else flops,
            ramp=flops,
            weights=layers * up * model.kv_lora * spec.precision.attention_bytes,
            key_bytes=moved if redone else 0.0,
            query_bytes=0.0 if redone else moved,
        ),
        Term(
            name="prefill_attention",
            kind="prefill_mla",
            phase="prefill",
            dtype=spec.attention_dtype,
            calls=layers,
            per_pair=layers * 2.0 * heads * width,
            key_bytes=layers * heads * width * RESIDUAL_BYTES,
            query_bytes=layers * heads * width * RESIDUAL_BYTES,
        ),
    ]


def _absorbed(spec: PassSpec, layers: int, limit: float, phase: str) -> list[Term]:
    model = spec.model
    heads = model.heads / spec.layout.tp
    latent = model.kv_lora + model.rope_dim
    up = heads * (model.nope_dim + model.v_dim) * model.kv_lora
    io = heads * (model.nope_dim + model.v_dim + 2 * model.kv_lora) * RESIDUAL_BYTES
    return [
        Term(
            name=f"{phase}_absorb",
            kind="absorb",
            phase=phase,
            calls=2.0 * layers,
            per_query=layers * 2.0 * up,
            weights=layers * up * RESIDUAL_BYTES,
            query_bytes=layers * io,
        ),
        Term(
            name=f"{phase}_attention",
            kind="decode_mla",
            phase=phase,
            dtype=spec.attention_dtype,
            calls=layers,
            limit=limit,
            per_pair=layers * 2.0 * heads * (latent + model.kv_lora),
            key_bytes=layers * latent * spec.precision.kv_bytes,
            query_bytes=layers * heads * (latent + model.kv_lora) * RESIDUAL_BYTES,
        ),
    ]


def _indexer_terms(spec: PassSpec, layers: int) -> list[Term]:
    """DSA's indexer scores every earlier token in 8 bits."""
    model = spec.model
    return [
        Term(
            name=f"{phase}_indexer",
            kind=f"{phase}_attention",
            phase=phase,
            dtype="fp8",
            calls=layers,
            per_pair=layers * 2.0 * model.index_heads * model.index_head_dim,
            key_bytes=layers * (model.index_head_dim + INDEX_SCALE_BYTES),
        )
        for phase in ("prefill", "decode")
    ]


def _recurrent_terms(spec: PassSpec, layers: int) -> list[Term]:
    """Linear attention reads and writes one fp32 state per sequence, whatever its length."""
    model, tp = spec.model, spec.layout.tp
    state = model.linear_value_heads * model.linear_head_dim**2 / tp
    io = (2 * model.linear_key_heads + 2 * model.linear_value_heads) * model.linear_head_dim / tp
    return [
        Term(
            name=f"{phase}_recurrence",
            kind="memory",
            phase=phase,
            calls=2.0 * layers,  # convolution and recurrence
            per_query=layers * 6.0 * state,
            query_bytes=layers * 2.0 * io * RESIDUAL_BYTES,
            sequence_bytes=layers * 2.0 * state * DTYPE_BYTES["fp32"],
        )
        for phase in ("prefill", "decode")
    ]


def _ffn(name: str, width: float, layers: float, spec: PassSpec, rows: Number) -> list[Operator]:
    """Return one FFN: up (and gate), activation, down."""
    hidden, ups = spec.model.hidden, 2 if spec.model.gated_ffn else 1
    stored = spec.precision.weights
    return [
        _gemm(spec, f"{name}_up", (ups * width, hidden), layers, stored).at(rows),
        _gemm(spec, f"{name}_down", (hidden, width), layers, stored).at(rows),
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


def _experts(spec: PassSpec, rows: Number) -> Iterator[Operator]:
    model = spec.model
    layers = model.moe_layers
    if not layers:
        return
    yield _gemm(spec, "router", (model.experts, model.hidden), layers, "bf16").at(rows)
    if model.shared_experts:
        each = model.shared_intermediate or model.moe_intermediate
        width = model.shared_experts * each / spec.layout.tp
        yield from _ffn("shared_expert", width, layers, spec, rows)
    yield _routed(spec, layers, rows)
    yield from _expert_exchange(spec, layers, rows)


def _routed(spec: PassSpec, layers: int, rows: Number) -> Operator:
    """Return the grouped products of the busiest expert rank.

    A batch of t tokens that picks ``top_k`` of E experts at random touches
    ``E · (1 − (1 − top_k/E)^t)`` of them.
    """
    model, layout = spec.model, spec.layout
    width = model.moe_intermediate / layout.expert_tp
    local = model.experts / layout.ep
    everyone = rows * layout.attention_dp
    share = model.top_k / model.experts
    hit = local * (1.0 - np.power(1.0 - share, everyone))
    skew = spec.moe_skew if layout.ep > 1 else 1.0
    copies = everyone * min(skew * model.top_k / layout.ep, min(model.top_k, local))
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
        bytes=layers * (weights * spec.precision.weight_bytes * hit + io * copies),
    )


def _expert_exchange(spec: PassSpec, layers: int, rows: Number) -> Iterator[Operator]:
    """Tokens meet their experts: an all-reduce, or dispatch and combine across attention ranks."""
    model, layout = spec.model, spec.layout
    group = layout.expert_group
    token = model.hidden * RESIDUAL_BYTES
    if group == 1:
        return
    if layout.attention_dp == 1:
        yield _collective("expert_reduce", "all_reduce", layers, token * rows, group)
    elif layout.ep == 1 or spec.expert_exchange == "all_gather":
        yield _collective("expert_gather", "all_gather", layers, token * rows, group)
        yield _collective("expert_scatter", "reduce_scatter", layers, token * rows, group)
    else:
        sent = rows / layout.tp * _destinations(model.top_k, layout.ep)
        dispatched = model.hidden * spec.precision.activation_bytes * sent
        yield _collective("expert_dispatch", "all_to_all", layers, dispatched, group)
        yield _collective("expert_combine", "all_to_all", layers, token * sent, group)


def _destinations(top_k: int, ranks: int) -> float:
    """Return the expected number of distinct ranks the ``top_k`` experts of a token live on."""
    return ranks * (1.0 - (1.0 - 1.0 / ranks) ** top_k)


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
