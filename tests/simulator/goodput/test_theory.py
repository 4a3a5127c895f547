"""What is found is what queueing theory says, where it has something to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.optimize import brentq

from simulator.cli import compose
from simulator.experiment import Experiment
from simulator.goodput import Options, goodput
from simulator.latency.base import Busiest, Piece, WorkerSpec
from simulator.results import SLO
from workloads.arrivals import Arrivals, Constant, Poisson
from workloads.lengths import Constant as Tokens
from workloads.workload import SyntheticWorkload

PROMPT, SERVICE_S = 1000, 0.03125
"""Tokens of every prompt, and the seconds of its step: the whole of a request with one token."""


@dataclass(frozen=True)
class Fixed:
    """Every step takes as long."""

    stages: int = 1

    def bind(self, worker: WorkerSpec) -> "Fixed":  # noqa: ARG002 - a protocol's
        """Return itself."""
        return self

    def decode_pieces(self, batch: int) -> Sequence[Piece]:  # noqa: ARG002 - a protocol's
        """Return the one piece."""
        return [Piece(math.inf, SERVICE_S, 0.0, 0.0)]

    def step_seconds(
        self,
        tokens: int,  # noqa: ARG002 - a protocol's
        pairs: int,  # noqa: ARG002
        past: int,  # noqa: ARG002
        prompts: int,  # noqa: ARG002
        batch: int,  # noqa: ARG002
        context: int,  # noqa: ARG002
        busiest: Busiest | None = None,  # noqa: ARG002
    ) -> float:
        """Return the step's seconds."""
        return SERVICE_S


def server(arrivals: Arrivals, ttft_s: float, requests: int, workers: int = 1) -> Experiment:
    """Return workers that serve one request at a time, all of them alike."""
    base = compose(
        [
            *("cluster=colocated", f"pools.mixed.workers={workers}"),
            "pools.mixed.batching.max_num_seqs=1",
        ]
    )
    workload = SyntheticWorkload(
        arrivals=arrivals,
        input_lengths=Tokens(tokens=PROMPT),
        output_lengths=Tokens(tokens=1),
        requests=requests,
    )
    deployment = replace(base.deployment, latency=Fixed())
    slo = SLO(ttft_s=ttft_s, tpot_s=None)
    return replace(base, deployment=deployment, workload=workload, slo=slo)


def waits_at_most(seconds: float, rate: float) -> float:
    """Return the share that waits no longer in M/D/1 (Erlang 1909)."""
    terms = [
        (-rate * (seconds - k * SERVICE_S)) ** k
        / math.factorial(k)
        * math.exp(rate * (seconds - k * SERVICE_S))
        for k in range(int(seconds / SERVICE_S) + 1)
    ]
    return (1 - rate * SERVICE_S) * math.fsum(terms)


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_poisson_arrivals_at_one_server(share: float) -> None:
    """The rate at which a share of the requests waits within the target is that of M/D/1.

    The theory's rate lies within the interval found, and the mean over draws within 3 %.
    """
    target = 4.5 * SERVICE_S
    expected = brentq(
        lambda rate: waits_at_most(target - SERVICE_S, rate) - share, 0.01, 0.999 / SERVICE_S
    )
    experiment = server(Poisson(rate=10.0), target, requests=6000)
    found = goodput(experiment, Options(attainment=share, seeds=6, precision=0.01))
    assert found.interval is not None
    low, high = found.interval
    assert low * 0.99 <= expected <= high * 1.01
    assert np.mean(found.each) == pytest.approx(expected, rel=0.03)
    assert found.rate is not None
    assert found.rate <= min(found.each[0], np.mean(found.each)) * 1.0001
    assert found.checked.mean >= share


def test_even_arrivals_are_held_up_to_capacity() -> None:
    """Evenly spaced requests are held up to the server's capacity, but for what a run can queue."""
    requests, target = 4000, 4 * SERVICE_S
    experiment = server(Constant(rate=5.0), target, requests)
    found = goodput(experiment, Options(precision=0.001, seeds=2))
    capacity = 1 / SERVICE_S
    lasting = (target - SERVICE_S) / (0.9 * requests * SERVICE_S)  # what 90 % may queue up
    assert found.alike, "every draw of even arrivals is the same"
    assert found.rate is not None
    assert capacity / (1 + 0.001) <= found.rate <= capacity * (1 + lasting + 0.002)


def test_the_fewest_servers() -> None:
    """Even arrivals at 3.5 servers' capacity take four, whatever there were at first."""
    experiment = server(Constant(rate=3.5 / SERVICE_S), 3 * SERVICE_S, 800, workers=9)
    found = goodput(experiment, Options(find="gpus", seeds=2))
    assert found.counts == (4,)
    few = server(Constant(rate=3.5 / SERVICE_S), 3 * SERVICE_S, 800)
    assert goodput(few, Options(find="gpus", seeds=2)).counts == (4,)
