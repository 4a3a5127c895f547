"""The workers' lives on the page: bars and steps say what the lives and the fleet say."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from simulator.cluster.simulation import RunOptions, Simulation
from simulator.elastic import Change, Drain, Elastic, StartUp
from simulator.report.figures import Panel, view
from simulator.report.lives import MAX_LIVES, MAX_STEPS, STATES, lives_panels, spans, steps
from simulator.results import SLO, Results
from tests.fakes import FakeRun, changing_record, fake_record
from tests.simulator.cluster.builders import disaggregated, poisson_traffic

HOSTILE = "<img src=x onerror=alert(1)> & so on"


def results_of(*, changing: bool = True) -> Results:
    """Return the results of a made-up run, with pools that change or not."""
    record = changing_record() if changing else fake_record(FakeRun(requests=50))
    return Results.from_record(record, slo=SLO(), context={})


def panels_of(results: Results) -> dict[str, Panel]:
    """Return the panels of lives by name."""
    return {panel.name: panel for panel in lives_panels(view(results))}


def test_pools_that_never_change_have_no_panels() -> None:
    """Initial workers that all live to the end are no news; one that still drains then is."""
    steady = results_of(changing=False)
    assert panels_of(steady) == {}
    first = replace(steady.workers[0], state="draining", draining_s=1.0)
    assert set(panels_of(replace(steady, workers=(first, *steady.workers[1:])))) == {
        "lives",
        "sizes_prefill",
        "ratio",
    }


def test_a_bar_is_a_life() -> None:
    """Segments in their order span each life from asked to ended; the failed one has a cross."""
    results = results_of()
    figure = panels_of(results)["lives"].figure
    assert figure is not None
    scale = view(results).scale
    bars = {bar.name: bar for bar in figure.data if bar.type == "bar"}
    assert list(bars) == list(STATES)
    for row, life in enumerate(results.workers):
        mine = [
            (bar.base[at], bar.base[at] + bar.x[at])
            for bar in bars.values()
            for at in range(len(bar.y))
            if bar.y[at] == row
        ]
        ends = np.array([mine[0][0], mine[-1][1]]) / scale
        np.testing.assert_allclose(ends, [life.asked_s, life.ended_s], atol=1e-4)
        assert all(before[1] == pytest.approx(after[0]) for before, after in pairwise(mine))
    (cross,) = (trace for trace in figure.data if trace.type == "scatter")
    assert (list(cross.y), cross.text) == ([3], ("planned failure",))


def test_pointing_at_a_bar_tells_why() -> None:
    """Each segment says why its worker was asked for, told to stop and ended; markup is escaped."""
    results = results_of()
    lives = (*results.workers[:4], replace(results.workers[4], why=HOSTILE))
    figure = panels_of(replace(results, workers=lives))["lives"].figure
    assert figure is not None
    words = {bar.name: bar.customdata for bar in figure.data if bar.type == "bar"}
    assert "told to stop: planned<br>stopped: planned" in words["draining"][0]
    assert "failed: planned failure" in words["ready"][3]
    assert "asked for: &lt;img src=x onerror=alert(1)&gt; &amp; so on" in words["starting"][0]
    assert "ready at the end of the run" in words["starting"][0]


def test_the_steps_are_those_of_the_lives() -> None:
    """Desired and each state's count, from tenth to tenth of the made-up run."""
    results = results_of()
    end = view(results).end_s
    wanted = {
        "prefill": ([0, 7, 8, 10], {"desired": [2, 1, 1, 1], "draining": [0, 1, 0, 0]}),
        "decode": ([0, 4, 5, 6, 10], {"desired": [2] * 5, "ready": [2, 1, 1, 2, 2]}),
    }
    for pool, (tenths, columns) in wanted.items():
        times, counts = steps(results, pool, end)
        np.testing.assert_allclose(times, np.array(tenths) * end / 10)
        for name, column in columns.items():
            assert counts[name].tolist() == column
    assert counts["pending"].tolist() == [0, 1, 0, 0, 0]
    assert counts["starting"].tolist() == [0, 0, 1, 0, 0]


def test_the_steps_are_what_the_fleet_counted() -> None:
    """After every event of a run that grows, fails, renews and flips, they are the fleet's own."""
    changes = (
        Change(at_s=1.0, pool="decode", workers=3),
        Change(at_s=2.0, fail=0),
        Change(at_s=3.0, pool="decode", restart=1),
        Change(at_s=5.0, pool="decode", flip=1, to="prefill"),
        Change(at_s=7.0, pool="prefill", workers=1),
    )
    elastic = Elastic(
        changes=changes,
        startup=StartUp(seconds=0.7),
        drain=Drain(mode="abort", grace_s=0.5),
        quota_gpus=4,
    )
    whole = replace(disaggregated(2, 1), elastic=elastic)
    simulation = Simulation(whole, poisson_traffic(80, 8.0, 80, 30, 1), RunOptions(seed=1))
    seen = {}
    while simulation.done < simulation.ledger.size:
        simulation.step()
        seen[simulation.clock.now] = {p: simulation.fleet.counts(p) for p in ("prefill", "decode")}
    results = Results.from_record(simulation.record(), slo=SLO(), context={})
    kinds = {"desired", "flipping", "failed", "renewing", "draining", "pending"}
    assert kinds <= set(results.events["kind"])
    for pool in ("prefill", "decode"):
        times, counts = steps(results, pool, simulation.clock.now)
        assert len(times) > 4
        for now, fleet in seen.items():
            at = np.searchsorted(times, now, side="right") - 1
            assert {name: counts[name][at] for name in counts} == fleet[pool], (pool, now)


def test_many_lives_are_counted_and_the_steps_thinned() -> None:
    """The first lives are drawn, the rest told; the steps stay as few, and right at theirs."""
    results = results_of()
    end, heir = view(results).end_s, results.workers[4]
    moments = np.linspace(0.1, 0.9, 1000) * end
    crowd = tuple(
        replace(heir, worker=5 + at, asked_s=t, granted_s=t, ready_s=t)
        for at, t in enumerate(moments)
    )
    many = replace(results, workers=(*results.workers, *crowd))
    panels = panels_of(many)
    assert "The first 200 of 1,005 workers are shown; the other 805 are" in panels["lives"].note
    figure = panels["lives"].figure
    assert figure is not None
    assert len({row for bar in figure.data for row in bar.y}) == MAX_LIVES
    times, counts = steps(many, "decode", end)
    assert len(times) == MAX_STEPS
    decode = [life for life in many.workers if life.pool == "decode"]
    for at in range(0, MAX_STEPS, 37):
        held = [spans(life, end).get("ready") for life in decode]
        ready = sum(span is not None and span[0] <= times[at] < span[1] for span in held)
        assert counts["ready"][at] == ready


def test_the_ratio_is_that_of_the_pools() -> None:
    """Ready prefill workers over ready decode workers at every moment, and as asked for."""
    results = results_of()
    seen = view(results)
    figure = panels_of(results)["ratio"].figure
    assert figure is not None
    ready, desired = figure.data[:2]
    for name, line in (("ready", ready), ("desired", desired)):
        for pool_time in (0.05, 0.35, 0.65, 0.95):
            now = pool_time * seen.end_s
            counts = []
            for pool in ("prefill", "decode"):
                moments, table = steps(results, pool, seen.end_s)
                counts.append(table[name][np.searchsorted(moments, now, side="right") - 1])
            row = np.searchsorted(np.array(line.x) / seen.scale, now, side="right") - 1
            expected = counts[0] / counts[1] if counts[1] else np.nan
            assert line.y[row] == pytest.approx(expected, nan_ok=True), (name, now)
