"""From the keys of each model type to a model's shape."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from simulator.huggingface.context import max_context
from simulator.huggingface.layers import (
    every,
    expert_layers,
    first_dense,
    index_layers,
    layer_kinds,
    mistral_window,
    patterned,
    sized,
    switched_window,
    windows,
)
from simulator.huggingface.source import Config, Shape
from simulator.huggingface.unsupported import NEEDS

Reader = Callable[[Config], Shape]


def shape_of(config: Config) -> Shape:
    """Return the fields of a model that ``config`` describes.

    Raises:
        ConfigError: an unknown model type, or a key that is missing, out of range, contradicts
            another or asks for what is not modelled.

    """
    reader = _reader(config)
    return _common(config) | reader(config)


def _reader(config: Config) -> Reader:
    kind = config.keys.get("model_type")
    if isinstance(kind, str) and kind in NEEDS:
        raise config.fail("model_type", f"a type that is modelled: {kind} needs {NEEDS[kind]};")
    if not isinstance(kind, str) or kind not in READERS:
        raise config.fail("model_type", f"one of {', '.join(sorted(READERS))}")
    config.read.add("model_type")
    return READERS[kind]


def _default(config: Config, name: str, fallback: int | None = None) -> int | None:
    return DEFAULTS.get(config.kind, {}).get(name, fallback)


def _common(config: Config) -> Shape:
    return {
        "layers": config.layers,
        "hidden": config.count("hidden_size"),
        "heads": config.count("num_attention_heads", _default(config, "heads")),
        "vocab": config.count("vocab_size", _default(config, "vocab")),
        "max_context": max_context(config, _default(config, "max_context")),
        "tie_embeddings": config.flag("tie_word_embeddings", config.kind in TIED),
    }


# --- attention ------------------------------------------------------------------------------


def _gqa(config: Config) -> Shape:
    heads = config.count("num_attention_heads", _default(config, "heads"))
    kv_heads = config.count("num_key_value_heads", _default(config, "kv_heads", heads))
    if "head_dim" in config or _default(config, "head_dim") is not None:
        dim = config.count("head_dim", _default(config, "head_dim"))
        return {"kv_heads": kv_heads, "head_dim": dim}
    hidden = config.count("hidden_size")
    if hidden % heads:
        raise config.fail(
            "head_dim", f"given where {heads} heads do not divide hidden_size {hidden}"
        )
    return {"kv_heads": kv_heads, "head_dim": hidden // heads}


def _mla(config: Config) -> Shape:
    latent, rope = config.count("kv_lora_rank"), config.count("qk_rope_head_dim")
    config.read.update(("num_key_value_heads", "head_dim", "qk_head_dim"))
    if "window" in layer_kinds(config, []):
        raise config.fail("layer_types", "free of windows beside latent attention")
    return {
        "attention": "mla",
        "kv_heads": 1,
        "head_dim": latent + rope,
        "q_lora": config.count("q_lora_rank", 0),
        "kv_lora": latent,
        "rope_dim": rope,
        "nope_dim": config.count("qk_nope_head_dim"),
        "v_dim": config.count("v_head_dim"),
    }


def _state(config: Config) -> str:
    """Return the dtype of linear layers' states: ``mamba_ssm_dtype``, else that of the model."""
    name = config.text("mamba_ssm_dtype") or "bfloat16"
    known = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16", "auto": "bf16"}
    if name not in known:
        raise config.fail("mamba_ssm_dtype", f"one of {', '.join(known)}")
    return known[name]


def _linear(config: Config) -> Shape:
    dim = config.count("linear_key_head_dim")
    if config.count("linear_value_head_dim") != dim:
        raise config.fail("linear_value_head_dim", f"linear_key_head_dim, {dim},")
    interval = config.count("full_attention_interval", 4)
    kinds = layer_kinds(config, every(interval, config.layers, "full", "linear"))
    if "window" in kinds:
        raise config.fail("layer_types", "free of windows beside linear attention")
    shape: Shape = {
        "output_gate": config.flag("attn_output_gate", True),
        "mtp_layers": config.count("mtp_num_hidden_layers", 0, least=0),
    }
    keys = {
        "linear_key_heads": config.count("linear_num_key_heads"),
        "linear_value_heads": config.count("linear_num_value_heads"),
        "linear_head_dim": dim,
        "linear_conv": config.count("linear_conv_kernel_dim"),
        "linear_state": _state(config),
    }
    full = kinds.count("full")
    return shape if full == config.layers else shape | keys | {"full_attention_layers": full}


# --- dense models ---------------------------------------------------------------------------


def _dense_ffn(config: Config) -> Shape:
    return {"dense_intermediate": config.count("intermediate_size")}


def _llama(config: Config) -> Shape:
    """Return Llama: full attention in all layers, whatever else a file may say of windows."""
    return _gqa(config) | _dense_ffn(config)


def _mistral(config: Config) -> Shape:
    return _gqa(config) | _dense_ffn(config) | mistral_window(config)


def _qwen_kinds(config: Config) -> list[str]:
    full = config.count("max_window_layers", 28, least=0)
    return ["full" if at < full else "window" for at in range(config.layers)]


def _qwen(config: Config) -> Shape:
    mtp = config.count("num_nextn_predict_layers", 0, least=0)  # MiMo-7B, a Qwen2 that drafts
    window = switched_window(config, _qwen_kinds(config))
    return _gqa(config) | _dense_ffn(config) | window | {"mtp_layers": mtp}


def _gemma3(config: Config) -> Shape:
    pattern = config.count("sliding_window_pattern", 6)
    kinds = every(pattern, config.layers, "full", "window")
    return _gqa(config) | _dense_ffn(config) | windows(config, "sliding_window", kinds, 4096)


def _gemma2(config: Config) -> Shape:
    kinds = ["full" if at % 2 else "window" for at in range(config.layers)]
    return _gqa(config) | _dense_ffn(config) | windows(config, "sliding_window", kinds, 4096)


def _gemma4(config: Config) -> Shape:
    """Return Gemma 4: wide heads in the layers that see all, an FFN beside the experts."""
    for key, least in (("hidden_size_per_layer_input", 256), ("num_kv_shared_layers", 0)):
        if config.count(key, least, least=0):
            raise config.fail(key, "0: layers' own embeddings and shared KV are not modelled;")
    if config.flag("use_double_wide_mlp", False):
        raise config.fail("use_double_wide_mlp", "false: wider FFNs are not modelled;")
    kinds = layer_kinds(config, every(6, config.layers, "full", "window"))
    kinds[-1] = "full"
    tied = config.flag("attention_k_eq_v", False)
    narrow = _gqa(config)
    return {
        "kv_heads": config.count("num_global_key_value_heads", config.count("num_key_value_heads")),
        "head_dim": config.count("global_head_dim", config.count("head_dim", 256)),
        "window_kv_heads": narrow["kv_heads"],
        "window_head_dim": narrow["head_dim"],
        "tied_values": tied,
        **sized(config, "sliding_window", kinds, 512),
        **_beside_experts(config),
    }


def _beside_experts(config: Config) -> Shape:
    """Return Gemma 4's FFN, which every token passes through beside its experts, if any."""
    if not config.flag("enable_moe_block", False):
        config.read.update(("num_experts", "num_experts_per_tok", "moe_intermediate_size"))
        return _dense_ffn(config)
    return {
        "dense_layers": 0,
        "experts": config.count("num_experts"),
        "top_k": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
        "shared_experts": 1,
        "shared_intermediate": config.count("intermediate_size"),
    }


def _bloom(config: Config) -> Shape:
    heads, hidden = config.count("num_attention_heads"), config.count("hidden_size")
    if hidden % heads:
        raise config.fail("n_head", f"a divisor of hidden_size {hidden}")
    return {
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "dense_intermediate": config.count("n_inner", 4 * hidden),
        "gated_ffn": False,
    }


def _dense_hybrid(config: Config) -> Shape:
    return _gqa(config) | _dense_ffn(config) | _linear(config)


# --- mixtures of experts --------------------------------------------------------------------


def _local_experts(config: Config) -> Shape:
    """Return the experts of Mixtral and its kin: every layer, of ``intermediate_size``."""
    return {
        "dense_layers": 0,
        "experts": config.count("num_local_experts"),
        "top_k": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
    }


def _mixtral(config: Config) -> Shape:
    return _gqa(config) | _local_experts(config) | mistral_window(config)


def _minimax(config: Config) -> Shape:
    """Return MiniMax-M2; its ``attn_type_list`` may hold softmax attention, 1, alone.

    Queries and keys are normed over all heads, ``per_layer``, unless its file says otherwise.
    """
    kinds = patterned(config, "attn_type_list", {1: "full", 0: "lightning"})
    if kinds is not None and "lightning" in kinds:
        raise config.fail(
            "attn_type_list",
            "1, softmax attention, in all layers: 0 needs lightning attention, which is not "
            "modelled;",
        )
    shared = config.count("shared_intermediate_size", 0, least=0)
    depth = config.count("mtp_transformer_layers", 1, least=0)
    modules = config.count("num_mtp_modules", 0, least=0)
    mtp = modules * depth if config.flag("use_mtp", True) else 0
    whole = (config.text("qk_norm_type") or "per_layer") == "per_layer"
    own = {"mtp_layers": mtp, "norms_all_heads": whole and config.flag("use_qk_norm", True)}
    shape = _gqa(config) | _local_experts(config) | own | mistral_window(config)
    return shape | ({"shared_experts": 1, "shared_intermediate": shared} if shared else {})


def _gpt_oss(config: Config) -> Shape:
    kinds = ["full" if at % 2 else "window" for at in range(config.layers)]
    return _gqa(config) | _local_experts(config) | windows(config, "sliding_window", kinds, 128)


def _qwen_experts(config: Config) -> Shape:
    """Return Qwen's experts: every ``decoder_sparse_step``-th layer but those listed as dense."""
    step = config.count("decoder_sparse_step", 1)
    dense = config.indices("mlp_only_layers") or ()
    sparse = [at not in dense and (at + 1) % step == 0 for at in range(config.layers)]
    shape = expert_layers(config, sparse) | {
        "experts": config.count("num_experts"),
        "top_k": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
    }
    config.read.add("intermediate_size")
    if shape["dense_layers"]:
        shape["dense_intermediate"] = config.count("intermediate_size")
    shared = config.count("shared_expert_intermediate_size", 0, least=0)
    return shape | ({"shared_experts": 1, "shared_intermediate": shared} if shared else {})


def _qwen2_moe(config: Config) -> Shape:
    most = config.count("max_window_layers", 28, least=0)
    kinds = ["window" if at % 2 == 0 and at < most else "full" for at in range(config.layers)]
    shared = {} if "shared_expert_intermediate_size" in config else {"shared": 5632}
    shape = _gqa(config) | _qwen_experts(config) | switched_window(config, kinds)
    return shape | (
        {"shared_experts": 1, "shared_intermediate": shared["shared"]} if shared else {}
    )


def _qwen3_moe(config: Config) -> Shape:
    window = switched_window(config, ["window"] * config.layers)
    return _gqa(config) | _qwen_experts(config) | window


def _qwen_hybrid(config: Config) -> Shape:
    return _gqa(config) | _qwen_experts(config) | _linear(config)


def _routed(config: Config) -> Shape:
    """Return DeepSeek's experts, or its dense FFNs where a file has none."""
    mtp: Shape = {"mtp_layers": config.count("num_nextn_predict_layers", 0, least=0)}
    layers = expert_layers(config, _listed_experts(config) or first_dense(config))
    if layers["dense_layers"] == config.layers:
        config.read.update(("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"))
        return mtp | _dense_ffn(config)
    shape = layers | {
        "experts": config.count("n_routed_experts"),
        "top_k": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
        "shared_experts": config.count("n_shared_experts", 0, least=0),
    }
    config.read.add("intermediate_size")
    return shape | mtp | (_dense_ffn(config) if layers["dense_layers"] else {})


def _listed_experts(config: Config) -> list[bool] | None:
    """Return the sparse layers that a text such as ``3,4,5`` lists, ``None`` if absent."""
    text = config.text("moe_layers_enum")
    if text is None:
        return None
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers) or len(text) > 100_000:
        raise config.fail("moe_layers_enum", "layers' numbers with commas between")
    listed = {int(number) for number in numbers}
    return [at in listed for at in range(config.layers)]


def _glm_moe(config: Config) -> Shape:
    return _gqa(config) | _routed(config)


def _deepseek(config: Config) -> Shape:
    return _mla(config) | _routed(config)


def _deepseek_sparse(config: Config) -> Shape:
    index: Shape = {
        "index_top_k": config.count("index_topk"),
        "index_heads": config.count("index_n_heads"),
        "index_head_dim": config.count("index_head_dim"),
        "index_layers": index_layers(config),
    }
    return _deepseek(config) | index


def _mimo_flash(config: Config) -> Shape:
    """Return MiMo-V2-Flash: windows with KV heads of their own, values of ``v_head_dim``."""
    count = config.layers
    default = ["full" if not at or not (at + 1) % 6 else "window" for at in range(count)]
    listed = patterned(config, "hybrid_layer_pattern", {0: "full", 1: "window"})
    kinds = layer_kinds(config, listed or default)
    value = config.count("v_head_dim", config.count("head_dim"))
    if config.count("swa_v_head_dim", value) != value:
        raise config.fail("swa_v_head_dim", f"v_head_dim, {value},")
    config.read.update(("sliding_window_size", "attention_chunk_size"))
    own: Shape = {
        "v_dim": value,
        "window_heads": config.count("swa_num_attention_heads", 0, least=0),
        "window_kv_heads": config.count("swa_num_key_value_heads", 0, least=0),
        "window_head_dim": config.count("swa_head_dim", 0, least=0),
    }
    window = sized(config, "sliding_window", kinds)
    return _gqa(config) | _routed(config) | window | (own if window else {"v_dim": value})


def _step3(config: Config) -> Shape:
    """Return Step-3.5 and 3.7: windowed layers with heads of their own, one shared expert."""
    other = config.inner("attention_other_setting")
    heads = config.count("num_sliding_attention_heads", 0, least=0)
    own: Shape = {"window_heads": heads}
    if other is not None:
        own["window_heads"] = heads or other.count("num_attention_heads", 0, least=0)
        own["window_kv_heads"] = other.count("num_key_value_heads", 0, least=0)
        own["window_head_dim"] = other.count("head_dim", 0, least=0)
    kinds = layer_kinds(config, ["full"] * config.layers)
    window = sized(config, "sliding_window", kinds)
    shared = config.count("share_expert_dim", 1280)
    experts = _routed(config) | {"shared_experts": 1, "shared_intermediate": shared}
    return _gqa(config) | experts | window | (own if window else {})


def _llama4(config: Config) -> Shape:
    layers = config.layers
    step = config.count("interleave_moe_layer_step", 1)
    listed = config.indices("moe_layers")
    sparse = [at in listed if listed else (at + 1) % step == 0 for at in range(layers)]
    experts = _local_experts(config) | expert_layers(config, sparse)
    shared: Shape = {"shared_experts": 1, "shared_intermediate": config.count("intermediate_size")}
    config.read.add("intermediate_size_mlp")
    if experts["dense_layers"]:
        shared["dense_intermediate"] = config.count("intermediate_size_mlp")
    return _gqa(config) | experts | shared | _chunks(config)


def _chunks(config: Config) -> Shape:
    """Return Llama-4's chunked layers: those with rotary embeddings."""
    interval = config.count("no_rope_layer_interval", 4)
    kinds = every(interval, config.layers, "full", "window")
    if config.sequence("no_rope_layers"):
        kinds = patterned(config, "no_rope_layers", {0: "full", 1: "window"}) or kinds
    if "attention_chunk_size" in config.keys and "attention_chunk_size" not in config:
        kinds = ["full"] * config.layers
    return windows(config, "attention_chunk_size", kinds, 8192)


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "bloom": _bloom,
        "deepseek_v2": _deepseek,
        "deepseek_v3": _deepseek,
        "deepseek_v32": _deepseek_sparse,
        "ernie4_5": _llama,
        "gemma2": _gemma2,
        "gemma3": _gemma3,
        "gemma3_text": _gemma3,
        "gemma4": _gemma4,
        "gemma4_text": _gemma4,
        "glm4": _llama,
        "glm4_moe": _glm_moe,
        "glm4v_moe": _glm_moe,
        "glm4v_moe_text": _glm_moe,
        "glm_moe_dsa": _deepseek_sparse,
        "gpt_oss": _gpt_oss,
        "granite": _llama,
        "kimi_k2": _deepseek,
        "kimi_k25": _deepseek,
        "llama": _llama,
        "llama4": _llama4,
        "llama4_text": _llama4,
        "mimo": _qwen,
        "mimo_v2_flash": _mimo_flash,
        "minimax_m2": _minimax,
        "mistral": _mistral,
        "mistral3": _mistral,
        "mixtral": _mixtral,
        "olmo2": _llama,
        "phi3": _mistral,
        "qwen2": _qwen,
        "qwen2_5_vl": _qwen,
        "qwen2_5_vl_text": _qwen,
        "qwen2_moe": _qwen2_moe,
        "qwen2_vl": _qwen,
        "qwen2_vl_text": _qwen,
        "qwen3": _qwen,
        "qwen3_5": _dense_hybrid,
        "qwen3_5_moe": _qwen_hybrid,
        "qwen3_5_moe_text": _qwen_hybrid,
        "qwen3_5_text": _dense_hybrid,
        "qwen3_moe": _qwen3_moe,
        "qwen3_next": _qwen_hybrid,
        "qwen3_vl": _qwen,
        "qwen3_vl_moe": _qwen3_moe,
        "qwen3_vl_moe_text": _qwen3_moe,
        "qwen3_vl_text": _qwen,
        "seed_oss": _llama,
        "step3p5": _step3,
        "step3p7": _step3,
    }
)

TIED = frozenset({"bloom", "ernie4_5", "gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text"})
"""Types whose embeddings are tied unless the file says otherwise."""

_GEMMA3: Mapping[str, int] = MappingProxyType(
    {"heads": 8, "kv_heads": 4, "head_dim": 256, "vocab": 262208, "max_context": 131072}
)
DEFAULTS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "bloom": {"max_context": 2048},
        "gemma3": _GEMMA3,
        "gemma3_text": _GEMMA3,
        "llama4": {"head_dim": 128, "vocab": 202048},
        "llama4_text": {"head_dim": 128, "vocab": 202048},
    }
)
"""What ``transformers`` assumes for keys these types' published files leave out."""
