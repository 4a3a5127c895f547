"""Replay transforms do what they say, in their order, and account for every row."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workloads.arrivals import Constant
from workloads.errors import TraceError
from workloads.replay import Replay
from workloads.trace import NO_STARTS, Trace, TraceMeta, canonical_frame
from workloads.varying import Stages


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


def chats() -> Trace:
    """Return three sessions of three turns that wait for each other, begun at 0, 10 and 20 s."""
    rows = range(9)
    frame = canonical_frame(
        pl.DataFrame(
            {
                "arrival_s": [10.0 * (row // 3) if row % 3 == 0 else None for row in rows],
                "input_tokens": [100 * (row % 3 + 1) for row in rows],
                "output_tokens": [5] * 9,
                "session_id": [row // 3 for row in rows],
                "parent_id": [row - 1 if row % 3 else None for row in rows],
                "delay_s": [float(row) if row % 3 else None for row in rows],
            }
        )
    )
    meta = TraceMeta(name="t", format="test", rows_read=9, rows_kept=9, loop="closed")
    return Trace(frame, meta)


def test_closed_loops_keep_their_turns_together() -> None:
    """A window holds whole sessions, a faster clock changes no wait, the first are the first."""
    window = Replay(start_s=10, end_s=20).apply(chats(), rng())
    assert window.frame["session_id"].to_list() == [1, 1, 1]
    assert window.frame["arrival_s"].to_list() == [0.0, None, None]
    assert window.frame["parent_id"].to_list() == [None, 0, 1]
    fast = Replay(rate_scale=2).apply(chats(), rng())
    assert fast.frame["arrival_s"].drop_nulls().to_list() == [0.0, 5.0, 10.0]
    assert fast.frame["delay_s"].equals(chats().frame["delay_s"])
    first = Replay(max_requests=4).apply(chats(), rng())
    assert first.frame["session_id"].to_list() == [0, 0, 0, 1]
    spread = Replay(debatch_step_s=1).apply(chats(), rng())
    assert spread.frame["parent_id"].to_list() == chats().frame["parent_id"].to_list()
    rate = Replay(target_rate=2.0).apply(chats(), rng())
    assert rate.mean_rate == pytest.approx(2.0)


def test_closed_loops_lose_long_turns_and_go_on() -> None:
    """Who waited for a turn that is left out waits for the one before, as much longer."""
    lengths = pl.Series("input_tokens", [100, 900, 200] * 3, dtype=pl.Int32)
    trace = Trace(chats().frame.with_columns(lengths), chats().meta)
    kept = Replay(max_input_tokens=500).apply(trace, rng())
    assert kept.frame["parent_id"].to_list() == [None, 0, None, 2, None, 4]
    assert kept.frame["delay_s"].drop_nulls().to_list() == [3.0, 9.0, 15.0]


def test_sessions_begin_when_they_are_told_to() -> None:
    """Starts are drawn anew in the trace's order, and what passes within a session stays."""
    anew = Replay(session_arrivals=Constant(rate=0.5)).apply(chats(), rng())
    assert anew.frame["arrival_s"].drop_nulls().to_list() == [0.0, 2.0, 4.0]
    assert anew.frame["delay_s"].equals(chats().frame["delay_s"])
    assert dict(anew.meta.transforms[0].counts) == {"sessions": 3}
    timed = trace_of(
        [0.0, 1.0, 5.0, 6.0, 7.0],
        session_id=[0, 1, 0, None, 1],
        parent_id=[None, None, 0, None, None],
        delay_s=[None, None, 2.0, None, None],
    )
    moved = Replay(session_arrivals=Constant(rate=0.25)).apply(timed, rng())
    assert moved.frame["session_id"].to_list() == [0, 1, 0, None, 1]
    assert moved.frame["arrival_s"].to_list() == [0.0, 4.0, 5.0, 8.0, 10.0]
    assert moved.frame["parent_id"].to_list() == [None, None, 0, None, None]


def test_sessions_that_begin_at_no_time_are_given_one() -> None:
    """The warning that all begin at once is gone with what it warned of; too few times are told."""
    meta = replace(chats().meta, warnings=(f"file: {NO_STARTS}", "another"))
    trace = Trace(chats().frame, meta)
    anew = Replay(session_arrivals=Constant(rate=1.0)).apply(trace, rng())
    assert anew.meta.warnings == ("another",)
    few = Replay(session_arrivals=Stages(stages=((1.0, 2.0),), cv=0))
    with pytest.raises(TraceError, match="gives 2 times, but there are 3 sessions"):
        few.apply(trace, rng())


def test_closed_loops_are_thinned_by_session() -> None:
    """A session is there with all its turns, or not at all."""
    thin = Replay(rate_scale=0.5, scale_by="sample").apply(chats(), rng())
    counts = thin.frame.group_by("session_id").len()["len"].to_list()
    assert set(counts) == {3}
    assert 0 < len(counts) < 3


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
