"""Tables of other simulators and datasets, and of anybody's own columns."""

import json
from pathlib import Path

import polars as pl
import pytest
from test_readers import shared, write

from workloads.errors import TraceError
from workloads.readers import read_trace
from workloads.trace import Trace

BLIS = (
    "request_id,client_id,tenant_id,slo_class,session_id,round_index,prefix_group,prefix_length,"
    "streaming,input_tokens,output_tokens,model,deadline_us,server_input_tokens,arrival_time_us,"
    "status,finish_reason\n"
    "0,c1,t1,standard,s1,0,,0,false,10,5,m,0,0,0,ok,\n"
    "1,c1,t1,standard,s1,1,,0,false,20,5,m,0,0,1500000,ok,\n"
)


def links(trace: Trace) -> list[tuple[object, object]]:
    """Return parent and delay of every request."""
    return list(zip(trace.frame["parent_id"], trace.frame["delay_s"], strict=True))


def counts(trace: Trace, name: str) -> dict[str, object]:
    """Return the counts of the transform ``name``."""
    return next((dict(t.counts) for t in trace.meta.transforms if t.name == name), {})


def test_burstgpt_1_sample() -> None:
    """The quoted rows as they stand, models and logs by name."""
    trace = read_trace(shared("burstgpt_1_head41_quoted.csv"))
    assert trace.meta.format == "burstgpt"
    assert trace.column("arrival_s")[:3].tolist() == [0, 40, 113]
    assert trace.column("input_tokens")[:3].tolist() == [472, 1087, 417]
    assert trace.frame["model"][:3].to_list() == ["ChatGPT", "ChatGPT", "GPT-4"]
    assert trace.frame["tenant"].unique().to_list() == ["Conversation log"]


def test_burstgpt_3_sample() -> None:
    """Two columns stand before the others, and times begin anywhere."""
    trace = read_trace(shared("burstgpt_3_head4_quoted.csv"))
    assert trace.column("arrival_s").tolist() == [0, 51, 82, 144]
    assert trace.frame["session_id"].to_list() == [0, 1, 2, 3]
    assert trace.column("src_e2e_s").tolist() == [43, 2, 8, 3]


def test_burstgpt_sessions_are_conversations(tmp_path: Path) -> None:
    """A turn waits for the one before; a failed answer is dropped, a blank session is none."""
    header = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Log Type\n"
    rows = "100.0,a,4,g,10,5,c\n103.0,b,9,g,10,5,c\n109.0,a,3,g,20,5,c\n110.0,b,1,g,9,9,c\n"
    failed = "111.0,a,1,g,20,0,c\n112.0,,,g,7,7,API log\n113.5,a,1,g,30,7,c\n"
    trace = read_trace(write(tmp_path, header + rows + failed))
    assert trace.meta.drops == {"zero_output": 1}
    assert links(trace) == [(None, None), (None, None), (0, 5.0), (1, 0.0), (None, None), (2, 1.5)]
    assert counts(trace, "negative_delays") == {"rows": 2}  # at 110 and, of the failed one, 111
    assert counts(trace, "relinked") == {"to_earlier_turns": 1, "to_no_turn": 0}
    assert trace.frame["turn"].to_list() == [0, 0, 1, 1, None, 3]


def test_vidur(tmp_path: Path) -> None:
    """Seconds, and lengths alone with a word about the times."""
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,20\n1.5,200,30\n"
    trace = read_trace(write(tmp_path, text))
    assert (trace.meta.format, trace.column("arrival_s").tolist()) == ("vidur", [0, 1.5])
    text = (
        "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n100,20,120,5\n7,7,14,1\n"
    )
    trace = read_trace(write(tmp_path, text))
    assert trace.column("input_tokens").tolist() == [100, 7]
    assert "workload.concurrency" in trace.meta.warnings[0]


def test_splitwise(tmp_path: Path) -> None:
    """Seconds; the application is the tenant."""
    text = (
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
        "7,2,3,0.5,1,100,20\n8,2,4,2.0,1,200,30\n"
    )
    trace = read_trace(write(tmp_path, text))
    assert trace.frame["source_id"].to_list() == ["7", "8"]
    assert trace.frame["tenant"].to_list() == ["3", "4"]
    assert trace.column("arrival_s").tolist() == [0, 1.5]


def test_blis(tmp_path: Path) -> None:
    """Microseconds; rounds of a session follow each other."""
    trace = read_trace(write(tmp_path, BLIS))
    assert trace.meta.format == "blis"
    assert trace.column("arrival_s").tolist() == [0, 1.5]
    assert links(trace) == [(None, None), (0, None)]
    assert trace.frame["tenant"].to_list() == ["t1", "t1"]


ROWS = [
    {"id": "a", "at": 1000, "use": {"in": 10, "out": 5}, "chat": "x", "ttft": 0.5},
    {"id": "b", "at": 2500, "use": {"in": 20, "out": 6}, "chat": "x", "ttft": None},
    {"id": "c", "at": 2600, "use": {"in": 30, "out": 7}, "chat": None},
]
COLUMNS = {
    "arrival_s": "at",
    "input_tokens": "use.in",
    "output_tokens": "use.out",
    "session_id": "chat",
    "source_id": "id",
    "src_ttft_s": "ttft",
}


def table() -> pl.DataFrame:
    """Return the rows as a table with the dotted names."""
    flat = [
        {"id": r["id"], "at": r["at"], "use.in": r["use"]["in"], "use.out": r["use"]["out"]}  # type: ignore[index]
        | {"chat": r["chat"], "ttft": r.get("ttft")}
        for r in ROWS
    ]
    return pl.DataFrame(flat)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_own_columns_are_read_by_a_mapping(tmp_path: Path, kind: str) -> None:
    """The same rows in three kinds of file are the same trace."""
    path = str(tmp_path / f"calls.{kind}")
    if kind == "jsonl":
        write(tmp_path, "".join(f"{json.dumps(row)}\n" for row in ROWS), "calls.jsonl")
    elif kind == "csv":
        table().write_csv(path)
    else:
        table().write_parquet(path)
    trace = read_trace(path, columns=COLUMNS, time_unit="ms")
    assert trace.column("arrival_s").tolist() == [0, 1.5, 1.6]
    assert trace.column("input_tokens").tolist() == [10, 20, 30]
    assert trace.frame["source_id"].to_list() == ["a", "b", "c"]
    assert links(trace) == [(None, None), (0, None), (None, None)]
    assert trace.frame["src_ttft_s"].to_list() == [0.5, None, None]
    with pytest.raises(TraceError, match=r"calls\.\w+: row \d, at is '?1000.*workload\.time_unit"):
        read_trace(path, columns=COLUMNS)


def test_a_mapping_may_name_parents(tmp_path: Path) -> None:
    """By the names of the rows; one that is not there is counted, a circle refused."""
    text = "at,in,out,id,after,wait\n1,9,9,a,,\n2,9,9,b,a,0.5\n3,9,9,c,zz,1\n"
    columns = {"arrival_s": "at", "input_tokens": "in", "output_tokens": "out", "source_id": "id"}
    columns |= {"parent_id": "after", "delay_s": "wait"}
    trace = read_trace(write(tmp_path, text), columns=columns, time_unit="s")
    assert links(trace) == [(None, None), (0, 0.5), (None, None)]
    assert counts(trace, "parents_not_in_the_file") == {"rows": 1}
    circle = text.replace("a,,", "a,b,0")
    with pytest.raises(TraceError, match="row 2, parent is 'row 3'"):
        read_trace(write(tmp_path, circle), columns=columns, time_unit="s")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"input_tokens": "in"}, "output_tokens is missing"),
        ({"input_tokens": "in", "output_tokens": "in"}, "named twice"),
        ({"input_tokens": "in", "output_tokens": "out", "colour": "x"}, "'colour' is not one of"),
        ({"input_tokens": "in", "output_tokens": "none"}, "has no column none"),
        ({}, "must name the file's column"),
    ],
)
def test_bad_mappings(tmp_path: Path, columns: dict[str, str], expected: str) -> None:
    """Each is one sentence."""
    with pytest.raises(TraceError, match=expected):
        read_trace(write(tmp_path, "at,in,out\n1,9,9\n"), columns=columns)
    with pytest.raises(TraceError, match=r"workload\.columns"):
        read_trace(write(tmp_path, "at,in,out\n1,9,9\n"), format="mapped")
