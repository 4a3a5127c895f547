"""Rate matching: every rule against trying all worker counts."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.policies.rate_matching import (
    Balanced,
    Degraded,
    Engine,
    FixedRatio,
    Given,
    Match,
    RateMatcher,
    WithinBudget,
    bounded,
    matched,
)

RATES = st.floats(0.01, 100.0)
GPUS = st.integers(1, 64)
TOLERANCE = 0.03


def balanced(a: float, b: float, tolerance: float) -> bool:
    """Tell whether two rates differ by at most the tolerance of the greater, rounding aside."""
    return abs(a - b) <= tolerance * max(a, b) * (1 + 1e-9)


def fewest_gpus(prefill: tuple[float, int], decode: tuple[float, int]) -> tuple[int, int, int]:
    """Try all counts, in order of GPUs; return GPUs and counts."""
    (r_p, g_p), (r_d, g_d) = prefill, decode
    most = int(40 * max(r_p / r_d, r_d / r_p)) + 40
    found = []
    for n in range(1, 40):
        for m in range(1, most):
            for n_p, n_d in ((n, m), (m, n)):
                if balanced(n_p * r_p, n_d * r_d, TOLERANCE):
                    found.append((n_p * g_p + n_d * g_d, n_p, n_d))
    return min(found)


@settings(max_examples=40)
@given(st.floats(0.2, 5.0), GPUS, st.floats(0.2, 5.0), GPUS)
def test_balanced_uses_the_fewest_gpus(r_p: float, g_p: int, r_d: float, g_d: int) -> None:
    """No pair of counts within the tolerance needs fewer GPUs than the one found."""
    match = Balanced(tolerance=TOLERANCE).match(Engine(r_p, g_p), Engine(r_d, g_d))
    gpus, n_p, n_d = fewest_gpus((r_p, g_p), (r_d, g_d))
    assert match.gpus[0] == gpus
    assert (match.prefill_workers[0], match.decode_workers[0]) == (n_p, n_d)


@settings(max_examples=50)
@given(st.lists(st.tuples(RATES, GPUS, RATES, GPUS), min_size=1, max_size=50))
def test_arrays_match_like_single_pairs(rows: list[tuple[float, int, float, int]]) -> None:
    """A vector of pairs gives what each gives alone: balanced, at the slower pool's rate."""
    r_p, g_p, r_d, g_d = (np.array(column) for column in zip(*rows, strict=True))
    whole = Balanced().match(Engine(r_p, g_p), Engine(r_d, g_d))
    for at, row in enumerate(rows):
        alone = Balanced().match(Engine(row[0], row[1]), Engine(row[2], row[3]))
        assert [each[at] for each in whole] == [each[0] for each in alone]
    ours, theirs = whole.prefill_workers * r_p, whole.decode_workers * r_d
    assert all(balanced(a, b, 0.03) for a, b in zip(ours, theirs, strict=True))
    assert (whole.rate == np.minimum(ours, theirs)).all()
    assert (whole.gpus == whole.prefill_workers * g_p + whole.decode_workers * g_d).all()


def test_one_prefill_is_matched_with_many_decodes() -> None:
    """A single prefill engine broadcasts over an array of decode engines."""
    match = Balanced().match(Engine(2.0, 4), Engine(np.array([1.0, 2.0, 4.0]), 8))
    assert match.prefill_workers.tolist() == [1, 1, 2]
    assert match.decode_workers.tolist() == [2, 1, 1]
    assert match.gpus.tolist() == [20, 12, 16]
    assert match.rate.tolist() == [2.0, 2.0, 4.0]


def test_the_tolerance_itself_is_within_it() -> None:
    """Rates exactly the tolerance apart count as balanced."""
    match = Balanced(tolerance=0.25).match(Engine(3.0, 1), Engine(4.0, 1))
    assert (match.prefill_workers[0], match.decode_workers[0]) == (1, 1)


@settings(max_examples=100)
@given(RATES, st.integers(1, 8), RATES, st.integers(1, 8), st.integers(2, 40))
def test_a_budget_is_used_best(r_p: float, g_p: int, r_d: float, g_d: int, budget: int) -> None:
    """No counts within the budget serve a higher rate, nor the same on fewer GPUs."""
    match = WithinBudget(gpus=budget).match(Engine(r_p, g_p), Engine(r_d, g_d))
    every = [
        (min(n_p * r_p, n_d * r_d), -(n_p * g_p + n_d * g_d))
        for n_p, n_d in product(range(1, budget + 1), repeat=2)
        if n_p * g_p + n_d * g_d <= budget
    ]
    if not every:
        assert match.gpus[0] == 0 == match.rate[0]
        return
    rate, gpus = max(every)
    assert match.rate[0] == pytest.approx(rate, rel=1e-9)
    assert match.gpus[0] <= budget
    assert match.gpus[0] == -gpus or match.rate[0] != rate


@settings(max_examples=60)
@given(RATES, st.integers(1, 8), RATES, st.integers(1, 8), st.integers(2, 40))
def test_degraded_rates_within_a_budget(
    r_p: float, g_p: int, r_d: float, g_d: int, budget: int
) -> None:
    """Bounded, AIConfigurator's rule gives the highest degraded rate that fits."""
    match = bounded(Degraded(), budget).match(Engine(r_p, g_p), Engine(r_d, g_d))
    every = [
        min(0.90 * n_p * r_p, 0.92 * n_d * r_d)
        for n_p, n_d in product(range(1, budget + 1), repeat=2)
        if n_p * g_p + n_d * g_d <= budget
    ]
    assert match.rate[0] == pytest.approx(max(every, default=0.0), rel=1e-9)


@settings(max_examples=60)
@given(RATES, GPUS, RATES, GPUS, st.floats(0.1, 10.0), st.integers(2, 500))
def test_a_bounded_ratio_is_met_as_often_as_it_fits(
    r_p: float, g_p: int, r_d: float, g_d: int, ratio: float, budget: int
) -> None:
    """Whole copies of the smallest deployment of the ratio, or none where not even one fits."""
    engines = Engine(r_p, g_p), Engine(r_d, g_d)
    one = FixedRatio(ratio=ratio).match(*engines)
    many = bounded(FixedRatio(ratio=ratio), budget).match(*engines)
    copies = budget // int(one.gpus[0])
    assert [each[0] for each in many] == [copies * each[0] for each in one]


def test_without_a_bound_a_rule_is_itself() -> None:
    """Nothing is changed where there is no budget; of two budgets the smaller holds."""
    for rule in (Balanced(), Degraded(), WithinBudget(gpus=8)):
        assert bounded(rule, None) is rule
    assert bounded(WithinBudget(gpus=8), 4) == WithinBudget(gpus=4)
    assert bounded(WithinBudget(gpus=4), 8) == WithinBudget(gpus=4)


@settings(max_examples=100)
@given(RATES, GPUS, RATES, GPUS, st.floats(0.1, 10.0))
def test_a_fixed_ratio_is_met(r_p: float, g_p: int, r_d: float, g_d: int, ratio: float) -> None:
    """GPUs stand in the ratio asked for, whatever the rates; the slower pool sets the pace."""
    match = FixedRatio(ratio=ratio).match(Engine(r_p, g_p), Engine(r_d, g_d))
    n_p, n_d = match.prefill_workers[0], match.decode_workers[0]
    assert balanced(n_p * g_p, ratio * n_d * g_d, 0.03)
    assert match.rate[0] == min(n_p * r_p, n_d * r_d)


@settings(max_examples=60)
@given(RATES, GPUS, RATES, GPUS)
def test_degraded_rates_are_maximised_per_gpu(r_p: float, g_p: int, r_d: float, g_d: int) -> None:
    """No counts up to 32 give more of the degraded rate per GPU."""
    match = Degraded().match(Engine(r_p, g_p), Engine(r_d, g_d))
    best = max(
        min(0.90 * n_p * r_p, 0.92 * n_d * r_d) / (n_p * g_p + n_d * g_d)
        for n_p, n_d in product(range(1, 33), repeat=2)
    )
    assert match.rate[0] / match.gpus[0] == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_one(rate: float) -> None:
    """A rate that is no positive number of requests/s is refused, with its pool and unit."""
    with pytest.raises(ConfigError, match=r"decode rate .* requests/s"):
        Balanced().match(Engine(1.0, 1), Engine(np.array([1.0, rate]), 1))


@pytest.mark.parametrize("gpus", [0, 1.5, -2])
def test_gpus_must_be_whole(gpus: float) -> None:
    """A worker of a fraction of a GPU is refused."""
    with pytest.raises(ConfigError, match="whole numbers ≥ 1 GPUs"):
        Balanced().match(Engine(1.0, gpus), Engine(1.0, 1))


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        (Balanced, {"tolerance": 0.0}),
        (Balanced, {"tolerance": 1.0}),
        (WithinBudget, {"gpus": 0}),
        (WithinBudget, {"decode": 0.0, "gpus": 2}),
        (FixedRatio, {"ratio": 0.0}),
        (Degraded, {"prefill": 1.1}),
        (Degraded, {"max_workers": 0}),
    ],
)
def test_a_rule_checks_itself(rule: type, values: dict[str, float]) -> None:
    """A value out of range is refused by name."""
    with pytest.raises(ConfigError, match=next(iter(values))):
        rule(**values)


def answering(*columns: object) -> RateMatcher:
    """Return a rule of somebody's own that always answers the same."""

    class Own:
        def match(self, prefill: Engine, decode: Engine) -> Match:  # noqa: ARG002 - a protocol's
            answer: Any = columns if len(columns) < 4 else Match(*columns)  # type: ignore[arg-type]
            return answer

    return Own()


ONES = np.ones(2, np.int64)
TWO = Engine(np.array([1.0, 2.0]), 1), Engine(1.0, 1)


def test_any_rule_may_answer_whole_counts_of_at_least_none() -> None:
    """Whole numbers of any width, none included, and any rate are a match as they are."""
    for rate in (np.array([0.0, 1.5]), np.array([0, 3])):
        told = matched(answering(ONES, 0 * ONES, ONES.astype(np.uint8), rate), *TWO)
        assert told.rate.tolist() == rate.tolist()
        assert told.decode_workers.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ((ONES, ONES, ONES), "match must return a Match"),
        ((ONES, ONES, ONES, ONES[:1]), "rate must be .2,. numbers of at least 0"),
        ((ONES[:1], ONES, ONES, ONES), "prefill_workers must be .2,. numbers of at least 0"),
        ((ONES, 0.5 * ONES, ONES, ONES), "decode_workers must be .* got float64"),
        ((ONES, ONES, -ONES, ONES), "gpus must be .* numbers of at least 0"),
        ((ONES, ONES, ONES, np.array([1.0, np.nan])), "rate must be"),
        ((ONES, ONES, ONES, np.array(["a", "b"])), "rate must be"),
    ],
)
def test_what_is_no_match_is_told(columns: tuple[object, ...], told: str) -> None:
    """A rule of somebody's own that answers something else is named, with what was wrong."""
    with pytest.raises(ConfigError, match=f"rate matching Own: {told}"):
        matched(answering(*columns), *TWO)


@settings(max_examples=30)
@given(RATES, GPUS, RATES, GPUS, st.integers(1, 50), st.integers(1, 50))
def test_given_counts_serve_at_the_slower_pools_pace(
    r_p: float, g_p: int, r_d: float, g_d: int, n_p: int, n_d: int
) -> None:
    """Counts that somebody chose are kept, for each pair; their GPUs and the lower rate follow."""
    rule = Given(prefill_workers=n_p, decode_workers=n_d)
    match = rule.match(Engine(np.array([r_p, 2 * r_p]), g_p), Engine(r_d, g_d))
    assert match.prefill_workers.tolist() == [n_p] * 2
    assert match.decode_workers.tolist() == [n_d] * 2
    assert match.gpus.tolist() == [n_p * g_p + n_d * g_d] * 2
    assert match.rate.tolist() == [min(n_p * r_p, n_d * r_d), min(n_p * 2 * r_p, n_d * r_d)]


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
@pytest.mark.parametrize("name", ["prefill_workers", "decode_workers"])
def test_given_counts_must_be_whole(name: str, bad: float) -> None:
    """One worker is enough; none, or a part of one, is refused."""
    counts: dict[str, int] = {"prefill_workers": 1, "decode_workers": 1}
    Given(**counts)
    with pytest.raises(ConfigError, match=f"{name} must be a whole number ≥ 1 but got {bad!r}"):
        Given(**{**counts, name: bad})  # type: ignore[arg-type]
