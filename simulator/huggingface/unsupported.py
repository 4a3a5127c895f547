"""Model types that are known but not modelled, and what each of them would need."""

from collections.abc import Mapping
from types import MappingProxyType

_STATE_SPACE = "state-space (Mamba) layers beside attention"

NEEDS: Mapping[str, str] = MappingProxyType(
    {
        "bamba": _STATE_SPACE,
        "deepseek_ref": "attention over compressed keys (compress_ratios), grouped low-rank output "
        "projections (o_groups, o_lora_rank) and hyper-connections (hc_mult)",
        "deepseek_v4": "attention over compressed keys (compress_ratios), grouped low-rank output "
        "projections (o_groups, o_lora_rank) and hyper-connections (hc_mult)",
        "falcon_h1": _STATE_SPACE,
        "gemma3n": "embeddings per layer (hidden_size_per_layer_input) and shared KV layers",
        "granitemoehybrid": _STATE_SPACE,
        "jamba": _STATE_SPACE,
        "kimi_k3": "delta attention with a gate per channel (linear_attn_config) and experts in a "
        "latent space (routed_expert_hidden_size)",
        "kimi_linear": "delta attention with a gate per channel (linear_attn_config) and experts "
        "in a latent space (routed_expert_hidden_size)",
        "lfm2": "convolution layers (layer_types conv)",
        "mamba": "state-space (Mamba) layers",
        "mamba2": "state-space (Mamba) layers",
        "minimax": "lightning attention (attn_type_list)",
        "minimax_m3": "attention over the best blocks of keys, chosen by an indexer in most layers "
        "(sparse_attention_config)",
        "minimax_m3_vl": "attention over the best blocks of keys, chosen by an indexer in most "
        "layers (sparse_attention_config)",
        "minimax_text_01": "lightning attention (attn_type_list)",
        "nemotron-nas": "layers that differ in heads and FFN width (block_configs)",
        "nemotron_h": "state-space (Mamba-2) layers and layers of one block, a mixer or an FFN "
        "alone (hybrid_override_pattern)",
        "nemotron_h_omni": "state-space (Mamba-2) layers and layers of one block "
        "(hybrid_override_pattern)",
        "recurrent_gemma": "recurrent layers",
        "rwkv": "recurrent layers",
        "zamba2": _STATE_SPACE,
    }
)
