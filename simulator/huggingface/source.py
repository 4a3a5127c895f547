"""A configuration file's keys, read with checks that name file, key and value."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from simulator.errors import ConfigError
from simulator.model import MAX_LAYERS

MAX_BYTES = 16_000_000
"""The largest published one, which lists every quantised expert, has 3 MB; more is not one."""

Shape = dict[str, object]

ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
        "num_attention_heads": ("n_head", "n_heads"),
        "num_key_value_heads": ("num_kv_heads", "n_head_kv", "num_attention_groups"),
        "hidden_size": ("n_embd", "d_model"),
        "num_experts_per_tok": (
            *("experts_per_token", "num_experts_per_token", "top_k_experts", "moe_top_k"),
        ),
        "n_routed_experts": ("num_experts", "num_local_experts", "moe_num_experts"),
        "num_experts": ("n_routed_experts", "num_local_experts"),
        "num_local_experts": ("num_experts", "n_routed_experts"),
        "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length"),
        "torch_dtype": ("dtype",),
    }
)
"""Other names of a key, as older files and other model types' classes spell it."""

NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Keys under which a multimodal file keeps its language model."""


@dataclass(frozen=True, slots=True)
class Config:
    """The keys of one file; ``read`` collects those that were asked for, ``notes`` what to say."""

    file: str
    keys: Mapping[str, object]
    read: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    prefix: str = ""

    def __contains__(self, key: str) -> bool:
        """Return whether ``key``, or another name of it, is there and not null."""
        return self.value(key) is not None

    def value(self, key: str) -> object:
        """Return what ``key`` or another name of it holds; ``None`` where there is none.

        Raises:
            ConfigError: two names of it hold different values.

        """
        names = (key, *ALIASES.get(key, ()))
        self.read.update(names)
        held = {name: self.keys[name] for name in names if self.keys.get(name) is not None}
        if not held:
            return None
        first, value = next(iter(held.items()))
        for name, other in held.items():
            if name != first and other != value:
                raise self.fail(name, f"that of {first}, another name of it, {_shown(value)}")
        return value

    def fail(self, key: str, expected: str, problem: str = "must be") -> ConfigError:
        """Return the refusal of what ``key`` holds, saying what was expected of it."""
        name = next((n for n in (key, *ALIASES.get(key, ())) if n in self.keys), key)
        got = f"got {_shown(self.keys[name])}" if name in self.keys else "the key is missing"
        return ConfigError(f"{self.file}: {self.prefix}{name} {problem} {expected} but {got}")

    def note(self, text: str) -> None:
        """Keep a sentence on what was assumed or left aside, once."""
        if text not in self.notes:
            self.notes.append(text)

    def count(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number ≥ ``least``; a missing or null key takes the default, if any."""
        value = self.value(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < least:
            raise self.fail(key, f"a whole number >= {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number above 0; a missing or null key takes the default, if any."""
        value = self.value(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(key, "a number above 0")
        if not 0 < value < 1e18 or not math.isfinite(value):
            raise self.fail(key, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false; a missing or null key takes the default."""
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def text(self, key: str) -> str | None:
        """Return text, ``None`` for a missing or null key."""
        value = self.value(key)
        if value is not None and not isinstance(value, str):
            raise self.fail(key, "text")
        return value

    def sequence(self, key: str, length: int | None = None, spare: int = 0) -> list[object] | None:
        """Return a list of ``length`` (and at most ``spare`` more, cut off), ``None`` if absent."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.fail(key, "a list")
        if length is not None and not length <= len(value) <= length + spare:
            raise self.fail(key, f"a list of {length} layers, not {len(value)},")
        return value if length is None else value[:length]

    def indices(self, key: str) -> frozenset[int] | None:
        """Return the layers (from 0) that a list names, ``None`` if absent."""
        value = self.sequence(key)
        if value is None:
            return None
        for at in value:
            if type(at) is not int or not 0 <= at < self.layers:
                raise self.fail(key, f"a list of layers below {self.layers}, not {at!r:.40},")
        return frozenset(at for at in value if isinstance(at, int))

    def inner(self, key: str) -> "Config | None":
        """Return the object under ``key`` as a configuration of its own, ``None`` if absent."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return Config(self.file, value, notes=self.notes, prefix=f"{self.prefix}{key}.")

    @property
    def kind(self) -> str:
        """The model type."""
        return str(self.keys.get("model_type"))

    @property
    def layers(self) -> int:
        """The number of layers, speculative ones left out."""
        layers = self.count("num_hidden_layers")
        if layers > MAX_LAYERS:  # lists of as many are made
            raise self.fail("num_hidden_layers", f"at most {MAX_LAYERS}")
        return layers


def load(file: Path) -> Mapping[str, object]:
    """Return the JSON object in ``file``.

    Raises:
        ConfigError: it cannot be read, is too large, or holds something else.

    """
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


def language_model(config: Config) -> Config:
    """Return the language model's part of a multimodal configuration, or the whole.

    It inherits what the outer part says of the whole checkpoint: tied embeddings, dtype and
    quantisation, where it does not say itself.
    """
    inner = next((found for key in NESTED if (found := config.inner(key)) is not None), None)
    if inner is None:
        return config
    outer = config.keys.get("model_type")
    named = {"model_type": outer} if isinstance(outer, str) else {}
    own = {key: value for key, value in inner.keys.items() if value is not None}
    whole = {key: config.keys[key] for key in INHERITED if config.keys.get(key) is not None}
    if any(key in own for key in ("torch_dtype", "dtype")):
        whole = {key: value for key, value in whole.items() if "dtype" not in key}
    model = Config(config.file, named | whole | own, notes=config.notes, prefix=inner.prefix)
    return language_model(model) if any(key in own for key in NESTED) else model


INHERITED = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")
"""Keys of the outer part of a multimodal file that hold for the language model too."""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
