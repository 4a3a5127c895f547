"""Logs, spans, parquet, chats and clients: samples made by hand in the documented shape."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_readers import shared, write
from test_session_readers import counts, ids, jsonl, links, shared_blocks

from workloads.errors import TraceError
from workloads.readers import read_trace
from workloads.readers.servegen import read_client

# LLMServingSim, aibrix, chats


def test_llmservingsim_tokens_make_blocks(tmp_path: Path) -> None:
    """Nanoseconds; prompts that begin with the same tokens share whole blocks of them."""
    prompt = list(range(100, 140))
    rows = [
        {"input_toks": 40, "output_toks": 5, "arrival_time_ns": 10, "input_tok_ids": prompt},
        {"input_toks": 36, "output_toks": 5, "arrival_time_ns": 1_500_000_010}
        | {"input_tok_ids": [*prompt[:33], 1, 2, 3]},
    ]
    trace = read_trace(jsonl(tmp_path, *rows))
    assert trace.column("arrival_s").tolist() == [0, 1.5]
    assert [len(ids(trace, 0)), shared_blocks(trace, 0, 1)] == [2, 2]
    plain = [{name: row[name] for name in row if name != "input_tok_ids"} for row in rows]
    assert read_trace(jsonl(tmp_path, *plain)).meta.block_size is None
    with pytest.raises(TraceError, match="row 1, number of input_tok_ids is 40, expected at most"):
        read_trace(jsonl(tmp_path, rows[0] | {"input_toks": 39}))


def test_aibrix_stamps_hold_several_requests(tmp_path: Path) -> None:
    """Milliseconds; each request of a stamp is one row."""
    sizes = [{"Prompt Length": 10, "Output Length": 3, "prompt": "x"}, {"Prompt Length": 20}]
    rows = [
        {"timestamp": 0, "requests": [sizes[0], sizes[1] | {"Output Length": 4}]},
        {"timestamp": 2500, "requests": [{"prompt_length": 30, "output_length": 5}]},
    ]
    trace = read_trace(jsonl(tmp_path, *rows))
    assert trace.column("arrival_s").tolist() == [0, 0, 2.5]
    assert trace.column("input_tokens").tolist() == [10, 20, 30]
    with pytest.raises(TraceError, match=r"row 1 \(request 1\), Output Length is None"):
        read_trace(jsonl(tmp_path, {"timestamp": 0, "requests": sizes}))


def test_chats_with_token_counts(tmp_path: Path) -> None:
    """Each answer is a request whose prompt is all that was said before."""
    said = [("system", 20), ("human", 30), ("gpt", 14), ("human", 10), ("gpt", 5)]
    chat = [{"from": who, "value": "…", "tokens": n} for who, n in said]
    path = write(tmp_path, json.dumps([{"id": "c", "conversations": chat}]), "chats.json")
    trace = read_trace(path)
    assert trace.column("input_tokens").tolist() == [50, 74]
    assert trace.column("output_tokens").tolist() == [14, 5]
    assert links(trace) == [(None, None), (0, 0.0)]
    assert shared_blocks(trace, 0, 1) == 50 // 16
    text = json.dumps([{"id": "c", "conversations": [{"from": "human", "value": "hello"}]}])
    with pytest.raises(TraceError, match=r"row 1 \(message 0\) has no tokens.*count its tokens"):
        read_trace(write(tmp_path, text, "text.json"))


# OpenTelemetry

T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


def otlp(name: str, start_s: float, took_s: float, **said: Any) -> dict[str, Any]:
    """Return a span as collectors write it."""
    kinds = {int: "intValue", float: "doubleValue", str: "stringValue"}
    said = {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": "c"} | {
        f"gen_ai.{key.replace('__', '.')}": value for key, value in said.items()
    }
    return {
        "traceId": "t",
        "spanId": name,
        "startTimeUnixNano": str(T0 + int(start_s * 1e9)),
        "endTimeUnixNano": str(T0 + int((start_s + took_s) * 1e9)),
        "attributes": [
            {"key": key, "value": {kinds[type(v)]: str(v) if isinstance(v, int) else v}}
            for key, v in said.items()
        ],
        "status": {},
    }


SPANS = [
    otlp("b", 5, 1, usage__input_tokens=40, usage__output_tokens=4, request__model="m")
    | {"kind": 3},
    otlp("a", 0, 2.5, usage__prompt_tokens=30, usage__completion_tokens=6),
    otlp("e", 1, 1, operation__name="embeddings", usage__input_tokens=9),
    otlp("f", 9, 1, usage__input_tokens=50, usage__output_tokens=5) | {"status": {"code": 2}},
]


def exported(*spans: dict[str, Any]) -> dict[str, Any]:
    """Return an export of spans."""
    return {
        "resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]
    }


@pytest.mark.parametrize("indent", [None, 2])
def test_otlp_spans_are_sorted_linked_and_sifted(tmp_path: Path, indent: int | None) -> None:
    """Spans end-ordered, old and new names, other operations counted."""
    trace = read_trace(write(tmp_path, json.dumps(exported(*SPANS), indent=indent), "spans.json"))
    assert trace.frame["source_id"].to_list() == ["a", "b", "f"]
    assert trace.column("arrival_s").tolist() == pytest.approx([0, 5, 9], abs=1e-6)
    assert trace.column("input_tokens").tolist() == [30, 40, 50]
    assert [each for each, _ in links(trace)] == [None, 0, 1]
    assert [d for _, d in links(trace)[1:]] == pytest.approx([2.5, 3.0], abs=1e-5)
    assert counts(trace, "spans_embeddings_passed_over") == {"rows": 1}
    assert trace.meta.t0 == "2026-01-01T00:00:00.000000000+00:00"


def test_spans_on_lines_with_dates(tmp_path: Path) -> None:
    """What other exporters write: plain attributes, ISO 8601, a context of ids."""

    def span(name: str, second: int, **said: Any) -> dict[str, Any]:
        attributes = {f"gen_ai.{key.replace('__', '.')}": value for key, value in said.items()}
        return {
            "name": "chat m",
            "context": {"trace_id": "0x1", "span_id": name},
            "start_time": f"2026-01-01T00:00:0{second}.500000Z",
            "end_time": f"2026-01-01T00:00:0{second + 1}.500000Z",
            "attributes": attributes,
        }

    rows = [
        span("a", 1, usage__input_tokens=9, usage__output_tokens=3, system="openai"),
        span("b", 4, usage__input_tokens=19, usage__output_tokens=3)
        | {
            "attributes": {"gen_ai.usage.input_tokens": 19, "gen_ai.usage.output_tokens": 3}
            | {"gen_ai.usage.cache_read.input_tokens": 8, "gen_ai.usage.reasoning.output_tokens": 2}
        },
    ]
    trace = read_trace(jsonl(tmp_path, *rows))
    assert links(trace) == [(None, None), (0, pytest.approx(2.0, abs=1e-5))]
    assert trace.column("output_tokens").tolist() == [3, 3]  # reasoning tokens are among them
    assert trace.frame["cached_tokens_hint"].to_list() == [None, 8]
    assert trace.frame["tenant"].to_list() == ["openai", None]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (
            SPANS[0] | {"startTimeUnixNano": "soon"},
            r"row 1 \(span 0\), startTimeUnixNano is 'soon'",
        ),
        (SPANS[0] | {"attributes": 7}, r"row 1 \(span 0\), attributes is 7"),
        (otlp("x", 0, 1, usage__input_tokens=-4), r"gen_ai\.usage\.input_tokens is '-4'"),
        (SPANS[2], "holds no span of a model's call"),
    ],
)
def test_bad_spans(tmp_path: Path, span: dict[str, Any], expected: str) -> None:
    """The span is named."""
    with pytest.raises(TraceError, match=expected):
        read_trace(write(tmp_path, json.dumps(exported(span)), "spans.json"))


# Baseten


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_baseten(tmp_path: Path, kind: str) -> None:
    """Clock times in ms, hashes of blocks, sessions with the time between turns."""
    frame = pl.DataFrame(
        {
            "timestamp_start_unix_ms": [1_767_225_600_000, 1_767_225_603_000],
            "prompt": ["x", "y"],
            "input_tokens": [40, 70],
            "output_tokens": [5, 6],
            "total_hashes": [["h1", "h2"], ["h1", "h3", "h4"]],
            "provided_session_id": ["s", "s"],
            "duration_e2e_ms": [1000, 2000],
            "block_size": [32, 32],
        }
    )
    path = tmp_path / f"t.{kind}"
    frame.write_parquet(path) if kind == "parquet" else frame.write_ipc(path)
    trace = read_trace(str(path))
    assert (trace.meta.format, trace.meta.block_size) == ("baseten", 32)
    assert links(trace) == [(None, None), (0, 2.0)]
    assert shared_blocks(trace, 0, 1) == 1
    frame.drop("block_size").write_parquet(path)
    with pytest.raises(TraceError, match=r"row 0, block_size is None.*workload\.block_size"):
        read_trace(str(path))
    assert read_trace(str(path), block_size=32).meta.block_size == 32
    with pytest.raises(TraceError, match="row 0, number of total_hashes is 2, expected at most 1"):
        read_trace(str(path), block_size=64)


# ServeGen


def test_servegen_clients_send_at_their_rates() -> None:
    """Over all windows of the samples the number drawn is that of the rates, within its spread."""
    folder = shared("servegen_raw/reason/deepseek-r1")
    trace = read_trace(folder)
    clients = [read_client(path) for path in sorted(Path(folder).glob("*-trace.csv"))]
    expected = sum(client.rate.sum() * 600 for client in clients)
    # of a stationary renewal process over T the variance is at most about cv² per arrival
    variance = sum((client.rate * 600 * 60).sum() for client in clients)
    assert abs(len(trace) - expected) < 4 * np.sqrt(variance)
    assert len(set(trace.frame["tenant"].to_list())) > 1
    again = read_trace(folder)
    assert again.frame.equals(trace.frame)


def servegen(folder: Path, rows: str, lengths: object) -> str:
    """Write a client's two files and return the first one's path."""
    write(folder, json.dumps(lengths), "chunk-7-dataset.json")
    return write(folder, rows, "chunk-7-trace.csv")


LENGTHS = {"0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{3: 1.0}"}, "21600": {}}


@pytest.mark.parametrize(("pattern", "shape"), [("Gamma", 0.25), ("Gamma", 4), ("Weibull", 0.5)])
def test_servegen_windows_have_the_mean_they_say(
    tmp_path: Path, pattern: str, shape: float
) -> None:
    """However bursty, many windows of a rate hold that many requests; silent ones none."""
    windows = 4000
    rows = "".join(f"{600 * k},0.02,1,{pattern},{shape},1\n" for k in range(windows))
    trace = read_trace(servegen(tmp_path, f"{rows}{600 * windows},9,0,,0,0\n", LENGTHS))
    cv2 = 1 / shape if pattern == "Gamma" else 5.0
    spread = np.sqrt(windows * (12 * cv2 + 12))
    assert abs(len(trace) - 12 * windows) < 4 * spread
    assert set(trace.column("input_tokens").tolist()) == {10, 20}
    assert set(trace.column("output_tokens").tolist()) == {3}


@pytest.mark.parametrize(
    ("row", "lengths", "expected"),
    [
        ("0,1,1,Gamma,x,1\n", LENGTHS, r"chunk-7-trace\.csv: row 1, shape is 'x'"),
        ("0,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", LENGTHS, "row 2, window_start_s is '0'"),
        ("0,1,1,Gamma,1,1\n", {"0": {}}, "holds no input_tokens in any window"),
        ("0,1,1,Gamma,1,1\n", [], "expected an object of windows"),
        (
            "0,1,1,Gamma,1,1\n",
            {"0": {"input_tokens": "__import__('os').getcwd()"}},
            r"chunk-7-dataset\.json: row 1 \(window 0\), input_tokens is",
        ),
        (
            "0,1,1,Gamma,1,1\n",
            {"0": {"input_tokens": "{-5: 1}"}},
            "expected a length in tokens and its share",
        ),
    ],
)
def test_bad_clients(tmp_path: Path, row: str, lengths: object, expected: str) -> None:
    """Nothing is evaluated; each is one sentence."""
    with pytest.raises(TraceError, match=expected):
        read_trace(servegen(tmp_path, row, lengths), format="servegen")


def test_a_client_needs_its_lengths(tmp_path: Path) -> None:
    """The file that is missing is named."""
    with pytest.raises(TraceError, match=r"chunk-7-dataset\.json, are not beside it"):
        read_trace(write(tmp_path, "0,1,1,Gamma,1,1\n", "chunk-7-trace.csv"))
