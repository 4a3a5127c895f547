"""YAML as it is read everywhere: plain values only, by the compiled parser where there is one."""

from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str) -> Any:
    """Return what a text says: mappings, lists, texts, numbers, dates, true, false and null.

    Raises:
        yaml.YAMLError: the text is no YAML, or asks for more than that.
    """
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader
