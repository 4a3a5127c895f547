"""Which layers of a model see what: full attention, a window, a state, and which hold experts."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from simulator.huggingface.source import Config, Shape

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "full_attention": "full",
        "attention": "full",
        "deepseek_sparse_attention": "full",
        "indexed_attention": "full",
        "sliding_attention": "window",
        "chunked_attention": "window",
        "linear_attention": "linear",
    }
)
"""What an entry of ``layer_types`` means here."""


def layer_kinds(config: Config, default: Sequence[str]) -> list[str]:
    """Return each layer's kind: ``full``, ``window`` or ``linear``; ``layer_types`` decides.

    Raises:
        ConfigError: the list has not one entry per layer (speculative ones may follow), or names
            a kind of layer that is not modelled.

    """
    given = config.sequence("layer_types", config.layers, spare=_speculative(config))
    if given is None:
        return list(default)
    for kind in given:
        if not isinstance(kind, str) or kind not in KINDS:
            raise config.fail(
                "layer_types", f"made of {', '.join(sorted(KINDS))}, not {kind!r:.40},"
            )
    return [KINDS[str(kind)] for kind in given]


def _speculative(config: Config) -> int:
    return config.count("num_nextn_predict_layers", 0, least=0)


def windows(config: Config, key: str, default: Sequence[str], size: int | None = None) -> Shape:
    """Return the windowed layers and their window, the number of tokens under ``key``."""
    return sized(config, key, layer_kinds(config, default), size)


def sized(config: Config, key: str, kinds: Sequence[str], size: int | None = None) -> Shape:
    """Return the windowed ones among layers of these kinds, and their window."""
    if "linear" in kinds:
        raise config.fail("layer_types", "free of linear_attention in a model of this type")
    if "window" not in kinds:
        config.read.add(key)
        return {}
    return {"window": config.count(key, size), "full_attention_layers": kinds.count("full")}


def every(interval: int, layers: int, kind: str, other: str) -> list[str]:
    """Return ``kind`` for every ``interval``-th layer and ``other`` between."""
    return [other if (at + 1) % interval else kind for at in range(layers)]


def switched_window(config: Config, kinds: Sequence[str]) -> Shape:
    """Return the windows of Qwen's models: off unless ``use_sliding_window`` is true."""
    config.read.update(("max_window_layers", "sliding_window", "layer_types"))
    if not config.flag("use_sliding_window", False):
        return {}
    if "sliding_window" in config.keys and "sliding_window" not in config:
        return {}
    return windows(config, "sliding_window", kinds, 4096)


def mistral_window(config: Config) -> Shape:
    """Return the windows of Mistral and its kin: on all layers wherever a size is given."""
    if "sliding_window" not in config:
        return {}
    return windows(config, "sliding_window", ["window"] * config.layers)


def patterned(config: Config, key: str, meaning: Mapping[Any, str]) -> list[str] | None:
    """Return each layer's kind from a list of codes under ``key``, ``None`` if absent.

    Raises:
        ConfigError: not one code per layer, or one without a meaning here.

    """
    given = config.sequence(key, config.layers, spare=_speculative(config))
    if given is None:
        return None
    known = {repr(code): kind for code, kind in meaning.items()}
    for code in given:
        if repr(code) not in known:
            raise config.fail(key, f"made of {', '.join(known)}, not {code!r:.40},")
    return [known[repr(code)] for code in given]


# --- experts --------------------------------------------------------------------------------


def expert_layers(config: Config, default: Sequence[bool]) -> Shape:
    """Return how many layers are dense, and whether they come first; lists of layers decide."""
    kinds = patterned(config, "mlp_layer_types", {"dense": "dense", "sparse": "sparse"})
    if kinds is None and isinstance(config.value("moe_layer_freq"), list):
        kinds = patterned(config, "moe_layer_freq", {0: "dense", 1: "sparse"})
    sparse = list(default) if kinds is None else [kind == "sparse" for kind in kinds]
    dense = sparse.count(False)
    return {"dense_layers": dense, "interleaved_ffn": not all(sparse[dense:])}


def first_dense(config: Config) -> list[bool]:
    """Return DeepSeek's sparse layers: after ``first_k_dense_replace``, each ``moe_layer_freq``."""
    first = config.count("first_k_dense_replace", 0, least=0)
    every_nth = config.value("moe_layer_freq")
    step = 1 if isinstance(every_nth, list) else config.count("moe_layer_freq", 1)
    return [at >= first and at % step == 0 for at in range(config.layers)]


def index_layers(config: Config) -> int | None:
    """Return the layers with a sparse-attention indexer of their own, ``None`` where all have one.

    A list ``indexer_types``, a pattern of F and S, or every ``index_topk_freq``-th layer from
    ``index_skip_topk_offset`` on; the other layers attend to what the one before them chose.
    """
    meaning = {"full": "full", "shared": "shared", "F": "full", "S": "shared"}
    kinds = patterned(config, "indexer_types", meaning)
    pattern = config.value("index_topk_pattern")
    if kinds is None and isinstance(pattern, str):
        codes = Config(config.file, {**config.keys, "index_topk_pattern": list(pattern)})
        kinds = patterned(codes, "index_topk_pattern", meaning)
    elif kinds is None:
        kinds = patterned(config, "index_topk_pattern", meaning)
    step = config.count("index_topk_freq", 1)
    offset = config.count("index_skip_topk_offset", 2, least=0)
    if kinds is None:
        places = [max(at - offset + 1, 0) % step for at in range(config.layers)]
        own = places.count(0)
    else:
        own = kinds.count("full")
    if not own:
        raise config.fail("indexer_types", "full for at least one layer")
    return None if own == config.layers else own
