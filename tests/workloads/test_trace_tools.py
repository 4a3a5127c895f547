"""Inspecting, fitting, combining and converting traces."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_readers import shared, write

from workloads.arrivals import Gamma, Poisson
from workloads.combining import mix, splice
from workloads.errors import TraceError
from workloads.fitting import distance, fit
from workloads.inspection import hit_tokens, inspect
from workloads.lengths import Constant, LogNormal, LogNormalMixture
from workloads.readers import read_trace
from workloads.trace import Trace, TraceMeta, canonical_frame
from workloads.workload import SyntheticWorkload
from workloads.writing import aiperf, mooncake


def trace_of(**columns: Any) -> Trace:
    """Return a trace of canonical columns; block ids come as lists of ids."""
    size = columns.pop("block_size", None)
    blocks = columns.pop("blocks", None)
    if blocks is not None:
        columns["block_runs"] = [[{"first": b, "n": 1} for b in each] for each in blocks]
    count = len(columns["arrival_s"])
    columns = {"input_tokens": [64] * count, "output_tokens": [5] * count} | columns
    about = {"block_size": size, "tail_block": "partial"} if size else {}
    loop = "closed" if None in columns["arrival_s"] else "open"
    meta = TraceMeta(name="t", format="x", rows_read=count, rows_kept=count, loop=loop, **about)
    return Trace(canonical_frame(pl.DataFrame(columns)), meta)


def drawn(workload: SyntheticWorkload, seed: int = 0) -> Trace:
    """Return a draw."""
    one, other = np.random.default_rng(seed).spawn(2)
    return workload.trace(one, other)


def test_infinite_caches_hit_what_is_published() -> None:
    """Mooncake's synthetic trace: 65.12 % of its prompt tokens."""
    told = inspect(read_trace(shared("mooncake_synthetic.jsonl")))
    assert told.hit_rate == pytest.approx(0.6512, abs=5e-5)


def test_azure_code_is_as_bursty_as_published() -> None:
    """The index of dispersion by window, and the gaps' variation."""
    told = inspect(read_trace(shared("azure2023_code.csv")))
    assert told.gap_cv == pytest.approx(13.15, abs=0.01)
    assert told.rate == pytest.approx(2.566, abs=0.001)
    expected = {0.1: 2.5, 1.0: 13, 10.0: 72, 60.0: 164}
    for width, index in expected.items():
        assert told.dispersion[width] == pytest.approx(index, rel=0.06)
    assert told.hit_rate is None
    assert told.sessions is None


@given(
    prompts=st.lists(
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=0, max_size=5), min_size=1, max_size=12
    )
)
def test_hits_are_those_of_a_set_of_prefixes(prompts: list[list[str]]) -> None:
    """The same as looking up every prefix of every prompt."""
    numbers: dict[tuple[str, ...], int] = {}
    ids = [
        [numbers.setdefault(tuple(p[: k + 1]), len(numbers)) for k in range(len(p))]
        for p in prompts
    ]
    trace = trace_of(arrival_s=[float(k) for k in range(len(ids))], blocks=ids, block_size=16)
    seen: set[int] = set()
    for row, each in enumerate(ids):
        leading = next((k for k, block in enumerate(each) if block not in seen), len(each))
        hits = hit_tokens(trace)
        assert hits is not None
        assert hits[row] == min(16 * leading, 64)
        seen.update(each)


@pytest.mark.parametrize("arrivals", [Poisson(rate=7.0), Gamma(rate=7.0, cv=2.0)])
def test_a_fit_finds_what_was_drawn(arrivals: Any) -> None:
    """Rate, variation, lengths, and a distance that only chance leaves."""
    mixture = LogNormalMixture(weights=(0.4, 0.6), mus=(5.0, 8.0), sigmas=(0.3, 0.5))
    workload = SyntheticWorkload(
        arrivals=arrivals,
        input_lengths=mixture,
        output_lengths=LogNormal(mu=5.0, sigma=0.8),
        requests=20_000,
    )
    found = fit(drawn(workload))
    best = found.arrivals[0]
    assert best.settings["rate"] == pytest.approx(7.0, rel=0.08)
    assert best.distance < 2 / np.sqrt(20_000)
    cv = getattr(arrivals, "cv", 1.0)
    assert best.settings.get("cv", 1.0) == pytest.approx(cv, rel=0.08)
    assert found.input_tokens[0].name == "LogNormalMixture"
    assert sorted(found.input_tokens[0].settings["mus"]) == pytest.approx([5.0, 8.0], abs=0.05)
    assert found.output_tokens[0].distance < 2 / np.sqrt(20_000)
    assert abs(found.correlation) < 0.05


def test_a_fitted_workload_draws_alike() -> None:
    """Built from its settings it is a workload with the trace's mean rate and lengths."""
    from simulator.configuration import build

    trace = read_trace(shared("mooncake_conversation_first5min.jsonl"))
    found = fit(trace)
    again = drawn(build(found.workload, SyntheticWorkload, "workload"))
    assert again.mean_rate == pytest.approx(trace.mean_rate, rel=0.5)
    for name in ("input_tokens", "output_tokens"):
        medians = [float(np.median(each.column(name))) for each in (trace, again)]
        assert medians[1] == pytest.approx(medians[0], rel=0.15)


def test_constant_lengths_are_fitted_as_such() -> None:
    """No distribution is invented where nothing varies."""
    workload = SyntheticWorkload(
        arrivals=Poisson(rate=1.0),
        input_lengths=Constant(tokens=7),
        output_lengths=Constant(tokens=3),
        requests=50,
    )
    found = fit(drawn(workload))
    assert [each.name for each in found.input_tokens] == ["Constant"]
    assert found.input_tokens[0].distance == 0
    with pytest.raises(TraceError, match="three arrivals that are not all at once"):
        fit(trace_of(arrival_s=[0.0, 0.0, 0.0]))


def test_the_distance_is_kolmogorovs() -> None:
    """Against scipy's own."""
    from scipy import stats

    values = np.random.default_rng(1).exponential(2.0, 500)
    cdf = stats.expon(scale=2.3).cdf
    assert distance(values, cdf) == pytest.approx(stats.kstest(values, cdf).statistic)


A = {"arrival_s": [0.0, None, 4.0], "parent_id": [None, 0, None], "delay_s": [None, 1.5, None]}
A |= {"session_id": [0, 0, 1], "input_tokens": [32, 48, 16], "output_tokens": [4, 4, 4]}
B = {"arrival_s": [0.0, 1.0], "input_tokens": [16, 33]}


def test_spliced_traces_follow_each_other() -> None:
    """Times, parents, sessions and blocks of the second are moved behind the first's."""
    one = trace_of(**A, blocks=[[0, 1], [0, 1, 2], [3]], block_size=16)
    two = trace_of(**B, blocks=[[0], [0, 1, 2]], block_size=16)
    both = splice([one, two], gap_s=2.0)
    assert both.frame["arrival_s"].to_list() == [0.0, None, 4.0, 6.0, 7.0]
    assert both.frame["parent_id"].to_list() == [None, 0, None, None, None]
    assert both.frame["session_id"].to_list() == [0, 0, 1, None, None]
    assert both.frame["block_runs"].to_list()[3] == [{"first": 4, "n": 1}]
    assert both.meta.rows_read == 5
    back = splice([two, one])
    assert back.frame["parent_id"].to_list() == [None, None, None, 2, None]


def test_mixed_traces_run_beside_each_other() -> None:
    """Sorted by time; what waited for whom still does."""
    both = mix([trace_of(**A), trace_of(**B)])
    assert both.frame["input_tokens"].to_list() == [32, 16, 48, 33, 16]
    assert both.frame["parent_id"].to_list() == [None, None, 0, None, None]
    assert both.meta.format == "mixed"


def test_traces_of_other_blocks_are_not_combined() -> None:
    """The sizes are named."""
    one = trace_of(arrival_s=[0.0], blocks=[[0]], block_size=16)
    two = trace_of(arrival_s=[0.0], blocks=[[0]], block_size=64)
    with pytest.raises(TraceError, match=r"cannot be mixed: t of 16 tokens.* and t of 64 tokens"):
        mix([one, two])


def test_mooncake_rows_are_read_back(tmp_path: Path) -> None:
    """The sample comes out as it went in."""
    trace = read_trace(shared("mooncake_synthetic.jsonl"))
    written = mooncake(trace)
    assert not written.notes
    again = read_trace(write(tmp_path, "\n".join(written.lines), "again.jsonl"))
    kept = ["arrival_s", "input_tokens", "output_tokens", "block_runs"]
    assert again.frame.select(kept).equals(trace.frame.select(kept))
    with pytest.raises(TraceError, match="no time of their own"):
        mooncake(trace_of(**A))


def test_aiperf_rows_are_read_back_as_deltas(tmp_path: Path) -> None:
    """Later turns carry their new tokens and the time to wait."""
    written = aiperf(trace_of(**A))
    rows = [json.loads(line) for line in written.lines]
    assert rows[1] == {"session_id": "s0", "delay": 1500, "input_length": 12, "output_length": 4}
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "turns.jsonl")
    again = read_trace(path, context="delta")
    assert again.frame["input_tokens"].to_list() == [32, 48, 16]
    assert again.frame["delay_s"].to_list() == [None, 1.5, None]


def test_aiperf_turns_that_do_not_go_on_are_counted() -> None:
    """A prompt shorter than what was said begins a session of its own."""
    short = A | {"input_tokens": [32, 20, 16]}
    written = aiperf(trace_of(**short))
    rows = [json.loads(line) for line in written.lines]
    assert [row["session_id"] for row in rows] == ["s0", "s1", "s2"]
    assert written.notes == ("1 turns that do not go on with their session begin their own",)


calls = st.fixed_dictionaries(
    {
        "parent": st.integers(-1, 12),
        "time": st.none() | st.integers(0, 4),
        "input": st.integers(32, 60),
        "output": st.integers(1, 5),
        "delay": st.none() | st.sampled_from([0.0, 0.5]),
        "blocks": st.none() | st.lists(st.integers(0, 5), max_size=2),
    }
)


@settings(max_examples=30)
@given(rows=st.lists(calls, min_size=1, max_size=12), other=st.lists(calls, min_size=1, max_size=5))
def test_any_trace_can_be_looked_at_combined_and_told(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], other: list[Any]
) -> None:
    """Sessions, gaps in what is known, ties and single requests included; nothing is lost."""
    one, two = linked(rows), linked(other)
    for trace in (one, two, splice([one, two], 1.0), mix([one, two])):
        told = inspect(trace)
        assert told.requests == len(trace)
        assert told.hit_rate is None or 0 <= told.hit_rate <= 1
        if np.unique(trace.frame["arrival_s"].drop_nulls()).size > 2:
            assert 0 <= fit(trace).arrivals[0].distance <= 1
        path = tmp_path_factory.getbasetemp() / "told.jsonl"
        path.write_text("\n".join(aiperf(trace).lines), encoding="utf-8")
        again = read_trace(str(path), context="delta", block_size=16)
        for name in ("input_tokens", "output_tokens"):
            assert sorted(again.frame[name]) == sorted(trace.frame[name])
    assert len(splice([one, two])) == len(mix([one, two])) == len(rows) + len(other)


def linked(rows: list[Any]) -> Trace:
    """Return a trace of rows that wait for earlier ones or have times."""
    from workloads.cleaning import Policy, Raw, clean

    frame = pl.DataFrame(
        {
            "arrival_s": [
                row["time"] if row["time"] is not None or min(row["parent"], at - 1) >= 0 else 1
                for at, row in enumerate(rows)
            ],
            "input_tokens": [row["input"] for row in rows],
            "output_tokens": [row["output"] for row in rows],
            "parent_id": [
                min(row["parent"], at - 1) if min(row["parent"], at - 1) >= 0 else None
                for at, row in enumerate(rows)
            ],
            "delay_s": [row["delay"] for row in rows],
            "session_id": [None if row["time"] == 0 else at % 3 for at, row in enumerate(rows)],
            "block_runs": [
                None if row["blocks"] is None else [{"first": b, "n": 1} for b in row["blocks"]]
                for row in rows
            ],
        },
        schema_overrides={
            "arrival_s": pl.Float64,
            "parent_id": pl.UInt32,
            "delay_s": pl.Float64,
            "session_id": pl.UInt32,
            "block_runs": pl.List(pl.Struct({"first": pl.UInt32, "n": pl.UInt32})),
        },
    )
    about = {"block_size": 16, "tail_block": "partial"}
    raw = Raw(path="t", format="x", frame=frame, first_row=1, about=about)
    return clean(raw, Policy())
