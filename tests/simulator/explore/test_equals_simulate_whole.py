"""Explore and simulate agree on workers that compute prompts whole while their decodes wait."""

from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment, Pool
from simulator.explore.colocated import colocated_points
from simulator.explore.evaluate import collect
from simulator.explore.space import Lengths, Platform, Space
from simulator.layout import Layout
from simulator.record import RunRecord
from simulator.results import gap_quantiles

SHORT, LONG = (1000, 64), (1000, 512)
GENERATIONS = 8
"""Requests each seat serves; the middle half of them is measured."""


class Case(NamedTuple):
    """A worker: up to ``prompts`` at a time stall ``batch`` decodes, per attention rank and stage.

    Lengths are drawn evenly from half to one and a half of the means: equal ones would keep the
    ranks in step for ever, a steady state of another kind.
    """

    platform: str
    layout: Layout
    means: tuple[int, int]
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
    def lengths(self) -> Lengths:
        """The requests' lengths, in the order they come."""
        rng = np.random.default_rng(5)
        isl, osl = (
            rng.integers(mean // 2, mean * 3 // 2, GENERATIONS * self.seats, endpoint=True)
            for mean in self.means
        )
        return Lengths(isl=tuple(map(int, isl)), osl=tuple(map(int, osl)))


CASES = [
    Case("dense", Layout(), SHORT, 96, 1),
    Case("dense", Layout(tp=2), SHORT, 48, 2),
    Case("dense", Layout(tp=2), SHORT, 64, 4),
    Case("dense", Layout(pp=2), SHORT, 48, 2),
    Case("experts", Layout(attention_dp=8, ep=8), SHORT, 24, 1),
    Case("experts", Layout(attention_dp=8, ep=8), SHORT, 48, 2),
    Case("experts", Layout(tp=2, attention_dp=4, ep=8), SHORT, 64, 1),
    Case("dense", Layout(attention_dp=4), LONG, 32, 1),
    Case("dense", Layout(tp=2), LONG, 96, 1),
    Case("dense", Layout(pp=2), LONG, 48, 1),
    Case("experts", Layout(attention_dp=8, ep=8), LONG, 32, 1),
]


def named(case: Case) -> str:
    """Return a case in words."""
    return f"{case.layout}, {case.prompts} of {case.batch}, OSL {case.means[1]}"


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
    lengths = case.lengths
    batching = Batching(
        max_num_batched_tokens=round(case.prompts * case.groups * lengths.mean_isl),
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
    load = Traffic(
        arrival_s=np.zeros(len(lengths.isl)),
        input_tokens=np.array(lengths.isl, np.int32),
        output_tokens=np.array(lengths.osl, np.int32),
        concurrency=2 * case.seats,
    )
    return run(deployment, load, RunOptions())


def steady(record: RunRecord) -> tuple[float, float]:
    """Return output tokens/s and the mean TPOT (each token alike) in the middle of the run."""
    columns = record.requests
    order = np.argsort(columns["finish_s"])
    low, high = len(order) // 4, 3 * len(order) // 4
    finish, first, osl = (columns[n][order] for n in ("finish_s", "first_token_s", "output_tokens"))
    rate = osl[low:high].sum() / (finish[high] - finish[low])
    tpot = (finish - first)[low:high].sum() / (osl - 1)[low:high].sum()
    return float(rate), float(tpot)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_stalled_worker_keeps_its_promise(case: Case, request: pytest.FixtureRequest) -> None:
    """Throughput and TPOT are those of the point within 4 %, over a few lives.

    Prompts are computed as seats fall free, alone or side by side on the attention ranks.
    """
    platform: Platform = request.getfixturevalue(case.platform)
    promised = point(case, platform)
    record = simulated(case, platform)
    rate, tpot = steady(record)
    assert rate == pytest.approx(promised["rate"] * case.lengths.mean_osl, rel=0.04)
    assert tpot == pytest.approx(promised["tpot_s"], rel=0.04)
    some = 1.0 - np.exp(-case.seats / case.lengths.steps)  # of the iterations follow a stall
    stalled = gap_quantiles(record.gaps, 1.0 - some * np.linspace(0.0, 1.0, 500)).mean()
    assert stalled == pytest.approx(promised["gap_s"], rel=0.1)
