"""Traces as people have them: other units, other spellings, further columns; read rightly or asked.

Every input here is invented. What a file means is worked out by hand beside it.
"""

import gzip
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from workloads.errors import TraceError
from workloads.readers import read_trace
from workloads.trace import Trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def write(folder: Path, content: str | bytes, name: str = "trace.csv") -> str:
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def jsonl(folder: Path, *rows: dict[str, Any]) -> str:
    """Write rows one on a line and return the file's path."""
    return write(folder, "".join(f"{json.dumps(row)}\n" for row in rows), "trace.jsonl")


def stamped(*stamps: object) -> list[dict[str, Any]]:
    """Return Mooncake rows with these timestamps."""
    return [{"timestamp": t, "input_length": 30, "output_length": 4} for t in stamps]


def arrivals(trace: Trace) -> list[float]:
    """Return the arrival times in seconds."""
    times: list[float] = trace.column("arrival_s").tolist()
    return times


def counts(trace: Trace, name: str) -> dict[str, object]:
    """Return the counts of the transform ``name``."""
    return next((dict(t.counts) for t in trace.meta.transforms if t.name == name), {})


# Units of numbers

START = 1_767_225_600  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_clock_times_are_read_in_their_unit(
    tmp_path: Path, unit: str, scale: int, kind: str
) -> None:
    """Numbers of this century's magnitude mean the same instants in every unit, and it is said."""
    stamps = [(START + offset) * scale for offset in (0, 2, 7)]
    if kind == "json":
        trace = read_trace(jsonl(tmp_path, *stamped(*stamps)))
    else:
        trace = read_trace(write(tmp_path, AZURE + "".join(f"{t},30,4\n" for t in stamps)))
    assert arrivals(trace) == [0.0, 2.0, 7.0]
    assert trace.meta.time_unit == unit
    assert trace.meta.t0 == "2026-01-01T00:00:00.000000000+00:00"
    told = "since 1970" in " ".join(trace.meta.warnings)
    assert told == (not (kind == "json" and unit == "ms"))


def test_nanoseconds_since_1970_are_exact(tmp_path: Path) -> None:
    """Neither JSON nor CSV loses the last digits of 19."""
    stamps = [START * 10**9 + k for k in (0, 1, 999)]
    for path in (
        jsonl(tmp_path, *stamped(*stamps)),
        write(tmp_path, AZURE + "".join(f"{t},30,4\n" for t in stamps)),
    ):
        assert arrivals(read_trace(path)) == [0.0, 1e-9, 9.99e-7]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_stated_unit_is_obeyed(tmp_path: Path, unit: str) -> None:
    """With ``time_unit`` the numbers count that, fractions included, and nothing is warned of."""
    seconds = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[unit]
    path = jsonl(tmp_path, *stamped(0, 500, 8000))
    trace = read_trace(path, time_unit=unit)
    assert arrivals(trace) == pytest.approx([0, 500 * seconds, 8000 * seconds])
    assert trace.meta.warnings == ()
    fractions = read_trace(jsonl(tmp_path, *stamped(0.25, 1.75)), time_unit=unit)
    assert arrivals(fractions)[1] == pytest.approx(1.5 * seconds, abs=1e-9)


@pytest.mark.parametrize(
    "stamps",
    [(0.0, 2.25, 6.5), (0, 1.125, 2, 3), tuple(k * 12.345 for k in range(50))],
)
def test_fractions_of_whole_milliseconds_are_asked_about(
    tmp_path: Path, stamps: tuple[float, ...]
) -> None:
    """Seconds read as ms would replay a thousand times too fast: refused, with a way on."""
    path = jsonl(tmp_path, *stamped(*stamps))
    with pytest.raises(TraceError, match=r"row [12], timestamp is .*workload\.time_unit=s, us or"):
        read_trace(path)
    assert arrivals(read_trace(path, time_unit="s")) == pytest.approx(stamps)


def test_fractions_of_milliseconds_that_cannot_be_seconds_are_read(tmp_path: Path) -> None:
    """At a request every few seconds the own unit is the likely one; nearer, it is told."""
    trace = read_trace(jsonl(tmp_path, *stamped(0, 15_400.5, 31_300.25)))
    assert arrivals(trace) == [0.0, 15.4005, 31.30025]
    assert trace.meta.warnings == ()
    trace = read_trace(jsonl(tmp_path, *stamped(0, 400.5, 1300.25)))
    assert arrivals(trace) == [0.0, 0.4005, 1.30025]
    assert "workload.time_unit=s, us or ns" in trace.meta.warnings[0]


@pytest.mark.parametrize(
    ("stamps", "rate"), [((0, 3, 7, 12), "250/s"), ((0, 10**9), "one in 1,000,000 s")]
)
def test_an_unlikely_rate_is_told_with_the_setting(
    tmp_path: Path, stamps: tuple[int, ...], rate: str
) -> None:
    """Whole numbers are read in the format's unit; a rate no service has comes with a warning."""
    warning = read_trace(jsonl(tmp_path, *stamped(*stamps))).meta.warnings[0]
    assert rate in warning
    assert "workload.time_unit=s, us or ns" in warning
    assert "trace.jsonl" in warning


def test_an_ordinary_trace_is_not_warned_of(tmp_path: Path) -> None:
    """Some requests a second, a batch at one instant, and a single request raise no question."""
    for stamps in ((0, 300, 650, 1200), (0, 0, 0), (17,)):
        assert read_trace(jsonl(tmp_path, *stamped(*stamps))).meta.warnings == ()


@pytest.mark.parametrize("kind", ["dates", "numbers", "columns"])
def test_days_without_a_request_are_told(tmp_path: Path, kind: str) -> None:
    """One wrong time among good ones makes a gap that no service has."""
    day = 86_400
    if kind == "dates":
        dates = ("2026-03-04 05:00:00", "2026-03-04 05:00:01", "2032-03-04 05:00:02")
        path = write(tmp_path, AZURE + "".join(f"{date},9,9\n" for date in dates))
    elif kind == "numbers":
        path = jsonl(tmp_path, *stamped(START * 1000, 0, START * 1000 + 500))
    else:
        path = write(tmp_path, "arrival_s,input_tokens,output_tokens\n0,9,9\n9,9,9\n999999,9,9\n")
    text = read_trace(path).meta.warnings[-1]
    assert f"before data row {1 if kind == 'numbers' else 3}" in text
    weekend = jsonl(tmp_path, *stamped(*range(0, 3 * day * 1000, 50_000_000)))
    assert "days pass" not in " ".join(read_trace(weekend).meta.warnings)


def test_numbers_where_dates_belong_are_asked_about(tmp_path: Path) -> None:
    """A CSV of dates that holds small numbers says which setting tells what they count."""
    path = write(tmp_path, AZURE + "0.5,30,4\n2.5,30,4\n")
    with pytest.raises(
        TraceError, match=r"row 2, TIMESTAMP is 0\.5.*workload\.time_unit=s, ms, us"
    ):
        read_trace(path)
    assert arrivals(read_trace(path, time_unit="s")) == [0.0, 2.0]


def test_a_unit_of_dates_is_refused(tmp_path: Path) -> None:
    """Dates have no unit, so a stated one is a misunderstanding."""
    path = write(tmp_path, AZURE + "2026-01-01 00:00:00,30,4\n")
    with pytest.raises(
        TraceError, match=r"TIMESTAMP holds dates .* time_unit must be auto but is ms"
    ):
        read_trace(path, time_unit="ms")
    with pytest.raises(
        TraceError, match="time_unit must be one of auto, s, ms, us, ns but got 'h'"
    ):
        read_trace(path, time_unit="h")


# Dates

FORMS = [
    "2026-03-04 05:06:07.25",
    "2026-03-04T05:06:07.25",
    "2026-03-04t05:06:07,250",
    "  2026-03-04 05:06:07.250000000 ",
]
OFFSETS = ["Z", "z", " Z", " UTC", "+00:00", "+0000", "+00", " +00:00", "-00:00"]


@pytest.mark.parametrize("form", FORMS)
def test_dates_without_an_offset(tmp_path: Path, form: str) -> None:
    """Each spelling is the same instant, beside a row without a fraction."""
    trace = read_trace(write(tmp_path, f'{AZURE}2026-03-04 05:06:07,1,2\n"{form}",3,4\n'))
    assert arrivals(trace) == [0.0, 0.25]
    assert trace.meta.t0 == "2026-03-04T05:06:07.000000000"


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_dates_with_an_offset(tmp_path: Path, offset: str, kind: str) -> None:
    """Each spelling of UTC, and another zone's row after it, come out in UTC."""
    stamps = [f"2026-03-04T05:06:07{offset}", "2026-03-04T07:36:07.5+02:30"]
    if kind == "json":
        trace = read_trace(jsonl(tmp_path, *stamped(*stamps)))
    else:
        trace = read_trace(write(tmp_path, AZURE + "".join(f"{t},30,4\n" for t in stamps)))
    assert arrivals(trace) == [0.0, 0.5]
    assert trace.meta.t0 == "2026-03-04T05:06:07.000000000+00:00"


@pytest.mark.parametrize("end", ["", "Z", "+02:00"])
def test_dates_may_lack_the_seconds(tmp_path: Path, end: str) -> None:
    """Hours and minutes are a time of day too, beside rows that have seconds."""
    rows = f"2026-03-04T05:06{end},1,2\n2026-03-04 05:06:30.5{end},3,4\n2026-03-04 05:07{end},5,6\n"
    assert arrivals(read_trace(write(tmp_path, AZURE + rows))) == [0.0, 30.5, 60.0]


def test_python_and_pandas_spellings_agree_with_datetime(tmp_path: Path) -> None:
    """``isoformat`` drops a zero fraction now and then; every row is where datetime says."""
    rng = np.random.default_rng(5)
    micros = np.sort(rng.integers(0, 10**7, 60) // 1000 * 1000 + START * 10**6)
    moments = [datetime.fromtimestamp(int(t) / 1e6, UTC) for t in micros]
    text = AZURE + "".join(f"{moment.isoformat()},30,4\n" for moment in moments)
    got = np.array(arrivals(read_trace(write(tmp_path, text))))
    assert got == pytest.approx((micros - micros[0]) / 1e6, abs=1e-9)


@pytest.mark.parametrize(
    "later", ["2026-03-04 05:06:08+00:00", "2026-03-04 05:06:08Z", "5", "soon", ""]
)
def test_a_file_keeps_to_one_kind_of_time(tmp_path: Path, later: str) -> None:
    """A zone after rows without one, a number or nothing after dates: the row is named."""
    with pytest.raises(TraceError, match="row 3, TIMESTAMP is"):
        read_trace(write(tmp_path, f"{AZURE}2026-03-04 05:06:07,1,2\n{later},3,4\n"))


# CSV

ROWS = [("2026-03-04 05:06:07.5", 100, 5), ("2026-03-04 05:06:09", 200, 7)]


def test_quotes_an_index_and_further_columns(tmp_path: Path) -> None:
    """What pandas and spreadsheets add changes nothing, and is accounted for by name."""
    plain = read_trace(write(tmp_path, AZURE + "".join(f"{t},{i},{o}\n" for t, i, o in ROWS)))
    text = ',"TIMESTAMP", "ContextTokens",GeneratedTokens,note\n' + "".join(
        f'{k},"{t}",{i}.0,"{o}","a, ""b"""\n' for k, (t, i, o) in enumerate(ROWS)
    )
    trace = read_trace(write(tmp_path, text, "fancy.csv"))
    assert trace.frame.equals(plain.frame)
    assert counts(trace, "ignored_columns") == {"column 1": 2, "note": 2}


def test_only_filled_cells_of_a_further_column_are_counted(tmp_path: Path) -> None:
    """The account says how many rows had something that was not read."""
    header = AZURE.strip() + ",NumImages\n"
    trace = read_trace(write(tmp_path, f"{header}{ROWS[0][0]},9,9,3\n{ROWS[1][0]},9,9,\n"))
    assert counts(trace, "ignored_columns") == {"NumImages": 1}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('"2026-03-04 05:06:07,1,2', "row 3 cannot be split"),
        ('2026-03-04 05:06:07,"1",2,3', "row 3 has 4 fields, expected 3"),
        ('2026-03-04 05:06:07,"1"x,2', "row 3 cannot be split"),
        ('2026-03-04 05:06:07,1,"2.5"', r"row 3, GeneratedTokens is '2\.5'"),
        ("2026-03-04 05:06:07,1e2,2", "row 3, ContextTokens is '1e2'"),
    ],
)
def test_a_bad_row_of_a_quoted_file_is_named(tmp_path: Path, row: str, words: str) -> None:
    """A quote left open never swallows the rows after it."""
    good = '"2026-03-04 05:06:07",1,2\n'
    with pytest.raises(TraceError, match=words):
        read_trace(write(tmp_path, f"{AZURE}{good}{row}\n{good}"))


def test_identity_columns_are_kept(tmp_path: Path) -> None:
    """Names, sessions, tenants, models and the source's own latencies are not lost."""
    header = "request_id,session_id,turn,model,tenant,ttft_s,e2e_s," + AZURE
    rows = f"r-7,s9,2,m,a b,0.25,1.5,{ROWS[0][0]},9,9\nr-8,s4,,m,,,,{ROWS[1][0]},9,9\n"
    trace = read_trace(write(tmp_path, header + rows))
    assert trace.identity().to_dict(as_series=False) == {
        "request_id": [0, 1],
        "source_row": [0, 1],
        "source_id": ["r-7", "r-8"],
        "session_id": [0, 1],
        "turn": [2, None],
        "model": ["m", "m"],
        "tenant": ["a b", None],
        "src_ttft_s": [0.25, None],
        "src_e2e_s": [1.5, None],
    }
    assert counts(trace, "ignored_columns") == {}
    with pytest.raises(TraceError, match=r"row 2, ttft_s is 'fast', expected a number of seconds"):
        read_trace(write(tmp_path, header + rows.replace("0.25", "fast")))


# JSON

ITEMS = [
    {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [4, 5]},
    {"timestamp": 900, "input_length": 700, "output_length": 6, "hash_ids": [4, 9]},
    {"timestamp": 950, "input_length": 30, "output_length": 7},
]


def layouts() -> dict[str, str]:
    """Return one trace in several layouts of the same objects."""
    lines = [json.dumps(row) for row in ITEMS]
    return {
        "array": json.dumps(ITEMS),
        "pretty array": json.dumps(ITEMS, indent=2),
        "array over lines": "[\n" + ",\n".join(lines) + "\n]\n",
        "pretty objects": "\n".join(json.dumps(row, indent=1) for row in ITEMS),
        "objects on one line": " ".join(lines),
        "crlf": "\r\n".join(lines) + "\r\n\r\n",
        "byte order mark": "\ufeff" + json.dumps(ITEMS),
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("pack", ["plain", "gzip", "zstd"])
def test_the_layout_of_json_does_not_matter(tmp_path: Path, layout: str, pack: str) -> None:
    """Objects on lines, over lines or in an array, packed or not, are the same requests."""
    expected = read_trace(jsonl(tmp_path, *ITEMS)).frame
    content = layouts()[layout].encode()
    if pack == "gzip":
        content = gzip.compress(content)
    elif pack == "zstd":
        content = zstd(content)
    assert read_trace(write(tmp_path, content, "other.json")).frame.equals(expected)


def zstd(content: bytes) -> bytes:
    """Compress with the zstd command, or skip."""
    try:
        done = subprocess.run(["zstd", "-q", "-c"], input=content, capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("no zstd command on this machine")
    return done.stdout


def test_a_long_array_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects and letters of several bytes cut by block ends are put together."""
    rows = [
        {
            "timestamp": k * 10_000,
            "input_length": k + 1,
            "output_length": 2,
            "request_id": f"é€😀{k}",
        }
        for k in range(300)
    ]
    path = write(tmp_path, json.dumps(rows, ensure_ascii=False), "long.json")
    monkeypatch.setattr("workloads.readers.source.BLOCK_BYTES", 61)
    monkeypatch.setattr("workloads.readers.objects.BATCH", 7)
    trace = read_trace(path)
    assert trace.column("input_tokens").tolist() == list(range(1, 301))
    assert trace.frame["source_id"].to_list() == [f"é€😀{k}" for k in range(300)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(ITEMS)[:-1], "the array ends after 3 objects, without its ]"),
        (json.dumps(ITEMS)[:-20], "object 3 is not one complete JSON object"),
        (json.dumps(ITEMS) + " {}", "object 4 is not one complete JSON object"),
        (json.dumps([*ITEMS, 5]), "row 4 is 5, expected a JSON object"),
        (json.dumps([*ITEMS, {"timestamp": 1}]), "row 4 has no field input_length"),
        (json.dumps(ITEMS, indent=1).replace("700", "7oo"), "object 2 is not one complete"),
    ],
)
def test_a_broken_array_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    """The object that cannot be read is named by its number."""
    with pytest.raises(TraceError, match=words) as error:
        read_trace(write(tmp_path, text, "bad.json"))
    assert "bad.json" in str(error.value)


HASHES: dict[str, list[list[Any]]] = {
    "unsigned": [[2**63 + 1, 2**63 + 3, 5], [2**63 + 1, 2**64 - 1]],
    "signed": [[-(2**62), 2**62, 5], [-(2**62), -(2**62) + 1]],
    "beyond floats": [[2**53 + 1, 2**53 + 2, 7], [2**53 + 1, 2**53 + 3]],
    "of 256 bits": [[2**255 + 1, 2**254, 7], [2**255 + 1, 2**255]],
    "text": [["c0ffee", "x", "ß"], ["c0ffee", "0"]],
}


@pytest.mark.parametrize("kind", HASHES)
def test_hashes_are_numbered_by_appearance(tmp_path: Path, kind: str) -> None:
    """Equal hashes get equal numbers, others different ones, however large they are."""
    first, second = HASHES[kind]
    row = {"timestamp": 0, "input_length": 1500, "output_length": 3}
    trace = read_trace(jsonl(tmp_path, row | {"hash_ids": first}, row, row | {"hash_ids": second}))
    assert trace.frame["block_runs"].to_list() == [
        [{"first": 0, "n": 3}],
        None,
        [{"first": 0, "n": 1}, {"first": 3, "n": 1}],
    ]
    assert counts(trace, "hashes_numbered") == {"distinct": 4}


def test_hashes_late_in_the_file_number_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters in earlier blocks of the file and hashes in later ones are numbered together."""
    rows = [
        {"timestamp": k * 1000, "input_length": 900, "output_length": 3, "hash_ids": ids}
        for k, ids in enumerate([[7, 8], [7, 3], [2**40, 7], ["q", 2**40]])
    ]
    path = jsonl(tmp_path, *rows)
    monkeypatch.setattr("workloads.readers.source.BLOCK_BYTES", 100)
    runs = read_trace(path).frame["block_runs"].to_list()
    ids = [[run["first"] + k for run in row for k in range(run["n"])] for row in runs]
    assert ids == [[0, 1], [0, 2], [3, 0], [4, 3]]


def test_further_fields_are_counted_by_name(tmp_path: Path) -> None:
    """A request's text, priority or tools are not read, and the account says in how many rows."""
    rows = [
        ITEMS[0] | {"priority": 3, "text_input": 'say "priority": {5}'},
        ITEMS[1] | {"priority": 1},
        ITEMS[2] | {"tools": [{"name": "x", "priority": 2}], "request_id": 17, "model": "m"},
    ]
    trace = read_trace(jsonl(tmp_path, *rows))
    assert counts(trace, "ignored_columns") == {"priority": 2, "text_input": 1, "tools": 1}
    assert trace.frame["source_id"].to_list() == [None, None, "17"]
    flat = read_trace(jsonl(tmp_path, *(row | {"a b": 1, "n\\u": 2} for row in ITEMS)))
    assert set(counts(flat, "ignored_columns").values()) == {3}


def test_half_a_character_is_no_traceback(tmp_path: Path) -> None:
    """JSON may spell a lone surrogate; it is replaced, in values and in names."""
    text = json.dumps(ITEMS[0] | {"request_id": "a\ud800", "k\udfff": 1, "hash_ids": ["\ud800"]})
    trace = read_trace(write(tmp_path, text, "odd.jsonl"))
    assert trace.frame["source_id"].to_list() == ["a?"]
    assert counts(trace, "ignored_columns") == {"k?": 1}


def test_names_out_of_a_file_cannot_drive_a_terminal(tmp_path: Path) -> None:
    """Control signs in the name of a column or field are replaced where they are told."""
    lines = read_trace(jsonl(tmp_path, ITEMS[0] | {"a\x1b[31mb\nc": 1}))
    header = AZURE.strip() + ",x\x1b]0;y\x07\n"
    rows = read_trace(write(tmp_path, f"{header}{ROWS[0][0]},1,2,3\n"))
    assert counts(lines, "ignored_columns") == {"a?[31mb?c": 1}
    assert counts(rows, "ignored_columns") == {"x?]0;y?": 1}


# Provenance


def test_a_run_folder_points_to_its_requests(tmp_path: Path) -> None:
    """Who gives a run's folder is told the file in it that replays."""
    (tmp_path / "requests.parquet").touch()
    with pytest.raises(TraceError, match=r"is a directory, .* in it lies requests\.parquet"):
        read_trace(str(tmp_path))


def test_no_licence_is_invented(tmp_path: Path) -> None:
    """The shape of a file says nothing of who may use it."""
    dated = write(tmp_path, f"{AZURE}{ROWS[0][0]},1,2\n")
    for path in (dated, jsonl(tmp_path, *ITEMS)):
        assert read_trace(path).meta.licence is None


# Our own columns


def test_anybody_can_write_our_columns(tmp_path: Path) -> None:
    """Parquet and CSV with the three columns are traces; identity travels, the rest is named."""
    frame = pl.DataFrame(
        {
            "arrival_s": [12.5, 12.0, 14.25],
            "input_tokens": [7, 8, 9],
            "output_tokens": [3, 2, 0],
            "session_id": ["x", "y", "x"],
            "colour": ["red", "red", None],
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    parquet, csv = (read_trace(str(tmp_path / name)) for name in ("t.parquet", "t.csv"))
    assert parquet.frame.equals(csv.frame)
    assert arrivals(parquet) == [0.0, 0.5]
    assert parquet.column("input_tokens").tolist() == [8, 7]
    assert parquet.frame["session_id"].to_list() == [1, 0]
    assert parquet.meta.drops == csv.meta.drops == {"zero_output": 1}
    assert parquet.meta.format == csv.meta.format == "columns"
    assert (
        set(counts(parquet, "ignored_columns")) == set(counts(csv, "ignored_columns")) == {"colour"}
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_tokens": [7.5]}, "row 0, input_tokens is 7.5, expected a whole number"),
        ({"output_tokens": [-1]}, "row 0, output_tokens is -1"),
        ({"output_tokens": [None]}, "output_tokens must be numbers"),
        ({"arrival_s": [float("nan")]}, "row 0, arrival_s is nan"),
        ({"arrival_s": ["now"]}, "arrival_s must be numbers but is String"),
        ({"arrival_s": [[1.0]]}, "arrival_s must be numbers but is List"),
        ({"turn": [-1]}, "row 0, turn is -1"),
        ({"src_ttft_s": [-0.5]}, "row 0, src_ttft_s is -0.5"),
    ],
)
def test_bad_values_in_our_columns_are_named(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """A foreign parquet is checked as any other file."""
    columns = {"arrival_s": [1.0], "input_tokens": [7], "output_tokens": [3]} | changes
    pl.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(TraceError, match=words) as error:
        read_trace(str(tmp_path / "t.parquet"))
    assert "t.parquet" in str(error.value)
