"""Prompts that begin alike have the hit rate asked for, counted by a slow cache of blocks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.arrivals import Poisson
from workloads.errors import TraceError
from workloads.lengths import Constant, LogNormal
from workloads.offered import at_rate
from workloads.shared import SharedPrefixes
from workloads.trace import Trace

TREE = SharedPrefixes(
    arrivals=Poisson(rate=4.0),
    requests=1500,
    input_lengths=LogNormal(median=900, sigma=0.9, max=20_000),
    output_lengths=Constant(tokens=10),
    branches=(1, 6, 10),
    zipf=1.0,
    hit_rate=0.5,
)
DOCUMENTS = replace(
    TREE,
    branches=(20,),
    zipf=0.0,
    hit_rate=None,
    share=0.5,
    input_lengths=Constant(tokens=14_000),
)


def drawn(workload: SharedPrefixes, seed: int = 3) -> Trace:
    """Return a workload's requests."""
    rngs = (np.random.default_rng([seed, stream]) for stream in range(2))
    return workload.trace(*rngs)


def found(trace: Trace) -> float:
    """Return the share of prompt tokens that a cache finds which keeps every block it ever saw."""
    seen: set[int] = set()
    hits = 0
    for runs, tokens in trace.frame.select("block_runs", "input_tokens").iter_rows():
        ids = [each for run in runs for each in range(run["first"], run["first"] + run["n"])]
        assert len(ids) == len(set(ids)) == tokens // 16
        hits += 16 * next((at for at, each in enumerate(ids) if each not in seen), len(ids))
        seen.update(ids)
    return hits / int(trace.frame["input_tokens"].sum())


@pytest.mark.parametrize("hit_rate", [0.0, 0.2, 0.37, 0.65, 0.9])
def test_the_hit_rate_is_the_one_asked_for(hit_rate: float) -> None:
    """From nothing to nine tenths, to within a block of each prompt."""
    trace = drawn(replace(TREE, hit_rate=hit_rate, requests=3000))
    told = trace.meta.transforms[-1].counts
    assert found(trace) == pytest.approx(told["hit_rate"], abs=1e-12)
    assert told["hit_rate"] == pytest.approx(hit_rate, abs=0.002)


@settings(max_examples=30)
@given(
    branches=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    share=st.floats(0, 0.99),
    zipf=st.sampled_from([0.0, 0.7, 2.0]),
    seed=st.integers(0, 99),
)
def test_what_is_told_is_what_a_cache_finds(
    branches: list[int], share: float, zipf: float, seed: int
) -> None:
    """For any tree and share, the rate told is the one that a slow cache counts."""
    workload = replace(
        TREE, branches=tuple(branches), share=share, hit_rate=None, zipf=zipf, requests=120
    )
    trace = drawn(workload, seed)
    assert found(trace) == pytest.approx(trace.meta.transforms[-1].counts["hit_rate"], abs=1e-12)


def test_documents_are_shared_by_their_group() -> None:
    """Of 20 groups half of each prompt is common, but for each group's first request."""
    trace = drawn(DOCUMENTS)
    blocks = 7000 // 16 * 16
    assert found(trace) == pytest.approx(blocks * (1500 - 20) / (1500 * 14_000), abs=1e-12)
    firsts = {runs[0]["first"] for runs in trace.frame["block_runs"].to_list()}
    assert len(firsts) == 20


def test_lengths_and_times_are_the_plain_workloads() -> None:
    """Sharing changes no length and no arrival, and another rate no block."""
    one, other = drawn(TREE), drawn(replace(TREE, hit_rate=0.2, branches=(3,)))
    for name in ("arrival_s", "input_tokens", "output_tokens"):
        np.testing.assert_array_equal(one.column(name), other.column(name))
    fast = at_rate(TREE, 40.0)
    assert isinstance(fast, SharedPrefixes)
    assert drawn(fast).frame["block_runs"].equals(one.frame["block_runs"])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: replace(TREE, share=0.5), "give share or hit_rate, and not both"),
        (lambda: replace(TREE, hit_rate=None), "give share or hit_rate, and not both"),
        (lambda: replace(TREE, hit_rate=1.0), r"hit_rate must lie in \[0, 1\) but got 1.0"),
        (lambda: replace(TREE, branches=()), "branches must be a list of numbers"),
        (lambda: replace(TREE, branches=(0,)), "branches must be a whole number of at least 1"),
        (lambda: replace(TREE, branches=(1000, 1000, 1000)), "leaves, expected at most 1000000"),
        (lambda: replace(TREE, zipf=-1), "zipf must be at least 0 but got -1"),
        (lambda: replace(TREE, requests=None), "give requests or duration_s"),
        (
            lambda: drawn(replace(TREE, hit_rate=0.9, requests=50, branches=(500,))),
            "hit_rate 0.9 cannot be reached, as 50 requests on 500 leaves find at most",
        ),
    ],
)
def test_impossible_prefixes_are_refused(make: Callable[[], object], expected: str) -> None:
    """Each setting that cannot be has its sentence."""
    with pytest.raises(TraceError, match=expected):
        make()
