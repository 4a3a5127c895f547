"""A model's matrices by the names that checkpoints give them, with their parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from simulator.model import Model

_FFN = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL = ("w1", "w3", "w2")


@dataclass(frozen=True, slots=True)
class Module:
    """One matrix: the ``part`` of the precision it belongs to, its names, its parameters.

    The first name is what most checkpoints call it; lists that mean any of them mean it.
    """

    part: str
    names: tuple[str, ...]
    params: int


ROUTED = ("mlp.experts.0", "block_sparse_moe.experts.0", "feed_forward.experts.0", "experts.0")
SHARED = (
    *("mlp.shared_experts", "mlp.shared_expert", "block_sparse_moe.shared_experts"),
    *("feed_forward.shared_expert", "share_expert", "mlp.shared_mlp"),
)
"""Where most models keep their experts, and those that every token passes through."""
HOMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    dict.fromkeys(("gemma4", "gemma4_text"), (("experts.0",), ("mlp",)))
)
"""The same of model types that keep them elsewhere."""


def modules(model: Model, kind: str) -> Iterator[Module]:
    """Yield the matrices of a model of type ``kind``; of a layer's experts the first.

    Every layer's, and the LM head.
    """
    for layer in range(model.layers):
        root = f"layers.{layer}."
        growing = model.is_growing_layer(layer)
        if model.linear_layers and not growing:
            yield from _linear(model, root)
        elif model.attention == "mla":
            yield from _latent(model, root)
        else:
            yield from _grouped(model, root, windowed=not growing)
        if model.is_moe_layer(layer):
            yield from _experts(model, root, kind)
        else:
            yield from _ffn("dense_ffn", ("mlp", "feed_forward"), root, model.dense_ffn_params)
    yield Module("lm_head", ("lm_head", "head"), model.embedding_params)


def _attention(root: str, name: str, params: int, *fused: str) -> Module:
    homes = ("self_attn", "attn", "self_attention", "attention")
    names = [f"{root}{home}.{each}" for home in homes for each in (name, *fused)]
    return Module("attention", tuple(names), params)


def _grouped(model: Model, root: str, *, windowed: bool) -> Iterator[Module]:
    heads, hidden = model.heads_of(windowed=windowed), model.hidden
    yield _attention(root, "q_proj", hidden * heads.query_width, "qkv_proj")
    yield _attention(root, "k_proj", hidden * heads.kv_heads * heads.key_dim, "qkv_proj")
    if not heads.tied_values:
        yield _attention(root, "v_proj", hidden * heads.kv_heads * heads.value_dim, "qkv_proj")
    yield _attention(root, "o_proj", hidden * heads.output_width, "out_proj")


def _latent(model: Model, root: str) -> Iterator[Module]:
    queries = model.heads * (model.nope_dim + model.rope_dim)
    if model.q_lora:
        yield _attention(root, "q_a_proj", model.hidden * model.q_lora, "fused_qkv_a_proj")
        yield _attention(root, "q_b_proj", model.q_lora * queries)
    else:
        yield _attention(root, "q_proj", model.hidden * queries)
    latent = model.kv_lora + model.rope_dim
    up = model.kv_lora * model.heads * (model.nope_dim + model.v_dim)
    yield _attention(root, "kv_a_proj_with_mqa", model.hidden * latent, "fused_qkv_a_proj")
    yield _attention(root, "kv_b_proj", up)
    yield _attention(root, "o_proj", model.heads * model.v_dim * model.hidden)
    if model.index_top_k:
        keys = model.index_heads * model.index_head_dim
        yield _attention(root, "indexer.wq_b", (model.q_lora or model.hidden) * keys)


def _linear(model: Model, root: str) -> Iterator[Module]:
    keys = 2 * model.linear_key_heads * model.linear_head_dim
    values = model.linear_value_heads * model.linear_head_dim
    home = f"{root}linear_attn."
    fused = f"{home}in_proj_qkvz"
    mixed = model.hidden * (keys + values)
    yield Module("linear_attention", (f"{home}in_proj_qkv", fused), mixed)
    yield Module("linear_attention", (f"{home}in_proj_z", fused), model.hidden * values)
    yield Module("linear_attention", (f"{home}out_proj",), values * model.hidden)


def _experts(model: Model, root: str, kind: str) -> Iterator[Module]:
    routed, shared = HOMES.get(kind, (ROUTED, SHARED))
    grouped = tuple(home.removesuffix(".0") for home in routed)
    params = model.experts * model.expert_params
    yield from _ffn("weights", routed, root, params, *grouped)
    if model.shared_experts:
        yield from _ffn("shared_experts", shared, root, model.shared_expert_params)


def _ffn(
    part: str, homes: tuple[str, ...], root: str, params: int, *grouped: str
) -> Iterator[Module]:
    for plain, short in zip(_FFN, _MIXTRAL, strict=True):
        fused = "down_proj" if plain == "down_proj" else "gate_up_proj"
        names = [f"{root}{home}.{each}" for home in homes for each in (plain, short, fused)]
        names += [f"{root}{home}.{fused}" for home in grouped]
        yield Module(part, tuple(dict.fromkeys(names)), params // 3)
