"""An LLM's architecture: from its shape to parameters and KV bytes per token."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One LLM's architecture. Counts are per model; dimensions are elements.

    ``attention`` is ``gqa`` (MHA and MQA are its ends) or ``mla``. ``layers`` counts all layers;
    ``dense_layers`` of them have a dense FFN of ``dense_intermediate``, the others (if
    ``experts`` > 0) a mixture of experts. ``full_attention_layers`` (``None`` = all) see the whole
    context; the others see ``window`` tokens or, when ``linear_value_heads`` > 0, are linear
    (gated delta) layers with a constant state and no growing KV.
    ``index_top_k`` > 0 marks sparse attention (DSA): at most that many tokens are attended.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context: int
    attention: str = "gqa"
    q_lora: int = 0
    kv_lora: int = 0
    rope_dim: int = 0
    nope_dim: int = 0
    v_dim: int = 0
    dense_layers: int | None = None
    dense_intermediate: int = 0
    gated_ffn: bool = True
    experts: int = 0
    top_k: int = 0
    moe_intermediate: int = 0
    shared_experts: int = 0
    shared_intermediate: int = 0
    window: int | None = None
    full_attention_layers: int | None = None
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    linear_head_dim: int = 0
    linear_conv: int = 0
    index_top_k: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    tie_embeddings: bool = False
    mtp_layers: int = 0
    source: str = ""
    notes: str = ""
