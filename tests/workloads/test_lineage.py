"""Who waits for whom stays true when rows are dropped and sorted."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import lineage
from workloads.cleaning import Policy, Raw, clean
from workloads.errors import TraceError
from workloads.lineage import NONE, Links
from workloads.replay import Replay
from workloads.trace import Trace
from workloads.where import Where


def read(rows: list[dict[str, Any]], policy: Policy | None = None) -> Trace:
    """Return the trace of rows with t (s), parent and delay, and sizes where not 10 and 5."""
    frame = pl.DataFrame(
        {
            "arrival_s": [row["t"] for row in rows],
            "input_tokens": [row.get("input", 10) for row in rows],
            "output_tokens": [row.get("output", 5) for row in rows],
            "parent_id": [row.get("parent") for row in rows],
            "delay_s": [row.get("delay") for row in rows],
            "joins": [row.get("joins") for row in rows],
        },
        schema_overrides={
            "arrival_s": pl.Float64,
            "parent_id": pl.UInt32,
            "delay_s": pl.Float64,
            "joins": pl.List(pl.Struct({"parent_id": pl.UInt32, "delay_s": pl.Float64})),
        },
    )
    return clean(Raw(path="t", format="test", frame=frame, first_row=1), policy or Policy())


def counts(trace: Trace, name: str) -> dict[str, object]:
    """Return the counts of the transform ``name``."""
    return next((dict(t.counts) for t in trace.meta.transforms if t.name == name), {})


def test_who_waited_for_a_dropped_turn_waits_for_the_one_before() -> None:
    """The delays add up, and the change is counted."""
    trace = read(
        [
            {"t": 0},
            {"t": None, "parent": 0, "delay": 2, "output": 0},
            {"t": None, "parent": 1, "delay": 3},
        ]
    )
    assert trace.frame["parent_id"].to_list() == [None, 0]
    assert trace.frame["delay_s"].to_list() == [None, 5.0]
    assert trace.meta.loop == "closed"
    assert counts(trace, "relinked") == {"to_earlier_turns": 1, "to_no_turn": 0}


def test_who_waited_for_a_dropped_first_turn_starts_by_its_time_and_the_delay() -> None:
    """No row is left without a time and a parent."""
    trace = read([{"t": 1}, {"t": 4, "output": 0}, {"t": None, "parent": 1, "delay": 3}])
    assert trace.frame["arrival_s"].to_list() == [1.0, 7.0]
    assert trace.frame["parent_id"].to_list() == [None, None]
    assert trace.meta.loop == "open"
    assert counts(trace, "relinked") == {"to_earlier_turns": 0, "to_no_turn": 1}


def test_rows_are_sorted_with_parents_before_children() -> None:
    """A row without a time stands with its ancestor, after it, whatever the file's order."""
    trace = read(
        [
            {"t": None, "parent": 1, "delay": 1, "input": 3},
            {"t": None, "parent": 2, "delay": 1, "input": 2},
            {"t": 5, "input": 1},
            {"t": 4, "input": 9},
        ]
    )
    assert trace.frame["input_tokens"].to_list() == [9, 1, 2, 3]
    assert trace.frame["parent_id"].to_list() == [None, None, 1, 2]


def test_a_parent_sent_after_its_child_is_no_parent() -> None:
    """The link is dropped and counted; both requests stay."""
    trace = read([{"t": 1, "parent": 1, "delay": 0}, {"t": 2}])
    assert trace.frame["parent_id"].to_list() == [None, None]
    assert counts(trace, "parents_after_children_dropped") == {"links": 1}


def test_joins_are_numbered_anew_and_lost_with_their_rows() -> None:
    """A join with a dropped row is no more; the others follow their rows."""
    trace = read(
        [
            {"t": 3, "parent": 2, "joins": [{"parent_id": 1, "delay_s": 1.0}]},
            {"t": 1},
            {"t": 2},
            {"t": 4, "joins": [{"parent_id": 4, "delay_s": 0.0}, {"parent_id": 0, "delay_s": 2.0}]},
            {"t": 0, "output": 0},
        ]
    )
    assert trace.frame["source_row"].to_list() == [1, 2, 0, 3]
    assert trace.frame["joins"].to_list() == [
        None,
        None,
        [{"parent_id": 0, "delay_s": 1.0}],
        [{"parent_id": 2, "delay_s": 2.0}],
    ]


@pytest.mark.parametrize("parents", [[0], [1, 0], [None, 2, 3, 1]])
def test_a_circle_is_one_sentence(parents: list[int | None]) -> None:
    """It names the row that waits for itself in the end."""
    rows: list[dict[str, Any]] = [{"t": 1, "parent": each, "delay": 0} for each in parents]
    with pytest.raises(TraceError, match=r"t: row [12], parent is 'row \d', expected"):
        read(rows)


def test_a_window_keeps_the_links_inside_it() -> None:
    """Replay settings number parents anew too."""
    trace = read([{"t": k, "parent": k - 1 if k else None, "delay": 1} for k in range(5)])
    part = Replay(start_s=2).apply(trace, np.random.default_rng(0))
    assert part.frame["parent_id"].to_list() == [None, 0, 1]
    spread = Replay(debatch_step_s=9.0).apply(trace, np.random.default_rng(3))
    parents = spread.frame["parent_id"].drop_nulls()
    assert counts(spread, "parents_after_children_dropped")["links"] == 4 - parents.len() > 0


forests = st.lists(st.integers(-1, 30), min_size=1, max_size=30).map(
    lambda above: np.array([min(each, row - 1) for row, each in enumerate(above)])
)


@given(parent=forests, seed=st.integers(0, 9))
def test_relinking_finds_the_nearest_ancestor_that_stayed(parent: Any, seed: int) -> None:
    """The same as walking up row by row, with the delays on the way."""
    rng = np.random.default_rng(seed)
    size = parent.size
    links = Links(
        parent=parent, delay_s=rng.integers(1, 9, size) * 1.0, time_s=np.arange(size) * 1.0
    )
    kept = rng.permutation(np.flatnonzero(rng.random(size) < 0.6))
    done = lineage.relink(links, kept)
    for place, row in enumerate(kept):
        above, delay = parent[row], links.delay_s[row]
        while above != NONE and above not in kept:
            delay += links.delay_s[above]
            above = parent[above]
        if above == NONE:
            assert done.links.parent[place] == NONE
        else:
            assert kept[done.links.parent[place]] == above
            assert done.links.delay_s[place] == delay


@given(parent=forests)
def test_roots_and_depths_are_those_of_walking_up(parent: Any) -> None:
    """Doubling gives what single steps give."""
    roots, depths = lineage.roots(parent), lineage.depths(parent)
    for row in range(parent.size):
        above, depth = row, 0
        while parent[above] != NONE:
            above, depth = parent[above], depth + 1
        assert (roots[row], depths[row]) == (above, depth)


@given(above=st.lists(st.integers(-1, 8), min_size=9, max_size=9))
def test_circles_are_found_and_nothing_else(above: list[int]) -> None:
    """Any row whose walk up never ends makes the file unusable, and no other."""
    parent = np.array(above)
    ends = []
    for row in range(9):
        at, steps = row, 0
        while at != NONE and steps < 10:
            at, steps = above[at], steps + 1
        ends.append(at == NONE)
    try:
        lineage.require_no_circle(parent, Where("t", 1), "parent")
    except TraceError:
        assert not all(ends)
    else:
        assert all(ends)


def test_parquet_keeps_the_links(tmp_path: Path) -> None:
    """What is written is read back identical, sessions and all."""
    from workloads.readers import read_trace

    trace = read([{"t": 0}, {"t": None, "parent": 0, "delay": 1.5}])
    trace.write_parquet(tmp_path / "t.parquet")
    again = read_trace(str(tmp_path / "t.parquet"))
    assert again.equals(trace)
