"""Attention's operators, as coefficients of queries, pairs, keys and sequences.

They are kept as coefficients (:class:`Term`) because the event engine needs a decode step as an
exact function of its total context; :func:`at_load` turns one into an operator like the others.
"""

import math
from dataclasses import dataclass

import numpy as np

from simulator.latency.passes import RESIDUAL_BYTES, Load, Number, Operator, PassSpec
from simulator.model import INDEX_SCALE_BYTES, STATE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """An attention operator as coefficients of what it works on (totals over ``calls`` layers).

    Of queries q, attended pairs p, keys read k and sequences s: FLOPs are
    ``per_pair·p + per_query·q + per_key·k``, bytes are
    ``weights + query_bytes·q + key_bytes·k + sequence_bytes·s`` and the ramp is
    ``ramp + per_pair·q``. ``column_bytes`` are those of one more column of ``weights``, and
    ``column_query`` the FLOPs of one more head per query. ``limit`` bounds the keys one query sees
    (window or top-k).
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
    column_bytes: float = 0.0
    column_query: float = 0.0
    query_bytes: float = 0.0
    key_bytes: float = 0.0
    sequence_bytes: float = 0.0

    @property
    def one_key_bytes(self) -> float:
        """Bytes that one more key of a decoding sequence would add."""
        return self.key_bytes if self.phase == "decode" else 0.0


def attention_terms(spec: PassSpec) -> list[Term]:
    """Return attention's operators, prefill and decode, for every kind of layer."""
    model = spec.model
    full, windowed = model.growing_layers, model.window_layers
    kinds = [(full, float(model.index_top_k) or math.inf), (windowed, float(model.window or 0))]
    terms = []
    for windowed, (layers, limit) in enumerate(kinds):
        if layers and model.attention == "mla":
            terms += _mla_terms(spec, layers, limit)
        elif layers:
            terms += _gqa_terms(spec, layers, limit, windowed=bool(windowed))
    if model.index_top_k:
        terms += _indexer_terms(spec, model.indexing_layers)
    if model.linear_layers:
        terms += _recurrent_terms(spec, model.linear_layers)
    return terms


def at_load(term: Term, load: Load, decode_width: int = 1) -> Operator:
    """Return the operator a term amounts to under this load.

    Each decoding sequence has ``decode_width`` queries, which attend to the same keys.
    """
    if term.phase == "prefill":
        queries, sequences = load.tokens, load.prompts
        pairs = _capped(load.pairs, queries, term.limit)
        keys = _capped(load.past, sequences, term.limit) + queries
    else:
        queries, sequences = load.batch * decode_width, load.batch
        keys = _capped(load.context, sequences, term.limit)
        pairs = keys * decode_width
    active = np.sign(queries)
    return Operator(
        name=term.name,
        kind=term.kind,
        dtype=term.dtype,
        calls=term.calls * active,
        flops=term.per_pair * pairs + term.per_query * queries + term.per_key * keys,
        ramp=term.ramp * active + term.per_pair * queries,
        narrow=term.column_query * queries,
        thin=term.column_bytes * active + term.one_key_bytes * sequences,
        bytes=term.weights * active
        + term.query_bytes * queries
        + term.key_bytes * keys
        + term.sequence_bytes * sequences,
    )


def _capped(value: Number, count: Number, limit: float) -> Number:
    """Return ``value``, at most ``limit`` for each of ``count``."""
    return np.minimum(value, count * limit) if limit < math.inf else value


def _gqa_terms(spec: PassSpec, layers: int, limit: float, *, windowed: bool) -> list[Term]:
    heads = spec.model.heads_of(windowed=windowed)
    kv_heads = spec.layout.kv_heads_per_gpu(spec.model, windowed=windowed)
    # Per head: the products of query and key, and of weight and value.
    width = (heads.query_width + heads.output_width) / spec.layout.tp
    per_pair = layers * 2.0 * width
    elements = kv_heads * (heads.key_dim + heads.value_dim)
    key_bytes = layers * elements * spec.precision.kv_bytes
    query_bytes = layers * width * RESIDUAL_BYTES
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
            dtype=spec.computed("attention"),
            calls=layers,
            per_key=flops if redone else 0.0,
            per_query=0.0 if redone else flops,
            ramp=flops,
            weights=layers * up * model.kv_lora * spec.precision.attention_bytes,
            column_bytes=layers * model.kv_lora * spec.precision.attention_bytes,
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
            kind=f"{phase}_mla",  # many heads share one key, as in latent attention
            phase=phase,
            dtype="fp8",
            calls=layers,
            per_pair=layers * 2.0 * model.index_heads * model.index_head_dim,
            key_bytes=layers * (model.index_head_dim + INDEX_SCALE_BYTES),
        )
        for phase in ("prefill", "decode")
    ]


def _recurrent_terms(spec: PassSpec, layers: int) -> list[Term]:
    """Linear attention reads and writes one state per sequence, whatever its length."""
    model, tp = spec.model, spec.layout.tp
    state = model.linear_value_heads * model.linear_head_dim**2 / tp
    io = (2 * model.linear_key_heads + 2 * model.linear_value_heads) * model.linear_head_dim / tp
    return [
        Term(
            name=f"{phase}_recurrence",
            kind=f"{phase}_recurrence",
            phase=phase,
            calls=2.0 * layers,  # convolution and recurrence
            per_query=layers * 6.0 * state,
            column_query=layers * 6.0 * model.linear_head_dim**2,
            query_bytes=layers * 2.0 * io * RESIDUAL_BYTES,
            sequence_bytes=layers * 2.0 * state * STATE_BYTES[model.linear_state],
        )
        for phase in ("prefill", "decode")
    ]
