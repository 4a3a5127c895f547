"""Whatever becomes of a good file, reading it gives a trace or one sentence, never a traceback."""

import gzip
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_measured_readers import BENCH, FAILED, RECORD, STAMPED

from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers import read_trace
from workloads.trace import METADATA_KEY, TraceMeta, canonical_frame

CSV = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OBJECTS: list[dict[str, Any]] = [
    {"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [1, 2]},
    {"timestamp": 350, "input_length": 30, "output_length": 0, "request_id": "a", "x": [1]},
    {"timestamp": 350, "input_length": 1400, "output_length": 9, "hash_ids": [2**63, 7, 1]},
]


def parquet(frame: pl.DataFrame, **metadata: str) -> bytes:
    """Return the frame as the bytes of a parquet file."""
    stream = BytesIO()
    frame.write_parquet(stream, metadata=metadata or None)
    return stream.getvalue()


def canonical() -> bytes:
    """Return a small trace as this program writes it."""
    columns = {"arrival_s": [0.0, 1.5], "input_tokens": [8, 9], "output_tokens": [1, 2]}
    meta = TraceMeta(name="t", format="test", rows_read=2, rows_kept=2, tokens_read=20)
    return parquet(canonical_frame(pl.DataFrame(columns)), **{METADATA_KEY: meta.to_json()})


COLUMNS = pl.DataFrame(
    {
        "arrival_s": [0.5, 0.25, 9.0],
        "input_tokens": [5, 6, 7],
        "output_tokens": [1, 0, 3],
        "session_id": ["a", None, "a"],
        "turn": [0, 1, 2],
    }
)
SAMPLES: dict[str, bytes] = {
    "dates": f"{CSV}2026-03-04 05:06:07.0000001,100,5\n2026-03-04 05:06:08,200,7\n".encode(),
    "offsets": f"{CSV}2026-03-04T05:06:07Z,100,5\n2026-03-04T07:06:08.5+02:00,9,7\n".encode(),
    "quotes": b',"TIMESTAMP",ContextTokens,"GeneratedTokens",model,ttft_s\r\n'
    b'0,"2026-03-04 05:06:07","100",5,"m, 1",0.5\r\n1,"2026-03-04 05:06:08",7.0,"6",,\r\n',
    "epoch": f"{CSV}1767225600.5,100,5\n1767225601,200,7\n".encode(),
    "lines": "\n".join(map(json.dumps, OBJECTS)).encode(),
    "array": json.dumps(OBJECTS, indent=1).encode(),
    "hashes": json.dumps(
        OBJECTS[0] | {"hash_ids": ["é", "b"], "timestamp": "2026-03-04T05:06:00Z"}
    ).encode(),
    "columns": COLUMNS.write_csv().encode(),
    "bench": json.dumps(BENCH).encode(),
    "aiperf": "\n".join(map(json.dumps, (RECORD, FAILED))).encode(),
    "engine_log": "\n".join(map(json.dumps, (STAMPED, STAMPED))).encode(),
    "canonical": canonical(),
    "parquet": parquet(COLUMNS),
}
PIECES = [
    *(b"", b"\n", b"\r", b"\0", b'"', b",", b"{", b"}", b"[", b"]", b":", b"-", b".", b"\\", b" "),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"-1", b"0", b"1.5", b"9" * 20, b"9" * 400),
    *(b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"\\ud800"', "é😀".encode(), b"2026-02-30"),
    *(b'"hash_ids": ["x"]', b'"session_id": 1', b'"timestamp": "soon"', b"+25:99", b"Z", b"T"),
    *(b'"a":{"b":[{}]}', b"[" * 3000, b"x" * 300, b"\n\n", b"PAR1", b"TIMESTAMP"),
]
places = st.floats(0, 1, exclude_max=True)
edits = st.lists(
    st.tuples(places, st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=4)),
    min_size=1,
    max_size=4,
)
policies = st.sampled_from(
    [Policy(), Policy(zero_output="clamp1", max_context=700, over_context="truncate")]
)
packs = st.sampled_from([bytes, bytes, gzip.compress])
units = st.sampled_from(["auto", "auto", "s", "ms", "us", "ns"])
formats = st.sampled_from(["auto", "auto", "auto", "azure", "mooncake", "canonical", "bench"])


def mutated(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Return ``content`` with pieces put in the place of some bytes."""
    for place, length, piece in changes:
        at = int(place * len(content))
        content = content[:at] + piece + content[at + length :]
    return content


def check(path: Path, content: bytes, **settings: Any) -> None:
    """Read a file of this content; a refusal is one printable line that names the file."""
    path.write_bytes(content)
    try:
        trace = read_trace(str(path), **settings)
    except TraceError as error:
        text = str(error)
        assert path.name in text
        assert len(text.splitlines()) == 1, text
        assert len(text) < 1000, text
        text.encode()
        return
    assert len(trace) == trace.meta.rows_kept
    trace.meta.to_json().encode()
    trace.identity()


@given(
    sample=st.sampled_from([name for name in SAMPLES if SAMPLES[name][:4] != b"PAR1"]),
    changes=edits,
    pack=packs,
    policy=policies,
    unit=units,
    format=formats,
)
def test_a_mutated_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, sample: str, changes: Any, pack: Any, **settings: Any
) -> None:
    """Bytes, numbers, dates, brackets and quotes gone wrong are a sentence at most."""
    path = tmp_path_factory.getbasetemp() / "mutated.trace"
    check(
        path,
        pack(mutated(SAMPLES[sample], changes)),
        policy=settings["policy"],
        time_unit=settings["unit"],
        format=settings["format"],
    )


@given(sample=st.sampled_from(["lines", "quotes"]), changes=edits)
def test_a_damaged_archive_is_refused(
    tmp_path_factory: pytest.TempPathFactory, sample: str, changes: Any
) -> None:
    """The same of what was packed before it was damaged."""
    path = tmp_path_factory.getbasetemp() / "damaged.gz"
    check(path, mutated(gzip.compress(SAMPLES[sample], mtime=0), changes))


@given(sample=st.sampled_from(["canonical", "parquet"]), changes=edits)
def test_a_mutated_parquet_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, sample: str, changes: Any
) -> None:
    """Parquet whose bytes were changed is a sentence at most."""
    path = tmp_path_factory.getbasetemp() / "mutated.parquet"
    check(path, mutated(SAMPLES[sample], changes))


def test_a_damaged_parquet_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Threads that panic over damaged pages do not write to the terminal behind our back."""
    good = SAMPLES["parquet"]
    for place in range(4, len(good) - 8, 7):
        check(tmp_path / "t.parquet", good[:place] + b"\xff\x7f" + good[place + 2 :])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_themselves_are_read(tmp_path: Path, name: str) -> None:
    """What is mutated above is good to begin with."""
    path = tmp_path / "sample"
    path.write_bytes(SAMPLES[name])
    assert len(read_trace(str(path))) >= 1
