"""What is read many rows at once is what is read one by one."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workloads.errors import TraceError
from workloads.readers.fields import csv_batches, split_at_once, split_by_line
from workloads.readers.source import Lines, lines_of
from workloads.readers.times import dates_ns
from workloads.where import Where

MINUTES = ["2024-05-10 23:59", "2024-02-29T00:00", "1970-01-01 00:00", "2023-02-29 10:10", "x"]
dates = st.tuples(
    st.sampled_from(MINUTES),
    st.sampled_from(["00", "07", "59", "60", "+1", " 5"]),
    st.sampled_from(["", ".5", ".000001", ".9999999", ".12345678", ".1e5", ".+12"]),
    st.sampled_from(["", "", "Z", "+00:00", "-05:30", "+99:99"]),
)


@given(rows=st.lists(dates, min_size=1, max_size=6), alike=st.booleans())
def test_dates_of_one_shape_are_read_like_others(rows: list[tuple[str, ...]], alike: bool) -> None:
    """The same ns, and the same refusals, as with a row beside them that is written otherwise."""
    _minute, _, fraction, offset = rows[0]
    texts = [
        f"{row[0]}:{row[1]}{fraction}{offset}" if alike else f"{row[0]}:{row[1]}{row[2]}{row[3]}"
        for row in rows
    ]
    odd = "2024-05-10 00:00:00.125" + ("+00:00 " if offset else " ")

    def read(each: list[str]) -> list[int] | str:
        try:
            return dates_ns(pl.Series("t", each), Where("f", 1), utc_offset=bool(offset)).to_list()
        except TraceError as error:
            return str(error)

    with_another = read([*texts, odd])
    expected = with_another if isinstance(with_another, str) else with_another[:-1]
    assert read(texts) == expected


cells = st.sampled_from(["1", "22", "", " 3", "a b", "é", "#", "null", "\t", "1.5"])
tables = st.lists(st.lists(cells, min_size=2, max_size=4), min_size=1, max_size=5)


@example(
    rows=[["1"] * 3, ["1"] * 2, ["1"] * 3, ["1", "1", "1", ""]], end="\n", last=False, odd=False
)
@given(rows=tables, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), odd=st.booleans())
def test_blocks_are_split_like_lines(
    rows: list[list[str]], end: str, last: bool, odd: bool
) -> None:
    """Where a block is split at once, its fields are those that splitting line by line gives."""
    text = end.join(",".join(row) for row in rows) + (end if last else "")
    text = text + ("x" if odd else "")
    header = ["a", "b", "c"]
    at_once = split_at_once(text.encode(), header)
    try:
        lines = Lines(1, lines_of(Path("t"), text.encode(), 1))
        fields = split_by_line(lines, header, "t")
    except TraceError:
        assert at_once is None
        return
    if at_once is not None:
        assert at_once.equals(fields)


def test_a_blank_line_between_blocks_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blank lines at the end of one block and filled ones in the next are a blank row."""
    monkeypatch.setattr("workloads.readers.source.BLOCK_BYTES", 16)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 10 + "\n\n" + "1,2\n" * 10, encoding="utf-8")
    with pytest.raises(TraceError, match="row 12 is blank, expected a request"):
        list(csv_batches(path, ["a"]))
    path.write_text("a,b\n" + "1,2\n" * 10 + "\n" * 40, encoding="utf-8")
    assert sum(batch.fields.height for batch in csv_batches(path, ["a"])) == 10
