"""The planner figure: fixed deployments are what they say, and claims are judged by them."""

import math
from dataclasses import replace

import pytest

from simulator.cli import compose
from simulator.explore.drawing import svg
from simulator.planner_study import FACTOR, PAPER, study
from workloads.workload import SyntheticWorkload


def test_claims_are_judged_by_the_rows_of_the_figure() -> None:
    """A minute of it: planners against three deployments of four GPUs."""
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
    rows = {row["series"]: row for row in figure.curves.to_dicts()}
    fixed = [rows[series] for _, series, *_ in PAPER]
    assert [row["tp"] * (row["prefill"] + row["decode"]) for row in fixed] == [4, 4, 4]
    assert [row["gpus"] for row in fixed] == pytest.approx([4.0] * 3, rel=0.01)
    best = max((rows[name] for name in planners), key=lambda row: row["goodput"] / row["gpus"])
    assert [claim.id for claim in figure.claims] == ["P12a", "P12b", "P12c"]
    for claim, row, (_, _, paper, _) in zip(figure.claims, fixed, PAPER, strict=True):
        times = best["goodput"] / row["goodput"] if row["goodput"] else math.inf
        assert claim.numbers["times"] == pytest.approx(times, rel=1e-3)
        assert claim.held == (paper / FACTOR <= times <= paper * FACTOR)
        assert claim.reason
    assert svg(figure).startswith("<svg")
