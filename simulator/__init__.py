"""Simulate disaggregated LLM inference.

::

    from simulator import Experiment, simulate
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.experiment import Experiment, simulate

__all__ = ["Experiment", "simulate"]


def __getattr__(name: str) -> Any:
    """Import the Python door on first use, so that ``import simulator.errors`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import simulator.experiment

    return getattr(simulator.experiment, name)
