"""A checkpoint: the model a ``config.json`` describes, and the precision it is stored in."""

import os
from dataclasses import dataclass
from pathlib import Path

from simulator.errors import ConfigError
from simulator.huggingface.ignorable import IGNORABLE
from simulator.huggingface.quantization import precision_of, quantization
from simulator.huggingface.shapes import shape_of
from simulator.huggingface.source import NESTED, Config, language_model, load
from simulator.layout import Precision
from simulator.model import Model

TOWERS = ("vision_config", "audio_config")
"""Keys of what turns other inputs than text into a model's tokens."""
SHOWN = 8
"""Unread keys named in a note; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model, the ``precision`` its weights and KV cache are stored in, and ``notes``.

    Each note is a sentence on what was assumed, or left aside, of the file.
    """

    model: Model
    precision: Precision
    notes: tuple[str, ...] = ()


def read_config_json(path: str | os.PathLike[str]) -> Model:
    """Return the model that the ``config.json`` at ``path`` describes.

    Raises:
        ConfigError: as :func:`read_checkpoint`.

    """
    return read_checkpoint(path).model


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Return the checkpoint that the ``config.json`` at ``path`` describes.

    The model takes the name of the file, or of its folder where the file is called
    ``config.json``. A file without ``quantization_config`` may have an ``hf_quant_config.json``
    beside it, as NVIDIA's ModelOpt writes it.

    Raises:
        ConfigError: the file cannot be read, is not a JSON object, has an unknown ``model_type``
            or quantisation, or a key that is missing, out of range or contradicts another.

    """
    file = Path(path)
    whole = Config(str(file), load(file))
    config = language_model(whole)
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    shape = shape_of(config)
    try:
        model = Model(name=name or "model", source=f"config.json at {file}", **shape)  # type: ignore[arg-type]
        precision = precision_of(model, config, quantization(config, file))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(file)) else f"{file}: {text}") from None
    _note_towers(whole)
    _note_unread(config)
    return Checkpoint(model=model, precision=precision, notes=tuple(config.notes))


def _note_towers(whole: Config) -> None:
    """Say that only the language model of a multimodal checkpoint is read."""
    towers = [key for key in TOWERS if whole.value(key)]
    if towers:
        whole.note(
            f"{' and '.join(towers)}: only the language model is read; the weights, time and "
            "tokens of other inputs are left out"
        )


def _note_unread(config: Config) -> None:
    """Count the keys that nothing read and that are not known to change nothing."""
    known = IGNORABLE | config.read | {*NESTED, *TOWERS}
    unread = sorted(k for k, v in config.keys.items() if k not in known and _says_something(v))
    if not unread:
        return
    more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
    keys = "1 key is" if len(unread) == 1 else f"{len(unread)} keys are"
    named = ", ".join(key[:60] for key in unread[:SHOWN])
    config.note(f"{keys} not known to this reader and left aside: {named}{more}")


def _says_something(value: object) -> bool:
    """Return whether a value could ask for anything: not null, false, zero or empty."""
    return bool(value)
