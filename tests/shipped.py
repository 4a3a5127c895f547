"""Builds shipped YAML files without the command line, for tests of what they describe."""

import importlib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def build(node: Any) -> Any:
    """Make the objects that ``_target_`` names, innermost first."""
    if not isinstance(node, dict):
        return node
    values = {key: build(value) for key, value in node.items()}
    target = values.pop("_target_", None)
    if target is None:
        return values
    module, name = target.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**values)


def shipped(group: str, name: str) -> Any:
    """Build the object of a shipped YAML file."""
    return build(yaml.safe_load((ROOT / f"conf/{group}/{name}.yaml").read_text(encoding="utf-8")))
