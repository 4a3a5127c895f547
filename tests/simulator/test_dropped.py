"""What was not served is one account: what reading dropped and what the run rejected."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.dropped import Arrived, Refused, counts, dropped, warning
from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers import read_trace
from workloads.replay import Replay
from workloads.trace import Trace

CONTEXT = 1000


def rejecting(trace: Trace) -> Arrived:
    """Return what comes of the trace at workers that take requests of :data:`CONTEXT` tokens."""
    sizes = [
        i + o
        for i, o in zip(*(trace.frame[f"{x}_tokens"] for x in ("input", "output")), strict=True)
    ]
    over = [size for size in sizes if size > CONTEXT]
    refused = Refused(requests=len(over), tokens=sum(over), longest=max(over, default=0))
    return Arrived(
        requests=len(sizes),
        tokens=sum(sizes),
        refused={"exceeds_context": refused} if over else {},
    )


def read(folder: Path, rows: list[tuple[int, int]], policy: Policy) -> Trace:
    """Return the trace of (input, output) rows, a second apart."""
    path = folder / "t.jsonl"
    lines = (
        json.dumps({"timestamp": 1000 * k, "input_length": i, "output_length": o})
        for k, (i, o) in enumerate(rows)
    )
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_trace(str(path), policy=policy)


lengths = st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 300)), min_size=1, max_size=30)


@given(rows=lengths, limit=st.none() | st.integers(2, 1600))
def test_shares_are_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]], limit: int | None
) -> None:
    """Wherever a request is lost, in reading or at the workers, shares are of the file."""
    try:
        trace = read(tmp_path_factory.mktemp("t"), rows, Policy(max_context=limit))
    except TraceError:
        return  # nothing left to serve, which is told as an error
    told = dropped(asdict(trace.meta), rejecting(trace))
    most = min(CONTEXT, limit or CONTEXT)
    served = [i + o for i, o in rows if i and o and i + o <= most]
    total = sum(i + o for i, o in rows)
    assert told["request_share"] == pytest.approx(1 - len(served) / len(rows))
    assert told["token_share"] == pytest.approx(1 - sum(served) / total)
    assert sum(told["requests"].values()) == len(rows) - len(served)
    assert sum(told["tokens"].values()) == total - sum(served)


@given(rows=lengths, limit=st.integers(2, 1600))
def test_what_is_cut_counts_as_tokens(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]], limit: int
) -> None:
    """Truncation loses tokens, not requests, and the account says how many."""
    policy = Policy(max_context=limit, over_context="truncate", zero_output="clamp1")
    try:
        trace = read(tmp_path_factory.mktemp("t"), rows, policy)
    except TraceError:
        return
    cut = sum(max(0, i + max(o, 1) - limit) for i, o in rows if i)
    told = dropped(asdict(trace.meta), Arrived(requests=1, tokens=1, refused={}))
    assert told["tokens"].get("truncated", 0) == cut
    assert sum(told["requests"].values()) == sum(1 for i, _ in rows if not i)
    if cut:
        assert f"{cut:,} tokens truncated" in counts(told["requests"], told["tokens"])


def test_a_part_of_the_time_is_nothing_dropped(tmp_path: Path) -> None:
    """A window or the first so many are a choice of the same traffic; a length limit is not."""
    trace = read(tmp_path, [(10, 5)] * 8 + [(90, 10)] * 2, Policy())
    for replay, share in (
        (Replay(start_s=2, end_s=5), 0),
        (Replay(max_requests=3), 0),
        (Replay(max_input_tokens=50), 200 / 320),
    ):
        part = replay.apply(trace, None)  # type: ignore[arg-type] - nothing is drawn
        nothing = Arrived(requests=len(part), tokens=1, refused={})
        assert dropped(asdict(part.meta), nothing)["token_share"] == pytest.approx(share)


def test_little_is_not_warned_of() -> None:
    """Up to one percent of the tokens stays a number; above, a sentence."""
    refused = {"exceeds_context": Refused(requests=1, tokens=10, longest=10)}
    few = dropped({}, Arrived(requests=5, tokens=1000, refused=refused))
    many = dropped({}, Arrived(requests=5, tokens=999, refused=refused))
    assert warning(few, refused, 8) == ""
    assert "1.0% of the tokens and 20.0% of the requests" in warning(many, refused, 8)


@pytest.mark.parametrize(
    ("context", "longest", "example"),
    [(8192, 9000, 16384), (40960, 190_000, 131_072), (131_072, 190_000, 262_144)],
)
def test_the_advice_names_a_context(context: int, longest: int, example: int) -> None:
    """The setting proposed is beyond the model's own context, and what YaRN commonly gives."""
    refused = {"exceeds_context": Refused(requests=1, tokens=longest, longest=longest)}
    told = dropped({}, Arrived(requests=2, tokens=longest + 5, refused=refused))
    words = warning(told, refused, context)
    assert f"model.max_context={example}" in words
    assert f"{longest:,}" in words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("exceeds_kv_capacity", "memory_utilization"),
        ("exceeds_prefill_kv_capacity", "layout.tp"),
    ],
)
def test_the_advice_for_full_memory(reason: str, words: str) -> None:
    """A request no worker can hold needs more memory, not another context."""
    refused = {reason: Refused(requests=1, tokens=50, longest=50)}
    told = dropped({}, Arrived(requests=2, tokens=60, refused=refused))
    assert words in warning(told, refused, 8)
    assert "max_context" not in warning(told, refused, 8)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("over_context", "workload.max_context"),
        ("over_max_input_tokens", "workload.replay.max_input_tokens"),
        ("zero_output", "workload.zero_output=keep_prefill_only"),
    ],
)
def test_the_advice_for_what_reading_dropped(reason: str, words: str) -> None:
    """Each reason of the reader names its setting."""
    account = {
        "rows_read": 4,
        "drops": {reason: 1},
        "tokens_read": 40,
        "dropped_tokens": {reason: 10},
    }
    told = dropped(account, Arrived(requests=3, tokens=30, refused={}))
    assert told["token_share"] == told["request_share"] == 0.25
    assert words in warning(told, {}, 8)


def test_an_account_without_tokens_is_no_error() -> None:
    """A trace written before tokens were counted still has its rows."""
    told = dropped(
        {"rows_read": 4, "drops": {"zero_output": 2}, "tokens_read": None},
        Arrived(requests=2, tokens=9, refused={}),
    )
    assert (told["request_share"], told["token_share"]) == (0.5, 0.0)


def test_who_was_turned_away_is_not_unfit() -> None:
    """An admission policy's refusals are what the run is about: they are no easier rest."""
    refused = {
        "shed": Refused(requests=5, tokens=500, longest=100),
        "exceeds_context": Refused(requests=1, tokens=50, longest=50),
    }
    told = dropped({}, Arrived(requests=10, tokens=1000, refused=refused))
    assert told["requests"] == {"exceeds_context": 1}
    assert (told["request_share"], told["token_share"]) == (0.1, 0.05)
