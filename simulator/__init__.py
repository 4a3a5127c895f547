"""Simulate disaggregated LLM inference.

::

    from simulator import Experiment, simulate
"""

import os
import sys

TYPE_CHECKING = False  # without importing typing: Ctrl-C is to be answered from the start
if TYPE_CHECKING:
    from simulator.experiment import Experiment, simulate

__all__ = ["Experiment", "simulate"]


def _keep_together() -> None:
    """Import this program's packages from beside this one, whatever else goes by their names.

    A user's working directory may well hold a ``conf`` or ``hardware`` of its own.
    """
    beside = os.path.dirname(__path__[0])  # noqa: PTH120 - pathlib is slow to import
    sys.path.insert(0, beside)
    try:
        import conf
        import hardware
        import workloads
    finally:
        sys.path.remove(beside)
    del conf, hardware, workloads


_keep_together()


def __getattr__(name: str) -> object:
    """Import the Python door on first use, so that ``import simulator.errors`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import simulator.experiment

    return getattr(simulator.experiment, name)
