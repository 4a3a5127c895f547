"""The canonical trace checks its frame and its account."""

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from workloads.errors import TraceError
from workloads.trace import SCHEMA, Trace, TraceMeta, Transform, canonical_frame


def meta(rows: int, **changes: object) -> TraceMeta:
    """Return an account of ``rows`` rows read and kept."""
    fields = {"name": "t", "format": "test", "rows_read": rows, "rows_kept": rows} | changes
    return TraceMeta(**fields)  # type: ignore[arg-type]


def frame(arrivals: list[float], **changes: list[object]) -> pl.DataFrame:
    """Return a canonical frame with these arrivals."""
    rows = len(arrivals)
    columns = {"arrival_s": arrivals, "input_tokens": [5] * rows, "output_tokens": [7] * rows}
    return canonical_frame(pl.DataFrame(columns | changes))


def test_canonical_frame_fills_what_is_missing() -> None:
    """Ids are dense, status is ok and optional columns are null, all in the stated dtypes."""
    result = frame([0.0, 1.0])
    assert result.schema == SCHEMA
    assert result["request_id"].to_list() == result["source_row"].to_list() == [0, 1]
    assert result["status"].to_list() == ["ok", "ok"]
    assert result["session_id"].null_count() == 2


def test_specs_are_frozen() -> None:
    """Neither the trace nor its account can be changed in place."""
    trace = Trace(frame([0.0]), meta(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.meta.rows_read = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.meta = meta(2)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rows_kept": 4}, r"5 rows read \+ 0 added must equal 4 kept \+ 0 dropped"),
        ({"drops": {"x": 1}}, r"must equal 5 kept \+ 1 dropped"),
        ({"rows_added": 1}, r"5 rows read \+ 1 added must equal 5"),
        ({"drops": {"x": -1}, "rows_kept": 6}, r"drops\[x\] must be a whole number"),
        ({"loop": "half"}, "loop must be one of open, closed but got 'half'"),
        ({"context": "none"}, "context must be one of full, delta"),
        ({"block_size": 0}, "block_size must be a whole number of at least 1 but got 0"),
        ({"block_scope": "x"}, "block_scope must be one of"),
        ({"tail_block": "x"}, "tail_block must be one of"),
    ],
)
def test_the_account_must_add_up(changes: dict[str, object], expected: str) -> None:
    """An account that loses or invents rows is refused."""
    with pytest.raises(TraceError, match=expected):
        meta(5, **changes)


def broken(column: str, values: list[object]) -> pl.DataFrame:
    """Return a good frame with one column replaced."""
    good = frame([0.0, 1.0, 1.0])
    return good.with_columns(pl.Series(column, values, dtype=SCHEMA[column]))


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (frame([0.0, 1.0, 1.0]).drop("turn"), "column turn .* is missing"),
        (frame([0.0, 1.0, 1.0]).with_columns(pl.col("turn").cast(pl.Int8)), "turn must be UInt16"),
        (frame([0.0, 1.0, 1.0]).with_columns(x=1), "columns must be request_id, .*, in this order"),
        (frame([0.0, 1.0]), "2 rows, but the account says 3"),
        (frame([]), "no request is left of 3 rows"),
        (broken("input_tokens", [1, None, 3]), "row 1, input_tokens is null"),
        (broken("arrival_s", [0, None, 3]), "row 1, arrival_s is null"),
        (broken("arrival_s", [0, 3, 2]), "row 2 comes before the row above"),
        (broken("source_row", [0, 2, 1]), "row 2 comes before the row above"),
        (broken("arrival_s", [-1, 2, 3]), "row 0, arrival_s -1.0 must be a finite"),
        (broken("arrival_s", [0, 2, float("nan")]), "row 2, arrival_s nan must be a finite"),
        (broken("output_tokens", [1, 0, 3]), "row 1, output_tokens 0 must lie in 1"),
        (broken("output_tokens", [1, 2, 10**8 + 1]), "row 2, output_tokens 100000001 must lie"),
        (broken("request_id", [0, 1, 3]), "request_id must count 0, 1, 2"),
    ],
)
def test_a_broken_frame_is_refused(bad: pl.DataFrame, expected: str) -> None:
    """Each rule of the canonical frame has its sentence."""
    with pytest.raises(TraceError, match=expected):
        Trace(bad, meta(3))


def test_rebasing_keeps_gaps_and_records_the_shift() -> None:
    """The first arrival becomes 0, and the account says by how much."""
    trace = Trace(frame([2.0, 5.0]), meta(2)).rebased()
    assert trace.column("arrival_s").tolist() == [0.0, 3.0]
    assert trace.meta.transforms == (Transform(name="rebase", counts={"shift_s": 2.0}),)
    assert trace.rebased() is trace


def test_account_survives_json() -> None:
    """An account is the same after JSON."""
    account = meta(5, rows_kept=3, drops={"a": 2}).after(Transform(name="x", counts={"p": "drop"}))
    assert TraceMeta.from_json(account.to_json()) == account


def test_writing_into_nowhere_is_one_sentence(tmp_path: Path) -> None:
    """A folder that does not exist is a ``TraceError``, and nothing is left behind."""
    with pytest.raises(TraceError, match="cannot write the trace"):
        Trace(frame([0.0]), meta(1)).write_parquet(tmp_path / "none" / "t.parquet")
    assert list(tmp_path.iterdir()) == []
