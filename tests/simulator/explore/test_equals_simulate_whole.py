"""Explore and simulate agree on workers that compute prompts whole while their decodes wait."""

from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment, Pool
from simulator.explore.evaluate import collect, colocated_points
from simulator.explore.space import Lengths, Platform, Space
from simulator.layout import Layout
from simulator.record import RunRecord
from simulator.results import gap_quantiles

SHORT, LONG = Lengths.constant(1000, 64), Lengths.constant(1000, 512)
GENERATIONS = 6
"""Requests each seat serves; the middle half of them is measured."""


class Case(NamedTuple):
    """A worker: ``prompts`` at a time stall ``batch`` decodes, per attention rank and stage."""

    platform: str
    layout: Layout
    lengths: Lengths
    batch: int
    prompts: int

    @property
    def groups(self) -> int:
        """Attention ranks times microbatches: each has a batch of its own."""
        return self.layout.attention_dp * self.layout.pp

    @property
    def seats(self) -> int:
        """Sequences in the worker's batch."""
        return self.batch * self.groups

    @property
    def together(self) -> int:
        """Prompts in one of the worker's steps."""
        return self.prompts * self.groups


CASES = [
    Case("dense", Layout(), SHORT, 96, 1),
    Case("dense", Layout(tp=2), SHORT, 48, 2),
    Case("dense", Layout(tp=2), SHORT, 8, 4),
    Case("dense", Layout(pp=2), SHORT, 48, 2),
    Case("experts", Layout(attention_dp=8, ep=8), SHORT, 48, 2),
    Case("experts", Layout(tp=2, attention_dp=4, ep=8), SHORT, 64, 1),
    Case("dense", Layout(tp=2), LONG, 96, 1),
    Case("dense", Layout(pp=2), LONG, 48, 1),
    Case("experts", Layout(attention_dp=8, ep=8), LONG, 64, 1),
]


def named(case: Case) -> str:
    """Return a case in words."""
    return f"{case.layout}, {case.prompts} of {case.batch}, OSL {case.lengths.osl[0]}"


def point(case: Case, platform: Platform) -> dict[str, float]:
    """Return explore's point of this worker."""
    space = Space(
        platform=platform,
        lengths=case.lengths,
        layouts=(case.layout,),
        prompt_batches=(case.prompts,),
    )
    points = collect(colocated_points(space))
    (found,) = points.filter(pl.col("chunk") == 0, pl.col("batch") == case.seats).to_dicts()
    return found


def simulated(case: Case, platform: Platform) -> RunRecord:
    """Run the worker with twice as many clients as seats, so that prompts always wait."""
    isl, osl = case.lengths.isl[0], case.lengths.osl[0]
    batching = Batching(
        max_num_batched_tokens=case.together * isl,
        max_num_seqs=case.seats,
        chunked_prefill=False,
        piggyback=False,
        reserve="full",
    )
    pool = Pool(
        role="mixed",
        workers=1,
        layout=case.layout,
        precision=platform.precision,
        batching=batching,
    )
    deployment = Deployment(
        model=platform.model,
        gpu=platform.gpu,
        fabric=platform.fabric,
        latency=platform.latency,
        pools=(pool,),
    )
    requests = GENERATIONS * case.seats
    outputs = np.full(requests, osl, np.int32)
    outputs[: case.seats] = staggered(case)
    load = Traffic(
        arrival_s=np.zeros(requests),
        input_tokens=np.full(requests, isl, np.int32),
        output_tokens=outputs,
        concurrency=2 * case.seats,
    )
    return run(deployment, load, RunOptions())


def staggered(case: Case) -> NDArray[np.float64]:
    """Return the first seats' output tokens: those computed together end together, evenly spread.

    Equal ones would all end at once for ever, a steady state of another kind.
    """
    share = (np.arange(case.seats) // case.together + 0.5) * case.together / case.seats
    return 2 + np.floor(share * (case.lengths.osl[0] - 1))


def steady(case: Case, record: RunRecord) -> tuple[float, float]:
    """Return requests/s and mean TPOT over whole generations in the middle of the run."""
    order = np.argsort(record.requests["finish_s"])
    low, high = len(order) // 4, 3 * len(order) // 4
    finish, first = (record.requests[name][order] for name in ("finish_s", "first_token_s"))
    count = (high - low) // case.seats * case.seats
    rate = count / (finish[low + count] - finish[low])
    tpot = (finish - first)[low : low + count] / (case.lengths.osl[0] - 1)
    return float(rate), float(tpot.mean())


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_stalled_worker_keeps_its_promise(case: Case, request: pytest.FixtureRequest) -> None:
    """Throughput, TPOT and the gap at a stall are those of the point within 1 %."""
    platform: Platform = request.getfixturevalue(case.platform)
    promised = point(case, platform)
    record = simulated(case, platform)
    rate, tpot = steady(case, record)
    assert rate == pytest.approx(promised["rate"], rel=0.01)
    assert tpot == pytest.approx(promised["tpot_s"], rel=0.01)
    stalls = (case.batch / case.prompts - 1.0) / case.lengths.steps
    most = stalls % 1.0 or 1.0  # the share of steps after which as many as ever stall
    (longest,) = gap_quantiles(record.gaps, np.array([1.0 - most / 4.0]))
    assert longest == pytest.approx(promised["gap_s"], rel=0.01)
