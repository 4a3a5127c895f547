"""Readers of conversations and agents: samples as they come, and small files worked out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_readers import shared, write

from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers import read_trace
from workloads.trace import Trace


def jsonl(folder: Path, *rows: object, name: str = "trace.jsonl") -> str:
    """Write rows one on a line and return the file's path."""
    return write(folder, "".join(f"{json.dumps(row)}\n" for row in rows), name)


def counts(trace: Trace, name: str) -> dict[str, object]:
    """Return the counts of the transform ``name``."""
    return next((dict(t.counts) for t in trace.meta.transforms if t.name == name), {})


def ids(trace: Trace, row: int) -> list[int]:
    """Return the block ids of a request."""
    return [run["first"] + k for run in trace.frame["block_runs"][row] for k in range(run["n"])]


def shared_blocks(trace: Trace, one: int, other: int) -> int:
    """Return how many leading blocks two requests have in common."""
    pairs = zip(ids(trace, one), ids(trace, other), strict=False)
    return next(
        (k for k, (a, b) in enumerate(pairs) if a != b),
        min(map(len, (ids(trace, one), ids(trace, other)))),
    )


def links(trace: Trace) -> list[tuple[Any, Any]]:
    """Return parent and delay (to a microsecond) of every request."""
    delays = [each if each is None else round(each, 6) for each in trace.frame["delay_s"]]
    return list(zip(trace.frame["parent_id"].to_list(), delays, strict=True))


# Mooncake's sessions

TURNS = (
    {
        "session_id": "a",
        "timestamp": 0,
        "input_length": 1100,
        "output_length": 100,
        "hash_ids": [7, 8, 9],
    },
    {
        "session_id": "a",
        "delay": 500,
        "input_length": 1500,
        "output_length": 20,
        "hash_ids": [7, 8, 3],
    },
    {"session_id": "b", "timestamp": 4000, "input_length": 90, "output_length": 5, "hash_ids": [7]},
)


def test_mooncake_turns_are_refused_until_told_what_they_count(tmp_path: Path) -> None:
    """Nothing in the rows tells; the sentence names the setting."""
    with pytest.raises(
        TraceError, match=r"row 2 goes on with a session.*workload\.context=full or"
    ):
        read_trace(jsonl(tmp_path, *TURNS))


def test_mooncake_turns_of_whole_prompts(tmp_path: Path) -> None:
    """Lengths and ids stand as they are; a turn waits for the one before."""
    trace = read_trace(jsonl(tmp_path, *TURNS), context="full")
    assert trace.column("input_tokens").tolist() == [1100, 1500, 90]
    assert links(trace) == [(None, None), (0, 0.5), (None, None)]
    assert trace.frame["arrival_s"].to_list() == [0.0, None, 4.0]
    assert (trace.meta.loop, trace.meta.tail_block) == ("closed", "partial")
    assert shared_blocks(trace, 0, 1) == 2


def test_mooncake_deltas_become_whole_prompts(tmp_path: Path) -> None:
    """A turn's prompt is all before it and what it adds; its blocks go on with the session's."""
    trace = read_trace(jsonl(tmp_path, *TURNS), context="delta")
    assert trace.column("input_tokens").tolist() == [1100, 1100 + 100 + 1500, 90]
    assert counts(trace, "context_accumulated") == {"rows": 3}
    assert len(ids(trace, 0)) == 1100 // 512
    assert len(ids(trace, 1)) == 2700 // 512
    assert shared_blocks(trace, 0, 1) == 2
    assert trace.meta.tail_block == "omitted"


def test_mooncake_delta_sample() -> None:
    """Dynamo's own fixture: 16 tokens, 4 answered, 8 more."""
    trace = read_trace(shared("dynamo/mooncake-delta.jsonl"), context="delta", block_size=4)
    assert trace.column("input_tokens").tolist() == [16, 28]
    assert links(trace) == [(None, None), (0, 0.005)]
    assert shared_blocks(trace, 0, 1) == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"session_id": None}, "row 2, session_id is None"),
        ({"session_id": "c"}, "row 2, timestamp is None"),
        ({"delay": None}, "row 2, timestamp is None"),
        ({"delay": "soon"}, "row 2, delay is 'soon'"),
        ({"input_length": -1}, "row 2, input_length is -1"),
        ({"hash_ids": [1, 2, 3, 4]}, r"row 2, number of hash_ids .*is 4, expected at most 3"),
        ({"hash_ids": [1.5]}, "row 2, hash_ids is 1.5"),
    ],
)
def test_bad_mooncake_turns(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    """Each is one sentence with its row and field."""
    path = jsonl(tmp_path, TURNS[0], TURNS[1] | change, TURNS[2])
    with pytest.raises(TraceError, match=expected):
        read_trace(path, context="full")


def test_negative_delays_are_counted(tmp_path: Path) -> None:
    """A turn sent before the last one ended waits for it and no longer."""
    trace = read_trace(jsonl(tmp_path, TURNS[0], TURNS[1] | {"delay": -3}), context="full")
    assert links(trace)[1] == (0, 0.0)
    assert counts(trace, "negative_delays") == {"rows": 1}


def test_a_turn_without_a_time_follows_its_own_session(tmp_path: Path) -> None:
    """Whatever other sessions' rows stand between."""
    rows = [TURNS[0] | {"timestamp": 9000}, TURNS[2] | {"timestamp": 5}, TURNS[1]]
    trace = read_trace(jsonl(tmp_path, *rows), context="full")
    assert trace.frame["input_tokens"].to_list() == [90, 1100, 1500]
    assert links(trace) == [(None, None), (None, None), (1, 0.5)]


def test_a_block_size_may_be_told(tmp_path: Path) -> None:
    """Rows of 16-token blocks are refused as 512-token ones, and the setting is named."""
    path = jsonl(
        tmp_path, {"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": [1, 2, 3]}
    )
    with pytest.raises(TraceError, match=r"workload\.block_size"):
        read_trace(path)
    trace = read_trace(path, block_size=16)
    assert (trace.meta.block_size, ids(trace, 0)) == (16, [1, 2, 3])


def test_blocks_that_hold_too_little_are_told_of() -> None:
    """512-token ids read as 16-token ones would shorten what prompts share 32 times."""
    path = shared("mooncake_conversation_first5min.jsonl")
    assert not read_trace(path).meta.warnings
    (text,) = read_trace(path, block_size=16).meta.warnings
    assert "blocks of 16 tokens hold but 3% of the prompts" in text
    assert "workload.block_size" in text


# Dynamo


def test_dynamo_standard_sample() -> None:
    """Payload rows are passed over and counted; times and lengths are the fixture's."""
    trace = read_trace(shared("dynamo/dynamo-standard.jsonl"))
    assert trace.column("arrival_s").tolist() == pytest.approx([0, 0.02])
    assert trace.meta.t0 is None
    assert counts(trace, "events_request_payload_passed_over") == {"rows": 1}


def test_dynamo_agents_sample() -> None:
    """The child follows the parent, and the parent's next request waits for the child."""
    trace = read_trace(shared("dynamo/dynamo-agentic.jsonl"))
    assert trace.frame["source_id"].to_list() == [
        "parent-source",
        "child-first",
        "child-last",
        "parent-consumer",
    ]
    assert links(trace) == [(None, None), (0, 0.01), (1, 0.02), (0, 0.09)]
    assert trace.frame["joins"].to_list()[3] == [{"parent_id": 2, "delay_s": pytest.approx(0.04)}]


def test_dynamo_requests_are_sorted_by_when_they_came(tmp_path: Path) -> None:
    """Rows are written as requests end."""

    def row(name: str, received: int, took: int, hashes: list[int]) -> dict[str, Any]:
        replay = {"trace_block_size": 4, "input_length": 9, "input_sequence_hashes": hashes}
        request = {"request_id": name, "output_tokens": 2, "request_received_ms": received}
        request |= {"total_time_ms": took, "replay": replay}
        return {
            "schema": "dynamo.request.trace.v1",
            "event_type": "request_end",
            "request": request,
        }

    big = 2**64 - 5
    trace = read_trace(
        jsonl(tmp_path, row("late", 30, 5, [big, 4]), row("early", 10, 900, [big, 5]))
    )
    assert trace.frame["source_id"].to_list() == ["early", "late"]
    assert shared_blocks(trace, 0, 1) == 1
    with pytest.raises(TraceError, match=r"row 1, number of input_sequence_hashes is 4"):
        read_trace(jsonl(tmp_path, row("x", 1, 1, [1, 2, 3, 4])))


def test_agentic_mooncake_sample() -> None:
    """Spawn on dispatch, sequence and join on completion."""
    trace = read_trace(shared("dynamo/agentic-mooncake.jsonl"))
    assert trace.frame["trigger"].to_list() == [None, "dispatch", "completion"]
    assert links(trace) == [(None, None), (0, 0.005), (0, 0.001)]
    assert trace.frame["joins"].to_list()[2] == [{"parent_id": 1, "delay_s": 0.001}]
    assert (trace.meta.loop, trace.meta.block_size) == ("closed", 4)


HEADER = {
    "schema": "dynamo.agentic_mooncake",
    "version": 2,
    "block_size": 4,
    "hash_id_scope": "local",
}


def play(name: str, *waits: str, **more: Any) -> dict[str, Any]:
    """Return a row that waits for others."""
    needed = [{"request_id": each, "trigger": "completion", "delay_ms": 1} for each in waits]
    row = {"request_id": name, "play_id": "p", "input_length": 4, "output_length": 2}
    return row | {"hash_ids": [1], "dependencies": needed} | more


def test_ids_of_a_play_are_its_own(tmp_path: Path) -> None:
    """The same local id in two plays is not the same block."""
    trace = read_trace(jsonl(tmp_path, HEADER, play("a"), play("b", "a"), play("c", play_id="q")))
    blocks = {name: ids(trace, row) for row, name in enumerate(trace.frame["source_id"])}
    assert blocks["a"] == blocks["b"] != blocks["c"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([play("a", "b"), play("b", "a")], r"row 2, dependencies is 'row 3'"),
        ([play("a", "z")], r"row 2 depends on 'z', which is not in the file"),
        ([play("a", hash_ids=[1, 2])], "row 2, number of hash_ids is 2, expected at most 1"),
        ([play("a", dependencies=[{"request_id": "a"}])], "row 2, trigger is None"),
        ([], "no requests"),
    ],
)
def test_bad_plays(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    """Circles, strangers and too many ids are one sentence."""
    with pytest.raises(TraceError, match=expected):
        read_trace(jsonl(tmp_path, HEADER, *rows))


def test_applied_compute_sample() -> None:
    """The prompt grows by answers and tool outputs, and tools take their time."""
    trace = read_trace(shared("dynamo/applied-compute-agentic.jsonl"), block_size=4)
    assert trace.column("input_tokens").tolist() == [16, 16 + 4 + 8, 28 + 4 + 8]
    assert trace.column("output_tokens").tolist() == [4, 4, 4]
    assert links(trace) == [(None, None), (0, 0.01), (1, 0.02)]
    assert [shared_blocks(trace, 0, 1), shared_blocks(trace, 1, 2)] == [4, 7]
    assert "all begin at 0" in trace.meta.warnings[0]


def test_applied_compute_lists_must_fit(tmp_path: Path) -> None:
    """One answer, output and latency per turn."""
    session = {
        "num_turns": 2,
        "input_prompt_length": 16,
        "assistant_response_length": [4, 4],
        "tool_call_output_length": [8],
        "tool_call_latency": [0.01, 0.02],
        "final_assistant_response_length": 4,
    }
    with pytest.raises(TraceError, match="row 1, num_turns is 2"):
        read_trace(jsonl(tmp_path, session))


# Qwen-Bailian


def chat(number: int, parent: int, t: float, tokens: int, blocks: list[int]) -> dict[str, Any]:
    """Return one request of a chat."""
    row = {"chat_id": number, "parent_chat_id": parent, "timestamp": t, "input_length": tokens}
    return row | {"output_length": 9, "type": "text", "turn": 1, "hash_ids": blocks}


def test_bailian_sample() -> None:
    """Seconds, 16-token blocks, and a first turn."""
    trace = read_trace(shared("bailian_readme_row.jsonl"))
    assert (len(trace), trace.meta.block_size, trace.meta.time_unit) == (1, 16, "s")
    assert trace.column("input_tokens").tolist() == [521]


def test_bailian_chats_are_linked_and_timed_in_seconds(tmp_path: Path) -> None:
    """A request follows its parent wherever that stands; a parent elsewhere is counted."""
    rows = [
        chat(3, 2, 30.25, 80, [1, 2, 3, 4, 5]),
        chat(1, -1, 10.5, 33, [1, 2, 9]),
        chat(2, 1, 20.0, 64, [1, 2, 3, 4]),
        chat(5, 4, 40.0, 16, [7]),
    ]
    trace = read_trace(jsonl(tmp_path, *rows))
    assert trace.frame["source_id"].to_list() == ["1", "2", "3", "5"]
    assert trace.column("arrival_s").tolist() == pytest.approx([0, 9.5, 19.75, 29.5])
    assert links(trace) == [(None, None), (0, None), (1, None), (None, None)]
    assert trace.frame["turn"].to_list() == [0, 1, 2, 0]
    assert trace.frame["session_id"].n_unique() == 2
    assert counts(trace, "parents_not_in_the_file") == {"rows": 1}


def test_bailian_ids_are_taken_with_what_stands_before_them(tmp_path: Path) -> None:
    """The same block behind another one is another block, and a partial last one is none."""
    rows = [
        chat(1, -1, 0, 48, [1, 2, 3]),
        chat(2, -1, 1, 48, [9, 2, 3]),
        chat(3, -1, 2, 47, [1, 2, 3]),
        chat(4, -1, 3, 64, [1, 2, 3, 4]),
    ]
    trace = read_trace(jsonl(tmp_path, *rows))
    assert [len(ids(trace, row)) for row in range(4)] == [3, 3, 2, 4]
    assert [shared_blocks(trace, 0, row) for row in (1, 2, 3)] == [0, 2, 3]
    assert not set(ids(trace, 0)) & set(ids(trace, 1))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([chat(1, 2, 0, 9, []), chat(2, 1, 1, 9, [])], r"row 1, parent_chat_id is 'row 2'"),
        ([chat(1, 1, 0, 9, [])], r"row 1, parent_chat_id is 'row 1'"),
        ([chat(1, -1, 0, 9, [1, 2])], "row 1, number of hash_ids is 2, expected at most 1"),
        ([chat(1, -1, -4.5, 9, [])], r"row 1, timestamp is -4\.5"),
        ([chat(1, -1, 0, 9, ["x"])], "row 1, hash_ids is 'x'"),  # type: ignore[list-item]
    ],
)
def test_bad_chats(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    """Circles, too many ids and times below 0 are one sentence."""
    with pytest.raises(TraceError, match=expected):
        read_trace(jsonl(tmp_path, *rows))


def test_a_chat_whose_parent_came_later_stands_alone(tmp_path: Path) -> None:
    """The link is dropped and counted."""
    trace = read_trace(jsonl(tmp_path, chat(2, 1, 5, 9, []), chat(1, -1, 6, 9, [])))
    assert trace.frame["parent_id"].to_list() == [None, None]
    assert counts(trace, "parents_after_children_dropped") == {"links": 1}


# RAGPulse


def test_ragpulse_sample() -> None:
    """Text seconds, sessions of nearly two turns, and a word on what is missing beside it."""
    trace = read_trace(shared("ragpulse_head300.jsonl"))
    assert len(trace) == 300
    assert trace.column("input_tokens")[:3].tolist() == [3112, 3167, 2890]
    assert trace.column("arrival_s")[:3].tolist() == [0, 11, 43]
    assert "lie no files with the chunks' lengths" in trace.meta.warnings[0]
    turns = trace.frame["turn"].to_numpy()
    assert 0 < (turns > 0).sum() < 300


def test_ragpulse_chunks_with_their_lengths_make_blocks(tmp_path: Path) -> None:
    """Prompts share what begins alike, to whole blocks of 16 tokens."""
    kinds = {"sys_prompt": [1], "passages_ids": [5, 6], "history": [], "web_search": []}

    def row(t: int, *passages: int) -> dict[str, Any]:
        chunks = kinds | {"passages_ids": list(passages), "user_input": [90 + t]}
        tokens = {"timestamp": str(t), "input_length": 140, "output_length": 5}
        return tokens | {"hash_ids": chunks, "session_id": "s"}

    lengths = {
        "sys_prompt": {1: 40},
        "passages": {5: 30, 6: 31},
        "user_input": {91: 9, 92: 9, 93: 9},
    }
    for number, (kind, of) in enumerate(lengths.items(), 1):
        rows = [{f"{kind}_id": each, "token_length": size} for each, size in of.items()]
        jsonl(tmp_path, *rows, name=f"{number}_{kind}.jsonl")
    trace = read_trace(
        jsonl(tmp_path, row(1, 5, 6), row(2, 5, 6), row(3, 6, 5), name="0_trace.jsonl")
    )
    assert [len(ids(trace, each)) for each in range(3)] == [110 // 16] * 3
    assert shared_blocks(trace, 0, 1) == (40 + 30 + 31) // 16
    assert shared_blocks(trace, 0, 2) == 40 // 16
    assert links(trace) == [(None, None), (0, None), (1, None)]
    assert not trace.meta.warnings


# WEKA


def test_weka_samples() -> None:
    """Ten sessions: their calls, and their blocks, floor(input / 64)."""
    trace = read_trace(shared("weka_raw"))
    assert trace.meta.rows_read == 168
    assert trace.meta.drops == {"zero_output": 1}
    assert trace.frame["session_id"].n_unique() == 10
    blocks = (
        trace.frame["block_runs"].list.eval(pl.element().struct.field("n")).list.sum().to_numpy()
    )
    assert (blocks == trace.column("input_tokens") // 64).all()
    assert "do not say when they began" in trace.meta.warnings[0]


def test_weka_subagents_are_part_of_their_session() -> None:
    """The samples' own totals of main and sub-agents' tokens come out."""
    path = shared("weka_raw/trace_0291.json")
    told = json.loads(Path(path).read_text())["totals"]["combined_tokens"]
    trace = read_trace(path)
    assert trace.column("input_tokens").sum() == told["input"]
    assert trace.column("output_tokens").sum() == told["output"]


def agent(**more: Any) -> dict[str, Any]:
    """Return a session in which a sub-agent works between two calls."""

    def call(t: float, tokens: int, blocks: list[int], **rest: Any) -> dict[str, Any]:
        return {
            "t": t,
            "type": "n",
            "model": "m",
            "in": tokens,
            "out": 5,
            "hash_ids": blocks,
        } | rest

    sub = {
        "type": "subagent",
        "t": 12.0,
        "agent_id": "x",
        "requests": [call(1.0, 64, [40], api_time=2.0)],
    }
    requests = [
        call(0.0, 200, [1, 2, 3], api_time=10.0, think_time=0.0),
        sub,
        call(20.0, 300, [1, 2, 3, 4], api_time=1.0, think_time=5.0),
    ]
    session = {"id": "s", "block_size": 64, "tool_tokens": 100, "system_tokens": 30}
    return session | {"requests": requests} | more


def test_a_subagent_runs_beside_and_is_waited_for(tmp_path: Path) -> None:
    """It starts after the call before it; the next call waits for both."""
    trace = read_trace(jsonl(tmp_path, agent()))
    assert trace.column("arrival_s").tolist() == [0.0, 13.0, 20.0]
    assert links(trace) == [(None, None), (0, 3.0), (0, 5.0)]
    assert trace.frame["joins"].to_list()[2] == [{"parent_id": 1, "delay_s": 5.0}]


def test_sessions_share_their_system_prompt_alone(tmp_path: Path) -> None:
    """Ids mean something within a session; tools and system prompt of one size are one text."""
    other = agent(id="t")
    strange = agent(id="u", tool_tokens=101)
    trace = read_trace(jsonl(tmp_path, agent(), other, strange))
    first = {
        name: row for row, name in reversed(list(enumerate(trace.frame["session_id"].to_list())))
    }
    assert shared_blocks(trace, first[0], first[1]) == 130 // 64
    assert shared_blocks(trace, first[0], first[2]) == 0
    assert counts(trace, "requests_of_repeated_sessions") == {"rows": 6}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"block_size": 0}, "row 1, block_size is 0"),
        ({"requests": 5}, "row 1, requests is 5"),
        ({"requests": [{"t": 0, "in": 64}]}, r"row 1 \(s, request 0\) has no field out"),
        (
            {"requests": [{"t": 0, "in": 64, "out": 1, "hash_ids": [1, 2]}]},
            r"row 1 \(s, request 0\), number of hash_ids is 2, expected at most 1",
        ),
    ],
)
def test_bad_sessions(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    """The place inside the session is named."""
    with pytest.raises(TraceError, match=expected):
        read_trace(jsonl(tmp_path, agent(**change)), format="weka")


# TraceLab


def test_tracelab_replay_sample() -> None:
    """The prompt is prefix and new tokens; the tools' time comes before the next round."""
    trace = read_trace(shared("tracelab/multi_session_large.csv"))
    assert trace.column("input_tokens")[:3].tolist() == [2318, 2518 + 348, 2997 + 812]
    assert links(trace)[:3] == [(None, None), (0, 0.3), (1, 0.154)]
    arrivals = trace.frame.filter(trace.frame["parent_id"].is_null())["arrival_s"]
    assert arrivals[:3].to_list() == pytest.approx([0, 0.276, 0.615])
    assert trace.meta.loop == "closed"


def test_tracelab_prefixes_are_what_the_session_said() -> None:
    """A round that goes back to an earlier prefix shares that much and no more."""
    trace = read_trace(shared("tracelab/session_workload_example.csv"))
    prefix = trace.frame["cached_tokens_hint"].to_list()
    for row in range(1, len(trace)):
        assert shared_blocks(trace, row - 1, row) == min(
            prefix[row] // 16, int(trace.column("input_tokens")[row - 1]) // 16
        )


def test_tracelab_rounds_sample() -> None:
    """Each round is sent with its last input and follows the one before."""
    trace = read_trace(shared("tracelab/round_trace.jsonl"))
    assert len(trace) == 19
    lines = Path(shared("tracelab/round_trace.jsonl")).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert trace.column("input_tokens").sum() == sum(row["input_tokens_total"] for row in rows)
    delays = trace.frame["delay_s"].drop_nulls().to_numpy()
    assert (delays >= 0).all()
    assert np.isfinite(trace.column("arrival_s")).all()


def test_a_dropped_turn_does_not_break_its_session(tmp_path: Path) -> None:
    """The next one waits for the turn before the dropped one."""
    rows = [
        chat(1, -1, 0, 32, [1, 2]),
        chat(2, 1, 5, 48, [1, 2, 3]),
        chat(3, 2, 9, 64, [1, 2, 3, 4]),
    ]
    trace = read_trace(jsonl(tmp_path, *rows), policy=Policy(max_context=50, over_context="drop"))
    assert trace.frame["parent_id"].to_list() == [None]
    kept = [rows[0], rows[1] | {"output_length": 0}, rows[2]]
    trace = read_trace(jsonl(tmp_path, *kept))
    assert trace.frame["parent_id"].to_list() == [None, 0]
