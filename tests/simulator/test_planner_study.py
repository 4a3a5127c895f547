"""The planner figure: fixed deployments are what they say, and claims are judged by them."""

from dataclasses import replace

import pytest

from simulator.cli import compose
from simulator.explore.drawing import svg
from simulator.planner_study import FACTOR, study
from workloads.workload import SyntheticWorkload


def test_claims_are_judged_by_the_rows_of_the_figure() -> None:
    """A minute of it: every split of the planner's GPUs, a wrong mapping, and both wrong ratios."""
    base = ["experiment=policies/paper_planner", "rate_matcher.common.gpus=8"]
    planners = {
        name: compose([*base, f"rate_matcher={name}"])
        for name in ("model_predictive", "token_velocity")
    }
    short = {
        name: replace(each, workload=replace(each.workload, duration_s=60.0))  # type: ignore[type-var]
        for name, each in planners.items()
    }
    assert all(isinstance(each.workload, SyntheticWorkload) for each in short.values())
    figure = study(short)
    rows = figure.curves.to_dicts()
    fixed = [row for row in rows if row["series"] == "fixed"]
    gpus = {row["prefill"] + row["decode"] for row in fixed}
    assert len(gpus) == 1
    assert [row["prefill"] for row in fixed] == list(range(1, gpus.pop()))
    planner = [row for row in rows if row["series"] in planners]
    best = max(planner, key=lambda row: row["goodput"] / row["gpus"])
    claims = {claim.id: claim for claim in figure.claims}
    assert set(claims) == {"P12a", "P12b", "P12c"}
    times = best["goodput"] / max(row["goodput"] for row in fixed)
    assert claims["P12a"].numbers["times"] == pytest.approx(times, rel=1e-3)
    for claim, paper in zip(figure.claims, (2.0, 4.0, 8.0), strict=True):
        ratio = claim.numbers["times"]
        assert claim.held == (paper / FACTOR <= float(str(ratio)) <= paper * FACTOR)
        assert claim.reason
    assert svg(figure).startswith("<svg")
