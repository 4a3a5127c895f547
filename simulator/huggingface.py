"""Reads a HuggingFace ``config.json`` into a model.

Where a published configuration leaves a key out, the default is that of the model type's class in
the ``transformers`` library.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from simulator.errors import ConfigError
from simulator.model import Model

MAX_BYTES = 4_000_000
"""No published configuration comes near; more is not one."""

Shape = dict[str, object]


def read_config_json(path: str | os.PathLike[str]) -> Model:
    """Return the model that the ``config.json`` at ``path`` describes.

    The model takes the name of the file, or of its folder where the file is called ``config.json``.

    Raises:
        ConfigError: the file cannot be read, is not a JSON object, has an unknown ``model_type``,
            or a key that is missing, out of range or contradicts another.

    """
    file = Path(path)
    config = _text_config(_Config(str(file), _load(file)))
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    shape = _common(config) | _reader(config)(config)
    try:
        return Model(name=name or "model", source=f"config.json at {file}", **shape)  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _load(file: Path) -> Mapping[str, object]:
    if file.is_dir():
        raise ConfigError(f"{file}: expected a config.json file but it is a directory")
    if not file.is_file():
        raise ConfigError(f"{file}: expected a config.json file but there is none")
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{file}: expected a config.json of at most {MAX_BYTES} bytes")
        content = json.loads(text)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except ConfigError:
        raise
    except (ValueError, RecursionError):
        raise ConfigError(f"{file}: expected a JSON object but it is not valid JSON") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a JSON object but got a {type(content).__name__}")
    return content


@dataclass(frozen=True, slots=True)
class _Config:
    """The keys of one file, read with checks that name file, key and value."""

    file: str
    keys: Mapping[str, object]

    def fail(self, key: str, expected: str) -> ConfigError:
        value = repr(self.keys.get(key))
        shown = value if len(value) < 80 else value[:77] + "..."
        got = f"got {shown}" if key in self.keys else "the key is missing"
        return ConfigError(f"{self.file}: {key} must be {expected} but {got}")

    def count(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number ≥ ``least``; a missing or null key takes the default, if any."""
        value = self.keys.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < least:
            raise self.fail(key, f"a whole number >= {least}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.keys.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def sequence(self, key: str, length: int | None = None) -> list[object] | None:
        value = self.keys.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise self.fail(key, "a list" + (f" of {length} layers" if length is not None else ""))
        return value

    @property
    def layers(self) -> int:
        return self.count("n_layer" if "n_layer" in self.keys else "num_hidden_layers")


def _text_config(config: _Config) -> _Config:
    """Return the language model's part of a multimodal configuration, or the whole."""
    inner = config.keys.get("text_config")
    if inner is None:
        return config
    if not isinstance(inner, dict):
        raise config.fail("text_config", "an object")
    outer = config.keys.get("model_type")
    named = {"model_type": _NESTED.get(outer, outer) if isinstance(outer, str) else outer}
    tied = {k: v for k, v in config.keys.items() if k == "tie_word_embeddings"}
    return _Config(config.file, named | tied | inner)


def _reader(config: _Config) -> Callable[[_Config], Shape]:
    kind = config.keys.get("model_type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise config.fail("model_type", f"one of {', '.join(sorted(_READERS))}")
    return _READERS[kind]


def _common(config: _Config) -> Shape:
    """Return what every model type gives; called first, so it also checks ``model_type``."""
    _reader(config)
    kind = str(config.keys["model_type"])
    defaults = _DEFAULTS.get(kind, {})
    hidden = config.count("hidden_size")
    heads = config.count(
        "n_head" if "n_head" in config.keys else "num_attention_heads", defaults.get("heads")
    )
    return {
        "layers": config.layers,
        "hidden": hidden,
        "heads": heads,
        "vocab": config.count("vocab_size", defaults.get("vocab")),
        "max_context": config.count("max_position_embeddings", defaults.get("max_context")),
        "tie_embeddings": config.flag("tie_word_embeddings", kind in _TIED),
    }


# --- attention ------------------------------------------------------------------------------


def _gqa(config: _Config) -> Shape:
    kind = str(config.keys["model_type"])
    defaults = _DEFAULTS.get(kind, {})
    heads = config.count("num_attention_heads", defaults.get("heads"))
    kv_heads = config.count("num_key_value_heads", defaults.get("kv_heads", heads))
    if config.keys.get("head_dim") is not None or "head_dim" in defaults:
        return {
            "kv_heads": kv_heads,
            "head_dim": config.count("head_dim", defaults.get("head_dim")),
        }
    hidden = config.count("hidden_size")
    if hidden % heads:
        raise config.fail(
            "head_dim", f"given where {heads} heads do not divide hidden_size {hidden}"
        )
    return {"kv_heads": kv_heads, "head_dim": hidden // heads}


def _mla(config: _Config) -> Shape:
    latent, rope = config.count("kv_lora_rank"), config.count("qk_rope_head_dim")
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


def _windows(config: _Config, window: int, full_layers: int) -> Shape:
    """Return windowed layers beside ``full_layers`` others; ``layer_types``, if given, decides."""
    kinds = config.sequence("layer_types", config.layers)
    full = full_layers if kinds is None else kinds.count("full_attention")
    return {} if full == config.layers else {"window": window, "full_attention_layers": full}


def _sliding(config: _Config) -> Shape:
    """Return the windows of Mistral and Qwen2: off unless a size is given and not switched off."""
    if config.keys.get("sliding_window") is None or not config.flag("use_sliding_window", True):
        return {}
    full = config.count("max_window_layers", 0, least=0)
    return _windows(config, config.count("sliding_window"), min(full, config.layers))


def _linear(config: _Config) -> Shape:
    dim = config.count("linear_key_head_dim")
    if config.count("linear_value_head_dim") != dim:
        raise config.fail("linear_value_head_dim", f"linear_key_head_dim, {dim}")
    kinds = config.sequence("layer_types", config.layers)
    interval = config.count("full_attention_interval", 4)
    return {
        "full_attention_layers": kinds.count("full_attention")
        if kinds
        else config.layers // interval,
        "linear_key_heads": config.count("linear_num_key_heads"),
        "linear_value_heads": config.count("linear_num_value_heads"),
        "linear_head_dim": dim,
        "linear_conv": config.count("linear_conv_kernel_dim"),
        "output_gate": config.flag("attn_output_gate", True),
        "mtp_layers": config.count("mtp_num_hidden_layers", 0, least=0),
    }


# --- model types ----------------------------------------------------------------------------


def _dense(config: _Config) -> Shape:
    ffn: Shape = {"dense_intermediate": config.count("intermediate_size")}
    return _gqa(config) | ffn | _sliding(config)


def _gemma3(config: _Config) -> Shape:
    pattern = config.count("sliding_window_pattern", 6)
    windows = _windows(config, config.count("sliding_window", 4096), config.layers // pattern)
    return _gqa(config) | {"dense_intermediate": config.count("intermediate_size")} | windows


def _bloom(config: _Config) -> Shape:
    heads, hidden = config.count("n_head"), config.count("hidden_size")
    if hidden % heads:
        raise config.fail("n_head", f"a divisor of hidden_size {hidden}")
    return {
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "dense_intermediate": config.count("n_inner", 4 * hidden),
        "gated_ffn": False,
    }


def _local_experts(config: _Config) -> Shape:
    """Return the experts of Mixtral and its kin: every layer, of ``intermediate_size``."""
    return {
        "dense_layers": 0,
        "experts": config.count("num_local_experts"),
        "top_k": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("intermediate_size"),
    }


def _mixtral(config: _Config) -> Shape:
    return _gqa(config) | _local_experts(config) | _sliding(config)


def _minimax(config: _Config) -> Shape:
    mtp = config.count("num_mtp_modules", 0, least=0)
    return _gqa(config) | _local_experts(config) | {"mtp_layers": mtp}


def _gpt_oss(config: _Config) -> Shape:
    windows = _windows(config, config.count("sliding_window", 128), config.layers // 2)
    return _gqa(config) | _local_experts(config) | windows


def _qwen_experts(config: _Config) -> Shape:
    """Return Qwen's experts: every ``decoder_sparse_step``-th layer but those listed as dense."""
    step = config.count("decoder_sparse_step", 1)
    dense = config.sequence("mlp_only_layers") or []
    sparse = [at for at in range(config.layers) if at not in dense and (at + 1) % step == 0]
    shape: Shape = {
        "dense_layers": config.layers - len(sparse),
        "interleaved_ffn": step > 1,
        "experts": config.count("num_experts"),
        "top_k": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
    }
    if len(sparse) < config.layers:
        shape["dense_intermediate"] = config.count("intermediate_size")
    shared = config.count("shared_expert_intermediate_size", 0, least=0)
    return shape | ({"shared_experts": 1, "shared_intermediate": shared} if shared else {})


def _qwen_moe(config: _Config) -> Shape:
    return _gqa(config) | _qwen_experts(config)


def _qwen_hybrid(config: _Config) -> Shape:
    return _gqa(config) | _qwen_experts(config) | _linear(config)


def _first_dense(config: _Config) -> Shape:
    """Return DeepSeek's experts: all layers after the first ``first_k_dense_replace``."""
    if config.count("moe_layer_freq", 1) != 1:
        raise config.fail("moe_layer_freq", "1")
    dense = config.count("first_k_dense_replace", 0, least=0)
    shape: Shape = {
        "dense_layers": dense,
        "experts": config.count("n_routed_experts"),
        "top_k": config.count("num_experts_per_tok"),
        "moe_intermediate": config.count("moe_intermediate_size"),
        "shared_experts": config.count("n_shared_experts", 0, least=0),
        "mtp_layers": config.count("num_nextn_predict_layers", 0, least=0),
    }
    return shape | ({"dense_intermediate": config.count("intermediate_size")} if dense else {})


def _glm_moe(config: _Config) -> Shape:
    return _gqa(config) | _first_dense(config)


def _deepseek(config: _Config) -> Shape:
    return _mla(config) | _first_dense(config)


def _deepseek_sparse(config: _Config) -> Shape:
    index: Shape = {
        "index_top_k": config.count("index_topk"),
        "index_heads": config.count("index_n_heads"),
        "index_head_dim": config.count("index_head_dim"),
    }
    return _deepseek(config) | index


def _llama4(config: _Config) -> Shape:
    step = config.count("interleave_moe_layer_step", 1)
    unrotated = config.sequence("no_rope_layers", None) or []
    full = unrotated.count(0) or config.layers // config.count("no_rope_layer_interval", 4)
    dense = config.layers - config.layers // step
    experts = _local_experts(config) | {"dense_layers": dense, "interleaved_ffn": step > 1}
    shared: Shape = {"shared_experts": 1, "shared_intermediate": config.count("intermediate_size")}
    if dense:
        shared["dense_intermediate"] = config.count("intermediate_size_mlp")
    windows = _windows(config, config.count("attention_chunk_size", 8192), full)
    return _gqa(config) | experts | shared | windows


_READERS: Mapping[str, Callable[[_Config], Shape]] = MappingProxyType(
    {
        "bloom": _bloom,
        "deepseek_v2": _deepseek,
        "deepseek_v3": _deepseek,
        "deepseek_v32": _deepseek_sparse,
        "gemma3_text": _gemma3,
        "glm4_moe": _glm_moe,
        "glm_moe_dsa": _deepseek_sparse,
        "gpt_oss": _gpt_oss,
        "kimi_k2": _deepseek,
        "llama": _dense,
        "llama4_text": _llama4,
        "minimax_m2": _minimax,
        "mistral": _dense,
        "mixtral": _mixtral,
        "qwen2": _dense,
        "qwen2_moe": _qwen_moe,
        "qwen3": _dense,
        "qwen3_5_moe_text": _qwen_hybrid,
        "qwen3_moe": _qwen_moe,
        "qwen3_next": _qwen_hybrid,
    }
)
_NESTED: Mapping[str, str] = MappingProxyType(
    {"gemma3": "gemma3_text", "llama4": "llama4_text", "qwen3_5_moe": "qwen3_5_moe_text"}
)
"""Multimodal types by the language model they hold, for files that do not name it inside."""

_TIED = frozenset({"bloom", "gemma3_text"})
"""Types whose embeddings are tied unless the file says otherwise."""

_DEFAULTS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "bloom": {"max_context": 2048},
        "gemma3_text": {
            "heads": 8,
            "kv_heads": 4,
            "head_dim": 256,
            "vocab": 262208,
            "max_context": 131072,
        },
        "llama4_text": {"head_dim": 128, "vocab": 202048},
    }
)
"""What ``transformers`` assumes for keys these types' published files leave out."""
