"""Readers: real files give their published figures, bad ones one clear sentence."""

import gzip
import json
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers import READERS, read_trace
from workloads.readers.mooncake import BLOCK_SIZE
from workloads.trace import METADATA_KEY, SCHEMA, Trace, TraceMeta

TRACES = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:17:03.9799600,4808,10\n"


def shared(name: str) -> str:
    """Return the path of a real trace, or skip."""
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"real trace {name} is not here")
    return str(path)


def write(folder: Path, content: str | bytes, name: str = "trace.csv") -> str:
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def azure(*rows: tuple[float, int, int]) -> str:
    """Return an Azure file with (seconds, input, output) rows."""
    lines = (f"2023-11-16 00:00:{s:010.7f},{i},{o}" for s, i, o in rows)
    return HEADER + "\n".join(lines)


def mooncake(*rows: tuple[object, object, object]) -> str:
    """Return a Mooncake file with (ms, input, output) rows."""
    names = ("timestamp", "input_length", "output_length")
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)


def zstd(content: bytes) -> bytes:
    """Compress with the zstd command, or skip."""
    try:
        done = subprocess.run(["zstd", "-q", "-c"], input=content, capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("no zstd command on this machine")
    return done.stdout


# Real files


def test_azure_2023_code_has_its_published_figures() -> None:
    """Rows, span, rate, gap variability and lengths of the whole file are the known ones."""
    trace = read_trace(shared("azure2023_code.csv"))
    gaps = np.diff(trace.column("arrival_s"))
    assert len(trace) == trace.meta.rows_read == 8819
    assert trace.meta.format == "azure2023"
    assert trace.duration_s == pytest.approx(3435.948056, abs=1e-6)
    assert trace.mean_rate == pytest.approx(2.566, abs=0.001)
    assert gaps.std() / gaps.mean() == pytest.approx(13.15, abs=0.01)
    assert trace.column("input_tokens").mean() == pytest.approx(2047.8, abs=0.05)
    assert trace.column("output_tokens").mean() == pytest.approx(27.9, abs=0.05)
    quantiles = np.quantile(trace.column("input_tokens"), [0.5, 0.9])
    assert quantiles == pytest.approx([1469, 5187], abs=1)
    assert trace.column("input_tokens").max() == 7437
    assert trace.column("output_tokens").max() == 1899


def test_azure_2023_minutes_include_empty_ones() -> None:
    """12 of the 58 minutes of the code trace have no arrival."""
    minutes = read_trace(shared("azure2023_code.csv")).column("arrival_s") // 60
    assert 58 - np.unique(minutes).size == 12


def test_azure_2024_sample_row_by_row() -> None:
    """The quoted rows come out as they stand, in UTC."""
    trace = read_trace(shared("azure2024_code_head5_quoted.csv"))
    assert trace.meta.format == "azure2024"
    assert trace.meta.t0 == "2024-05-10T00:00:00.009930000+00:00"
    assert trace.column("input_tokens").tolist() == [2162, 2399, 76, 2376, 7670]
    assert trace.column("output_tokens").tolist() == [5, 6, 15, 1, 8]
    assert trace.column("arrival_s") == pytest.approx(
        [0, 0.007405, 0.012384, 0.027915, 0.073960], abs=1e-9
    )


def test_mooncake_synthetic_has_its_published_figures() -> None:
    """Rows, span and lengths of the whole file are the known ones."""
    trace = read_trace(shared("mooncake_synthetic.jsonl"))
    assert len(trace) == 3993
    assert trace.duration_s == pytest.approx(1022, abs=0.5)
    assert trace.column("input_tokens").mean() == pytest.approx(15326, abs=1)
    assert trace.column("output_tokens").mean() == pytest.approx(149.1, abs=0.05)
    assert (trace.meta.block_size, trace.meta.tail_block) == (512, "partial")


def test_mooncake_synthetic_prefix_hits_survive_the_runs() -> None:
    """An infinite prefix cache over ``block_runs`` hits 65.12 % of the prompt tokens."""
    trace = read_trace(shared("mooncake_synthetic.jsonl"))
    seen: set[int] = set()
    hit = 0
    for runs, tokens in zip(trace.frame["block_runs"], trace.column("input_tokens"), strict=True):
        ids = [run["first"] + k for run in runs.to_list() for k in range(run["n"])]
        leading = next((k for k, block in enumerate(ids) if block not in seen), len(ids))
        hit += min(leading * BLOCK_SIZE, int(tokens))
        seen.update(ids)
    assert 100 * hit / trace.column("input_tokens").sum() == pytest.approx(65.12, abs=0.005)


def test_mooncake_conversation_arrives_in_batches() -> None:
    """The first five minutes lie on a 3-s lattice, and the ties are kept and counted."""
    trace = read_trace(shared("mooncake_conversation_first5min.jsonl"))
    instants = np.unique(trace.column("arrival_s"))
    counts = {transform.name: transform.counts for transform in trace.meta.transforms}
    assert len(trace) == trace.meta.rows_read == 918
    assert np.abs(instants - 3 * np.rint(instants / 3)).max() < 0.0015  # stamps are whole ms
    assert counts["ties_kept"]["rows"] == len(trace) - instants.size


@pytest.mark.parametrize(
    "name",
    [
        "dynamo/mooncake-delta.jsonl",
        "servegen_deepseek-r1-arrivals.parquet",
        "ATTRIBUTION.md",
    ],
)
def test_other_formats_are_refused_not_misread(name: str) -> None:
    """A file of another format is never taken for a known one."""
    path = shared(name)
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert name.rsplit("/", 1)[-1] in str(error.value)


# Azure details


def test_azure_keeps_100_ns(tmp_path: Path) -> None:
    """The seventh digit of a second is not lost."""
    trace = read_trace(write(tmp_path, azure((1, 5, 5), (1.0000001, 5, 5))))
    assert trace.column("arrival_s")[1] == 1e-7


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_line_ends_do_not_matter(tmp_path: Path, ending: str) -> None:
    """LF, CRLF and a missing final newline read alike."""
    text = azure((3.0000001, 5, 7), (3.5, 6, 8))
    content = text.replace("\n", ending or "\n") + ending
    trace = read_trace(write(tmp_path, content))
    assert trace.column("arrival_s").tolist() == [0.0, 0.4999999]
    assert trace.column("output_tokens").tolist() == [7, 8]


def test_azure_2024_rows_may_lack_the_fraction(tmp_path: Path) -> None:
    """A whole second is written without a fraction; offsets are taken to UTC."""
    rows = "2024-05-10 00:00:00+00:00,1,2\n2024-05-10 02:00:01.5+02:00,3,4\n"
    trace = read_trace(write(tmp_path, HEADER + rows))
    assert trace.column("arrival_s").tolist() == [0.0, 1.5]


def test_azure_columns_are_read_by_name(tmp_path: Path) -> None:
    """A file with the columns in another order gives the same trace."""
    content = "GeneratedTokens,TIMESTAMP,ContextTokens\n10,2023-11-16 18:17:03.1,4808\n"
    trace = read_trace(write(tmp_path, content))
    assert (trace.column("input_tokens")[0], trace.column("output_tokens")[0]) == (4808, 10)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_compressed_files_read_like_plain_ones(tmp_path: Path, pack: object) -> None:
    """Gzip and zstd, told by content, give the frame of the plain file."""
    content = azure((1, 5, 7), (2, 6, 8)).encode()
    plain = read_trace(write(tmp_path, content))
    packed = read_trace(write(tmp_path, pack(content), "packed"))  # type: ignore[operator]
    assert packed.frame.equals(plain.frame)
    assert packed.meta.sha256 != plain.meta.sha256


def test_a_file_longer_than_a_block_reads_whole(tmp_path: Path, monkeypatch: object) -> None:
    """Rows cut by block ends are put together, and rows are numbered across blocks."""
    monkeypatch.setattr("workloads.readers.source.BLOCK_BYTES", 64)  # type: ignore[attr-defined]
    rows = [(k / 10, k + 1, 2 * k + 1) for k in range(50)]
    trace = read_trace(write(tmp_path, azure(*rows)))
    assert trace.column("input_tokens").tolist() == [k + 1 for k in range(50)]
    with pytest.raises(TraceError, match=r"row 41, ContextTokens is '-1'"):
        read_trace(write(tmp_path, azure(*rows[:39], (5, -1, 1), *rows[40:]), "bad.csv"))


# Policies


def names(trace: Trace) -> dict[str, dict[str, object]]:
    """Return the transforms' counts by name."""
    return {transform.name: dict(transform.counts) for transform in trace.meta.transforms}


def test_zero_output_is_dropped_by_default(tmp_path: Path) -> None:
    """Requests without output or input leave, each under its reason."""
    trace = read_trace(write(tmp_path, azure((1, 5, 0), (2, 0, 8), (3, 6, 9), (4, 0, 0))))
    assert trace.meta.drops == {"zero_input": 2, "zero_output": 1}
    assert trace.column("source_row").tolist() == [2]
    assert trace.column("arrival_s").tolist() == [0.0]


@pytest.mark.parametrize(("policy", "status"), [("keep_prefill_only", "failed"), ("clamp1", "ok")])
def test_zero_output_can_be_kept(tmp_path: Path, policy: str, status: str) -> None:
    """A kept request yields one token, and its status tells which way it was kept."""
    path = write(tmp_path, azure((1, 5, 0), (2, 6, 8)))
    trace = read_trace(path, policy=Policy(zero_output=policy))
    assert trace.column("output_tokens").tolist() == [1, 8]
    assert trace.frame["status"].to_list() == [status, "ok"]
    assert names(trace)["zero_output"] == {"policy": policy, "rows": 1}


def test_over_context_is_dropped_with_its_token_share(tmp_path: Path) -> None:
    """ISL + OSL above the limit leaves, and the share of tokens is told."""
    path = write(tmp_path, azure((1, 90, 10), (2, 91, 10), (3, 99, 100)))
    trace = read_trace(path, policy=Policy(max_context=100))
    assert trace.meta.drops == {"over_context": 2}
    assert names(trace)["over_context"]["token_share"] == pytest.approx(300 / 400)


def test_over_context_can_truncate(tmp_path: Path) -> None:
    """The input gives way first; the output only where no input token would be left."""
    path = write(tmp_path, azure((1, 95, 10), (2, 5, 300), (3, 5, 5)))
    trace = read_trace(path, policy=Policy(max_context=100, over_context="truncate"))
    assert trace.column("input_tokens").tolist() == [90, 1, 5]
    assert trace.column("output_tokens").tolist() == [10, 99, 5]
    assert names(trace)["over_context"]["rows"] == 2


def test_over_context_can_be_an_error(tmp_path: Path) -> None:
    """The first row too long is named."""
    path = write(tmp_path, azure((1, 5, 5), (2, 95, 10)))
    with pytest.raises(TraceError, match=r"row 3, input \+ output is 105, expected at most 100"):
        read_trace(path, policy=Policy(max_context=100, over_context="error"))


def test_unsorted_rows_are_sorted_stably_and_counted(tmp_path: Path) -> None:
    """Ties keep the file's order, and steps back in time are counted."""
    trace = read_trace(write(tmp_path, azure((2, 1, 1), (1, 2, 1), (2, 3, 1), (1, 4, 1))))
    assert trace.column("source_row").tolist() == [1, 3, 0, 2]
    assert names(trace)["sort"] == {"inversions": 2}
    assert names(trace)["ties_kept"] == {"rows": 2}


def test_trailing_blank_lines_are_tolerated(tmp_path: Path) -> None:
    """Blank lines after the last request change nothing."""
    assert len(read_trace(write(tmp_path, azure((1, 5, 7)) + "\n\n \r\n\n"))) == 1


def test_mooncake_runs_rebuild_the_ids(tmp_path: Path) -> None:
    """Runs of consecutive ids expand to the ids; absent and empty lists stay apart."""
    ids = [[0, 1, 2, 9, 10, 4], [], None, [3]]
    rows = [
        {"timestamp": k, "input_length": 3000, "output_length": 1}
        | ({} if i is None else {"hash_ids": i})
        for k, i in enumerate(ids)
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "m.jsonl")
    runs = read_trace(path).frame["block_runs"].to_list()
    back = [r and [x["first"] + k for x in r for k in range(x["n"])] for r in runs]
    assert back == ids
    assert runs[0] == [{"first": 0, "n": 3}, {"first": 9, "n": 2}, {"first": 4, "n": 1}]


# Detection


def test_auto_detection_needs_exactly_one_match(tmp_path: Path, monkeypatch: object) -> None:
    """Two readers that fit are an error that names both."""
    twice = (*READERS, READERS[0])
    monkeypatch.setattr("workloads.readers.READERS", twice)  # type: ignore[attr-defined]
    with pytest.raises(TraceError, match=r"ambiguous, azure, azure all fit; choose one with form"):
        read_trace(write(tmp_path, HEADER + ROW))


def test_unknown_format_lists_the_known(tmp_path: Path) -> None:
    """A format name that does not exist is answered with those that do."""
    path = write(tmp_path, HEADER + ROW)
    with pytest.raises(TraceError, match=r"or one of azure, .*, engine_log, .* but got 'vidd"):
        read_trace(path, format="vidduur")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_explicit_format_is_obeyed(tmp_path: Path, reader: object) -> None:
    """A reader told to read something else says what is wrong with it."""
    path = write(tmp_path, "a,b\n1,2\n")
    with pytest.raises(TraceError, match=r"trace\.csv"):
        read_trace(path, format=reader.name)  # type: ignore[attr-defined]


# Bad input: (content, what the message must say)

M = '{"timestamp": 0, "input_length": 9, "output_length": 3}\n'

BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "empty file": ("", ["empty"]),
    "blank file": ("\n\n", ["row 1", "known"]),
    "header only": (HEADER, ["header", "no requests"]),
    "wrong header": (
        "TIME,In,Out\n" + ROW,
        ["row 1", "TIME,In,Out", "workload.columns"],
    ),
    "repeated column": (
        "TIMESTAMP,ContextTokens,ContextTokens,GeneratedTokens\n" + ROW,
        ["row 1", "ContextTokens 2 times"],
    ),
    "too few fields": (HEADER + ROW + "2023-11-16 18:17:03,5\n", ["row 3", "2 fields, expected 3"]),
    "too many fields": (HEADER + "2023-11-16 18:17:03,5,6,7\n", ["row 2", "4 fields, expected 3"]),
    "negative": (HEADER + ROW + ROW.replace("4808", "-1"), ["row 3", "ContextTokens", "'-1'"]),
    "NaN": (HEADER + ROW.replace(",10", ",NaN"), ["row 2", "GeneratedTokens", "'NaN'"]),
    "no value": (HEADER + ROW.replace("4808", ""), ["row 2", "ContextTokens", "''"]),
    "fraction": (HEADER + ROW.replace("4808", "48.5"), ["row 2", "ContextTokens", "'48.5'"]),
    "over 2^31": (HEADER + ROW.replace("4808", "2147483649"), ["row 2", "2147483649", "at most"]),
    "over 100M": (
        HEADER + ROW.replace(",10", ",100000001"),
        ["row 2", "GeneratedTokens", "at most"],
    ),
    "over 2^64": (
        HEADER + ROW.replace("4808", "9" * 25),
        ["row 2", "ContextTokens", "whole number"],
    ),
    "bad time": (HEADER + ROW + "yesterday,1,2\n", ["row 3", "TIMESTAMP", "'yesterday'"]),
    "impossible date": (HEADER + "2023-02-30 00:00:00,1,2\n", ["row 2", "TIMESTAMP", "02-30"]),
    "far future": (HEADER + "9999-01-01 00:00:00,1,2\n", ["row 2", "TIMESTAMP", "9999"]),
    "both kinds of time": (
        HEADER + ROW + "2024-05-10 00:00:00.1+00:00,1,2\n",
        ["row 3", "TIMESTAMP", "+00:00"],
    ),
    "interior blank": (HEADER + ROW + "\n" + ROW, ["row 3", "blank"]),
    "binary noise": (bytes(range(256)) * 40, ["row 1", "binary", "workload.columns"]),
    "NUL inside": (HEADER + ROW + "\0\n", ["row 3", "NUL"]),
    "not UTF-8": (HEADER.encode() + ROW.encode() + b"\xff\xfe,1,2\n", ["row 3", "0xff", "UTF-8"]),
    "gzip cut off": (gzip.compress((HEADER + ROW * 999).encode())[:-30], ["gzip", "cut off"]),
    "gzip damaged": (gzip.compress((HEADER + ROW).encode())[:-6] + b"abcdef", ["gzip", "damaged"]),
    "gzip of noise": (gzip.compress(b"\x8a" * 999), ["row 1", "binary"]),
    "nothing left": (HEADER + ROW.replace(",10", ",0"), ["no request is left", "zero_output: 1"]),
    "JSON cut off": (M + '{"timestamp": 0, "inp', ["row 2", "JSON", '{"timestamp": 0, "inp']),
    "JSON list": (M + "[1, 2, 3]\n", ["row 2", "[1, 2, 3]", "object"]),
    "JSON field missing": (M + '{"timestamp": 0, "input_length": 9}\n', ["row 2", "output_length"]),
    "JSON text for a number": (mooncake((0, 1, 1), (0, "9", 3)), ["row 2", "input_length", "'9'"]),
    "JSON true": (mooncake((0, 1, 1), (0, 9, True)), ["row 2", "output_length", "True"]),
    "JSON null": (mooncake((0, 1, 1), (None, 9, 3)), ["row 2", "timestamp", "None"]),
    "JSON fraction": (mooncake((0, 1, 1), (0, 9.5, 3)), ["row 2", "input_length", "9.5"]),
    "JSON negative": (mooncake((0, 1, 1), (0, 9, -3)), ["row 2", "output_length", "-3"]),
    "JSON negative time": (mooncake((0, 1, 1), (-4, 9, 3)), ["row 2", "timestamp", "-4"]),
    "JSON huge": (mooncake((0, 1, 1), (0, 10**9, 3)), ["row 2", "input_length", "at most"]),
    "JSON NaN": (M + M.replace("9", "NaN"), ["row 2", "input_length", "nan"]),
    "JSON two in a row": (M + M.strip() + "," + M, ["row 2", "JSON"]),
    "JSON one over two rows": (M + M.strip()[:20] + "\n" + M.strip()[20:], ["row 2", "JSON"]),
    "JSON deep": (M + "[" * 100_000, ["row 2", "JSON"]),
    "JSON blank inside": (M + "\n" + M, ["row 2", "blank"]),
    "session rows": (M.replace("{", '{"session_id": "a", ') * 2, ["row 2", "workload.context"]),
    "hash_ids no list": (M + M.replace("}", ', "hash_ids": 5}'), ["row 2", "hash_ids", "5"]),
    "hash_ids of lists": (M + M.replace("}", ', "hash_ids": [[1]]}'), ["row 2", "hash_ids"]),
    "hash_ids true": (M + M.replace("}", ', "hash_ids": [true]}'), ["row 2", "hash_ids", "True"]),
    "hash_ids null": (M + M.replace("}", ', "hash_ids": [null]}'), ["row 2", "hash_ids", "None"]),
    "hash_ids negative": (M + M.replace("}", ', "hash_ids": [-1]}'), ["row 2", "hash_ids", "-1"]),
    "hash_ids fraction": (M + M.replace("}", ', "hash_ids": [1.5]}'), ["row 2", "hash_ids", "1.5"]),
    "hashes and a fraction": (
        M.replace("}", ', "hash_ids": [4294967296]}') + M.replace("}", ', "hash_ids": [1.5]}'),
        ["row 2", "hash_ids", "1.5"],
    ),
    "hashes and a negative": (
        M.replace("}", ', "hash_ids": ["a"]}') + M.replace("}", ', "hash_ids": [-1]}'),
        ["row 2", "hash_ids", "-1"],
    ),
    "more hash_ids than blocks": (
        M + M.replace("}", ', "hash_ids": [1, 2]}'),
        ["row 2", "hash_ids"],
    ),
    "parquet cut off": (b"PAR1" + b"\x15\x04" * 200, ["parquet", "damaged"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence(tmp_path: Path, kind: str) -> None:
    """The message names the file and whatever of row, field and value there is, on one line."""
    content, expected = BAD[kind]
    path = write(tmp_path, content, "some trace.csv")
    with pytest.raises(TraceError) as error:
        read_trace(path)
    message = str(error.value)
    assert "some trace.csv" in message
    assert "\n" not in message
    assert len(message) < 400
    for part in expected:
        assert part in message


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_as_bad_when_zstd_packed(tmp_path: Path, kind: str) -> None:
    """Whatever is refused plain is refused inside a zstd file too."""
    content = BAD[kind][0]
    path = write(tmp_path, zstd(content if isinstance(content, bytes) else content.encode()))
    with pytest.raises(TraceError, match=r"trace\.csv") as error:
        read_trace(path)
    assert "\n" not in str(error.value)


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    """What is not a file is said to be none."""
    with pytest.raises(TraceError, match=r"nowhere\.csv: no such file"):
        read_trace(str(tmp_path / "nowhere.csv"))
    with pytest.raises(TraceError, match="is a directory, expected a trace file"):
        read_trace(str(tmp_path))
    with pytest.raises(TraceError, match=r"cannot be opened|no such file"):
        read_trace("a\0b")


@pytest.mark.parametrize("cut", [3, 5, 40, -1])
def test_zstd_cut_off_is_one_sentence(tmp_path: Path, cut: int) -> None:
    """A zstd file that ends early is never read as if it were whole."""
    packed = zstd(azure(*((k / 100, k + 1, 5) for k in range(500))).encode())
    with pytest.raises(TraceError, match=r"trace\.csv") as error:
        read_trace(write(tmp_path, packed[:cut]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: object, pack: object) -> None:
    """Beyond a free allowance a file may not grow more than 100 times."""
    monkeypatch.setattr("workloads.readers.source.FREE_EXPANSION_BYTES", 1 << 16)  # type: ignore[attr-defined]
    content = (HEADER + ROW * 100_000).encode()
    path = write(tmp_path, pack(content))  # type: ignore[operator]
    with pytest.raises(TraceError, match="expand to more than 100 times"):
        read_trace(path)


def test_an_endless_line_is_refused(tmp_path: Path) -> None:
    """A line that fills a whole block is an error, not memory."""
    path = write(tmp_path, HEADER + ROW + "1" * (9 << 20) + "," + "1" * (9 << 20))
    with pytest.raises(TraceError, match="a line is longer than 8 MiB"):
        read_trace(path)


# Canonical parquet


def test_canonical_round_trip_is_the_identity(tmp_path: Path) -> None:
    """Frame, dtypes and account come back from parquet as they were."""
    trace = read_trace(write(tmp_path, M.replace("}", ', "hash_ids": [7]}') * 3, "m.jsonl"))
    trace.write_parquet(tmp_path / "t.parquet")
    back = read_trace(str(tmp_path / "t.parquet"))
    assert back.equals(trace)
    assert back.frame.schema == SCHEMA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.jsonl", "t.parquet"]


def test_canonical_takes_a_context_limit(tmp_path: Path) -> None:
    """A limit given when reading back applies, and the clock starts at the first kept row."""
    trace = read_trace(write(tmp_path, azure((1, 500, 5), (2, 5, 5), (4, 6, 6))))
    trace.write_parquet(tmp_path / "t.parquet")
    back = read_trace(str(tmp_path / "t.parquet"), policy=Policy(max_context=100))
    assert back.column("arrival_s").tolist() == [0.0, 2.0]
    assert back.meta.drops == {"over_context": 1}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, "without the metadata"),
        ({METADATA_KEY: "{"}, "metadata is not what this program writes"),
        ({METADATA_KEY: '{"name": "x", "transforms": []}'}, "metadata is not what"),
        ({METADATA_KEY: "[1]"}, "metadata is not what"),
    ],
)
def test_foreign_parquet_is_refused(
    tmp_path: Path, metadata: dict[str, str], expected: str
) -> None:
    """A parquet file this program did not write is refused by name."""
    path = tmp_path / "foreign.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(path, metadata=metadata)
    with pytest.raises(TraceError, match=expected) as error:
        read_trace(str(path))
    assert "foreign.parquet" in str(error.value)


def test_tampered_parquet_is_refused(tmp_path: Path) -> None:
    """A frame that breaks the schema is refused, naming the column."""
    meta = TraceMeta(name="x", format="azure2023", rows_read=1, rows_kept=1)
    path = tmp_path / "t.parquet"
    pl.DataFrame({"request_id": [1]}).write_parquet(path, metadata={METADATA_KEY: meta.to_json()})
    with pytest.raises(TraceError, match=r"t\.parquet.*request_id must be UInt32 but is Int64"):
        read_trace(str(path))


# Laws over generated files

rows_of = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=40
)
policies = st.builds(
    Policy,
    zero_output=st.sampled_from(["drop", "keep_prefill_only", "clamp1"]),
    over_context=st.sampled_from(["drop", "truncate"]),
    max_context=st.none() | st.integers(2, 100),
)


def kept_by(policy: Policy, input_tokens: int, output_tokens: int) -> bool:
    """Tell by the policies' definition whether a request stays."""
    if input_tokens == 0 or (output_tokens == 0 and policy.zero_output == "drop"):
        return False
    total = input_tokens + max(output_tokens, 1)
    fits = policy.max_context is None or total <= policy.max_context
    return fits or policy.over_context == "truncate"


@given(rows=rows_of, policy=policies)
def test_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int, int]],
    policy: Policy,
) -> None:
    """Rows read = kept + dropped, order is stable, limits hold, parquet gives the same back."""
    folder = tmp_path_factory.mktemp("law")
    content = mooncake(*((second * 1000, i, o) for second, i, o in rows))
    path = write(folder, content, "m.jsonl")
    if not any(kept_by(policy, i, o) for _, i, o in rows):
        with pytest.raises(TraceError, match="no request is left"):
            read_trace(path, policy=policy)
        return
    trace = read_trace(path, policy=policy)
    meta = trace.meta
    assert meta.rows_read == len(rows) == meta.rows_kept + sum(meta.drops.values())
    assert meta.rows_kept == sum(kept_by(policy, i, o) for _, i, o in rows)
    kept = trace.column("source_row").tolist()
    assert kept == sorted(kept, key=lambda row: (rows[row][0], row))
    total = trace.column("input_tokens") + trace.column("output_tokens")
    assert policy.max_context is None or total.max() <= policy.max_context
    trace.write_parquet(folder / "t.parquet")
    assert read_trace(str(folder / "t.parquet")).equals(trace)


@given(content=st.binary(max_size=300), format=st.sampled_from(["auto", "azure", "mooncake"]))
def test_noise_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    format: str,  # noqa: A002
) -> None:
    """Any bytes are refused with a ``TraceError``."""
    path = write(tmp_path_factory.mktemp("noise"), content)
    with pytest.raises(TraceError):
        read_trace(path, format=format)
