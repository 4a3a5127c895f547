"""The published experiments: each composes, what is read of runs is right, and the page says it."""

from dataclasses import replace

import polars as pl
import pytest

from simulator.cli import compose
from simulator.experiment import simulate
from simulator.results import Results
from simulator.validation import published
from simulator.validation.published import STUDIES, Finding, Study, page, reversals


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
    assert published.changes(results, "prefill", 0.0, 100.0) == [-1]


def test_mean_workers_count_lives_within_the_span() -> None:
    """One from the start, one ready half way, one that never was, until after the end."""
    nan = float("nan")

    class Shown:
        lives = pl.DataFrame(
            {"ready_s": [0.0, 50.0, nan], "granted_s": [0.0, 30.0, 90.0], "ended_s": [200.0] * 3}
        )

    results: Results = Shown()  # type: ignore[assignment]
    assert published.workers(results, 100.0) == pytest.approx(1.5)
    assert published.workers(results, 100.0, since="granted_s") == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("value", "out"), [(5.0, 1.0), (6.0, 0.0), (7.0, 0.0), (8.0, 0.0), (8.5, 0.5)]
)
def test_how_far_a_number_lies_outside_a_band(value: float, out: float) -> None:
    """Nothing within it, its ends included."""
    assert published._outside(value, [7.0, 6.0, 8.0]) == out


def test_the_page_counts_what_holds_and_says_why_not() -> None:
    """A note is told of what does not hold alone."""
    found = [
        Finding("one", "1", "1", True, "equal", "not told"),
        Finding("two", "2", "3", False, "equal", "since it is three"),
    ]
    text = page([(STUDIES[0], found)])
    assert "1 of 2 published numbers hold." in text
    assert "| two | 2 | 3 | **no** | equal; since it is three |" in text
    assert "not told" not in text
