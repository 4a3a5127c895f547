"""A planner under constant load asks for as many workers as exploring finds to be the least."""

import math

import numpy as np
import polars as pl
import pytest

from simulator.cli import compose
from simulator.cluster.simulation import RunOptions, Simulation
from simulator.experiment import traffic_of
from simulator.explore.evaluate import collect, decode_points, prefill_points
from simulator.explore.space import Lengths, Platform, Space
from simulator.layout import Layout
from simulator.policies.dynamo.inventory import Budget
from simulator.policies.dynamo.sla import DynamoSla
from simulator.policies.engines import Engine, Shape, Targets
from simulator.policies.forecasting import Constant
from tests.simulator.policies.views import flow, pool, seen

SAME = (
    *("model=llama_3_1_8b", "hardware=h100_sxm", "fabric=hgx8", "workload.requests=1"),
    *("pools.prefill.layout.tp=1", "pools.decode.layout.tp=1"),
    *("pools.decode.batching.max_num_seqs=4096", "pools.prefill.batching.max_num_seqs=4096"),
)
TRAFFIC = [(1000, 200, 0.5, 0.02), (4000, 500, 1.0, 0.015), (250, 1000, 0.2, 0.03)]


@pytest.fixture(scope="module")
def engines() -> dict[str, Engine]:
    """Return what a controller knows of both pools' workers."""
    experiment = compose(SAME)
    traffic = traffic_of(experiment.workload, experiment.trace())
    fleet = Simulation(experiment.deployment, traffic, RunOptions(seed=0)).fleet
    return {role: each.crew.engine for role, each in fleet.pools.items()}


def explored(platform: Platform, lengths: Lengths, targets: Targets) -> tuple[float, float]:
    """Return the highest rates (requests/s) of one GPU's worker within the targets."""
    space = Space(platform=platform, lengths=lengths, layouts=(Layout(),), attainment=0.5)
    prompts, answers = collect(prefill_points(space)), collect(decode_points(space))
    return (
        float(prompts.filter(pl.col("ttft_s") <= targets.ttft_s)["rate"].max()),  # type: ignore[arg-type]
        float(answers.filter(pl.col("tpot_s") <= targets.tpot_s)["rate"].max()),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("isl", "osl", "ttft_s", "tpot_s"), TRAFFIC)
def test_a_constant_load_gets_the_static_optimum(
    dense: Platform, engines: dict[str, Engine], isl: int, osl: int, ttft_s: float, tpot_s: float
) -> None:
    """Dynamo's planner over any rate: as many workers as exploring's rates ask for, or one off.

    Both look at batches a few percent apart, so that rates differ by as much, and the planner
    takes a request's mean context and prompts in whole steps.
    """
    targets = Targets(ttft_s, tpot_s)
    found = explored(dense, Lengths.constant(isl, osl), targets)
    planner = DynamoSla(
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        forecaster=Constant(),
        budget=Budget(max_gpu_budget=None),
        max_change=10_000,
    )
    for role, best in zip(("prefill", "decode"), found, strict=True):
        capacity = engines[role].capacity(role, Shape(isl, osl), targets)
        assert capacity is not None
        assert capacity.rate == pytest.approx(best, rel=0.05), role
    for rate in np.geomspace(1.0, 500.0, 9).tolist():
        pools = {role: pool(1, engine=engine) for role, engine in engines.items()}
        plan, _ = planner.decide(seen(180, flow(rate, isl, osl), **pools), planner.initial())
        for role, best in zip(("prefill", "decode"), found, strict=True):
            least = math.ceil(rate / best)
            asked = plan.workers.get(role, 1)
            assert abs(asked - least) <= max(1, math.ceil(0.05 * least)), (role, rate)
