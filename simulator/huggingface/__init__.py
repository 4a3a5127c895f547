"""Reads a HuggingFace ``config.json`` into a model and the precision its checkpoint is stored in.

Where a published configuration leaves a key out, the default is that of the model type's class in
the ``transformers`` library (5.24). Every key that changes weights, KV, context or layers is read
or refused by name; keys that change none of them are listed in :mod:`.ignorable`, and any other is
counted in a note.
"""

from simulator.huggingface.checkpoint import Checkpoint, read_checkpoint, read_config_json

__all__ = ["Checkpoint", "read_checkpoint", "read_config_json"]
