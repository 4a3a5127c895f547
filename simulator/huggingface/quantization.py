"""What ``quantization_config`` says: the dtypes of weights, activations and KV, part by part."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from simulator.errors import ConfigError
from simulator.huggingface.modules import Module, modules
from simulator.huggingface.patterns import Names, translated
from simulator.huggingface.source import Config, load
from simulator.layout import PARTS, Precision
from simulator.model import Model

MAX_WORK = 2000
"""Layers × hundreds of patterns that one file may ask to be compared."""
KEYS = ("quantization_config", "compression_config")
BESIDE = "hf_quant_config.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """How a matrix is stored and what it is multiplied with; ``group`` weights share a scale."""

    weights: str
    activations: str = "bf16"
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """``stored`` for the modules ``targets`` names; ``None``: every one but the LM head's.

    ``parts`` limits a rule to parts of the precision, as MXFP4 means experts alone.
    """

    stored: Stored
    targets: Names | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scheme:
    """The first of ``rules`` that means a module decides, unless ``ignored`` does."""

    rules: tuple[Rule, ...] = ()
    ignored: Names = dataclasses.field(default_factory=Names)
    kv: str | None = None

    def of(self, module: Module) -> Stored | None:
        """Return how ``module`` is stored, ``None`` as the checkpoint's own dtype."""
        if any(name in self.ignored for name in module.names):
            return None
        return next((rule.stored for rule in self.rules if _means(rule, module)), None)


def _means(rule: Rule, module: Module) -> bool:
    if rule.parts and module.part not in rule.parts:
        return False
    if rule.targets is None:
        return module.part != "lm_head"
    return any(name in rule.targets for name in module.names)


# --- from a scheme to a precision -----------------------------------------------------------


def precision_of(model: Model, config: Config, scheme: Scheme) -> Precision:
    """Return the precision of a checkpoint of ``model`` that is stored by ``scheme``.

    A part that a scheme stores in several ways counts as the one that most of its parameters
    have, and a note says so.
    """
    base = _base(config)
    tallies: dict[str, Counter[Stored | None]] = {}
    for module in modules(model, config.kind):
        tallies.setdefault(module.part, Counter())[scheme.of(module)] += module.params
    found = {part: _most(config, part, tally) for part, tally in tallies.items()}
    main = "weights" if model.is_moe else "dense_ffn"
    dtypes = {part: stored.weights if stored else base for part, stored in found.items()}
    weights = dtypes.pop(main)
    parts = _parts(dtypes, weights, base)
    return Precision(
        weights=weights,
        kv=scheme.kv or base,
        group_size=_group(config, found.values()),
        **parts,
        **_activations(found, main, base),
    )


def _base(config: Config) -> str:
    """Return the dtype of what is not quantised: that of the file; engines halve 32 bits."""
    name = str(config.text("torch_dtype") or "bfloat16").removeprefix("torch.")
    if name not in _DTYPES:
        raise config.fail("torch_dtype", f"one of {', '.join(_DTYPES)}")
    if name == "float32":
        config.note("torch_dtype float32 is read as bf16, in which engines serve such checkpoints")
    return _DTYPES[name]


_DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "bfloat16": "bf16",
        "bf16": "bf16",
        "float16": "fp16",
        "fp16": "fp16",
        "half": "fp16",
        "float32": "bf16",
        "auto": "bf16",
    }
)


def _most(config: Config, part: str, tally: Counter[Stored | None]) -> Stored | None:
    (most, params), *others = tally.most_common()
    if others:
        share = 1 - params / tally.total()
        words = "attention" if part == "attention" else part.replace("_", " ")
        kept = most.weights if most else "16 bits"
        config.note(
            f"quantization_config stores {share:.0%} of the {words} parameters otherwise than in "
            f"{kept}: all of them are counted as {kept}"
        )
    return most


def _parts(dtypes: Mapping[str, str], weights: str, base: str) -> dict[str, str]:
    """Return the parts that are stored otherwise than they would be if nothing were said."""
    parts = {part: dtype for part, dtype in dtypes.items() if part in PARTS}
    if parts.get("lm_head") == base:
        del parts["lm_head"]
    if parts.get("linear_attention") == parts.get("attention", weights):
        parts.pop("linear_attention", None)
    if "linear_attention" in parts and "attention" not in parts:
        return parts
    plain = [p for p in ("attention", "dense_ffn", "shared_experts") if parts.get(p) == weights]
    return {part: dtype for part, dtype in parts.items() if part not in plain}


def _activations(found: Mapping[str, Stored | None], main: str, base: str) -> dict[str, str]:
    """Return what weights are multiplied with, and attention's where that differs."""
    order = (main, "dense_ffn", "shared_experts")
    ffn = next((stored for part in order if (stored := found.get(part))), None)
    attention = found.get("attention") or found.get("linear_attention")
    activations = _wide(ffn.activations, base) if found.get(main) and ffn else base
    own = _wide(attention.activations, base) if attention else activations
    return {"activations": activations} | (
        {} if own == activations else {"attention_activations": own}
    )


def _wide(activations: str, base: str) -> str:
    return base if activations == "bf16" else activations


def _group(config: Config, stored: Iterable[Stored | None]) -> int | None:
    groups = {each.group for each in stored if each is not None and each.group}
    if len(groups) > 1:
        config.note(
            f"quantization_config has groups of {', '.join(map(str, sorted(groups)))} weights: "
            f"all are counted as groups of {min(groups)}"
        )
    return min(groups, default=None)


# --- from a file to a scheme ----------------------------------------------------------------


def quantization(config: Config, file: Path) -> Scheme:
    """Return how ``config`` says its checkpoint is quantised, or the file beside it.

    Raises:
        ConfigError: a method, a number of bits or a list of modules that is not known here.

    """
    settings = next((found for key in KEYS if (found := config.inner(key)) is not None), None)
    if settings is None:
        settings = _beside(config, file)
    if settings is None or not settings.keys:
        return Scheme()
    settings = _unwrapped(settings)
    method = _method(settings)
    scheme = METHODS[method](settings)
    _check_work(settings, scheme, config.layers)
    return scheme


def _beside(config: Config, file: Path) -> Config | None:
    if not file.name.endswith("config.json"):
        return None
    other = file.with_name(file.name.removesuffix("config.json") + BESIDE)
    if not other.is_file():
        return None
    config.note(f"quantisation is read from {other.name}")
    return Config(str(other), load(other), notes=config.notes)


def _unwrapped(settings: Config) -> Config:
    """Return ModelOpt's own file as it is put into a config.json: producer beside quantisation."""
    inner = settings.inner("quantization")
    if inner is None:
        return settings
    outer = {k: v for k, v in settings.keys.items() if k in ("quant_method", "producer")}
    return dataclasses.replace(inner, keys={**outer, **inner.keys})


def _method(settings: Config) -> str:
    method = settings.text("quant_method")
    if method is None:
        guesses = {"quant_algo": "modelopt", "config_groups": "compressed-tensors"}
        method = next((name for key, name in guesses.items() if key in settings), None)
    if method == "fp8" and "quant_algo" in settings:
        method = "modelopt"
    if method is None or method.lower() not in METHODS:
        raise settings.fail("quant_method", f"one of {', '.join(sorted(METHODS))}")
    return method.lower()


def _check_work(settings: Config, scheme: Scheme, layers: int) -> None:
    lists = [scheme.ignored, *(rule.targets for rule in scheme.rules if rule.targets)]
    if sum(len(each.wild) for each in lists) * layers > MAX_WORK:
        raise ConfigError(
            f"{settings.file}: {settings.prefix}ignore must hold fewer patterns than would be "
            f"compared with the modules of {layers} layers"
        )


def readable(pattern: object) -> bool:
    """Return whether ``pattern`` is a module's name, a glob or an expression that can be read."""
    return isinstance(pattern, str) and translated(pattern) is not None


def _names(settings: Config, *keys: str) -> Names:
    """Return the module names listed under any of ``keys``."""
    listed: list[str] = []
    for key in keys:
        for name in settings.sequence(key) or []:
            if not readable(name):
                raise settings.fail(
                    key, f"a list of module names, globs or plain expressions, not {name!r:.60},"
                )
            listed.append(str(name))
    return Names.of(listed)


def _integer(settings: Config, key: str, activations: str = "bf16") -> Stored:
    """Return integer weights of ``key`` bits in groups, multiplied in 16 bits."""
    bits = settings.count(key)
    if bits not in (4, 8):
        raise settings.fail(key, "4 or 8, the only integer weights modelled,")
    size = settings.value("group_size")
    group = None if size in (None, -1, 0) else settings.count("group_size")
    return Stored(f"int{bits}", activations, group)


def _awq(settings: Config) -> Scheme:
    bits = "bits" if "bits" in settings else "w_bit"
    if "q_group_size" in settings:
        settings = dataclasses.replace(
            settings, keys={**settings.keys, "group_size": settings.keys["q_group_size"]}
        )
    return Scheme(
        (Rule(_integer(settings, bits)),),
        _names(settings, "modules_to_not_convert"),
    )


def _gptq(settings: Config) -> Scheme:
    """Return GPTQ's weights; ``modules_in_block_to_quantize`` names the only ones that are."""
    stored = _integer(settings, "bits")
    only = settings.sequence("modules_in_block_to_quantize") or []
    inside = [name for names in only for name in (names if isinstance(names, list) else [names])]
    if not all(map(readable, inside)):
        raise settings.fail("modules_in_block_to_quantize", "lists of module names")
    block = Rule(stored, Names.of(map(str, inside)) if inside else None)
    head = (Rule(stored, Names.of(["lm_head"])),) if settings.flag("lm_head", False) else ()
    kept = _names(settings, "modules_to_not_convert") | _removed(settings)
    return Scheme((block, *head), kept)


def _removed(settings: Config) -> Names:
    """Return what GPTQModel's ``dynamic`` takes out (``-:``); other bits per module are refused."""
    dynamic = settings.inner("dynamic")
    removed = []
    for pattern, change in dynamic.keys.items() if dynamic is not None else ():
        name = f"re:{pattern.removeprefix('-:')}"
        if not readable(name) or (not pattern.startswith("-:") and change not in ({}, None)):
            raise settings.fail(
                "dynamic", f"a mapping of plain expressions left out (-:), not {pattern!r:.60},"
            )
        if pattern.startswith("-:"):
            removed.append(name)
    return Names.of(removed)


def _fp8(settings: Config) -> Scheme:
    scheme = settings.text("activation_scheme")
    if scheme not in (None, "dynamic", "static"):
        raise settings.fail("activation_scheme", "dynamic or static")
    stored = Stored(_blocks(settings, "weight_block_size"), "fp8")
    ignored = _names(settings, "modules_to_not_convert", "ignored_layers", "ignore")
    kv = settings.text("kv_cache_scheme") if "kv_cache_scheme" in settings else None
    return Scheme((Rule(stored),), ignored, "fp8" if kv else None)


def _blocks(settings: Config, key: str) -> str:
    """Return the 8-bit float whose scales cover blocks of the size under ``key``."""
    size = settings.sequence(key)
    if size is None:
        return "fp8"
    if size == [1, 32]:
        return "mxfp8"
    if size != [128, 128]:
        raise settings.fail(key, "[128, 128] or [1, 32], the only blocks modelled,")
    return "fp8_block"


def _mxfp4(settings: Config) -> Scheme:
    """Return gpt-oss' experts; attention, routers and embeddings stay as they are."""
    ignored = _names(settings, "modules_to_not_convert")
    return Scheme((Rule(Stored("mxfp4"), parts=("weights",)),), ignored)


def _bitsandbytes(settings: Config) -> Scheme:
    """Return 4 bits with an fp32 scale per 64, itself in 8 bits if doubly quantised; or int8."""
    ignored = _names(settings, "llm_int8_skip_modules")
    four = settings.flag("load_in_4bit", False) or settings.flag("_load_in_4bit", False)
    eight = settings.flag("load_in_8bit", False) or settings.flag("_load_in_8bit", False)
    if four == eight:
        raise settings.fail("load_in_4bit", "true where load_in_8bit is not")
    # Scales take as many bytes as fp16 scales of groups of 32, or doubly quantised of 128, would.
    group = 128 if settings.flag("bnb_4bit_use_double_quant", False) else 32
    stored = Stored("int4", group=group) if four else Stored("int8")
    return Scheme((Rule(stored),), ignored)


def _fbgemm(settings: Config) -> Scheme:
    ignored = _names(settings, "modules_to_not_convert")
    return Scheme((Rule(Stored("fp8", "fp8")),), ignored)


# --- ModelOpt -------------------------------------------------------------------------------

ALGORITHMS: Mapping[str, Stored] = MappingProxyType(
    {
        "FP8": Stored("fp8", "fp8"),
        "FP8_PER_CHANNEL_PER_TOKEN": Stored("fp8", "fp8"),
        "FP8_PB_REAL": Stored("fp8_block", "fp8"),
        "FP8_PB_WO": Stored("fp8_block", "fp8"),
        "FP8_BLOCK_SCALES": Stored("fp8_block", "fp8"),
        "INT8_SQ": Stored("int8", "int8"),
        "INT4_AWQ": Stored("int4", "bf16", 128),
        "MXFP8": Stored("mxfp8", "mxfp8"),
        "MXFP4": Stored("mxfp4", "mxfp4"),
        "NVFP4": Stored("nvfp4", "nvfp4"),
        "NVFP4_AWQ": Stored("nvfp4", "nvfp4"),
        "W4A16_AWQ": Stored("int4", "bf16", 128),
        "W4A16_GPTQ": Stored("int4", "bf16", 128),
        "W4A16_MXFP4": Stored("mxfp4", "bf16"),
        "W4A16_NVFP4": Stored("nvfp4", "bf16"),
        "W4A8_AWQ": Stored("int4", "fp8", 128),
        "W4A8_MXFP4_FP8": Stored("mxfp4", "fp8"),
        "W4A8_NVFP4_FP8": Stored("nvfp4", "fp8"),
        "W8A16": Stored("int8", "bf16"),
        "W8A8_SQ_PER_CHANNEL": Stored("int8", "int8"),
    }
)
"""What NVIDIA's ModelOpt calls its formats."""
KV_ALGORITHMS: Mapping[str, str] = MappingProxyType(
    {"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4"}
)
PLAIN = ("NONE", "")


def _modelopt(settings: Config) -> Scheme:
    ignored = _names(settings, "exclude_modules", "ignore")
    kv = _modelopt_kv(settings)
    algorithm = settings.text("quant_algo")
    if algorithm is not None and algorithm.upper() == "MIXED_PRECISION":
        return Scheme(tuple(_layered(settings)), ignored, kv)
    if algorithm is None and "config_groups" in settings:
        return dataclasses.replace(_compressed(settings), kv=kv)
    if "quant_algo" in settings.keys and (algorithm or "").upper() in PLAIN:
        return Scheme((), ignored, kv)
    return Scheme((Rule(_algorithm(settings, "quant_algo")),), ignored, kv)


def _algorithm(settings: Config, key: str) -> Stored:
    name = settings.text(key)
    if name is None or name.upper() not in ALGORITHMS:
        raise settings.fail(key, f"one of MIXED_PRECISION, {', '.join(ALGORITHMS)}")
    stored = ALGORITHMS[name.upper()]
    size = settings.value("group_size")
    if stored.weights == "int4" and size is not None:
        return dataclasses.replace(stored, group=settings.count("group_size"))
    wanted = {"nvfp4": 16, "mxfp4": 32, "mxfp8": 32}.get(stored.weights)
    if wanted is not None and size is not None and size != wanted:
        raise settings.fail("group_size", f"{wanted} with {name}")
    return stored


def _layered(settings: Config) -> Iterator[Rule]:
    """Yield a rule per format of the modules that ``quantized_layers`` lists one by one."""
    layers = settings.inner("quantized_layers")
    if layers is None:
        raise settings.fail("quantized_layers", "a mapping of modules beside MIXED_PRECISION")
    named: dict[Stored, list[str]] = {}
    seen: dict[str, Stored] = {}
    for name in layers.keys:
        if not readable(name):
            raise layers.fail(name[:60], "a module's name")
        inner = layers.inner(name)
        if inner is None:
            raise layers.fail(name[:60], "an object")
        key = repr(inner.keys)
        if key not in seen:
            seen[key] = _algorithm(inner, "quant_algo")
        named.setdefault(seen[key], []).append(name)
    for stored, names in named.items():
        yield Rule(stored, Names.of(names))


def _modelopt_kv(settings: Config) -> str | None:
    if isinstance(settings.value("kv_cache_scheme"), dict):
        return _kv_scheme(settings)
    key = "kv_cache_quant_algo" if "kv_cache_quant_algo" in settings else "kv_cache_scheme"
    name = settings.text(key)
    if (name or "").upper() in PLAIN:
        return None
    if (name := str(name)).upper() not in KV_ALGORITHMS:
        raise settings.fail(key, f"one of {', '.join(KV_ALGORITHMS)}")
    return KV_ALGORITHMS[name.upper()]


def _kv_scheme(settings: Config) -> str | None:
    scheme = settings.inner("kv_cache_scheme")
    if scheme is None:
        return None
    bits, kind = scheme.count("num_bits"), scheme.text("type")
    known = {(8, "float"): "fp8", (8, "int"): "int8", (4, "float"): "nvfp4"}
    if (bits, str(kind)) not in known:
        raise scheme.fail("num_bits", "8 of float or int, or 4 of float,")
    return known[bits, str(kind)]


# --- compressed-tensors ---------------------------------------------------------------------

CLASSES = frozenset({"Linear", "ColumnParallelLinear", "RowParallelLinear", "FusedMoE", "MoE"})
"""Targets that mean a kind of module, not a name."""


def _compressed(settings: Config) -> Scheme:
    sparsity = settings.inner("sparsity_config")
    if sparsity is not None and sparsity.text("format") not in (None, "dense"):
        raise sparsity.fail("format", "dense: sparse weights are not modelled;")
    groups = settings.inner("config_groups")
    if groups is None:
        raise settings.fail("config_groups", "a mapping of groups")
    rules = [rule for name in groups.keys for rule in _group_rules(groups, name)]
    named = [rule for rule in rules if rule.targets is not None]  # names go before classes
    classes = [rule for rule in rules if rule.targets is None]
    kv = None if isinstance(settings.value("kv_cache_scheme"), str) else _kv_scheme(settings)
    return Scheme((*named, *classes), _names(settings, "ignore"), kv)


def _group_rules(groups: Config, name: str) -> Iterator[Rule]:
    group = groups.inner(name)
    if group is None:
        return
    weights = group.inner("weights")
    if weights is None:
        return
    stored = Stored(_weights(weights), group=_weight_group(weights))
    inputs = group.inner("input_activations")
    if inputs is not None:
        stored = dataclasses.replace(stored, activations=_inputs(inputs, stored.weights))
    targets = [t for t in group.sequence("targets") or ["Linear"] if t not in CLASSES]
    if len(targets) < len(group.sequence("targets") or ["Linear"]):
        yield Rule(stored)
    if targets:
        named = dataclasses.replace(group, keys={"targets": targets})
        yield Rule(stored, _names(named, "targets"))


def _weights(weights: Config) -> str:
    """Return the dtype of a group's weights."""
    bits, kind = weights.count("num_bits"), weights.text("type") or "int"
    strategy = weights.text("strategy")
    if kind == "int" and bits in (4, 8):
        return f"int{bits}"
    if kind == "float" and bits == 8:
        if strategy == "block" or "block_structure" in weights:
            return _blocks(weights, "block_structure")
        return "mxfp8" if strategy == "group" and weights.value("group_size") == 32 else "fp8"
    if kind == "float" and bits == 4:
        return "mxfp4" if weights.value("group_size") == 32 else "nvfp4"
    raise weights.fail("num_bits", f"4 or 8 of type {kind!r:.20} float or int,")


def _weight_group(weights: Config) -> int | None:
    size = weights.value("group_size")
    if weights.text("type") == "float" or size in (None, -1, 0):
        return None
    return weights.count("group_size")


def _inputs(inputs: Config, weights: str) -> str:
    bits, kind = inputs.count("num_bits", 16), inputs.text("type") or "int"
    if bits == 16:
        return "bf16"
    if bits == 8 and kind in ("float", "int"):
        return "int8" if kind == "int" else ("mxfp8" if weights == "mxfp8" else "fp8")
    if bits == 4 and kind == "float":
        return "mxfp4" if weights == "mxfp4" else "nvfp4"
    raise inputs.fail("num_bits", f"4 of type float, or 8 or 16, with type {kind!r:.20},")


# --- Quark ----------------------------------------------------------------------------------

_QUARK: Mapping[str, str] = MappingProxyType(
    {"fp8_e4m3": "fp8", "fp4": "mxfp4", "int4": "int4", "uint4": "int4", "int8": "int8"}
)


def _quark(settings: Config) -> Scheme:
    if settings.value("layer_quant_config") or settings.value("layer_type_quant_config"):
        raise settings.fail("layer_quant_config", "empty: formats by layer are not read;")
    whole = settings.inner("global_quant_config")
    if whole is None:
        raise settings.fail("global_quant_config", "an object")
    weights = _quark_dtype(whole, "weight")
    if weights is None:
        raise whole.fail("weight", "an object")
    inputs = _quark_dtype(whole, "input_tensors")
    group = {"int4": 128}.get(weights)
    return Scheme(
        (Rule(Stored(weights, inputs or "bf16", group)),),
        _names(settings, "exclude"),
    )


def _quark_dtype(whole: Config, key: str) -> str | None:
    node = whole.inner(key)
    if node is None:
        return None
    name = str(node.text("dtype"))
    if name not in _QUARK:
        raise node.fail("dtype", f"one of {', '.join(_QUARK)}")
    return _QUARK[name]


METHODS: Mapping[str, Callable[[Config], Scheme]] = MappingProxyType(
    {
        "auto-round": _gptq,
        "awq": _awq,
        "bitsandbytes": _bitsandbytes,
        "compressed-tensors": _compressed,
        "compressed_tensors": _compressed,
        "fbgemm_fp8": _fbgemm,
        "fp8": _fp8,
        "gptq": _gptq,
        "intel/auto-round": _gptq,
        "modelopt": _modelopt,
        "modelopt_fp4": _modelopt,
        "modelopt_mixed": _modelopt,
        "mxfp4": _mxfp4,
        "quark": _quark,
    }
)
"""Methods of quantisation, by ``quant_method``."""
