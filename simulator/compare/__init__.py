"""Comparisons: finished run folders side by side, and which of them is best, how surely.

::

    from simulator.compare import Options, compare, find, write

    write(compare(find(["multirun"]).runs, Options()), Path("comparison"))
"""

from simulator.compare.comparison import Comparison, Options, compare
from simulator.compare.measured import Beside, Source, put_beside, read_source
from simulator.compare.reading import Found, Run, find, read_run
from simulator.compare.writing import write

__all__ = [
    "Beside",
    "Comparison",
    "Found",
    "Options",
    "Run",
    "Source",
    "compare",
    "find",
    "put_beside",
    "read_run",
    "read_source",
    "write",
]
