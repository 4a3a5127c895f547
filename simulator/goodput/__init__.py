"""Goodput: the highest request rate, or the fewest GPUs, that hold the targets, by simulation.

::

    from simulator.goodput import Options, goodput

    found = goodput(experiment, Options(attainment=0.95))
    print(found.rate, found.interval)
"""

from simulator.goodput.options import Options
from simulator.goodput.study import Found, goodput
from simulator.goodput.trials import Trials

__all__ = ["Found", "Options", "Trials", "goodput"]
