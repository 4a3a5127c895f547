"""Whatever becomes of a good file, reading it gives a trace or one sentence, never a traceback."""

import gzip
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_measured_readers import BENCH, FAILED, RECORD, STAMPED
from test_other_readers import SPANS, exported
from test_session_readers import HEADER, TURNS, agent, chat, play
from test_table_readers import BLIS

from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers import READERS, read_trace
from workloads.readers.tracelab import REPLAY
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


BASETEN = pl.DataFrame(
    {
        "timestamp_start_unix_ms": [1_767_225_600_000, 1_767_225_603_000],
        "input_tokens": [40, 70],
        "output_tokens": [5, 6],
        "total_hashes": [["h1", "h2"], ["h1", "h3", "h4"]],
        "provided_session_id": ["s", "s"],
        "duration_e2e_ms": [1000, 2000],
        "block_size": [32, 32],
    }
)


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


def lines(*rows: object) -> bytes:
    """Return rows of JSON, one on a line."""
    return "\n".join(map(json.dumps, rows)).encode()


SAMPLES: dict[str, bytes] = {
    "turns": lines(*TURNS),
    "dynamo": lines(
        {"event_type": "tool_end", "schema": "dynamo.request.trace.v1"},
        *(
            {
                "schema": "dynamo.request.trace.v1",
                "event_type": "request_end",
                "agent_context": {"session_id": name, "parent_session_id": "a"},
                "request": {
                    "request_received_ms": at * 10,
                    "total_time_ms": 3,
                    "output_tokens": 2,
                    "replay": {
                        "trace_block_size": 4,
                        "input_length": 9,
                        "input_sequence_hashes": [2**64 - 1, at],
                    },
                },
            }
            for at, name in enumerate("abba")
        ),
    ),
    "agentic": lines(HEADER, play("a"), play("b", "a"), play("c", "a", "b")),
    "applied": lines(
        {
            "num_turns": 1,
            "input_prompt_length": 16,
            "assistant_response_length": [4],
            "tool_call_output_length": [8],
            "tool_call_latency": [0.5],
            "final_assistant_response_length": 4,
        }
    ),
    "bailian": lines(chat(1, -1, 0.5, 33, [1, 2, 3]), chat(2, 1, 2.5, 64, [1, 2, 3, 4])),
    "ragpulse": lines(
        {
            "timestamp": "5",
            "input_length": 100,
            "output_length": 7,
            "hash_ids": {"sys_prompt": [1, 2], "passages_ids": [], "user_input": [3]},
            "session_id": "x",
        }
    ),
    "weka": lines(agent(), agent(id="t")),
    "rounds": lines(
        *(
            {
                "session_id": "s",
                "round_index": at,
                "input_tokens_total": 100 + 20 * at,
                "prefix_tokens": 90 * at,
                "output_tokens": 9,
                "timing_events": [
                    {"event_type": "user_message", "timestamp": f"2026-06-01T05:40:2{at}.151Z"},
                    {"event_type": "text", "timestamp": f"2026-06-01T05:40:2{at}.951Z"},
                ],
            }
            for at in range(3)
        )
    ),
    "replay": (
        f"{','.join(REPLAY)},arrival_time\n0,0,0,100,9,30,5\n0,1,109,20,5,0,5\n1,0,0,64,3,0,90\n"
    ).encode(),
    "burstgpt": b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Log Type\n"
    b"100.5,a,4,g,10,5,c\n103.0,b,9,g,10,0,c\n109.0,a,3,g,20,5,\n",
    "vidur": b"arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,20\n1.5,200,30\n",
    "lengths": b"num_prefill_tokens,num_decode_tokens,pd_ratio\n100,20,5\n7,7,1\n",
    "splitwise": b"request_id,application_id,arrival_timestamp,prompt_size,token_size\n0,1,0.5,9,2",
    "blis": BLIS.encode(),
    "llmservingsim": lines(
        {"input_toks": 20, "output_toks": 5, "arrival_time_ns": 7, "input_tok_ids": [1] * 20}
    ),
    "aibrix": lines(
        {
            "timestamp": 5,
            "requests": [
                {"Prompt Length": 7, "Output Length": 2},
                {"Prompt Length": 7} | {"Output Length": 9},
            ],
        }
    ),
    "chats": lines(
        {"id": 1, "conversations": [{"from": "human", "tokens": 9}, {"from": "gpt", "tokens": 4}]}
    ),
    "otlp": lines(exported(*SPANS)),
    "spans": lines(
        {
            "span_id": "a",
            "start_time": "2026-01-01T00:00:00Z",
            "end_time": "2026-01-01T00:00:01Z",
            "attributes": {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 2},
        }
    ),
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
    "baseten": parquet(BASETEN),
}
PIECES = [
    *(b"", b"\n", b"\r", b"\0", b'"', b",", b"{", b"}", b"[", b"]", b":", b"-", b".", b"\\", b" "),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"-1", b"0", b"1.5", b"9" * 20, b"9" * 400),
    *(b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"\\ud800"', "é😀".encode(), b"2026-02-30"),
    *(b'"hash_ids": ["x"]', b'"session_id": 1', b'"timestamp": "soon"', b"+25:99", b"Z", b"T"),
    *(b'"parent_chat_id": 1', b'"parent_chat_id": 2', b'"request_id": "c"', b'"type": "subagent"'),
    *(b'"hash_ids": [9e9]', b'"t": -1', b'"session_id": "s"', b'"delay": -5', b"2026-06-01"),
    *(b'"a":{"b":[{}]}', b"[" * 3000, b"x" * 300, b"\n\n", b"PAR1", b"TIMESTAMP"),
]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "30"))
"""Of each sample; more on request."""

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
formats = st.sampled_from(["auto"] * len(READERS) + [reader.name for reader in READERS])
contexts = st.sampled_from(["auto", "full", "delta"])
sizes = st.sampled_from([None, None, 1, 16])


def mutated(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Return ``content`` with pieces put in the place of some bytes."""
    for place, length, piece in changes:
        at = int(place * len(content))
        content = content[:at] + piece + content[at + length :]
    return content


def refusal(path: Path, **told: Any) -> str:
    """Read a file; return the one line it is refused with, or nothing."""
    try:
        read_trace(str(path), **told)
    except TraceError as error:
        return str(error)
    return ""


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


@pytest.mark.parametrize("sample", [name for name in SAMPLES if SAMPLES[name][:4] != b"PAR1"])
@settings(max_examples=EXAMPLES)
@given(
    changes=edits,
    pack=packs,
    policy=policies,
    unit=units,
    format=formats,
    context=contexts,
    size=sizes,
)
def test_a_mutated_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, sample: str, changes: Any, pack: Any, **given: Any
) -> None:
    """Bytes, numbers, dates, brackets and quotes gone wrong are a sentence at most."""
    path = tmp_path_factory.getbasetemp() / "mutated.trace"
    check(
        path,
        pack(mutated(SAMPLES[sample], changes)),
        policy=given["policy"],
        time_unit=given["unit"],
        format=given["format"],
        context=given["context"],
        block_size=given["size"],
    )


@given(sample=st.sampled_from(["lines", "quotes"]), changes=edits)
def test_a_damaged_archive_is_refused(
    tmp_path_factory: pytest.TempPathFactory, sample: str, changes: Any
) -> None:
    """The same of what was packed before it was damaged."""
    path = tmp_path_factory.getbasetemp() / "damaged.gz"
    check(path, mutated(gzip.compress(SAMPLES[sample], mtime=0), changes))


@settings(max_examples=3 * EXAMPLES)
@given(sample=st.sampled_from(["canonical", "parquet", "baseten"]), changes=edits)
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
    assert len(read_trace(str(path), context="full")) >= 1


MAPPINGS = st.dictionaries(
    st.sampled_from(["arrival_s", "input_tokens", "output_tokens", "session_id", "parent_id"]),
    st.sampled_from(["TIMESTAMP", "input_length", "request_id", "a.b", "input_tokens", "x"]),
    min_size=1,
)


@settings(max_examples=5 * EXAMPLES)
@given(
    sample=st.sampled_from(["quotes", "lines", "array", "parquet"]), changes=edits, told=MAPPINGS
)
def test_a_mapped_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, sample: str, changes: Any, told: Any
) -> None:
    """Whatever is said of whatever file, there is a trace or a sentence."""
    told = {"input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"} | told
    path = tmp_path_factory.getbasetemp() / "mapped.trace"
    path.write_bytes(mutated(SAMPLES[sample], changes))
    text = refusal(path, columns=told, time_unit="ms")
    assert "\n" not in text
    assert text == "" or path.name in text or "workload.columns" in text


@settings(max_examples=5 * EXAMPLES)
@given(changes=edits, of_lengths=st.booleans())
def test_a_mutated_client_is_drawn_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: Any, of_lengths: bool
) -> None:
    """Either of ServeGen's two files may be damaged; nothing in them is evaluated."""
    path = tmp_path_factory.getbasetemp() / "chunk-1-trace.csv"
    rows = b"0,0.02,1,Gamma,0.5,1\n600,0.1,1.5,Weibull,0.7,3\n1200,0,0,,0,0\n"
    lengths = json.dumps({"0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{3: 1}"}})
    beside = path.with_name("chunk-1-dataset.json")
    beside.write_bytes(mutated(lengths.encode(), changes) if of_lengths else lengths.encode())
    path.write_bytes(rows if of_lengths else mutated(rows, changes))
    text = refusal(path, format="servegen")
    assert "\n" not in text
    assert text == "" or "chunk-1" in text
