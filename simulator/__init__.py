"""Simulate disaggregated LLM inference.

::

    from simulator import Experiment, simulate
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.experiment import Experiment, simulate

__all__ = ["Experiment", "simulate"]


def _keep_together() -> None:
    """Import this program's packages from beside this one, whatever else goes by their names.

    A user's working directory may well hold a ``conf`` or ``hardware`` of its own.
    """
    for name in ("conf", "hardware", "workloads"):
        spec = PathFinder.find_spec(name, [str(Path(__file__).parent.parent)])
        if name not in sys.modules and spec is not None and spec.loader is not None:
            sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])


_keep_together()


def __getattr__(name: str) -> Any:
    """Import the Python door on first use, so that ``import simulator.errors`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import simulator.experiment

    return getattr(simulator.experiment, name)
