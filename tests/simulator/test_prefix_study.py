"""The prefix figure: its rows are the runs, and claims are judged by them."""

import pytest

from simulator.cli import compose
from simulator.explore.drawing import svg
from simulator.prefix_study import BY_CACHES, IN_TURN, STABLE, study


def test_claims_are_judged_by_the_rows_of_the_figure() -> None:
    """A short run of two shared parts: the curves hold what the claims say of them."""
    base = ["workload=documents", "workload.requests=80", "workload.arrivals.rate=4"]
    runs = {
        (router, share): compose([*base, f"router={router}", f"workload.share={share}"])
        for router in (BY_CACHES, IN_TURN)
        for share in (0.2, 0.8)
    }
    figure = study(runs)
    rows = {(row["series"], row["share"]): row for row in figure.curves.to_dicts()}
    assert rows.keys() == runs.keys()
    assert all(row["hit_share"] > 0 for row in rows.values())
    first, second = figure.claims
    mine, theirs = ([rows[name, s]["ttft_s"] for s in (0.2, 0.8)] for name in (BY_CACHES, IN_TURN))
    assert first.numbers["ttft by caches"] == pytest.approx(mine, rel=1e-3)
    assert first.held == all(one < other for one, other in zip(mine, theirs, strict=True))
    assert second.held == (max(mine) <= STABLE * min(mine) and theirs[1] > theirs[0])
    assert second.reason
    assert svg(figure).startswith("<svg")
