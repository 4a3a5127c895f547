"""Replay transforms do what they say, in their order, and account for every row."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workloads.errors import TraceError
from workloads.replay import Replay
from workloads.trace import Trace, TraceMeta, canonical_frame


def trace_of(arrivals: list[float], **columns: object) -> Trace:
    """Return a trace with these arrivals, inputs 10, 11, …, and further columns."""
    rows = len(arrivals)
    base = {
        "arrival_s": arrivals,
        "input_tokens": range(10, 10 + rows),
        "output_tokens": [5] * rows,
    }
    frame = canonical_frame(pl.DataFrame(base | columns))
    return Trace(frame, TraceMeta(name="t", format="test", rows_read=rows, rows_kept=rows))


def rng() -> np.random.Generator:
    """Return a seeded generator."""
    return np.random.default_rng(3)


def poisson(n: int) -> list[float]:
    """Return n sorted arrivals, the first at 0."""
    return [0.0, *np.cumsum(rng().exponential(1, n - 1)).tolist()]


def test_the_default_changes_nothing() -> None:
    """Without settings a replay is the trace itself."""
    trace = trace_of([0, 1, 2])
    assert Replay().apply(trace, rng()) is trace


def test_window_keeps_its_start_and_leaves_its_end() -> None:
    """The window is half-open, and the clock starts anew in it."""
    result = Replay(start_s=1, end_s=3).apply(trace_of([0, 1, 2, 3]), rng())
    assert result.column("input_tokens").tolist() == [11, 12]
    assert result.column("arrival_s").tolist() == [0, 1]
    assert result.meta.drops == {"outside_window": 2}


def test_cap_keeps_the_first() -> None:
    """The cap counts what is left at the end."""
    result = Replay(start_s=1, max_requests=2).apply(trace_of([0, 1, 2, 3]), rng())
    assert result.column("input_tokens").tolist() == [11, 12]
    assert result.meta.drops == {"outside_window": 1, "over_max_requests": 1}


def test_long_prompts_are_left_out() -> None:
    """Inputs above the limit go, those at the limit stay."""
    result = Replay(max_input_tokens=11).apply(trace_of([0, 1, 2]), rng())
    assert result.column("input_tokens").tolist() == [10, 11]


def test_clock_scaling_keeps_requests_and_divides_gaps() -> None:
    """Twice the rate is half the time, request by request."""
    trace = trace_of([0, 1, 5])
    result = Replay(rate_scale=2).apply(trace, rng())
    assert result.column("arrival_s").tolist() == [0, 0.5, 2.5]
    assert result.column("input_tokens").tolist() == trace.column("input_tokens").tolist()


@given(target=st.floats(0.01, 1000))
def test_target_rate_is_met_by_the_clock(target: float) -> None:
    """The mean rate afterwards is the target."""
    result = Replay(target_rate=target).apply(trace_of(poisson(50)), rng())
    assert result.mean_rate == pytest.approx(target)


@pytest.mark.parametrize("scale", [0.3, 2.7])
def test_sampling_keeps_the_clock_and_scales_the_count(scale: float) -> None:
    """Kept or copied requests are binomial around scale × n (1e-6); the span stays."""
    n = 5000
    trace = trace_of(poisson(n))
    result = Replay(rate_scale=scale, scale_by="sample").apply(trace, rng())
    whole, part = divmod(scale, 1)
    low, high = stats.binom.interval(1 - 1e-6, n, part)
    assert whole * n + low <= len(result) <= whole * n + high
    assert result.duration_s == pytest.approx(trace.duration_s, rel=0.01)
    assert result.meta.rows_read == n
    assert len(result) == n + result.meta.rows_added - sum(result.meta.drops.values())


def test_sampling_is_reproducible() -> None:
    """The same seed gives the same requests."""
    replay = Replay(rate_scale=1.5, scale_by="sample")
    first, second = (replay.apply(trace_of(poisson(50)), rng()) for _ in range(2))
    assert first.equals(second)


def test_copies_do_not_share_prompt_blocks() -> None:
    """A copy has its own block ids and keeps its sharing with others of its copy."""
    runs = [[{"first": 0, "n": 2}], None, [{"first": 0, "n": 1}, {"first": 7, "n": 1}], []]
    trace = trace_of([0, 1, 2, 3], block_runs=runs)
    result = Replay(rate_scale=2, scale_by="sample").apply(trace, rng()).frame
    ids = [
        {run["first"] + k for run in row or [] for k in range(run["n"])}
        for row in result.sort("source_row", "arrival_s")["block_runs"].to_list()
    ]
    assert ids == [{0, 1}, {8, 9}, set(), set(), {0, 7}, {8, 15}, set(), set()]
    assert result["block_runs"].null_count() == 2


def test_thinning_takes_sessions_whole() -> None:
    """A session is kept or left entirely."""
    sessions = [k // 5 for k in range(500)]
    trace = trace_of(poisson(500), session_id=sessions)
    result = Replay(rate_scale=0.5, scale_by="sample").apply(trace, rng())
    sizes = result.frame.group_by("session_id").len()["len"]
    assert set(sizes) == {5}
    assert 0 < sizes.len() < 100


def test_debatching_spreads_within_the_step() -> None:
    """Arrivals stay within their lattice step and no longer tie."""
    trace = trace_of([0.0] * 50 + [3.0] * 50)
    result = Replay(debatch_step_s=3).apply(trace, rng())
    shift = float(dict(result.meta.transforms[-1].counts)["shift_s"])
    steps = (result.column("arrival_s") + shift) // 3
    assert sorted(steps) == [0] * 50 + [1] * 50
    assert np.unique(result.column("arrival_s")).size == 100


def test_closed_loops_are_not_bent() -> None:
    """Sessions whose arrivals depend on completions are refused, not broken."""
    trace = trace_of([0, 1])
    meta = TraceMeta(name="t", format="test", rows_read=2, rows_kept=2, loop="closed")
    with pytest.raises(TraceError, match="open-loop traces only"):
        Replay(max_requests=1).apply(Trace(trace.frame, meta), rng())


def test_sessions_are_not_copied() -> None:
    """Copying sessions is refused with the way out."""
    trace = trace_of([0, 1], session_id=[0, 1])
    with pytest.raises(TraceError, match="use scale_by=clock"):
        Replay(rate_scale=2, scale_by="sample").apply(trace, rng())


@given(
    arrivals=st.lists(st.integers(0, 30), min_size=1, max_size=30).map(sorted),
    replay=st.builds(
        Replay,
        start_s=st.integers(0, 3),
        end_s=st.none() | st.integers(4, 40),
        max_input_tokens=st.none() | st.integers(10, 40),
        debatch_step_s=st.none() | st.just(3.0),
        rate_scale=st.sampled_from([0.4, 1.0, 2.0, 2.6]),
        scale_by=st.sampled_from(["clock", "sample"]),
        max_requests=st.none() | st.integers(1, 40),
    ),
)
def test_any_replay_accounts_for_every_row(arrivals: list[int], replay: Replay) -> None:
    """Read + added = kept + dropped, the clock starts at 0, or nothing is left and that is said."""
    trace = trace_of([float(t - arrivals[0]) for t in arrivals])
    try:
        result = replay.apply(trace, rng())
    except TraceError as error:
        message = str(error)
        if "no request is left" not in message:
            raise
        return
    meta = result.meta
    assert meta.rows_read + meta.rows_added == len(result) + sum(meta.drops.values())
    assert replay == Replay() or result.column("arrival_s")[0] == 0
    assert replay.max_requests is None or len(result) <= replay.max_requests
    recorded = {transform.name for transform in meta.transforms}
    assert set(meta.drops) <= recorded


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"start_s": -1}, "start_s must be at least 0 s but got -1"),
        ({"start_s": 5, "end_s": 5}, r"end_s must be above start_s \(5 s\) but got 5"),
        ({"rate_scale": 0}, "rate_scale must be above 0 but got 0"),
        ({"rate_scale": 2, "target_rate": 3}, "rate_scale or target_rate, not both"),
        ({"target_rate": "fast"}, "target_rate must be a finite number but got 'fast'"),
        ({"scale_by": "magic"}, "scale_by must be one of clock, sample but got 'magic'"),
        ({"max_requests": 0}, "max_requests must be a whole number of at least 1 but got 0"),
        ({"max_input_tokens": 0.5}, "max_input_tokens must be a whole number"),
        ({"debatch_step_s": 0}, "debatch_step_s must be above 0 s"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], expected: str) -> None:
    """Each setting that cannot be has its sentence."""
    with pytest.raises(TraceError, match=expected):
        Replay(**settings)  # type: ignore[arg-type]


def test_an_empty_window_says_so() -> None:
    """A window beyond the trace leaves nothing, and the sentence has the counts."""
    with pytest.raises(TraceError, match=r"no request is left of 3 rows .*outside_window: 3"):
        Replay(start_s=100).apply(trace_of([0, 1, 2]), rng())


def test_all_at_once_has_no_rate_to_target() -> None:
    """A target rate needs at least two instants."""
    with pytest.raises(TraceError, match="target_rate needs arrivals at two instants"):
        Replay(target_rate=3).apply(trace_of([0, 0]), rng())


def test_too_many_copies_are_refused() -> None:
    """A scale that would copy a trace without end is refused."""
    with pytest.raises(TraceError, match="expected at most 1000"):
        Replay(rate_scale=5000, scale_by="sample").apply(trace_of([0, 1]), rng())
