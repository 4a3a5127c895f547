"""The published experiments: each composes, what is read of runs is right, and the page says it."""

from dataclasses import replace

import polars as pl
import pytest

from simulator.cli import compose
from simulator.experiment import simulate
from simulator.results import Results
from simulator.validation import judging, published
from simulator.validation.judging import Assumption, Finding, Runs, Study, Tried, near, reversals
from simulator.validation.published import STUDIES, Judged, page


@pytest.mark.parametrize("study", STUDIES, ids=[study.name for study in STUDIES])
def test_every_variant_composes(study: Study) -> None:
    """At the factor of the band it is asked for."""
    for variant, factor in study.runs:
        experiment = compose(study.overrides(variant, factor))
        assert getattr(experiment.deployment.latency, "scale") == factor  # noqa: B009


def test_memory_of_decode_holds_prefill_back() -> None:
    """200 prompts at once: half are handed over in half a minute, the next when answers end."""
    study = next(each for each in STUDIES if each.name == "burst")
    once = replace(study, band=(1.0,))
    runs = {key: simulate(compose(once.overrides(*key))) for key in once.runs}
    assert [each.holds for each in once.judge(runs)] == [True, True]


def test_a_cliff_is_where_the_tail_rises_most() -> None:
    """Midway between the two; a tail that never doubles has none."""
    count = len(published.SWEPT_S)
    steps = [1.0] * 6 + [5.0] * (count - 6)
    assert published.SWEPT_S[5:7] == (100, 120)
    assert published.cliff_s(steps) == 110
    assert published.cliff_s([1.1**at for at in range(count)]) is None
    assert published.cliff_s([2.0**at for at in range(count)]) == 10  # the first of those alike


def test_reversals_are_turns_not_steps() -> None:
    """Up, up, down, down, up: two turns, of the pool and the span asked for alone."""
    steps = [(10.0, 2, 3), (20.0, 3, 4), (30.0, 4, 4), (40.0, 4, 3), (50.0, 3, 2), (60.0, 2, 3)]
    rows = [
        {"at_s": at, "pool": "decode", "before": before, "granted": granted}
        for at, before, granted in steps
    ]
    rows.append({"at_s": 35.0, "pool": "prefill", "before": 5, "granted": 4})

    class Shown:
        decisions = pl.DataFrame(rows)

    results: Results = Shown()  # type: ignore[assignment]
    assert reversals(results, "decode", 0.0, 100.0) == 2
    assert reversals(results, "decode", 35.0, 55.0) == 0
    assert judging.changes(results, "prefill", 0.0, 100.0) == [-1]


def test_mean_workers_count_lives_within_the_span() -> None:
    """One from the start, one ready half way, one that never was, until after the end."""
    nan = float("nan")

    class Shown:
        lives = pl.DataFrame(
            {"ready_s": [0.0, 50.0, nan], "granted_s": [0.0, 30.0, 90.0], "ended_s": [200.0] * 3}
        )

    results: Results = Shown()  # type: ignore[assignment]
    assert judging.workers(results, 100.0) == pytest.approx(1.5)
    assert judging.workers(results, 100.0, since="granted_s") == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("value", "out"), [(5.0, 1.0), (6.0, 0.0), (7.0, 0.0), (8.0, 0.0), (8.5, 0.5)]
)
def test_how_far_a_number_lies_outside_a_band(value: float, out: float) -> None:
    """Nothing within it, its ends included."""
    assert judging.outside(value, [7.0, 6.0, 8.0]) == out


def test_the_page_counts_what_holds_and_says_why_not() -> None:
    """A note, and what was tried, are told of what does not hold alone."""
    found = [
        Finding("one", "1", "1", True, "equal", "not told"),
        Finding("two", "2", "3", False, "equal", "since it is three"),
    ]
    tried = Tried("it were two", Finding("two", "2", "2", True, "equal"))
    text = page([Judged(STUDIES[0], found, [tried]), Judged(STUDIES[1], found[:1])])
    assert "2 of 3 published numbers hold." in text
    assert "| two | 2 | 3 | **no** | equal; since it is three |" in text
    assert "| two | 2 | it were two | 2 | yes |" in text
    assert text.count("if …") == 1
    assert "not told" not in text


@pytest.mark.parametrize("study", STUDIES, ids=[study.name for study in STUDIES])
def test_every_assumption_composes_and_is_of_something_judged(study: Study) -> None:
    """Changes are overrides of every variant; names are those that findings begin with."""
    for each in study.assumptions:
        for variant in study.variants:
            compose(study.overrides(variant, 1.0, each.changes))
        assert each.of
        assert each.changes


def _judge(runs: Runs) -> list[Finding]:
    values = [float(results.summary["slo_attainment"]) for results in runs.values()]
    return [
        near("apples", 1.0, values),
        near("pears, ripe", 2.0, values),
        near("pears", 3.0, values),
    ]


def test_only_what_does_not_hold_is_doubted() -> None:
    """And an assumption is told of the findings that its names begin, of these."""
    apples = Assumption("a", ("x=1",), ("apples",))
    pears = Assumption("p", ("x=2",), ("pears",))
    study = Study(
        name="n",
        title="t",
        source="s",
        variants={"v": ()},
        judge=_judge,
        assumptions=(apples, pears),
    )

    class Shown:
        def __init__(self, value: float) -> None:
            self.summary = {"slo_attainment": value}

    runs: Runs = {("v", 1.0): Shown(1.0)}  # type: ignore[dict-item]
    found = study.judge(runs)
    assert [each.holds for each in found] == [True, False, False]
    assert study.doubted(found) == (pears,)
    other: Runs = {("v", 1.0): Shown(2.0)}  # type: ignore[dict-item]
    told = [(each.finding.what, each.finding.holds) for each in study.tried(pears, found, other)]
    assert told == [("pears, ripe", True), ("pears", False)]
    assert study.tried(apples, found, other) == ()
    assert study.overrides("v", 1.0, pears.changes)[-1] == "x=2"


def test_what_is_held_depends_on_the_factor() -> None:
    """The flat load keeps its KV: slower steps get fewer requests."""
    study = next(each for each in STUDIES if each.name == "flat_load")
    slow, fast = (study.overrides("guard", factor) for factor in (1.25, 0.8))
    assert "workload.arrivals.rate=3.04" in slow
    assert "workload.arrivals.rate=4.75" in fast


def test_workers_at_most_are_those_ready_at_once() -> None:
    """One that ended before another was ready does not count with it; nor one that is too late."""
    nan = float("nan")

    class Shown:
        lives = pl.DataFrame(
            {"ready_s": [0.0, 10.0, 40.0, 90.0, nan], "ended_s": [nan, 30.0, nan, nan, nan]}
        )

    results: Results = Shown()  # type: ignore[assignment]
    assert judging.most_workers(results, 80.0) == 2
    assert judging.most_workers(results, 95.0) == 3
    assert judging.most_workers(results, 5.0) == 1


def test_an_itl_is_a_complete_answer_s_mean_gap() -> None:
    """As load generators count it: of requests, not of gaps, and of those alone that are done."""

    class Shown:
        requests = pl.DataFrame(
            {
                "first_token_s": [1.0, 2.0, 3.0, 4.0],
                "finish_s": [2.0, 2.1, None, 4.0],
                "output_tokens": [11, 2, 50, 1],
            }
        )

    results: Results = Shown()  # type: ignore[assignment]
    assert judging.mean_gap_ms(results) == pytest.approx((100 + 100) / 2)
    assert judging.tail_gap_ms(results) == pytest.approx(100)
    assert judging.answers(results).height == 2


def test_the_step_is_met_by_as_many_workers_as_its_rates_allow() -> None:
    """One per 180 s: four ready in ten minutes; by Kubernetes' own rates all ten."""
    study = next(each for each in STUDIES if each.name == "step_autoscaled")
    most = {}
    for variant in ("KEDA, 4,000 in, 1,000 out", "HPA, 4,000 in, 1,000 out"):
        results = simulate(compose(study.overrides(variant, 1.0)))
        most[variant[:3]] = judging.most_workers(results, 600.0)
    assert most == {"KED": 10, "HPA": 4}
