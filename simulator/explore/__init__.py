"""Explore deployments in steady state: every layout and batch, matched, judged and answered.

::

    from simulator.explore import Exploration, Lengths, Platform, explore

    done = explore(Exploration(platforms=(platform, platform), lengths=Lengths.constant(4096, 512)))
    print(done.advice.sentence)
"""

from simulator.explore.advice import Advice, Limits
from simulator.explore.exploration import Exploration, Explored, Options, explore
from simulator.explore.sensitivity import lengths_map, tornado
from simulator.explore.space import Lengths, Platform

__all__ = [
    "Advice",
    "Exploration",
    "Explored",
    "Lengths",
    "Limits",
    "Options",
    "Platform",
    "explore",
    "lengths_map",
    "tornado",
]
